//! JSON-RPC messages (<https://www.jsonrpc.org/specification>), without batches.

use axum::http::StatusCode;
use phoenix_domain::{
    CorrelationId, OrchestratorError,
    json::{Json, Object},
};
use serde::Serialize;

use crate::wire::members_body::AnyMembers;

/// The text is not JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// The message is not a request, a notification or a response.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// The server does not have the method.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
/// The parameters of the method are not valid.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// The server failed.
pub(crate) const INTERNAL_ERROR: i32 = -32603;

const VERSION: &str = "2.0";

/// Identifier of a request, a string or a whole number, as it was sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct RequestId(Json);

/// A message of a client.
#[derive(Debug)]
pub(crate) enum Message {
    /// Has an answer.
    Request(Request),
    /// Has no answer.
    Notification(Notification),
    /// The answer to a request, of which this server sends none.
    Response,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    /// Identifier, repeated in the answer.
    pub(crate) id: RequestId,
    /// Name of the method.
    pub(crate) method: String,
    /// Parameters of the method.
    pub(crate) params: Object,
}

/// A notification.
#[derive(Debug)]
pub(crate) struct Notification {
    /// Name of the notification.
    pub(crate) method: String,
    /// Its parameters.
    pub(crate) params: Object,
}

/// An error of the protocol: the request was not understood. A call that fails has a result instead.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RpcError {
    /// HTTP status of the answer.
    pub(crate) status: StatusCode,
    /// Code of the protocol.
    pub(crate) code: i32,
    /// The error in one sentence.
    pub(crate) message: String,
    /// Facts about the error.
    pub(crate) data: Option<Object>,
}

/// A message that is not valid, and its identifier as far as it has one.
#[derive(Debug)]
pub(crate) struct Rejected {
    /// Identifier of the request.
    pub(crate) id: Option<RequestId>,
    /// What is wrong.
    pub(crate) error: RpcError,
}

impl RequestId {
    /// The identifier `value`, if it is one.
    pub(crate) fn of(value: &Json) -> Option<Self> {
        let is_id = match value {
            Json::String(_) => true,
            Json::Number(_) => value.to_text().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'),
            _ => false,
        };
        is_id.then(|| Self(value.clone()))
    }

    /// The identifier as JSON, which tells `1` from `"1"`.
    pub(crate) fn to_json(&self) -> String {
        self.0.to_string()
    }
}

impl Message {
    /// The message with the members `body`.
    ///
    /// # Errors
    /// When it is none of JSON-RPC.
    pub(crate) fn read(mut body: AnyMembers) -> Result<Self, Box<Rejected>> {
        let id = body.get("id").and_then(RequestId::of);
        let rejected =
            |code, message: &str| Box::new(Rejected { id: id.clone(), error: RpcError::new(code, message) });
        if body.take("jsonrpc") != VERSION {
            return Err(rejected(INVALID_REQUEST, "`jsonrpc` must be \"2.0\""));
        }
        let method = match body.take("method") {
            Json::String(method) => method,
            Json::Null if body.get("result").or(body.get("error")).is_some() => return Ok(Self::Response),
            Json::Null => return Err(rejected(INVALID_REQUEST, "`method` is missing")),
            _ => return Err(rejected(INVALID_REQUEST, "`method` must be a string")),
        };
        let params = match body.take("params") {
            Json::Object(params) => params,
            Json::Null => Object::new(),
            _ => return Err(rejected(INVALID_PARAMS, "`params` must be an object")),
        };
        match (&id, body.get("id")) {
            (Some(id), _) => Ok(Self::Request(Request { id: id.clone(), method, params })),
            (None, None) => Ok(Self::Notification(Notification { method, params })),
            (None, Some(_)) => Err(rejected(INVALID_REQUEST, "`id` must be a string or a whole number")),
        }
    }
}

impl RpcError {
    /// An error of a message that is malformed: HTTP status 400.
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into(), data: None }
    }

    /// A request that was refused before its message was read.
    pub(crate) fn of_failure(
        status: StatusCode,
        error: OrchestratorError,
        correlation_id: CorrelationId,
    ) -> Self {
        let OrchestratorError { code: name, message, details, retry_after: _ } = error;
        let code = match status {
            status if status.is_server_error() => INTERNAL_ERROR,
            // Only a text that is not JSON has a line.
            _ if details.contains_key("line") => PARSE_ERROR,
            _ => INVALID_REQUEST,
        };
        let facts = [("code", name.as_str().into()), ("correlation_id", correlation_id.to_string().into())];
        let facts = facts.map(|(name, value): (&str, Json)| (name.to_owned(), value)).into_iter();
        let details = details.into_iter().map(|(name, value)| (name, value.into()));
        Self { status, code, message, data: Some(facts.chain(details).collect()) }
    }

    /// Sets the HTTP status.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Sets the facts.
    pub(crate) fn with_data(self, data: Object) -> Self {
        Self { data: Some(data), ..self }
    }
}

/// An error of the gateway itself, whose code is not one of a call.
impl From<OrchestratorError> for RpcError {
    fn from(error: OrchestratorError) -> Self {
        Self::new(INTERNAL_ERROR, error.message).with_status(StatusCode::OK)
    }
}

/// The answer to the request `id` as JSON.
pub(crate) fn answer(id: &RequestId, result: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Answer<'a, R> {
        jsonrpc: &'static str,
        id: &'a RequestId,
        result: &'a R,
    }

    // Results have names that are strings, and JSON that was parsed.
    serde_json::to_string(&Answer { jsonrpc: VERSION, id, result }).unwrap_or_default()
}

/// The answer with an error as JSON. It has no `id` when the request has none that could be read.
pub(crate) fn error(id: Option<&RequestId>, error: &RpcError) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        jsonrpc: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        error: Body<'a>,
    }

    #[derive(Serialize)]
    struct Body<'a> {
        code: i32,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a Object>,
    }

    let RpcError { status: _, code, message, data } = error;
    let error = Body { code: *code, message, data: data.as_ref() };
    serde_json::to_string(&Answer { jsonrpc: VERSION, id, error }).unwrap_or_default()
}

/// A notification to the client as JSON.
pub(crate) fn notification(method: &str, params: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Sent<'a, P> {
        jsonrpc: &'static str,
        method: &'a str,
        params: &'a P,
    }

    serde_json::to_string(&Sent { jsonrpc: VERSION, method, params }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, Box<Rejected>> {
        Message::read(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn message_is_told_apart_by_its_members() {
        let request = read(r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":null}"#);
        assert!(matches!(request, Ok(Message::Request(Request { id, .. })) if id.to_json() == "7"));
        let notification = read(r#"{"jsonrpc":"2.0","method":"x","params":{"a":1}}"#);
        assert!(
            matches!(notification, Ok(Message::Notification(Notification { params, .. })) if params.len() == 1)
        );
        assert!(matches!(read(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#), Ok(Message::Response)));
    }

    #[test]
    fn message_outside_the_protocol_is_rejected_with_its_id() {
        for (text, code, id) in [
            (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":"x"}"#, INVALID_REQUEST, Some("\"x\"")),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#, INVALID_PARAMS, Some("1")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"x"}"#, INVALID_REQUEST, None),
        ] {
            let rejected = read(text).unwrap_err();
            let found = (rejected.error.code, rejected.id.map(|id| id.to_json()));
            assert_eq!(found, (code, id.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn identifier_is_repeated_as_it_was_sent() {
        for id in ["1", "\"1\"", "-7", "123456789012345678901234567890"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            let Ok(Message::Request(request)) = read(&text) else { panic!("{id}") };
            let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            assert_eq!(answer(&request.id, &Object::new()), expected);
        }
    }
}
