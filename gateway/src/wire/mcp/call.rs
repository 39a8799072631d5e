//! Parameters of `tools/call`.

use phoenix_domain::json::{Json, Object};
use phoenix_platform::propagation::TraceContext;

use super::{
    message::{INVALID_PARAMS, RequestId, RpcError},
    result::IDEMPOTENCY_KEY,
};

/// The token of a client's progress notifications: of the same types as an identifier.
pub(crate) type ProgressToken = RequestId;

/// A call of a tool.
#[derive(Debug)]
pub(crate) struct ToolCall {
    /// Name of the tool.
    pub(crate) name: String,
    /// Arguments; empty when there are none.
    pub(crate) arguments: Object,
    /// Token of progress notifications, if the client wants them.
    pub(crate) progress: Option<ProgressToken>,
    /// Trace that the call belongs to.
    pub(crate) trace: Option<TraceContext>,
    /// Idempotency key in `_meta`.
    pub(crate) idempotency_key: Option<String>,
}

impl ToolCall {
    /// The call with these parameters.
    ///
    /// # Errors
    /// When they are not those of a call.
    pub(crate) fn read(mut params: Object) -> Result<Self, RpcError> {
        let name = match params.shift_remove("name") {
            Some(Json::String(name)) => name,
            None | Some(Json::Null) => return Err(invalid("`params.name` is missing")),
            Some(_) => return Err(invalid("`params.name` must be a string")),
        };
        let arguments = match params.shift_remove("arguments") {
            Some(Json::Object(arguments)) => arguments,
            None | Some(Json::Null) => Object::new(),
            Some(_) => return Err(invalid("`params.arguments` must be an object")),
        };
        let meta = params.shift_remove("_meta").unwrap_or_default();
        let text = |member: &str| meta[member].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            name,
            arguments,
            progress: ProgressToken::of(&meta["progressToken"]),
            trace: TraceContext::of_texts(text("traceparent"), text("tracestate")),
            idempotency_key: meta[IDEMPOTENCY_KEY].as_str().map(str::to_owned),
        })
    }
}

fn invalid(message: &str) -> RpcError {
    RpcError::new(INVALID_PARAMS, message)
}

/// `arguments` for an action that gets them as they are: what looks like a reference to another task's output is escaped, because
/// the plan of a call has one task.
pub(crate) fn verbatim(arguments: Object) -> Object {
    arguments.into_iter().map(|(name, value)| (name, escaped(value))).collect()
}

fn escaped(value: Json) -> Json {
    match value {
        Json::String(text) if text.contains(REFERENCE) => Json::String(escape(&text)),
        Json::Array(items) => Json::Array(items.into_iter().map(escaped).collect()),
        Json::Object(members) => Json::Object(verbatim(members)),
        other => other,
    }
}

/// The beginning of a reference; see [`phoenix_domain::template`].
const REFERENCE: &str = "{{tasks.";

/// Doubles the backslashes before each reference, and adds the one that escapes it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 1);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(REFERENCE) {
        escaped.push_str(before);
        let backslashes = before.len() - before.trim_end_matches('\\').len();
        escaped.extend(std::iter::repeat_n('\\', backslashes + 1));
        escaped.push_str(REFERENCE);
        rest = after;
    }
    escaped + rest
}

#[cfg(test)]
mod tests {
    use phoenix_domain::template::{Referent, render};
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<ToolCall, RpcError> {
        ToolCall::read(Object::parse(text).unwrap())
    }

    #[test]
    fn call_carries_progress_trace_and_idempotency_key() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let call = read(&format!(
            r#"{{"name":"chat","arguments":{{"message":"hi"}},"_meta":{{"progressToken":7,"traceparent":"{parent}","phoenix/idempotency_key":"k"}}}}"#
        ))
        .unwrap();
        assert_eq!((call.arguments.len(), call.idempotency_key.as_deref()), (1, Some("k")));
        assert_eq!(call.progress.map(|token| token.to_json()).as_deref(), Some("7"));
        assert_eq!(call.trace.unwrap().trace_id(), &parent[3..35]);
        for wrong in [r#"{}"#, r#"{"name":7}"#, r#"{"name":"chat","arguments":[]}"#] {
            assert_eq!(read(wrong).unwrap_err().code, INVALID_PARAMS, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn argument_reaches_the_action_verbatim(parts in prop::collection::vec(
            prop_oneof![Just("{{tasks.a.output}}".to_owned()), Just("{{tasks.".to_owned()), Just("\\".to_owned()), "[a-z{} ]{0,4}"], 0..8,
        )) {
            let text: String = parts.concat();
            let arguments: Object = [("a".to_owned(), Json::Array(vec![text.into()]))].into_iter().collect();
            let rendered = render(&verbatim(arguments.clone()), &|_: &str| Referent::Failed);
            prop_assert_eq!(rendered.unwrap(), arguments);
        }
    }
}
