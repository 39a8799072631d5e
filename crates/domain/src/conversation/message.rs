//! Validation of one message.

use crate::{
    error::OrchestratorError,
    json::{Json, Object},
};

/// Roles of a message.
pub const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Checks what Phoenix reads of the message at `index`: its role, its content and its tool calls.
///
/// # Errors
/// `validation_failed` that names the member.
pub(super) fn check(index: usize, message: &Json) -> Result<(), OrchestratorError> {
    let field = format!("messages[{index}]");
    let Json::Object(message) = message else {
        return Err(OrchestratorError::invalid(&field, "must be an object with `role` and `content`"));
    };
    let role = message.get("role").and_then(Json::as_str).filter(|role| ROLES.contains(role));
    let Some(role) = role else {
        let problem = format!("must be one of {}", ROLES.join(", "));
        return Err(OrchestratorError::invalid(&format!("{field}.role"), problem));
    };
    match present(message, "content") {
        Some(content) => check_content(&format!("{field}.content"), content)?,
        // The rest of an assistant's message may be its tool calls, a refusal or its reasoning.
        None if role == "assistant" => {}
        None => return Err(OrchestratorError::invalid(&format!("{field}.content"), "is missing")),
    }
    if let Some(calls) = present(message, "tool_calls") {
        check_tool_calls(&format!("{field}.tool_calls"), calls)?;
    }
    match present(message, "tool_call_id") {
        Some(Json::String(_)) => Ok(()),
        None if role != "tool" => Ok(()),
        Some(_) => Err(OrchestratorError::invalid(&format!("{field}.tool_call_id"), "must be a string")),
        None => Err(OrchestratorError::invalid(&format!("{field}.tool_call_id"), "is missing")),
    }
}

/// Bytes of the data of files and images inside a message.
pub(super) fn file_bytes(message: &Json) -> usize {
    let parts = message["content"].as_array().unwrap_or_default();
    let data = parts.iter().filter_map(|part| match part["type"].as_str() {
        Some("image_url") => part["image_url"]["url"].as_str().filter(|url| url.starts_with("data:")),
        Some("file") => part["file"]["file_data"].as_str(),
        Some("input_audio") => part["input_audio"]["data"].as_str(),
        _ => None,
    });
    data.map(str::len).sum()
}

fn check_content(field: &str, content: &Json) -> Result<(), OrchestratorError> {
    let parts = match content {
        Json::String(_) => return Ok(()),
        Json::Array(parts) => parts,
        _ => return Err(OrchestratorError::invalid(field, "must be a string or an array of parts")),
    };
    for (index, part) in parts.iter().enumerate() {
        let invalid = |member: &str, problem| {
            Err(OrchestratorError::invalid(&format!("{field}[{index}]{member}"), problem))
        };
        match part["type"].as_str() {
            None => return invalid(".type", "must be `text`, `image_url` or another type of part"),
            Some("text") if part["text"].as_str().is_none() => return invalid(".text", "must be a string"),
            Some("image_url") if part["image_url"]["url"].as_str().is_none() => {
                return invalid(".image_url.url", "must be a string");
            }
            // Other types are for the model to know.
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_tool_calls(field: &str, calls: &Json) -> Result<(), OrchestratorError> {
    let Json::Array(calls) = calls else {
        return Err(OrchestratorError::invalid(field, "must be an array of tool calls"));
    };
    match calls.iter().position(|call| call.as_object().is_none()) {
        Some(index) => Err(OrchestratorError::invalid(&format!("{field}[{index}]"), "must be an object")),
        None => Ok(()),
    }
}

fn present<'a>(message: &'a Object, name: &str) -> Option<&'a Json> {
    message.get(name).filter(|value| !value.is_null())
}
