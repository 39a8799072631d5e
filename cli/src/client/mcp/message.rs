//! Messages of the protocol, as far as they must be understood to be passed on.

use phoenix_domain::{
    json::{Json, Object},
    mcp::header_text,
    object,
};

/// Version of a request that carries its version in `_meta`.
const VERSION_MEMBER: &str = "io.modelcontextprotocol/protocolVersion";

/// A message of the client.
#[derive(Debug)]
pub(super) struct Message {
    text: String,
    content: Json,
}

impl Message {
    /// The message of a line.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub(super) fn read(text: String) -> Result<Self, String> {
        let content: Json = Json::parse_stored(&text).map_err(|error| format!("the line {error}"))?;
        match content {
            Json::Object(_) => Ok(Self { text, content }),
            _ => Err("the line must be one JSON object; batches are not supported".into()),
        }
    }

    /// The message as it was sent.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The identifier as JSON.
    pub(super) fn id(&self) -> Option<String> {
        id_of(&self.content["id"])
    }

    /// Name of the method.
    pub(super) fn method(&self) -> Option<&str> {
        self.content["method"].as_str()
    }

    /// Whether the message is the answer to a request.
    pub(super) fn is_response(&self) -> bool {
        self.content.get("result").or(self.content.get("error")).is_some()
    }

    /// Identifier, as JSON, of the request that the notification cancels.
    pub(super) fn cancelled(&self) -> Option<String> {
        id_of(&self.content["params"]["requestId"])
    }

    /// Version of a request that carries one.
    pub(super) fn version(&self) -> Option<&str> {
        self.content["params"]["_meta"][VERSION_MEMBER].as_str()
    }

    /// What the header `Mcp-Name` of a request repeats, as a header can carry it.
    pub(super) fn header_name(&self) -> Option<String> {
        let member = match self.method()? {
            "tools/call" | "prompts/get" => "name",
            "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
            "resources/read" => "uri",
            _ => return None,
        };
        self.content["params"][member].as_str().map(header_text)
    }
}

fn id_of(value: &Json) -> Option<String> {
    matches!(value, Json::String(_) | Json::Number(_)).then(|| value.to_string())
}

/// An answer that the bridge gives itself. `id` is JSON.
pub(super) fn error(id: Option<&str>, code: i64, message: &str) -> String {
    let mut answer = object! {"jsonrpc": "2.0", "error": object! {"code": code, "message": message}};
    if let Some(id) = id {
        answer.set("id", Json::parse(id).unwrap_or_default());
    }
    answer.to_string()
}

/// The text of a message of the gateway on one line, and whether it is an answer. An answer without an identifier gets `id`: the
/// request was refused before it was read. `None` when it is no message.
pub(super) fn received(text: &str, id: &str) -> Option<(String, bool)> {
    let mut content = Object::parse_stored(text)
        .ok()
        .filter(|content| content.get("jsonrpc").is_some_and(|version| *version == "2.0"))?;
    let is_answer = !content.contains_key("method");
    if is_answer && content.get("id").is_none_or(Json::is_null) {
        content.set("id", Json::parse(id).unwrap_or_default());
        return Some((content.to_string(), true));
    }
    // Line breaks of JSON are outside of its strings.
    Some((text.replace(['\n', '\r'], " "), is_answer))
}

/// The version that the answer to `initialize` agrees to.
pub(super) fn agreed_version(answer: &str) -> Option<String> {
    let answer = Json::parse_stored(answer).ok()?;
    answer["result"]["protocolVersion"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_without_an_identifier_gets_that_of_the_request() {
        let refused = r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"m"}}"#;
        let (text, is_answer) = received(refused, "\"a\"").unwrap();
        assert!(is_answer && Json::parse(&text).unwrap()["id"] == "a", "{text}");
        assert_eq!(
            received("{\"jsonrpc\":\"2.0\",\n\"id\":1,\"result\":{}}", "1").unwrap().0,
            "{\"jsonrpc\":\"2.0\", \"id\":1,\"result\":{}}"
        );
        assert!(!received(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#, "1").unwrap().1);
        assert_eq!(received("<html>", "1"), None);
    }
}
