//! Why a connection with TLS failed, in words for an operator.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::roles::{NotOfRole, WrongRole};

/// Class of a failure. Closed, so that each can be logged at its own rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    NoCertificate,
    Expired,
    UnknownCa,
    WrongRole,
    WrongName,
    WrongUsage,
    PeerWithoutTls,
    PeerWithTls,
    Slow,
    Closed,
    Other,
}

impl Class {
    pub(super) const COUNT: usize = 11;

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired => "certificate_expired",
            Self::UnknownCa => "unknown_ca",
            Self::WrongRole => "wrong_role",
            Self::WrongName => "wrong_name",
            Self::WrongUsage => "wrong_usage",
            Self::PeerWithoutTls => "peer_without_tls",
            Self::PeerWithTls => "peer_with_tls",
            Self::Slow => "handshake_timeout",
            Self::Closed => "connection_closed",
            Self::Other => "other",
        }
    }

    /// What is wrong and what to do, from the side that found it.
    const fn found(self) -> &'static str {
        match self {
            Self::NoCertificate => "the peer presents no certificate; set TLS_CERT, TLS_KEY and TLS_CA there",
            Self::Expired => {
                "the peer's certificate has expired or is not valid yet; renew it, and check the clocks"
            }
            Self::UnknownCa => "the peer's certificate is not signed by a CA in TLS_CA",
            Self::WrongRole => {
                "the certificate of the peer is of a role that has no place on this connection"
            }
            Self::WrongName => "the peer's certificate does not name the host in its URL",
            Self::WrongUsage => {
                "the peer's certificate lacks an extended key usage; it needs serverAuth and clientAuth"
            }
            Self::PeerWithoutTls => {
                "the peer does not speak TLS here; its callers' URLs begin with https:// and it has TLS_CERT, or neither"
            }
            Self::PeerWithTls => {
                "the peer speaks TLS here; its callers' URLs begin with https:// and they have TLS_CERT, or neither"
            }
            Self::Slow => "the peer did not complete the TLS handshake in time",
            Self::Closed => "the peer closed the connection during the TLS handshake; its log may say why",
            Self::Other => "the TLS handshake failed",
        }
    }

    /// The same when the peer found it and sent an alert.
    const fn reported(self) -> &'static str {
        match self {
            Self::NoCertificate => "the peer wants a certificate; set TLS_CERT, TLS_KEY and TLS_CA here",
            Self::Expired => {
                "the peer finds this service's certificate expired; renew it, and check the clocks"
            }
            Self::UnknownCa => {
                "the peer does not know the CA that signed this service's certificate; compare TLS_CA of both"
            }
            Self::WrongRole => {
                "the peer does not serve the role in this service's certificate; its log names the roles"
            }
            Self::WrongName => {
                "the peer's URL for this service has another host than this service's certificate"
            }
            Self::WrongUsage => {
                "this service's certificate lacks an extended key usage; it needs serverAuth and clientAuth"
            }
            other => other.found(),
        }
    }
}

/// A failed handshake.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct TlsFailure {
    pub(super) class: Class,
    text: String,
}

impl TlsFailure {
    pub(super) fn found(class: Class) -> Self {
        Self { class, text: class.found().into() }
    }

    /// The failure behind an I/O error of a TLS stream.
    pub(super) fn of(error: &io::Error) -> Self {
        let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Self::found(Class::Closed)
                }
                _ => Self { class: Class::Other, text: error.to_string() },
            };
        };
        let (class, is_reported) = classify(inner);
        let advice = if is_reported { class.reported() } else { class.found() };
        Self { class, text: format!("{advice} ({inner})") }
    }
}

/// The class of `error`, and whether the peer reported it.
fn classify(error: &Error) -> (Class, bool) {
    match error {
        Error::NoCertificatesPresented => (Class::NoCertificate, false),
        Error::InvalidCertificate(problem) => (of_certificate(problem), false),
        Error::AlertReceived(alert) => (of_alert(*alert), true),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => (Class::PeerWithoutTls, false),
        _ => (Class::Other, false),
    }
}

fn of_certificate(problem: &CertificateError) -> Class {
    use CertificateError as E;
    match problem {
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            Class::Expired
        }
        // Another CA with the same name.
        E::UnknownIssuer | E::BadSignature => Class::UnknownCa,
        E::NotValidForName | E::NotValidForNameContext { .. } => Class::WrongName,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => Class::WrongUsage,
        E::Other(other) if other.0.is::<WrongRole>() || other.0.is::<NotOfRole>() => Class::WrongRole,
        _ => Class::Other,
    }
}

/// The class of an alert that rustls sends for [`of_certificate`].
const fn of_alert(alert: AlertDescription) -> Class {
    match alert {
        AlertDescription::CertificateRequired => Class::NoCertificate,
        AlertDescription::CertificateExpired => Class::Expired,
        AlertDescription::UnknownCA | AlertDescription::DecryptError => Class::UnknownCa,
        AlertDescription::CertificateUnknown => Class::WrongRole,
        AlertDescription::BadCertificate => Class::WrongName,
        AlertDescription::UnsupportedCertificate => Class::WrongUsage,
        _ => Class::Other,
    }
}
