//! Selection of the proxy for a provider, by the conventional environment variables.

use reqwest::{NoProxy, Proxy, Url};

/// Supported schemes of proxies.
const SCHEMES: &[&str] = &["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The variables as they are set, each in upper or in lower case.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<Setting>,
    http: Option<Setting>,
    all: Option<Setting>,
    /// List of hosts that bypass the proxy.
    none: String,
}

/// A variable and its value, which may contain credentials.
#[derive(Clone)]
struct Setting {
    variable: &'static str,
    value: String,
}

/// A variable whose value is no proxy URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidProxy(pub(super) &'static str);

/// The proxy for one provider.
pub(super) struct ProxyOf {
    pub(super) proxy: Proxy,
    /// Variable that names it.
    pub(super) variable: &'static str,
    /// Whether the connection to the proxy itself uses TLS.
    pub(super) over_tls: bool,
}

impl Proxies {
    /// The proxies that `lookup` finds: `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in either case.
    #[must_use]
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let text = |variable: &str| {
            lookup(variable).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let first = |variables: [&'static str; 2]| {
            let setting = |variable| Some(Setting { variable, value: text(variable)? });
            variables.into_iter().find_map(setting)
        };
        let none: Vec<String> = ["NO_PROXY", "no_proxy"].into_iter().filter_map(text).collect();
        Self {
            https: first(["HTTPS_PROXY", "https_proxy"]),
            http: first(["HTTP_PROXY", "http_proxy"]),
            all: first(["ALL_PROXY", "all_proxy"]),
            none: none.join(","),
        }
    }

    /// The proxy for requests to `url`; `None` for direct requests, which includes all to loopback addresses.
    pub(super) fn of(&self, url: &Url) -> Result<Option<ProxyOf>, InvalidProxy> {
        let own = if url.scheme() == "https" { &self.https } else { &self.http };
        let Some(Setting { variable, value }) = own.as_ref().or(self.all.as_ref()) else { return Ok(None) };
        if is_loopback(url) {
            return Ok(None);
        }
        let scheme = value.split_once("://").map_or("http", |(scheme, _)| scheme).to_ascii_lowercase();
        // The client would ignore a proxy that it does not support, and send the prompt directly.
        if !SCHEMES.contains(&scheme.as_str()) {
            return Err(InvalidProxy(variable));
        }
        let proxy = Proxy::all(value).map_err(|_| InvalidProxy(variable))?;
        let proxy = proxy.no_proxy(NoProxy::from_string(&self.hosts_without(url.port_or_known_default())));
        Ok(Some(ProxyOf { proxy, variable, over_tls: scheme == "https" }))
    }

    /// The hosts that bypass the proxy on `port`, in the form that the client expects: `*.example.com` becomes
    /// `.example.com`, and a host with a port applies to that port.
    fn hosts_without(&self, port: Option<u16>) -> String {
        let entries = self.none.split(|c: char| c == ',' || c.is_whitespace());
        let host = |entry: &str| {
            let entry =
                entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry).to_owned();
            let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
            match entry.rsplit_once(':') {
                // More colons without brackets are an IPv6 address.
                Some((host, number)) if !host.contains(':') || host.ends_with(']') => {
                    (number.parse().ok() == port).then(|| bare(host))
                }
                _ => Some(bare(&entry)),
            }
        };
        entries.filter(|entry| !entry.is_empty()).filter_map(host).collect::<Vec<_>>().join(",")
    }
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").field("none", &self.none).finish_non_exhaustive()
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_lookup(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn variable(variables: &[(&str, &str)], url: &str) -> Result<Option<&'static str>, InvalidProxy> {
        Ok(proxies(variables).of(&url.parse().unwrap())?.map(|proxy| proxy.variable))
    }

    #[test]
    fn proxy_variables_apply_in_either_case_and_by_scheme() {
        for (name, http, https) in [
            ("http_proxy", true, false),
            ("HTTP_PROXY", true, false),
            ("https_proxy", false, true),
            ("HTTPS_PROXY", false, true),
            ("all_proxy", true, true),
            ("ALL_PROXY", true, true),
        ] {
            let set = [(name, "http://proxy.example.com:3128")];
            assert_eq!(variable(&set, "http://a.example.com").unwrap(), http.then_some(name));
            assert_eq!(variable(&set, "https://a.example.com").unwrap(), https.then_some(name));
            assert_eq!(variable(&set, "http://127.0.0.1:11434").unwrap(), None, "{name}");
        }
        let blank = [("HTTPS_PROXY", " "), ("https_proxy", "proxy:3128"), ("ALL_PROXY", "other:1")];
        assert_eq!(variable(&blank, "https://a.example.com").unwrap(), Some("https_proxy"));
        for scheme in ["socks5", "socks5h", "socks4", "https"] {
            let value = format!("{scheme}://user:secret@proxy.example.com:1080");
            assert_eq!(variable(&[("all_proxy", &value)], "http://a").unwrap(), Some("all_proxy"));
            assert!(!format!("{:?}", proxies(&[("all_proxy", &value)])).contains("secret"));
        }
        assert_eq!(variable(&[("ALL_PROXY", "ftp://x")], "http://a"), Err(InvalidProxy("ALL_PROXY")));
    }

    #[test]
    fn no_proxy_entries_of_every_form_are_understood() {
        let hosts = |list, port| proxies(&[("no_proxy", list)]).hosts_without(Some(port));
        assert_eq!(hosts("a.com, .b.com *.c.com,,10.0.0.0/8", 443), "a.com,.b.com,.c.com,10.0.0.0/8");
        assert_eq!(hosts("a.com:443,b.com:80,*", 443), "a.com,*");
        assert_eq!(hosts("::1,[::2],[::3]:443,[::4]:80", 443), "::1,::2,::3");
        let both = proxies(&[("NO_PROXY", "a.com"), ("no_proxy", "b.com")]);
        assert_eq!(both.hosts_without(None), "a.com,b.com");
    }
}
