//! Security headers of every response, and CORS.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use phoenix_platform::propagation::CORRELATION_HEADER;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, CorsLayer};

use crate::{
    error::ServeError,
    header_names::{IDEMPOTENT_REPLAYED, MCP_SESSION_ID, PREFERENCE_APPLIED, X_PHOENIX_PLAN_ID},
    wire::{anthropic::error::REQUEST_ID, openai::error::X_SHOULD_RETRY},
};

/// The page loads and calls its own origin only, and cannot be framed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Security headers of every response.
pub(crate) const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
];

/// Adds the security headers, and `Cache-Control: no-store` unless the handler has set another value.
pub(crate) async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(const { HeaderValue::from_static("no-store") });
    response
}

/// The CORS layer for the configured origins; `None` without any.
///
/// # Errors
/// When an item is not an origin.
pub(crate) fn cors(origins: &[String]) -> Result<Option<CorsLayer>, ServeError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let numbered = origins.iter().enumerate();
    let origins =
        numbered.map(|(index, origin)| parse_origin(index, origin)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            // Clients send headers of their own, which differ from release to release; the origins are trusted.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([
                CORRELATION_HEADER,
                header::LOCATION,
                PREFERENCE_APPLIED,
                IDEMPOTENT_REPLAYED,
                X_PHOENIX_PLAN_ID,
                MCP_SESSION_ID,
                header::RETRY_AFTER,
                REQUEST_ID,
                X_SHOULD_RETRY,
            ]),
    ))
}

/// Applies the CORS layer. An `OPTIONS` that is not a preflight is passed on: the CORS layer alone would respond to it on every
/// path.
pub(crate) async fn apply_cors(State(cors): State<CorsLayer>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_preflight =
        headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !is_preflight {
        return next.run(request).await;
    }
    match cors.layer(next).oneshot(request).await {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    }
}

/// The error names the index and not the value, which may come from a variable with a secret.
fn parse_origin(index: usize, origin: &str) -> Result<HeaderValue, ServeError> {
    let is_origin = origin.parse::<axum::http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| origin.ends_with(authority.as_str()))
    });
    HeaderValue::from_str(origin).ok().filter(|_| is_origin).ok_or_else(|| {
        ServeError::setting(
            "gateway.cors_allowed_origins",
            format_args!("item {index} must be an origin such as https://ops.example.com, without a path"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_without_path_is_accepted_and_nothing_else() {
        for good in ["https://ops.example.com", "http://localhost:3000"] {
            assert!(parse_origin(0, good).is_ok(), "{good}");
        }
        for bad in
            ["*", "", "null", "ops.example.com", "https://ops.example.com/", "file:///x", "https://a b"]
        {
            assert!(parse_origin(0, bad).is_err(), "{bad}");
        }
        assert!(cors(&[]).unwrap().is_none());
    }
}
