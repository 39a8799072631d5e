//! Messages of JSON-RPC 2.0, one per line, as MCP uses them.

use phoenix_domain::json::{Json, Object, replace_lone_surrogates};

use crate::response::without_byte_order_mark;

/// Code of an error: the method is unknown.
pub(super) const METHOD_NOT_FOUND: i64 = -32601;

/// Code of an error: the parameters, such as the name of a tool, are invalid.
pub(super) const INVALID_PARAMS: i64 = -32602;

/// Code of an error: the server does not speak the version of the protocol.
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// Code of an error: a resource does not exist.
pub(super) const RESOURCE_NOT_FOUND: i64 = -32002;

/// Request of a server that asks a question.
pub(super) const ELICIT: &str = "elicitation/create";

/// A message of a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    /// The response to the request `id`.
    Response { id: u64, outcome: Result<Json, RpcError> },
    /// A request, whose id is echoed.
    Request { id: Json, method: String, params: Object },
    /// A notification.
    Notification { method: String, params: Object },
}

/// Error in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
    /// Details; null when there are none.
    pub(super) data: Json,
}

/// The line of a request.
pub(super) fn request(id: u64, method: &str, params: Object) -> Vec<u8> {
    line([("id", id.into()), ("method", method.into()), ("params", params.into())])
}

/// The line of a notification.
pub(super) fn notification(method: &str, params: Object) -> Vec<u8> {
    line([("method", method.into()), ("params", params.into())])
}

/// The line of the response to a request of the server that this client does nothing for.
pub(super) fn response(id: Json, method: &str) -> Vec<u8> {
    if method == "ping" {
        return result(id, Object::new());
    }
    refusal(id, METHOD_NOT_FOUND, format!("the client has no method `{method}`"))
}

/// The line of the response to a request of the server that has this result.
pub(super) fn result(id: Json, result: Object) -> Vec<u8> {
    line([("id", id), ("result", result.into())])
}

/// The line of the response to a request of the server that is refused.
pub(super) fn refusal(id: Json, code: i64, message: String) -> Vec<u8> {
    let code = i32::try_from(code).unwrap_or_default();
    let error = object([("code", code.into()), ("message", message.into())]);
    line([("id", id), ("error", error.into())])
}

/// An object with these members.
pub(super) fn object<const N: usize>(members: [(&str, Json); N]) -> Object {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn line<const N: usize>(members: [(&str, Json); N]) -> Vec<u8> {
    let mut message = object([("jsonrpc", "2.0".into())]);
    message.extend(object(members));
    let mut line = Json::from(message).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The messages in `line`, which holds one, or an array of them.
///
/// # Errors
/// The problem of a line that is no such message.
pub(super) fn parse(line: &[u8]) -> Result<Vec<Incoming>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let line = replace_lone_surrogates(without_byte_order_mark(line));
    match Json::parse_stored(&line).map_err(|error| format!("it {error}"))? {
        Json::Array(messages) => messages.into_iter().map(incoming).collect(),
        message => Ok(vec![incoming(message)?]),
    }
}

fn incoming(message: Json) -> Result<Incoming, String> {
    let Json::Object(mut message) = message else { return Err("it is not an object".into()) };
    let id = message.shift_remove("id").filter(|id| !id.is_null());
    let method = message.get("method").and_then(Json::as_str).map(str::to_owned);
    let mut params = || {
        let params = message.shift_remove("params").and_then(|params| Object::try_from(params).ok());
        params.unwrap_or_default()
    };
    match (id, method) {
        (Some(id), Some(method)) => Ok(Incoming::Request { id, method, params: params() }),
        (None, Some(method)) => Ok(Incoming::Notification { method, params: params() }),
        (Some(id), None) => {
            let id = number(&id).ok_or("its `id` is not one of a request")?;
            let outcome = match (message.shift_remove("result"), message.get("error")) {
                (_, Some(error @ Json::Object(_))) => Err(RpcError::from(error)),
                (Some(result), _) => Ok(result),
                (None, _) => return Err("it has neither `result` nor `error`".into()),
            };
            Ok(Incoming::Response { id, outcome })
        }
        (None, None) => Err(match &message["error"]["message"] {
            Json::String(problem) => format!("it reports an error of no request: {problem}"),
            _ => "it has neither `id` nor `method`".into(),
        }),
    }
}

/// The id of a request of ours. Some servers echo it as a string.
pub(super) fn number(id: &Json) -> Option<u64> {
    match id {
        Json::String(text) => text.parse().ok(),
        id => id.as_u64(),
    }
}

impl From<&Json> for RpcError {
    fn from(error: &Json) -> Self {
        let code = error["code"].as_i64().unwrap_or_default();
        let message = error["message"].as_str().unwrap_or_default().trim();
        let message = if message.is_empty() { format!("error {code}") } else { message.into() };
        Self { code, message, data: error["data"].clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_the_specification() {
        let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
        assert_eq!(
            text(request(7, "ping", Object::new())),
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\",\"params\":{}}\n"
        );
        assert_eq!(text(response("a".into(), "ping")), "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{}}\n");
        assert!(text(response(1.into(), "roots/list")).contains("\"error\":{\"code\":-32601,"));
        assert!(!text(notification("x", Object::new())).contains("\"id\""));
    }

    #[test]
    fn every_kind_of_message_is_recognized() {
        let one = |line: &str| parse(line.as_bytes()).map(|mut messages| messages.remove(0));
        assert_eq!(
            one(r#"{"jsonrpc":"2.0","id":"3","result":{"a":1}}"#).unwrap(),
            Incoming::Response { id: 3, outcome: Ok(object([("a", 1.into())]).into()) }
        );
        let Ok(Incoming::Response { outcome: Err(error), .. }) =
            one(r#"{"id":4,"result":null,"error":{"code":-32602,"message":"no"}}"#)
        else {
            panic!("an error");
        };
        assert_eq!((error.code, &*error.message), (INVALID_PARAMS, "no"));
        assert!(matches!(one(r#"{"id":"x","method":"ping"}"#), Ok(Incoming::Request { .. })));
        assert!(matches!(one(r#"{"method":"x","params":null}"#), Ok(Incoming::Notification { .. })));
        assert_eq!(parse(br#"[{"method":"a"},{"method":"b"}]"#).unwrap().len(), 2);
        for (line, problem) in [
            ("{\"id\":1", "is not valid JSON"),
            ("7", "not an object"),
            ("{\"id\":1}", "neither `result` nor `error`"),
            ("{\"id\":1.5,\"result\":1}", "not one of a request"),
            ("{\"id\":null,\"error\":{\"message\":\"bad\"}}", "no request: bad"),
        ] {
            let found = one(line).unwrap_err();
            assert!(found.contains(problem), "{line}: {found}");
        }
        let marked = one("\u{feff}{\"id\":3,\"result\":\"a\\ud83d\"}").unwrap();
        assert_eq!(marked, Incoming::Response { id: 3, outcome: Ok("a\u{fffd}".into()) });
        assert!(parse(b"\xff").unwrap_err().contains("UTF-8"));
    }
}
