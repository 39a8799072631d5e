//! rustls configurations made of one certificate, key and CA.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, Error, InconsistentKeys, ServerConfig, WantsVerifier,
    WantsVersions,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use super::{
    expiry,
    files::{TlsError, TlsFiles},
    roles::{CallerVerifier, Names, RoleVerifier},
};
use crate::config::Role;

/// Application protocol of gRPC.
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Configurations of one certificate, key and CA.
pub(super) struct Material {
    pub(super) server: Arc<ServerConfig>,
    /// Configuration of calls to other services.
    pub(super) client: Option<Arc<ClientConfig>>,
    /// Configuration of calls to other instances of the same service, by their addresses.
    pub(super) siblings: Option<Arc<ClientConfig>>,
    /// The certificate.
    pub(super) certificate: CertificateDer<'static>,
    /// Its expiry.
    pub(super) expires: Timestamp,
}

/// A certificate with its intermediates.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    first: CertificateDer<'static>,
    expires: Timestamp,
}

impl Material {
    /// Loads the files for mutual TLS of a service.
    pub(super) fn of_service(files: &TlsFiles, role: Role) -> Result<Self, TlsError> {
        let Chain { certificates, first, expires } = Chain::read(files)?;
        let names = Names::of(&first);
        if !names.role(role) {
            let problem = format!(
                "the certificate is not of a {role}: it names {names}; it needs a DNS name such as {role} or {role}.example, or \
                 a URI such as spiffe://example/{role}"
            );
            return Err(TlsError::new(&files.cert, problem));
        }
        let ca = files.ca.as_deref().unwrap_or(&files.cert);
        let roots = Arc::new(TlsFiles::roots(ca)?);
        let signed = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
        let signed = signed.map_err(|error| TlsError::new(ca, error))?;
        let key = files.key()?;
        let mut server = versions(ServerConfig::builder_with_provider(provider()), files)?
            .with_client_cert_verifier(Arc::new(CallerVerifier { signed, service: role }))
            .with_single_cert(certificates.clone(), key.clone_key())
            .map_err(|error| of_key(files, &error))?;
        server.alpn_protocols = vec![H2.to_vec()];
        let mut client = versions(ClientConfig::builder_with_provider(provider()), files)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(certificates, key)
            .map_err(|error| of_key(files, &error))?;
        client.alpn_protocols = vec![H2.to_vec()];
        let mut siblings = client.clone();
        let verifier = RoleVerifier { roots, provider: provider(), role };
        siblings.dangerous().set_certificate_verifier(Arc::new(verifier));
        let (client, siblings) = (Some(Arc::new(client)), Some(Arc::new(siblings)));
        Ok(Self { server: Arc::new(server), client, siblings, certificate: first, expires })
    }

    /// Loads the files for HTTPS to any caller.
    pub(super) fn public(files: &TlsFiles) -> Result<Self, TlsError> {
        let Chain { certificates, first, expires } = Chain::read(files)?;
        let mut server = versions(ServerConfig::builder_with_provider(provider()), files)?
            .with_no_client_auth()
            .with_single_cert(certificates, files.key()?)
            .map_err(|error| of_key(files, &error))?;
        server.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        Ok(Self { server: Arc::new(server), client: None, siblings: None, certificate: first, expires })
    }
}

impl Chain {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let certificates = files.chain()?;
        let first = certificates.first().and_then(|first| Some((first.clone(), expiry::not_after(first)?)));
        let (first, expires) =
            first.ok_or_else(|| TlsError::new(&files.cert, "holds a certificate that is not X.509"))?;
        Ok(Self { certificates, first, expires })
    }
}

fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
    files: &TlsFiles,
) -> Result<ConfigBuilder<S, WantsVerifier>, TlsError> {
    builder.with_protocol_versions(&[&TLS13, &TLS12]).map_err(|error| TlsError::new(&files.cert, error))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn of_key(files: &TlsFiles, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let problem = format!("is not the key of the certificate in {}", files.cert.display());
            TlsError::new(&files.key, problem)
        }
        other => TlsError::new(&files.key, other),
    }
}
