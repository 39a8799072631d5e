//! How a caller wants its answer: now or later, once or as it comes, and what its going away means.
//!
//! `Prefer: respond-async` (RFC 7240) asks for the plan's address instead of its result, `Accept: text/event-stream` for
//! its events, `?on_disconnect=continue` for a plan that outlives its caller, `Idempotency-Key` for a request that counts
//! once however often it is sent.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, Uri, request::Parts},
};
use phoenix_domain::{OrchestratorError, PlanId, json::Json};
use phoenix_proto::planner::PlanAndExecuteRequest;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{accept, problem::Failure, query::Query};

/// Asks for an answer before the work is done.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Says that it was given.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Names a request that may be sent again.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is the one that the same request was given before.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The one preference that is known.
pub(crate) const RESPOND_ASYNC: &str = "respond-async";

const ON_DISCONNECT: &str = "on_disconnect";
const MAX_KEY_BYTES: usize = 255;

/// How a caller wants its answer.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// As soon as the plan is durable.
    pub(crate) respond_async: bool,
    /// As the plan's events, as they come.
    pub(crate) stream: bool,
    /// The plan goes on when the caller goes away.
    pub(crate) continues: bool,
    /// What the caller calls its request.
    pub(crate) key: Key,
}

impl<S: Sync> FromRequestParts<S> for Delivery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self {
            respond_async: prefers(&parts.headers, RESPOND_ASYNC),
            stream: accept::prefers_events(&parts.headers),
            continues: continues(&parts.uri)?,
            key: Key::from_request_parts(parts, state).await?,
        })
    }
}

impl Delivery {
    /// The caller's name for `request`, sent to `operation`.
    pub(crate) fn name(&self, operation: &Operation<'_>, request: &impl Serialize) -> Named {
        let on_disconnect = self.continues.then_some("continue");
        self.key.name_with(operation, on_disconnect, request)
    }

    /// Puts into `wish` what the planner has to know.
    pub(crate) fn apply(self, wish: &mut PlanAndExecuteRequest, named: Named) {
        wish.continue_on_disconnect = self.continues;
        (wish.idempotency_key, wish.idempotency_digest) = (named.key, named.digest);
    }
}

/// What a request is sent to: a method and a path, with the values of the path's parameters.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Operation<'a> {
    /// Such as `POST /api/v1/plans/{plan_id}:cancel`.
    pub(crate) route: &'static str,
    /// The plan that the path names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan_id: Option<&'a PlanId>,
}

impl Operation<'static> {
    /// One whose path has no parameters.
    pub(crate) const fn new(route: &'static str) -> Self {
        Self { route, plan_id: None }
    }
}

/// The name that a caller gives to a request it may send again, if it does.
#[derive(Debug, Clone)]
pub(crate) struct Key(Option<String>);

/// A caller's name for a request, as the planner is told it: its key, and the digest of what it was used for. Both are empty
/// when there is no key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) key: String,
    pub(crate) digest: String,
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        Ok(Self(key(&parts.headers)?))
    }
}

impl Key {
    /// The caller's name for `request`, sent to `operation`.
    pub(crate) fn name(&self, operation: &Operation<'_>, request: &impl Serialize) -> Named {
        self.name_with(operation, None, request)
    }

    fn name_with(
        &self,
        operation: &Operation<'_>,
        on_disconnect: Option<&str>,
        request: &impl Serialize,
    ) -> Named {
        let Self(Some(key)) = self else { return Named::default() };
        Named { key: key.clone(), digest: digest(operation, on_disconnect, request) }
    }
}

/// What tells a request from another one with the same key: what it was sent to, with the values of parameters, and the
/// members that the caller gave. A member that is null or has its default counts as absent, so a release that knows more
/// members than this one has the same digest for the same request.
fn digest(operation: &Operation<'_>, on_disconnect: Option<&str>, request: &impl Serialize) -> String {
    let mut digest = Sha256::new();
    for part in [canonical(operation), on_disconnect.unwrap_or_default().to_owned(), canonical(request)] {
        digest.update(part);
        digest.update([0]);
    }
    format!("{:x}", digest.finalize())
}

/// Canonical JSON: the same for two values that differ in white space or in the order of members only.
fn canonical(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut value = Json::parse_stored(&text).unwrap_or_default();
    value.sort_members();
    value.to_string()
}

/// Whether one of the caller's preferences is `wanted`, whatever its parameters.
fn prefers(headers: &HeaderMap, wanted: &str) -> bool {
    accept::items(headers, &PREFER).any(|item| item.name.eq_ignore_ascii_case(wanted))
}

fn continues(uri: &Uri) -> Result<bool, OrchestratorError> {
    match Query::of(uri, &[ON_DISCONNECT])?.get(ON_DISCONNECT) {
        None | Some("cancel") => Ok(false),
        Some("continue") => Ok(true),
        Some(_) => Err(OrchestratorError::invalid(ON_DISCONNECT, "must be `cancel` or `continue`")),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, OrchestratorError> {
    let invalid = |problem: &str| OrchestratorError::invalid("Idempotency-Key", problem);
    let mut values = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("is given twice"));
    }
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > MAX_KEY_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("must be 1 to 255 visible ASCII characters"));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn preferences_are_found_among_others() {
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
    fn digest_depends_on_what_is_asked_and_not_on_how_it_is_written() {
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
