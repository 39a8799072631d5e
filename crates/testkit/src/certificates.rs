//! Certificates of a CA that exists for one test.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use phoenix_platform::tls::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A CA.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new CA.
    ///
    /// # Panics
    /// When no key can be generated.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "CA of a test");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The certificate of the CA in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes `tls.crt`, `tls.key` and `ca.crt` of a certificate for `names`, DNS names and addresses, into the folder `dir`.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn issue(&self, dir: &Path, names: &[&str]) -> TlsFiles {
        self.issue_for(dir, names, Duration::from_secs(24 * 60 * 60))
    }

    /// Like [`Self::issue`], with a certificate that expires after `lifetime`, rounded down to seconds; at once when it is zero.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn issue_for(&self, dir: &Path, names: &[&str], lifetime: Duration) -> TlsFiles {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + lifetime).as_secs());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::create_dir_all(dir).expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("the file can be written");
            path
        };
        TlsFiles {
            cert: write("tls.crt", &certificate.pem()),
            key: write("tls.key", &key.serialize_pem()),
            ca: Some(write("ca.crt", &self.pem)),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
