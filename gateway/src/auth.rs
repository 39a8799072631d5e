//! Who may use the API.
//!
//! With a token, everything under `/api` and `/v1`, and `/health`, needs `Authorization: Bearer <token>`. Without one only
//! this machine is served; then a request must also be *addressed* to this machine, because a web page elsewhere can
//! point a name of its own at 127.0.0.1 and have a visitor's browser send requests here (DNS rebinding).

use std::sync::Arc;

use axum::{
    extract::{Extension, Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, llm::Secret};
use subtle::{Choice, ConstantTimeEq};

use crate::{correlation::Scope, problem::Failure};

/// What callers must present; nothing when absent.
pub(crate) type Token = Option<Arc<Secret>>;

/// Lets only those through who may use the API. A refusal happens before anything is counted, read or planned.
pub(crate) async fn require_token(
    State(token): State<Token>,
    Extension(scope): Extension<Scope>,
    request: Request,
    next: Next,
) -> Response {
    let refusal = match (&token, is_guarded(request.uri().path())) {
        (_, false) => None,
        (Some(token), true) => check_token(request.headers(), token).err(),
        (None, true) => check_host(request.uri(), request.headers()).err(),
    };
    match refusal {
        None => next.run(request).await,
        Some(failure) => {
            let status = failure.status.as_u16();
            scope.span().in_scope(|| tracing::info!(status, code = %failure.error.code, "request refused"));
            failure.into_response()
        }
    }
}

fn is_guarded(path: &str) -> bool {
    let under =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    under("/api") || under("/v1") || under("/health")
}

fn check_token(headers: &HeaderMap, token: &Secret) -> Result<(), Failure> {
    let refused = |message: &str| {
        Failure::from(OrchestratorError::new(OrchestratorErrorCode::Unauthenticated, message))
    };
    let value = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| refused("a token is required: send the header `Authorization: Bearer <token>`"))?;
    let presented = value
        .as_bytes()
        .split_at_checked("bearer ".len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token.trim_ascii());
    match presented {
        Some(presented) if same(presented, token.expose().as_bytes()) => Ok(()),
        Some(_) => Err(refused("the token is not valid")),
        None => Err(refused("the header `Authorization` must be `Bearer <token>`")),
    }
}

/// Whether two byte strings are equal, in a time that depends on the length of `presented` alone.
fn same(presented: &[u8], expected: &[u8]) -> bool {
    let mut same = Choice::from(u8::from(presented.len() == expected.len() && !expected.is_empty()));
    for (byte, expected) in presented.iter().zip(expected.iter().cycle()) {
        same &= byte.ct_eq(expected);
    }
    same.into()
}

/// That the request is addressed to this machine.
fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 puts the host into the request target.
    let authority = uri.authority().cloned().or_else(|| header?.parse::<Authority>().ok());
    match authority {
        Some(authority) if is_this_machine(authority.host()) => Ok(()),
        _ => Err(Failure::invalid(
            StatusCode::MISDIRECTED_REQUEST,
            "without ORCH_API_TOKEN only requests to localhost are served; set a token to use another name",
        )),
    }
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
    fn everything_of_the_api_is_guarded_and_nothing_else() {
        for path in
            ["/api", "/api/", "/api/v1/chat", "/api/nope", "/v1/chat/completions", "/health", "/health/x"]
        {
            assert!(is_guarded(path), "{path}");
        }
        for path in ["/", "/livez", "/readyz", "/app.js", "/apiary", "/healthy"] {
            assert!(!is_guarded(path), "{path}");
        }
    }

    #[test]
    fn tokens_are_equal_only_as_a_whole() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b""[..], b"s", b"secre", b"secreT", b"secretsecret", b"secret ", b"Secret"] {
            assert!(!same(wrong, b"secret"), "{wrong:?}");
        }
        assert!(!same(b"", b""), "an empty token admits nobody");
    }

    #[test]
    fn this_machine_has_several_names() {
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
