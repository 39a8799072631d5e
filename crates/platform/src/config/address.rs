//! Addresses in settings.

use std::net::{SocketAddr, ToSocketAddrs};

use super::problems::Problems;

/// The addresses of a setting, at least one. A host name may have several; the process serves on the first.
pub(super) fn addresses(
    variable: &str,
    text: Option<String>,
    default_port: u16,
    problems: &mut Problems,
) -> Vec<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], default_port));
    let Some(text) = text else { return vec![default] };
    match resolve(&text) {
        Ok(addresses) => addresses,
        Err(problem) => {
            let example = format_args!("an address and port such as {default} or localhost:{default_port}");
            problems.add(variable, format_args!("`{text}` must be {example}{problem}"));
            vec![default]
        }
    }
}

fn resolve(text: &str) -> Result<Vec<SocketAddr>, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let named = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains(':'));
    let (host, port) = named.ok_or_else(String::new)?;
    let port: u16 = port.parse().map_err(|_| String::new())?;
    let found =
        (host, port).to_socket_addrs().map_err(|error| format!("; the name cannot be resolved: {error}"))?;
    let mut addresses: Vec<_> = found.collect();
    // A stable sort: IPv4 first, for clients without IPv6.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if addresses.is_empty() { Err("; the name has no address".into()) } else { Ok(addresses) }
}
