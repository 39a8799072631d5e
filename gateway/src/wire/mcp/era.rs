//! Versions of the protocol. The legacy ones begin with a handshake (`initialize`); in the modern one every request carries its
//! version and the capabilities of the client in `_meta`, and repeats in headers what intermediaries route by.
//!
//! <https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#server-validation>

use axum::http::{HeaderMap, HeaderName, StatusCode};
use phoenix_domain::{
    json::{Json, Object},
    mcp::text_of_header,
};

use super::message::{INVALID_PARAMS, RpcError};
use crate::header_names::{MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION};

/// The version without a handshake.
pub(crate) const MODERN: &str = "2026-07-28";

/// The versions with a handshake, the newest first.
pub(crate) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// A header is missing, malformed, or differs from the body.
const HEADER_MISMATCH: i32 = -32020;

/// The version is not one of this server.
const UNSUPPORTED_VERSION: i32 = -32022;

/// Member of `_meta` with the version of a request.
const VERSION_MEMBER: &str = "io.modelcontextprotocol/protocolVersion";
/// Member of `_meta` with the capabilities of the client.
pub(crate) const CAPABILITIES_MEMBER: &str = "io.modelcontextprotocol/clientCapabilities";

/// Which versions a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// One of [`LEGACY`].
    Legacy,
    /// [`MODERN`].
    Modern,
}

/// Every version, the newest first.
pub(crate) fn versions() -> Vec<&'static str> {
    [MODERN].into_iter().chain(LEGACY).collect()
}

impl Era {
    /// The era of a request with these headers, whose version, method and name are checked against the body.
    ///
    /// # Errors
    /// When the version is not known, or headers and body disagree.
    pub(crate) fn of(headers: &HeaderMap, method: &str, params: &Object) -> Result<Self, RpcError> {
        let version = header(headers, &MCP_PROTOCOL_VERSION)?;
        let meta = params.get("_meta").and_then(Json::as_object);
        let declared = meta.and_then(|meta| meta.get(VERSION_MEMBER));
        if declared.is_none() && version != Some(MODERN) {
            return match version {
                Some(version) if !LEGACY.contains(&version) => Err(unsupported(version)),
                _ => Ok(Self::Legacy),
            };
        }
        let missing = |member: &str| {
            RpcError::new(INVALID_PARAMS, format!("`params._meta[\"{member}\"]` is missing or not valid"))
        };
        let declared = declared.and_then(Json::as_str).ok_or_else(|| missing(VERSION_MEMBER))?;
        let capabilities = meta.and_then(|meta| meta.get(CAPABILITIES_MEMBER)).and_then(Json::as_object);
        capabilities.ok_or_else(|| missing(CAPABILITIES_MEMBER))?;
        must_match(&MCP_PROTOCOL_VERSION, version, declared)?;
        if declared != MODERN {
            return Err(unsupported(declared));
        }
        must_match(&MCP_METHOD, header(headers, &MCP_METHOD)?, method)?;
        if let Some(name) = routed_name(method, params) {
            let found = header(headers, &MCP_NAME)?.map(decoded).transpose()?;
            must_match(&MCP_NAME, found.as_deref(), name)?;
        }
        Ok(Self::Modern)
    }

    /// Checks the version of a notification, which has no other checked headers.
    ///
    /// # Errors
    /// When it is not known.
    pub(crate) fn check_notification(headers: &HeaderMap) -> Result<(), RpcError> {
        match header(headers, &MCP_PROTOCOL_VERSION)? {
            Some(version) if !versions().contains(&version) => Err(unsupported(version)),
            _ => Ok(()),
        }
    }

    /// HTTP status of an error of a request that was understood. Clients of legacy versions read a body of a success only.
    pub(crate) const fn status(self, modern: StatusCode) -> StatusCode {
        match self {
            Self::Legacy => StatusCode::OK,
            Self::Modern => modern,
        }
    }
}

/// The part of the parameters that [`MCP_NAME`] repeats.
fn routed_name<'a>(method: &str, params: &'a Object) -> Option<&'a str> {
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return None,
    };
    params.get(member)?.as_str()
}

/// The text of a header, if there is one.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(mismatch(format!("the header `{name}` is given twice")));
    }
    let text = value.to_str().map_err(|_| mismatch(format!("the header `{name}` must be ASCII")))?;
    Ok(Some(text.trim()))
}

fn must_match(name: &HeaderName, found: Option<&str>, expected: &str) -> Result<(), RpcError> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(_) => Err(mismatch(format!("the header `{name}` differs from the body"))),
        None => Err(mismatch(format!("the header `{name}` is missing"))),
    }
}

fn mismatch(message: String) -> RpcError {
    RpcError::new(HEADER_MISMATCH, message)
}

fn unsupported(requested: &str) -> RpcError {
    let supported = versions();
    let message = format!("version `{requested}` is not supported; supported are {}", supported.join(", "));
    let supported = Json::Array(supported.into_iter().map(Json::from).collect());
    let data = [("supported".to_owned(), supported), ("requested".to_owned(), requested.into())];
    RpcError::new(UNSUPPORTED_VERSION, message).with_data(data.into_iter().collect())
}

/// A header's text, which may be wrapped as `=?base64?…?=`.
fn decoded(header: &str) -> Result<String, RpcError> {
    text_of_header(header)
        .ok_or_else(|| mismatch(format!("the header `{MCP_NAME}` is not valid base64 of UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(headers: &[(&'static str, &'static str)], method: &str, params: &str) -> Result<Era, i32> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Era::of(&headers.collect(), method, &Object::parse(params).unwrap()).map_err(|error| error.code)
    }

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[test]
    fn legacy_request_has_a_known_version_or_none() {
        assert_eq!(era(&[], "ping", "{}"), Ok(Era::Legacy));
        assert_eq!(era(&[("mcp-protocol-version", "2025-06-18")], "ping", "{}"), Ok(Era::Legacy));
        assert_eq!(era(&[("mcp-protocol-version", "1999-01-01")], "ping", "{}"), Err(UNSUPPORTED_VERSION));
    }

    #[test]
    fn headers_of_a_modern_request_match_its_body() {
        let version = ("mcp-protocol-version", MODERN);
        let list = ("mcp-method", "tools/list");
        let (call, named) = (("mcp-method", "tools/call"), format!(r#"{{"name":"git über",{META}}}"#));
        let bare = format!("{{{META}}}");
        let other = bare.replace(MODERN, "v999");
        for (headers, method, params, expected) in [
            (&[version, list][..], "tools/list", bare.as_str(), Ok(Era::Modern)),
            (&[list], "tools/list", &bare, Err(HEADER_MISMATCH)),
            (&[version], "tools/list", &bare, Err(HEADER_MISMATCH)),
            (&[version, ("mcp-method", "TOOLS/LIST")], "tools/list", &bare, Err(HEADER_MISMATCH)),
            (&[version, list, list], "tools/list", &bare, Err(HEADER_MISMATCH)),
            (&[version, list], "tools/list", "{}", Err(INVALID_PARAMS)),
            (&[version, list], "tools/list", &other, Err(HEADER_MISMATCH)),
            (&[("mcp-protocol-version", "v999"), list], "tools/list", &other, Err(UNSUPPORTED_VERSION)),
            (&[version, call], "tools/call", &named, Err(HEADER_MISMATCH)),
            (
                &[version, call, ("mcp-name", "=?base64?Z2l0IMO8YmVy?=")],
                "tools/call",
                &named,
                Ok(Era::Modern),
            ),
            (
                &[version, call, ("mcp-name", "=?base64?Z2l0!!8YmVy?=")],
                "tools/call",
                &named,
                Err(HEADER_MISMATCH),
            ),
        ] {
            assert_eq!(era(headers, method, params), expected, "{headers:?} {params}");
        }
    }
}
