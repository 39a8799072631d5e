//! How a caller wants its response.
//!
//! `Prefer: respond-async` (RFC 7240) asks for the plan's path instead of its result, `Accept: text/event-stream` for its
//! events, `?on_disconnect=continue` for a plan that outlives its caller. `Idempotency-Key` makes a request safe to send again.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Uri, request::Parts},
};
use phoenix_domain::{OrchestratorError, PlanId, json::Json, limits::MAX_IDEMPOTENCY_KEY_BYTES};
use phoenix_proto::planner::PlanAndExecuteRequest;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    accept,
    header_names::{IDEMPOTENCY_KEY, PREFER},
    problem::Failure,
    query::Query,
};

/// The only supported preference.
pub(crate) const RESPOND_ASYNC: &str = "respond-async";

const ON_DISCONNECT: &str = "on_disconnect";

/// How a caller wants its response.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// Respond as soon as the plan is durable.
    pub(crate) respond_async: bool,
    /// Respond with the plan's events as they happen.
    pub(crate) stream: bool,
    /// The plan continues when the caller disconnects.
    pub(crate) continue_on_disconnect: bool,
    /// Idempotency key of the request.
    pub(crate) key: KeyHeader,
}

impl<S: Sync> FromRequestParts<S> for Delivery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self {
            respond_async: prefers(&parts.headers, RESPOND_ASYNC),
            stream: accept::prefers_events(&parts.headers),
            continue_on_disconnect: continue_on_disconnect(&parts.uri)?,
            key: KeyHeader::from_request_parts(parts, state).await?,
        })
    }
}

impl Delivery {
    /// The idempotency key of `request`, sent to `operation`.
    pub(crate) fn key_of(&self, operation: &Operation<'_>, request: &impl Serialize) -> IdempotencyKey {
        let on_disconnect = self.continue_on_disconnect.then_some("continue");
        self.key.bind(operation, on_disconnect, request)
    }

    /// The delivery of a call whose caller waits for the result.
    pub(crate) const fn of_call(key: KeyHeader) -> Self {
        Self { respond_async: false, stream: false, continue_on_disconnect: false, key }
    }

    /// Sets the members of `request` that depend on the delivery.
    pub(crate) fn apply(self, request: &mut PlanAndExecuteRequest, key: IdempotencyKey) {
        request.continue_on_disconnect = self.continue_on_disconnect;
        (request.idempotency_key, request.idempotency_digest) = (key.key, key.digest);
    }
}

/// Target of a request: a method and a path, with the values of the path's parameters.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Operation<'a> {
    /// Method and path, such as `POST /api/v1/plans/{plan_id}:cancel`.
    pub(crate) route: &'static str,
    /// Plan in the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan_id: Option<&'a PlanId>,
}

impl Operation<'static> {
    /// An operation whose path has no parameters.
    pub(crate) const fn new(route: &'static str) -> Self {
        Self { route, plan_id: None }
    }
}

/// The header `Idempotency-Key`, if the request has one.
#[derive(Debug, Clone)]
pub(crate) struct KeyHeader(Option<String>);

/// An idempotency key with the digest of its request. Both are empty without a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    pub(crate) key: String,
    pub(crate) digest: String,
}

impl<S: Sync> FromRequestParts<S> for KeyHeader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        Ok(Self(parse_key(&parts.headers)?))
    }
}

impl KeyHeader {
    /// The key that a message names, if it names one.
    ///
    /// # Errors
    /// `validation_failed` for a key that is not valid.
    pub(crate) fn of(key: Option<String>) -> Result<Self, OrchestratorError> {
        key.map(|key| check_key(&key).map(|()| key)).transpose().map(Self)
    }

    /// The idempotency key of `request`, sent to `operation`.
    pub(crate) fn key_of(&self, operation: &Operation<'_>, request: &impl Serialize) -> IdempotencyKey {
        self.bind(operation, None, request)
    }

    fn bind(
        &self,
        operation: &Operation<'_>,
        on_disconnect: Option<&str>,
        request: &impl Serialize,
    ) -> IdempotencyKey {
        let Self(Some(key)) = self else { return IdempotencyKey::default() };
        IdempotencyKey { key: key.clone(), digest: digest(operation, on_disconnect, request) }
    }
}

/// Digest of a request: its operation, with the values of parameters, and the members that the caller gave. A member that is
/// null or has its default counts as absent, so a release with more members has the same digest for the same request.
fn digest(operation: &Operation<'_>, on_disconnect: Option<&str>, request: &impl Serialize) -> String {
    let mut digest = Sha256::new();
    for part in [canonical(operation), on_disconnect.unwrap_or_default().to_owned(), canonical(request)] {
        digest.update(part);
        digest.update([0]);
    }
    format!("{:x}", digest.finalize())
}

/// Canonical JSON: equal for values that differ only in white space or the order of members.
fn canonical(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut value = Json::parse_stored(&text).unwrap_or_default();
    value.sort_members();
    value.to_string()
}

/// Whether the caller prefers `wanted`, with any parameters.
fn prefers(headers: &HeaderMap, wanted: &str) -> bool {
    accept::items(headers, &PREFER).any(|item| item.name.eq_ignore_ascii_case(wanted))
}

fn continue_on_disconnect(uri: &Uri) -> Result<bool, OrchestratorError> {
    match Query::of(uri, &[ON_DISCONNECT])?.get(ON_DISCONNECT) {
        None | Some("cancel") => Ok(false),
        Some("continue") => Ok(true),
        Some(_) => Err(OrchestratorError::invalid(ON_DISCONNECT, "must be `cancel` or `continue`")),
    }
}

fn parse_key(headers: &HeaderMap) -> Result<Option<String>, OrchestratorError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(OrchestratorError::invalid("Idempotency-Key", "is given twice"));
    }
    let text = value.to_str().unwrap_or_default();
    check_key(text)?;
    Ok(Some(text.to_owned()))
}

fn check_key(text: &str) -> Result<(), OrchestratorError> {
    if text.is_empty()
        || text.len() > MAX_IDEMPOTENCY_KEY_BYTES
        || !text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(OrchestratorError::invalid(
            "Idempotency-Key",
            "must be 1 to 255 visible ASCII characters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use serde_json::Value;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn preference_is_found_in_a_list() {
        for (values, found) in [
            (&["respond-async"][..], true),
            (&["wait=10, Respond-Async"], true),
            (&["handling=lenient", "respond-async; x=1"], true),
            (&["respond-asynchronously"], false),
            (&["wait=10"], false),
            (&["note=\"a, respond-async\""], false),
            (&[], false),
        ] {
            assert_eq!(prefers(&headers(PREFER, values), RESPOND_ASYNC), found, "{values:?}");
        }
    }

    #[test]
    fn digest_depends_on_values_and_not_on_notation() {
        let digest = |text: &str, route| {
            digest(&Operation::new(route), None, &serde_json::from_str::<Value>(text).unwrap())
        };
        let one = digest(r#"{"a":1,"b":{"d":[1,2],"c":null}}"#, "POST /x");
        assert_eq!(one.len(), 64);
        assert_eq!(one, digest(r#" { "b": {"c": null, "d": [1, 2]}, "a": 1 } "#, "POST /x"));
        assert_ne!(one, digest(r#"{"a":1,"b":{"d":[2,1],"c":null}}"#, "POST /x"));
        assert_ne!(one, digest(r#"{"a":1,"b":{"d":[1,2]}}"#, "POST /x"), "null inside an input is a value");
        assert_ne!(one, digest(r#"{"a":1,"b":{"d":[1,2],"c":null}}"#, "POST /y"));
    }
}
