//! Authentication.
//!
//! With a token, every route but the [`OPEN`] ones requires `Authorization: Bearer <token>`, or the token in `x-api-key`, as
//! Anthropic's clients send it. Without a token the gateway serves
//! loopback only, and the `Host` of a request must be a loopback name, because a web page elsewhere can resolve its own name to
//! 127.0.0.1 and make a visitor's browser send requests here (DNS rebinding). In either case requests with effects from
//! pages of other origins are rejected, because a browser sends a `POST` wherever a page asks it to (cross-site request
//! forgery).

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, llm::Secret};
use phoenix_platform::{
    bearer::{self, BearerError},
    loopback,
};

use crate::problem::Failure;

/// Routes without authentication: probes, and the files of the page, which contain no data. Every other route is guarded,
/// including routes that are added later.
const OPEN: [&str; 12] = [
    "/",
    "/plans",
    "/plans/{plan_id}",
    "/agents",
    "/agents/{agent_id}",
    "/approvals",
    "/dead-letters",
    "/overview",
    "/docs",
    "/page/{file}",
    "/livez",
    "/readyz",
];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Rules of authentication. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// Token that callers must present, if there is one.
    token: Option<Arc<Secret>>,
    /// Origins, beside the gateway's own, whose pages may send requests with effects.
    origins: Arc<[String]>,
}

impl Guard {
    pub(crate) fn new(token: Option<Arc<Secret>>, origins: &[String]) -> Self {
        Self { token, origins: origins.into() }
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        let (uri, headers) = (request.uri(), request.headers());
        check_hosts(headers)?;
        if !is_guarded(request) {
            return Ok(());
        }
        match &self.token {
            Some(token) => check_token(headers, token)?,
            None => check_host(uri, headers)?,
        }
        if !request.method().is_safe() && self.is_foreign(uri, headers) {
            return Err(foreign());
        }
        Ok(())
    }

    /// Whether a page of another origin sends the request. Programs other than browsers send no origin.
    fn is_foreign(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        if matches!(site, Some(b"same-origin" | b"none")) {
            return false;
        }
        let own = loopback::authority(uri, headers);
        let is_known = |origin: &HeaderValue| {
            origin.to_str().is_ok_and(|origin| {
                let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
                let is_own = host.and_then(|host| host.parse::<Authority>().ok()) == own && own.is_some();
                is_own || self.origins.iter().any(|known| known == origin)
            })
        };
        let mut origins = headers.get_all(header::ORIGIN).into_iter().peekable();
        if origins.peek().is_none() { site.is_some() } else { !origins.all(is_known) }
    }
}

/// Rejects requests that are not authenticated, before their body is read.
pub(crate) async fn require_token(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn is_guarded(request: &Request) -> bool {
    match request.extensions().get::<MatchedPath>() {
        Some(route) => !OPEN.contains(&route.as_str()),
        // An unknown path below the API is guarded, too.
        None => is_below_the_api(request.uri().path()),
    }
}

fn is_below_the_api(path: &str) -> bool {
    let under =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    under("/api") || under("/v1") || under("/health")
}

/// Checks that the request names at most one host: with two, a proxy and the gateway could choose different ones.
fn check_hosts(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.get_all(header::HOST).iter().nth(1).is_none() {
        return Ok(());
    }
    Err(OrchestratorError::invalid("Host", "is given twice").into())
}

/// The failure of a request with effects from a page of another origin.
pub(crate) fn foreign() -> Failure {
    let message = "requests with effects from pages of other origins are rejected; add the origin to gateway.cors_allowed_origins to allow it";
    Failure::invalid(StatusCode::FORBIDDEN, message)
}

/// The failure of a request with a wrong token.
pub(crate) fn invalid_token() -> Failure {
    unauthenticated(&BearerError::Wrong.to_string())
}

fn unauthenticated(message: &str) -> Failure {
    OrchestratorError::new(OrchestratorErrorCode::Unauthenticated, message).into()
}

fn check_token(headers: &HeaderMap, token: &Secret) -> Result<(), Failure> {
    bearer::check_any(headers, token).map_err(|problem| unauthenticated(&problem.to_string()))
}

/// Checks that the request is addressed to this machine.
fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
    if loopback::is_addressed(uri, headers) { Ok(()) } else { Err(misdirected()) }
}

/// The failure of a request to another host than this machine.
pub(crate) fn misdirected() -> Failure {
    Failure::invalid(
        StatusCode::MISDIRECTED_REQUEST,
        "without ORCH_API_TOKEN only requests to localhost are served; set a token to use another host name",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_of_another_origin_is_foreign_unless_configured() {
        let guard = Guard::new(None, &["https://ops.example.com".to_owned()]);
        let uri = Uri::from_static("/x");
        for (foreign, headers) in [
            (false, &[][..]),
            (false, &[("origin", "http://localhost:8181")]),
            (false, &[("origin", "https://localhost:8181")]),
            (false, &[("origin", "https://ops.example.com"), ("sec-fetch-site", "cross-site")]),
            (false, &[("sec-fetch-site", "same-origin"), ("origin", "https://outside.the.proxy")]),
            (false, &[("sec-fetch-site", "none")]),
            (true, &[("origin", "https://evil.example")]),
            (true, &[("origin", "http://localhost:3000")]),
            (true, &[("origin", "null")]),
            (true, &[("origin", "http://localhost:8181"), ("origin", "https://evil.example")]),
            (true, &[("origin", "https://ops.example.com.evil.example")]),
            (true, &[("sec-fetch-site", "cross-site")]),
            (true, &[("sec-fetch-site", "same-site")]),
        ] {
            let mut map: HeaderMap =
                [(header::HOST, HeaderValue::from_static("localhost:8181"))].into_iter().collect();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(guard.is_foreign(&uri, &map), foreign, "{headers:?}");
        }
    }
}
