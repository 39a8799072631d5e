//! Where requests go and what each of them is: made once, sent many times.

use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use crate::tls::Tls;

const CHAT_PATH: &str = "/api/v1/chat";
const COMPLETIONS_PATH: &str = "/v1/chat/completions";

/// A gateway, and what it takes to talk to it.
#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    /// Its address.
    pub url: &'a str,
    /// Its token.
    pub token: Option<&'a str>,
    /// File with the certificates of the authorities to trust instead of those of the machine.
    pub ca: Option<&'a Path>,
}

/// A chat endpoint and the one chat that is sent to it.
#[derive(Debug, Clone)]
pub struct Target {
    host: String,
    port: u16,
    url: String,
    path: Uri,
    headers: HeaderMap,
    body: Bytes,
    /// Absent for plain HTTP.
    tls: Option<Tls>,
}

/// A target that nothing can be sent to.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// The URL is not one of a Phoenix gateway.
    #[error("--url: `{0}` must look like http://127.0.0.1:8181 or https://phoenix.example.com")]
    Url(String),
    /// The token can't be sent.
    #[error("--token: must consist of visible ASCII characters")]
    Token,
    /// No connection with TLS is possible.
    #[error("TLS: {0}")]
    Tls(String),
}

#[derive(serde::Serialize)]
struct Completion<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
}

#[derive(serde::Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(serde::Serialize)]
struct Chat<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

impl Target {
    /// Chats with `message` to the gateway at `base_url`; with `agent`, past its routing.
    ///
    /// # Errors
    /// When nothing could be sent this way.
    pub fn new(
        base_url: &str,
        message: &str,
        agent: Option<&str>,
        token: Option<&str>,
    ) -> Result<Self, InvalidTarget> {
        Self::chats(&Gateway { url: base_url, token, ca: None }, message, agent)
    }

    /// Chats with `message` to `gateway`; with `agent`, past its routing.
    ///
    /// # Errors
    /// When nothing could be sent this way.
    pub fn chats(gateway: &Gateway<'_>, message: &str, agent: Option<&str>) -> Result<Self, InvalidTarget> {
        // Two strings are always representable as JSON.
        let body = serde_json::to_vec(&Chat { message, agent }).unwrap_or_default();
        Self::posting(gateway, CHAT_PATH, body.into())
    }

    /// Completions by `model` of a chat with `message`, from the server of OpenAI's API at `base_url`, which does not end in `/v1`.
    ///
    /// # Errors
    /// When nothing could be sent this way.
    pub fn completions(base_url: &str, model: &str, message: &str) -> Result<Self, InvalidTarget> {
        let messages = [Message { role: "user", content: message }];
        let body = serde_json::to_vec(&Completion { model, messages }).unwrap_or_default();
        Self::posting(&Gateway { url: base_url, token: None, ca: None }, COMPLETIONS_PATH, body.into())
    }

    fn posting(gateway: &Gateway<'_>, path: &str, body: Bytes) -> Result<Self, InvalidTarget> {
        let Gateway { url, token, ca } = *gateway;
        let invalid = || InvalidTarget::Url(url.to_owned());
        let base: Uri = url.parse().map_err(|_| invalid())?;
        let authority = base.authority().ok_or_else(invalid)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let (scheme, port, tls) = match base.scheme_str() {
            Some("http") => ("http", 80, None),
            Some("https") => ("https", 443, Some(Tls::new(&host, ca).map_err(InvalidTarget::Tls)?)),
            _ => return Err(invalid()),
        };
        if base.query().is_some() || authority.as_str().contains('@') {
            return Err(invalid());
        }
        let path: Uri =
            format!("{}{path}", base.path().trim_end_matches('/')).parse().map_err(|_| invalid())?;
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| invalid())?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("phoenix-load-tester"));
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| InvalidTarget::Token)?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(port),
            url: format!("{scheme}://{authority}{path}"),
            path,
            headers,
            body,
            tls,
        })
    }

    /// The whole URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(crate) fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_a_token_is_never_printed() {
        for wrong in ["127.0.0.1:8181", "ftp://host", "http://", "http://u:p@h", "http://h/?q", "no url"] {
            assert!(Target::new(wrong, "hi", None, None).is_err(), "{wrong}");
        }
        let target = Target::new("http://[::1]:81/base/", "hi", Some("echo_agent"), Some("secret")).unwrap();
        assert_eq!(target.url(), "http://[::1]:81/base/api/v1/chat");
        assert_eq!(target.address(), ("::1", 81));
        assert_eq!(target.body, r#"{"message":"hi","agent":"echo_agent"}"#);
        assert!(!format!("{target:?}").contains("secret"));
        let completions = Target::completions("http://h:81", "m", "hi").unwrap();
        assert_eq!(completions.url(), "http://h:81/v1/chat/completions");
        assert_eq!(completions.body, r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#);
        assert!(Target::new("http://h", "hi", None, Some("a\nb")).is_err());
    }
}
