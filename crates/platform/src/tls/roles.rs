//! Roles in certificates: which role may call which service.
//!
//! A certificate names a role by a DNS name whose first label is the role (`planner`, `planner.phoenix.svc`), or by a SPIFFE id
//! whose last segment is the role (`spiffe://cluster.local/ns/phoenix/sa/planner`).

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use webpki::EndEntityCert;

use crate::config::Role;

/// Roles that may call a service.
pub(super) const fn callers(service: Role) -> &'static [Role] {
    match service {
        Role::Gateway => &[],
        Role::Planner => &[Role::Gateway, Role::Planner],
        Role::Executor => &[Role::Planner, Role::Health, Role::Gateway],
        Role::Health => &[Role::Gateway, Role::Planner, Role::Executor],
    }
}

/// Names in a certificate.
pub(super) struct Names(Vec<String>);

impl Names {
    /// The DNS names and URIs of `certificate`.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Self(Vec::new()) };
        Self(certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect())
    }

    /// Whether one of the names is of `role`.
    pub(super) fn role(&self, role: Role) -> bool {
        let is_role = |name: &String| match name.strip_prefix("spiffe://") {
            Some(id) => {
                id.split_once('/').is_some_and(|(_, path)| path.rsplit('/').next() == Some(role.as_str()))
            }
            None => name.split('.').next().is_some_and(|label| label.eq_ignore_ascii_case(role.as_str())),
        };
        self.0.iter().any(is_role)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("no DNS name and no URI")
        } else {
            f.write_str(&self.0.join(", "))
        }
    }
}

/// A certificate of a role that may not call the service.
#[derive(Debug, thiserror::Error)]
#[error("the {service} serves {allowed}; the certificate names {names}")]
pub(super) struct WrongRole {
    service: Role,
    allowed: String,
    names: String,
}

/// A certificate of another role than that of the server that was called.
#[derive(Debug, thiserror::Error)]
#[error("the server is called as a {role}; its certificate names {names}")]
pub(super) struct NotOfRole {
    role: Role,
    names: String,
}

/// Verifies that a server's certificate is signed by the CA and names a role, whatever host it names: a certificate that all
/// instances of a service share names none of their addresses.
#[derive(Debug)]
pub(super) struct RoleVerifier {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) role: Role,
}

impl ServerCertVerifier for RoleVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let names = Names::of(certificate);
        if names.role(self.role) {
            return Ok(ServerCertVerified::assertion());
        }
        let other = NotOfRole { role: self.role, names: names.to_string() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies that a client's certificate is signed by the CA and names a role that may call the service.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    pub(super) signed: Arc<dyn ClientCertVerifier>,
    pub(super) service: Role,
}

impl ClientCertVerifier for CallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.signed.verify_client_cert(certificate, intermediates, now)?;
        let (names, allowed) = (Names::of(certificate), callers(self.service));
        if allowed.iter().any(|role| names.role(*role)) {
            return Ok(verified);
        }
        let allowed: Vec<_> = allowed.iter().map(|role| role.as_str()).collect();
        let wrong =
            WrongRole { service: self.service, allowed: allowed.join(", "), names: names.to_string() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_is_the_first_label_or_the_last_segment() {
        for (name, is_planner) in [
            ("planner", true),
            ("Planner.phoenix.svc", true),
            ("planner-0.planner", false),
            ("my.planner", false),
            ("spiffe://cluster.local/ns/phoenix/sa/planner", true),
            ("spiffe://planner", false),
            ("spiffe://cluster.local/planner/x", false),
            ("https://planner", false),
        ] {
            assert_eq!(Names(vec![name.to_owned()]).role(Role::Planner), is_planner, "{name}");
        }
    }
}
