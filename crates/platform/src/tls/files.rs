//! PEM files.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Paths of PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate, followed by its intermediate certificates.
    pub cert: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// Certificates of the CA that signs the certificates of services.
    pub ca: Option<PathBuf>,
}

/// Error of a file. The message does not contain the file's content.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    path: PathBuf,
    problem: String,
}

impl TlsError {
    pub(super) fn new(path: &Path, problem: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// Identity of the files' contents, as far as it shows without reading them.
pub(super) type Fingerprint = Vec<Option<(u64, u64, u64, SystemTime)>>;

impl TlsFiles {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let paths = [Some(&self.cert), Some(&self.key), self.ca.as_ref()];
        // Follows symbolic links, which Kubernetes swaps.
        let of = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.len(), meta.modified().ok()?))
        };
        paths.into_iter().flatten().map(of).collect()
    }

    /// The certificate and its intermediates, at least one.
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.cert)
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let text = read(&self.key)?;
        PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_| TlsError::new(&self.key, "holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1)"))
    }

    pub(super) fn roots(ca: &Path) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| TlsError::new(ca, error))?;
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::new(path, "holds no certificate in PEM")),
        Err(error) => Err(TlsError::new(path, format_args!("is not valid PEM: {error}"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TlsError::new(path, "there is no such file"),
        _ => TlsError::new(path, error),
    })
}
