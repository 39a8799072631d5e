//! How a caller wants its answer: now or later, once or as it comes, and what its going away means.
//!
//! `Prefer: respond-async` (RFC 7240) asks for the plan's address instead of its result, `Accept: text/event-stream` for
//! its events, `?on_disconnect=continue` for a plan that outlives its caller, `Idempotency-Key` for a request that counts
//! once however often it is sent.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, Method, Uri, header, request::Parts},
};
use phoenix_domain::OrchestratorError;
use phoenix_proto::planner::PlanAndExecuteRequest;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{problem::Failure, query::Query};

/// Asks for an answer before the work is done.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Says that it was given.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Names a request that may be sent again.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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
            respond_async: lists(&parts.headers, PREFER, RESPOND_ASYNC),
            stream: lists(&parts.headers, header::ACCEPT, "text/event-stream"),
            continues: continues(&parts.uri)?,
            key: Key::from_request_parts(parts, state).await?,
        })
    }
}

impl Delivery {
    /// What tells `request` from another one with the same key; nothing without a key.
    pub(crate) fn fingerprint(&self, request: &impl Serialize) -> Option<Fingerprint> {
        self.key.fingerprint(request)
    }

    /// Puts into `wish` what the planner has to know. `request` is what the caller asked for, as it was understood.
    pub(crate) fn apply(self, wish: &mut PlanAndExecuteRequest, request: Option<Fingerprint>) {
        wish.continue_on_disconnect = self.continues;
        (wish.idempotency_key, wish.idempotency_digest) = self.key.with(request);
    }
}

/// The name that a caller gives to a request it may send again, if it does.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    key: Option<String>,
    method: Method,
    path: String,
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        Ok(Self { key: key(&parts.headers)?, method, path })
    }
}

impl Key {
    /// The key and the digest of `request`, as the planner is told them: both empty when there is no key.
    pub(crate) fn of(self, request: &impl Serialize) -> (String, String) {
        let fingerprint = self.fingerprint(request);
        self.with(fingerprint)
    }

    fn fingerprint(&self, request: &impl Serialize) -> Option<Fingerprint> {
        self.key.as_ref().map(|_| Fingerprint::of(request))
    }

    fn with(self, request: Option<Fingerprint>) -> (String, String) {
        let Self { key, method, path } = self;
        key.zip(request).map(|(key, request)| (key, request.digest(&method, &path))).unwrap_or_default()
    }
}

/// A request as canonical JSON: the same for two bodies that differ in white space or in the order of members only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    /// Of a request as it was understood.
    fn of(request: &impl Serialize) -> Self {
        // As a value first: its members are sorted.
        Self(serde_json::to_value(request).map(|value| value.to_string()).unwrap_or_default())
    }

    fn digest(&self, method: &Method, path: &str) -> String {
        let mut digest = Sha256::new();
        for part in [method.as_str(), path, &self.0] {
            digest.update(part);
            digest.update([0]);
        }
        format!("{:x}", digest.finalize())
    }
}

/// Whether one of a header's comma-separated values is `wanted`, whatever its parameters.
fn lists(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut items = values.flat_map(|value| value.split(','));
    items.any(|item| item.split(';').next().is_some_and(|item| item.trim().eq_ignore_ascii_case(wanted)))
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
    use serde_json::{Value, json};

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
            (&[], false),
        ] {
            assert_eq!(lists(&headers(PREFER, values), PREFER, RESPOND_ASYNC), found, "{values:?}");
        }
    }

    #[test]
    fn a_digest_depends_on_what_is_asked_and_not_on_how_it_is_written() {
        let digest = |text: &str, path| {
            Fingerprint::of(&serde_json::from_str::<Value>(text).unwrap()).digest(&Method::POST, path)
        };
        let one = digest(r#"{"a":1,"b":{"d":[1,2],"c":null}}"#, "/x");
        assert_eq!(one.len(), 64);
        assert_eq!(one, digest(r#" { "b": {"c": null, "d": [1, 2]}, "a": 1 } "#, "/x"));
        assert_ne!(one, digest(r#"{"a":1,"b":{"d":[2,1],"c":null}}"#, "/x"));
        assert_ne!(one, digest(r#"{"a":1,"b":{"d":[1,2],"c":null}}"#, "/y"));
        assert_ne!(one, Fingerprint::of(&json!({"a": 1})).digest(&Method::PUT, "/x"));
    }
}
