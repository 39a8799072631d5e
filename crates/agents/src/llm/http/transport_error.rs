//! Reasons for a missing response. They contain nothing of the underlying error, which may hold the address and its
//! credentials.

use std::{error::Error, io};

use rustls::{CertificateError, Error as TlsError};

/// Reason why a provider did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::llm) enum TransportError {
    /// The client cannot be built: no runtime or no root certificates.
    NoClient,
    /// `base_url` is no URL.
    Address,
    /// The key cannot be sent in a header.
    Key,
    /// The variable names no proxy.
    Proxy(&'static str),
    /// The proxy in the variable requires credentials.
    ProxyKey(&'static str),
    /// The server's certificate is rejected; with the reason.
    Certificate(&'static str),
    /// The server does not speak TLS.
    NoTls,
    /// The TLS handshake failed for any other reason.
    Tls,
    /// The server does not speak HTTP.
    NoHttp,
    /// The host name has no address.
    NoHost,
    /// The connection failed; with the variable of the proxy, if one was used.
    Unreachable(Option<&'static str>),
    /// The connection ended before the response did.
    Interrupted,
    /// The response exceeds the limit.
    TooLarge,
    /// The deadline passed.
    Timeout,
}

impl TransportError {
    /// The reason behind an error before the response. `proxy` is the variable that names the proxy, if there is one.
    pub(super) fn of(error: &reqwest::Error, proxy: Option<&'static str>) -> Self {
        if error.is_builder() {
            return Self::Address;
        }
        if let Some(tls) = find::<TlsError>(error) {
            return of_tls(tls);
        }
        if let Some(variable) = proxy
            && causes(error).any(|cause| cause.to_string().contains("proxy authorization required"))
        {
            return Self::ProxyKey(variable);
        }
        if error.is_dns() && proxy.is_none() {
            Self::NoHost
        } else if error.is_connect() {
            Self::Unreachable(proxy)
        } else if error.is_timeout() {
            Self::Timeout
        } else if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
            Self::NoHttp
        } else {
            Self::Interrupted
        }
    }
}

/// Whether the connection ended before the first byte of a response.
pub(super) fn is_closed_connection(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    if error.is_connect() || error.is_timeout() {
        return false;
    }
    let is_closed =
        |error: &hyper::Error| error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    let is_gone = |error: &io::Error| {
        matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
        )
    };
    find::<hyper::Error>(error).is_some_and(is_closed) || find::<io::Error>(error).is_some_and(is_gone)
}

fn of_tls(error: &TlsError) -> TransportError {
    match error {
        TlsError::InvalidCertificate(problem) => TransportError::Certificate(of_certificate(problem)),
        TlsError::NoCertificatesPresented => TransportError::Certificate("it has none"),
        TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => TransportError::NoTls,
        _ => TransportError::Tls,
    }
}

const fn of_certificate(problem: &CertificateError) -> &'static str {
    match problem {
        CertificateError::UnknownIssuer => "its authority is unknown here",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host name"
        }
        CertificateError::Revoked => "it was revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not a server's certificate"
        }
        _ => "it is not valid",
    }
}

/// The first cause of type `T`.
fn find<T: Error + 'static>(error: &reqwest::Error) -> Option<&T> {
    causes(error).find_map(|cause| cause.downcast_ref::<T>())
}

/// The causes of an error, from the outside in. An I/O error may wrap another error that it does not return as its source.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
        Some(cause)
    })
}
