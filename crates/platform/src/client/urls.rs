//! URLs of services, as settings give them.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use http::{
    Uri,
    uri::{Authority, Scheme},
};
use rustls::pki_types::ServerName;

/// A setting that does not name a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a URL such as http://127.0.0.1:50051, or several of them separated by commas: {0}")]
pub struct InvalidUrl(String);

/// URL of a service: `http://host:port`, or `https://host:port` with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PeerUrl {
    scheme: Scheme,
    server_name: Option<ServerName<'static>>,
    host: String,
    port: u16,
    authority: Authority,
}

impl PeerUrl {
    fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = |problem: &dyn fmt::Display| InvalidUrl(format!("`{text}` {problem}"));
        let uri: Uri = text.parse().map_err(|error| invalid(&format_args!("is not a URL: {error}")))?;
        let host = uri.host().filter(|host| !host.is_empty());
        let scheme = uri.scheme().filter(|scheme| **scheme == Scheme::HTTP || **scheme == Scheme::HTTPS);
        let (Some(scheme), Some(host), Some(authority)) = (scheme, host, uri.authority()) else {
            return Err(invalid(&"needs the scheme http or https and a host"));
        };
        // http accepts any text as a port, and credentials in front of the host.
        if authority.as_str().len() > host.len() && uri.port_u16().is_none()
            || authority.as_str().contains('@')
        {
            return Err(invalid(&"needs a host and a port number"));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let default_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let mut server_name = None;
        if *scheme == Scheme::HTTPS {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| invalid(&"has a host that no certificate can name"))?;
            server_name = Some(name);
        }
        Ok(Self { scheme: scheme.clone(), server_name, host, port, authority: authority.clone() })
    }

    /// Host name, or IP address without brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Whether connections use TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.server_name.is_some()
    }

    /// Name that the server's certificate must have, with TLS.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        self.server_name.clone()
    }

    /// Scheme and authority of the requests.
    pub(super) fn origin(&self) -> Uri {
        let origin =
            Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query("/");
        // Parsed from a URL with these parts.
        origin.build().unwrap_or_default()
    }

    /// The address, when the host is one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }

    /// Whether the URL names one process: the host is an address, or this machine.
    pub(super) fn is_fixed(&self) -> bool {
        self.address().is_some() || self.host == "localhost"
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Parses the URLs of one service, separated by commas. At least one.
///
/// # Errors
/// When an item is empty, not a URL, or listed twice.
pub(super) fn parse(text: &str) -> Result<Vec<PeerUrl>, InvalidUrl> {
    let mut listed = HashSet::new();
    let mut urls = Vec::new();
    for (index, item) in text.split(',').map(str::trim).enumerate() {
        if item.is_empty() {
            return Err(InvalidUrl(format!("URL {} of `{text}` is empty", index + 1)));
        }
        let url = PeerUrl::parse(item)?;
        if !listed.insert((url.host.clone(), url.port)) {
            return Err(InvalidUrl(format!("`{item}` is listed twice")));
        }
        urls.push(url);
    }
    Ok(urls)
}

/// Checks that `text` is valid for [`channel`](super::channel()) by a caller with or without TLS.
///
/// # Errors
/// The first problem.
pub fn check_urls(text: &str, has_tls: bool) -> Result<(), InvalidUrl> {
    parse(text)?.iter().try_for_each(|url| check_scheme(url, has_tls))
}

/// Checks that `url` is `https://` for a caller with TLS, and `http://` for one without.
pub(super) fn check_scheme(url: &PeerUrl, has_tls: bool) -> Result<(), InvalidUrl> {
    match (url.is_secure(), has_tls) {
        (true, false) => Err(InvalidUrl(format!(
            "`{url}` needs a certificate for this service: set TLS_CERT, TLS_KEY and TLS_CA"
        ))),
        (false, true) => Err(InvalidUrl(format!(
            "`{url}` must begin with https://, because this service has a certificate (TLS_CERT)"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_list_with_a_bad_item_is_rejected_with_that_item() {
        for (list, problem) in [
            ("localhost", "`localhost` needs the scheme http or https"),
            ("ftp://127.0.0.1:1", "`ftp://127.0.0.1:1` needs the scheme http"),
            ("http://a:1,,http://b:1", "URL 2 of `http://a:1,,http://b:1` is empty"),
            ("http://a:1,", "URL 2 of"),
            ("", "URL 1 of `` is empty"),
            ("http://a:1, http://A:1", "`http://A:1` is listed twice"),
            ("http://a:80,http://a", "`http://a` is listed twice"),
            ("http://a:1,http://b:x", "`http://b:x` needs a host and a port number"),
            ("http://a@b:1", "`http://a@b:1` needs a host and a port number"),
        ] {
            let error = parse(list).unwrap_err().to_string();
            assert!(error.contains(problem), "{list}: {error}");
        }
    }

    #[test]
    fn url_with_an_address_or_this_machine_is_fixed() {
        let urls =
            parse("http://10.0.0.7:50051, http://[::1]:2,http://localhost:1,http://planner:4").unwrap();
        let fixed: Vec<_> = urls.iter().map(PeerUrl::is_fixed).collect();
        assert_eq!(fixed, [true, true, true, false]);
        assert_eq!(urls[1].address(), Some("[::1]:2".parse().unwrap()));
        assert_eq!(urls[3].origin(), "http://planner:4/");
    }
}
