//! The error in a provider's response, in every format that providers and gateways use.
//!
//! | format | used by |
//! |---|---|
//! | `{"error": {"message", "type", "code"}}` | OpenAI, Anthropic, OpenRouter, Ollama's and LM Studio's `/v1` |
//! | `{"error": {"code", "message", "status", "details"}}`, also in a list | Google |
//! | `{"error": "…"}`, `{"code": "…", "error": "…"}` | Ollama, LM Studio, Grok |
//! | `{"detail": "…"}`, `{"detail": [{"loc", "msg"}]}` | servers built on FastAPI: vLLM, LiteLLM |
//! | `{"message": "…"}`, `{"errors": […]}`, `{"title", "detail"}`, text | gateways |

use std::time::Duration;

use phoenix_domain::json::Json;

use super::{retry_after, wire::json};

/// Members that contain a message or lead to it, the most specific first.
const MESSAGE_MEMBERS: &[&str] = &[
    "message",
    "detail",
    "error_description",
    "error_message",
    "errorMessage",
    "error",
    "errors",
    "msg",
    "description",
    "reason",
    "title",
];

/// Members that contain a status as a number or as a name.
const STATUS_MEMBERS: &[&str] =
    &["code", "status", "status_code", "statusCode", "http_status", "type", "error_code"];

/// Most items of a list that form a message.
const MAX_PARTS: usize = 3;

/// The error in a response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorBody {
    /// The provider's message, which may contain secrets; empty when the body has none.
    pub(super) message: String,
    /// HTTP status that the body names, by number or by name.
    pub(super) status: Option<u16>,
    /// Whether a member (not the message) says that the key is invalid.
    pub(super) is_about_key: bool,
    /// Wait after which the same request may succeed.
    pub(super) retry_after: Option<Duration>,
}

impl ErrorBody {
    /// Reads the body of a response with a status other than 2xx.
    pub(super) fn read(body: &[u8]) -> Self {
        match json::parse(body) {
            Some(body) => Self::of(&body),
            None => Self { message: plain_text(body), ..Self::default() },
        }
    }

    /// The error in `body`; its message is empty when there is none.
    pub(super) fn of(body: &Json) -> Self {
        // Google wraps the error of a streamed response in a list.
        let body = body.as_array().and_then(<[Json]>::first).unwrap_or(body);
        let error = if has_content(&body["error"]) { &body["error"] } else { body };
        let first_status = |parse: fn(&Json) -> Option<u16>| {
            let members =
                [error, body].into_iter().flat_map(|of| STATUS_MEMBERS.iter().map(move |name| &of[*name]));
            members.filter_map(parse).next()
        };
        Self {
            message: message(body).unwrap_or_default(),
            // A number is a status; a name only stands for one.
            status: first_status(number).or_else(|| first_status(named)),
            is_about_key: is_about_key(error),
            retry_after: wait(error).or_else(|| wait(body)),
        }
    }
}

/// Whether a member has content: some servers write `null`, `false`, `""` or `{}` where there is none.
pub(super) fn has_content(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
        Json::String(text) => !text.trim().is_empty(),
        Json::Array(items) => items.iter().any(has_content),
        Json::Object(members) => !members.is_empty(),
    }
}

fn message(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => {
            let text = text.trim();
            // A gateway may quote the whole body of the server behind it.
            let quoted = text.starts_with('{').then(|| json::parse(text.as_bytes())).flatten();
            let inner = quoted.filter(Json::is_object).and_then(|quoted| message(&quoted));
            inner.or_else(|| (!text.is_empty()).then(|| text.to_owned()))
        }
        Json::Array(items) => {
            let parts: Vec<_> = items.iter().filter_map(message).take(MAX_PARTS).collect();
            (!parts.is_empty()).then(|| parts.join("; "))
        }
        Json::Object(members) => {
            let text = MESSAGE_MEMBERS.iter().find_map(|name| message(members.get(*name)?))?;
            let text = match members.get("loc").and_then(field_path) {
                Some(path) => format!("{path}: {text}"),
                None => text,
            };
            // OpenRouter's own message is general; that of the provider behind it is quoted beside it.
            let raw = members.get("metadata").and_then(|metadata| message(metadata.get("raw")?));
            Some(raw.map_or_else(|| text.clone(), |raw| format!("{text}: {raw}")))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => None,
    }
}

/// The path of the field that FastAPI names: `body.messages.0`.
fn field_path(loc: &Json) -> Option<String> {
    let parts =
        loc.as_array()?.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
    let path = parts.collect::<Vec<_>>().join(".");
    (!path.is_empty()).then_some(path)
}

fn number(value: &Json) -> Option<u16> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u16::try_from(number).ok().filter(|status| (400..600).contains(status))
}

/// The status that a provider's name for an error stands for.
fn named(value: &Json) -> Option<u16> {
    let name = value.as_str()?.trim().to_ascii_lowercase();
    Some(match name.as_str() {
        "invalid_request_error"
        | "invalid_request"
        | "invalid_argument"
        | "failed_precondition"
        | "content_filter"
        | "content_policy_violation"
        | "context_length_exceeded"
        | "bad_request" => 400,
        "authentication_error" | "invalid_api_key" | "unauthenticated" | "unauthorized" => 401,
        "billing_error" | "insufficient_credits" | "payment_required" => 402,
        "permission_error" | "permission_denied" | "forbidden" | "moderation" => 403,
        "not_found_error" | "model_not_found" | "not_found" => 404,
        "request_too_large" => 413,
        "rate_limit_error"
        | "rate_limit_exceeded"
        | "rate_limited"
        | "rate_limit"
        | "insufficient_quota"
        | "resource_exhausted"
        | "too_many_requests" => 429,
        "api_error" | "server_error" | "internal_server_error" | "internal" => 500,
        "unavailable" | "service_unavailable" => 503,
        "timeout_error" | "deadline_exceeded" | "timeout" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}

fn is_about_key(error: &Json) -> bool {
    let names = ["code", "type", "status"].into_iter().map(|name| &error[name]);
    let reasons = error["details"].as_array().into_iter().flatten().map(|detail| &detail["reason"]);
    names.chain(reasons).filter_map(Json::as_str).any(|name| {
        matches!(
            name.to_ascii_lowercase().as_str(),
            "invalid_api_key" | "api_key_invalid" | "authentication_error" | "unauthenticated"
        )
    })
}

/// The wait that an error asks for in a member.
fn wait(error: &Json) -> Option<Duration> {
    let seconds = |value: &Json| match value {
        Json::String(text) => retry_after::of_text(text),
        number => retry_after::seconds(number.as_f64()?),
    };
    let own = [error, &error["metadata"]].into_iter();
    let own =
        own.flat_map(|of| ["retry_after", "retry_after_seconds"].into_iter().map(move |name| &of[name]));
    let google = error["details"].as_array().into_iter().flatten().map(|detail| &detail["retryDelay"]);
    own.chain(google).find_map(seconds)
}

/// A body that is not JSON, if it is readable text.
fn plain_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    let is_binary = text.chars().take(64).any(|c| c == char::REPLACEMENT_CHARACTER || c == '\0');
    // The text of an HTML or XML document only repeats the status.
    if text.starts_with('<') || is_binary { String::new() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(body: &Value) -> ErrorBody {
        ErrorBody::of(&body.clone().into())
    }

    #[test]
    fn message_is_found_in_every_format() {
        for body in [
            json!({"error": {"message": "M", "type": "invalid_request_error", "param": null, "code": null}}),
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "M"}}),
            json!([{"error": {"code": 400, "message": "M", "status": "INVALID_ARGUMENT"}}]),
            json!({"error": "M"}),
            json!({"code": "Client specified an invalid argument", "error": "M"}),
            json!({"detail": "M"}),
            json!({"detail": {"error": "M"}}),
            json!({"detail": [{"msg": "M", "type": "missing"}]}),
            json!({"message": "M"}),
            json!({"errors": ["M"]}),
            json!({"errors": [{"message": "M"}]}),
            json!({"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "M"}),
            json!({"error": "invalid_request", "error_description": "M"}),
            json!({"error": {"error": {"message": "M"}}}),
            json!({"error": {"message": "{\"error\":{\"message\":\"M\"}}"}}),
            json!({"error": null, "message": "M"}),
            json!("M"),
        ] {
            assert_eq!(of(&body).message, "M", "{body}");
        }
        let fields = json!({"detail": [{"loc": ["body", "messages", 0], "msg": "field required"}]});
        assert_eq!(of(&fields).message, "body.messages.0: field required");
        let behind = json!({"error": {"message": "Provider returned error", "code": 429,
            "metadata": {"raw": "{\"detail\":\"slow down\"}", "provider_name": "X"}}});
        assert_eq!(of(&behind).message, "Provider returned error: slow down");
        assert_eq!(ErrorBody::read(b"\xef\xbb\xbfno such model\n").message, "no such model");
        assert_eq!(ErrorBody::read(b"\xef\xbb\xbf{\"detail\":\"M\"}").message, "M");
        for nothing in [&b"<html>"[..], b"", b"{}", b"\x15\x03\x01\x00", b"null", b"[]", b"{\"error\":{}}"] {
            assert_eq!(ErrorBody::read(nothing).message, "", "{nothing:?}");
        }
    }

    #[test]
    fn status_key_and_wait_are_read_from_members() {
        for (body, status) in [
            (json!({"error": {"message": "M", "code": 429}}), Some(429)),
            (json!({"error": {"message": "M", "code": "429"}}), Some(429)),
            (json!({"error": {"message": "M", "code": "rate_limit_exceeded"}}), Some(429)),
            (json!({"error": {"message": "M", "status": "RESOURCE_EXHAUSTED"}}), Some(429)),
            (json!({"error": {"message": "M", "type": "overloaded_error"}}), Some(529)),
            (json!({"message": "M", "code": 404}), Some(404)),
            (json!({"error": {"message": "M", "code": 12}}), None),
            (json!({"error": {"message": "M", "code": {"a": 1}}}), None),
        ] {
            assert_eq!(of(&body).status, status, "{body}");
        }
        let google = json!({"error": {"code": 429, "message": "M", "details": [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}});
        assert_eq!(of(&google).retry_after, Some(Duration::from_millis(34_500)));
        let other = json!({"error": {"message": "M", "metadata": {"retry_after": 3}}});
        assert_eq!(of(&other).retry_after, Some(Duration::from_secs(3)));
        let key = json!({"error": {"code": 400, "message": "M", "details": [{"reason": "API_KEY_INVALID"}]}});
        assert!(of(&key).is_about_key);
        assert!(!of(&json!({"error": {"message": "mind the api key"}})).is_about_key);
    }
}
