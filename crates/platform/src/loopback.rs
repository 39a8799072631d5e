//! Detection of requests whose host is this machine.
//!
//! A server without a token listens on loopback only. That is not sufficient: a web page can resolve a name of its own to
//! 127.0.0.1 and make a visitor's browser send requests here (DNS rebinding). A request must therefore also name a loopback
//! host.

use http::{HeaderMap, Uri, header, uri::Authority};

/// Whether the host of a request with this target and these headers is this machine.
#[must_use]
pub fn is_addressed(uri: &Uri, headers: &HeaderMap) -> bool {
    authority(uri, headers).is_some_and(|authority| is_this_machine(authority.host()))
}

/// Host and port of a request with this target and these headers.
#[must_use]
pub fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has the host in the request target.
    uri.authority().cloned().or_else(|| header?.parse::<Authority>().ok())
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    is_loopback || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_recognised_in_every_form() {
        for host in
            ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "0.0.0.0", "10.0.0.1", "127.0.0.1.nip.io"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
