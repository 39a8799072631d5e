//! Messages in Anthropic's shape as messages in OpenAI's.
//!
//! The results of tools become messages of their own, and thinking with a signature becomes `thinking_blocks`, in which the
//! language-model agent returns it to Anthropic. Blocks that have no equivalent stay as they are: the provider accepts or refuses them.

use phoenix_domain::{
    OrchestratorError,
    json::{Json, Object},
};

/// Adds the messages in OpenAI's shape of `message`, the one at `index`, to `messages`.
///
/// # Errors
/// `validation_failed` that names the member.
pub(super) fn add(index: usize, message: Json, messages: &mut Vec<Json>) -> Result<(), OrchestratorError> {
    let field = format!("messages[{index}]");
    let Json::Object(mut message) = message else {
        return Err(OrchestratorError::invalid(&field, "must be an object with `role` and `content`"));
    };
    let role = take(&mut message, "role");
    let content = take(&mut message, "content");
    let field = format!("{field}.content");
    match (role.as_str(), content) {
        (Some(role @ ("user" | "assistant" | "system")), Json::String(text)) => {
            messages.push(message_of(role, text.into()));
        }
        (Some("assistant"), Json::Array(blocks)) => messages.push(assistant(&field, blocks)?),
        (Some(role @ ("user" | "system")), Json::Array(blocks)) => user(role, &field, blocks, messages)?,
        (Some("user" | "assistant" | "system"), Json::Null) => {
            return Err(OrchestratorError::invalid(&field, "is missing"));
        }
        (Some("user" | "assistant" | "system"), _) => {
            return Err(OrchestratorError::invalid(&field, "must be a string or an array of blocks"));
        }
        _ => {
            let field = format!("messages[{index}].role");
            return Err(OrchestratorError::invalid(&field, "must be `user`, `assistant` or `system`"));
        }
    }
    Ok(())
}

/// The instructions in `system` as a message.
///
/// # Errors
/// `validation_failed` that names the member.
pub(super) fn system(system: Json) -> Result<Option<Json>, OrchestratorError> {
    match system {
        Json::Null => Ok(None),
        Json::String(text) if text.is_empty() => Ok(None),
        Json::String(text) => Ok(Some(message_of("system", text.into()))),
        Json::Array(blocks) => {
            let parts = blocks.into_iter().enumerate().map(|(index, block)| {
                let field = format!("system[{index}]");
                let block = block_of(&field, block)?;
                if block.kind != "text" {
                    return Err(OrchestratorError::invalid(&format!("{field}.type"), "must be `text`"));
                }
                part(&field, block)
            });
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            Ok((!parts.is_empty()).then(|| message_of("system", content_of(parts))))
        }
        _ => Err(OrchestratorError::invalid("system", "must be a string or an array of blocks")),
    }
}

/// A block with its type.
struct Block {
    kind: String,
    members: Object,
}

fn block_of(field: &str, block: Json) -> Result<Block, OrchestratorError> {
    let Json::Object(members) = block else {
        return Err(OrchestratorError::invalid(field, "must be an object with `type`"));
    };
    match members.get("type").and_then(Json::as_str) {
        Some(kind) => Ok(Block { kind: kind.to_owned(), members }),
        None => Err(OrchestratorError::invalid(&format!("{field}.type"), "must be a string")),
    }
}

/// A message of the user. The results of tools in it are messages of their own, in the order of the blocks.
fn user(
    role: &str,
    field: &str,
    blocks: Vec<Json>,
    messages: &mut Vec<Json>,
) -> Result<(), OrchestratorError> {
    let is_empty = blocks.is_empty();
    let mut parts = Vec::new();
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        let block = block_of(&field, block)?;
        if block.kind != "tool_result" {
            parts.push(part(&field, block)?);
            continue;
        }
        if !parts.is_empty() {
            messages.push(message_of(role, content_of(std::mem::take(&mut parts))));
        }
        messages.push(tool_result(&field, block.members)?);
    }
    if !parts.is_empty() || is_empty {
        messages.push(message_of(role, content_of(parts)));
    }
    Ok(())
}

fn tool_result(field: &str, mut block: Object) -> Result<Json, OrchestratorError> {
    let Json::String(id) = take(&mut block, "tool_use_id") else {
        return Err(OrchestratorError::invalid(&format!("{field}.tool_use_id"), "must be a string"));
    };
    let field = format!("{field}.content");
    let content = match take(&mut block, "content") {
        Json::Null => "".into(),
        Json::String(text) => text.into(),
        Json::Array(blocks) => {
            let parts = blocks.into_iter().enumerate().map(|(index, block)| {
                let field = format!("{field}[{index}]");
                part(&field, block_of(&field, block)?)
            });
            content_of(parts.collect::<Result<_, _>>()?)
        }
        _ => return Err(OrchestratorError::invalid(&field, "must be a string or an array of blocks")),
    };
    let mut message = members([("role", "tool".into()), ("tool_call_id", id.into()), ("content", content)]);
    if take(&mut block, "is_error").as_bool() == Some(true) {
        message.insert("is_error".to_owned(), true.into());
    }
    Ok(message.into())
}

/// A message of the assistant: thinking, text and the calls of tools.
fn assistant(field: &str, blocks: Vec<Json>) -> Result<Json, OrchestratorError> {
    let (mut parts, mut calls, mut thinking) = (Vec::new(), Vec::new(), Vec::new());
    let mut reasoning = String::new();
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        let mut block = block_of(&field, block)?;
        let is_signed =
            block.members.get("signature").and_then(Json::as_str).is_some_and(|text| !text.is_empty());
        match block.kind.as_str() {
            "tool_use" => calls.push(tool_call(&field, block.members)?),
            "redacted_thinking" => thinking.push(block.members.into()),
            "thinking" if is_signed => thinking.push(block.members.into()),
            "thinking" => {
                reasoning.push_str(take(&mut block.members, "thinking").as_str().unwrap_or_default());
            }
            _ => parts.push(part(&field, block)?),
        }
    }
    let content = if parts.is_empty() { Json::Null } else { content_of(parts) };
    let mut message = members([("role", "assistant".into()), ("content", content)]);
    let lists = [("thinking_blocks", thinking), ("tool_calls", calls)];
    message.extend(
        lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| (name.to_owned(), Json::Array(list))),
    );
    if !reasoning.is_empty() {
        message.insert("reasoning_content".to_owned(), reasoning.into());
    }
    Ok(message.into())
}

fn tool_call(field: &str, mut block: Object) -> Result<Json, OrchestratorError> {
    let mut text = |name: &str| match take(&mut block, name) {
        Json::String(text) => Ok(text),
        _ => Err(OrchestratorError::invalid(&format!("{field}.{name}"), "must be a string")),
    };
    let (id, name) = (text("id")?, text("name")?);
    let arguments = match take(&mut block, "input") {
        Json::Null => "{}".to_owned(),
        input @ Json::Object(_) => input.to_string(),
        _ => return Err(OrchestratorError::invalid(&format!("{field}.input"), "must be an object")),
    };
    let function = members([("name", name.into()), ("arguments", arguments.into())]);
    let call = [("id", id.into()), ("type", "function".into()), ("function", function.into())];
    Ok(members(call).into())
}

/// A block as a part of a message's content.
fn part(field: &str, block: Block) -> Result<Json, OrchestratorError> {
    let Block { kind, members: mut block } = block;
    let cache_control = block.get("cache_control").filter(|mark| !mark.is_null()).cloned();
    let mut part = match kind.as_str() {
        "text" => match take(&mut block, "text") {
            text @ Json::String(_) => text_part(text),
            _ => return Err(OrchestratorError::invalid(&format!("{field}.text"), "must be a string")),
        },
        "image" => {
            let url = address(&format!("{field}.source"), take(&mut block, "source"))?;
            let url = members([("url", url.into())]);
            members([("type", "image_url".into()), ("image_url", url.into())])
        }
        "document" => document(&format!("{field}.source"), block)?,
        // Others are for the provider to know.
        _ => return Ok(block.into()),
    };
    // A mark of what to cache.
    part.extend(cache_control.map(|mark| ("cache_control".to_owned(), mark)));
    Ok(part.into())
}

fn text_part(text: Json) -> Object {
    members([("type", "text".into()), ("text", text)])
}

fn document(field: &str, mut block: Object) -> Result<Object, OrchestratorError> {
    let source = take(&mut block, "source");
    if source["type"] == "text" {
        return match &source["data"] {
            Json::String(text) => Ok(text_part(text.as_str().into())),
            _ => Err(OrchestratorError::invalid(&format!("{field}.data"), "must be a string")),
        };
    }
    if source["type"] == "content" {
        let message =
            "is `content`, which is not supported; send its blocks beside the document, or a `text` source";
        return Err(OrchestratorError::invalid(&format!("{field}.type"), message));
    }
    let name = block.get("title").and_then(Json::as_str).unwrap_or("document.pdf").to_owned();
    let data = address(field, source)?;
    let file = members([("filename", name.into()), ("file_data", data.into())]);
    Ok(members([("type", "file".into()), ("file", file.into())]))
}

/// The address of a source: a URL, or its data as one.
fn address(field: &str, source: Json) -> Result<String, OrchestratorError> {
    let Json::Object(mut source) = source else {
        return Err(OrchestratorError::invalid(field, "must be an object with `type`"));
    };
    let kind = take(&mut source, "type");
    let mut text = |name: &str| match take(&mut source, name) {
        Json::String(text) => Ok(text),
        _ => Err(OrchestratorError::invalid(&format!("{field}.{name}"), "must be a string")),
    };
    match kind.as_str() {
        Some("base64") => Ok(format!("data:{};base64,{}", text("media_type")?, text("data")?)),
        Some("url") => text("url"),
        _ => {
            let problem = "must be `base64` or `url`; files cannot be uploaded";
            Err(OrchestratorError::invalid(&format!("{field}.type"), problem))
        }
    }
}

/// One plain text is written as one, which every server reads.
fn content_of(mut parts: Vec<Json>) -> Json {
    if parts.is_empty() {
        return "".into();
    }
    let is_plain =
        |part: &Json| part["type"] == "text" && part.as_object().is_some_and(|members| members.len() == 2);
    if parts.len() == 1
        && is_plain(&parts[0])
        && let Some(Json::Object(mut part)) = parts.pop()
    {
        return take(&mut part, "text");
    }
    Json::Array(parts)
}

fn message_of(role: &str, content: Json) -> Json {
    members([("role", role.into()), ("content", content)]).into()
}

fn members<const N: usize>(members: [(&str, Json); N]) -> Object {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn take(members: &mut Object, name: &str) -> Json {
    members.shift_remove(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(message: &str) -> Result<String, OrchestratorError> {
        let mut messages = Vec::new();
        add(3, Json::parse(message).unwrap(), &mut messages)?;
        Ok(Json::Array(messages).to_string())
    }

    #[test]
    fn results_of_tools_are_messages_of_their_own_in_their_order() {
        let user = r#"{"role":"user","content":[
            {"type":"tool_result","tool_use_id":"a","content":"1","is_error":true},
            {"type":"tool_result","tool_use_id":"b","content":[{"type":"text","text":"2"}]},
            {"type":"text","text":"next","cache_control":{"type":"ephemeral"}},
            {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}"#;
        assert_eq!(
            converted(user).unwrap(),
            concat!(
                r#"[{"role":"tool","tool_call_id":"a","content":"1","is_error":true},"#,
                r#"{"role":"tool","tool_call_id":"b","content":"2"},"#,
                r#"{"role":"user","content":[{"type":"text","text":"next","cache_control":{"type":"ephemeral"}},"#,
                r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}]"#
            )
        );
    }

    #[test]
    fn signed_thinking_is_kept_and_calls_have_their_input_as_text() {
        let assistant = r#"{"role":"assistant","content":[
            {"type":"thinking","thinking":"hm","signature":"s"},{"type":"thinking","thinking":"so","signature":""},
            {"type":"text","text":"ok"},{"type":"tool_use","id":"a","name":"f","input":{"x":1.0}}]}"#;
        assert_eq!(
            converted(assistant).unwrap(),
            concat!(
                r#"[{"role":"assistant","content":"ok","#,
                r#""thinking_blocks":[{"type":"thinking","thinking":"hm","signature":"s"}],"#,
                r#""tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1.0}"}}],"#,
                r#""reasoning_content":"so"}]"#
            )
        );
    }

    #[test]
    fn invalid_block_is_named_by_its_place() {
        for (message, field) in [
            (r#"[]"#, "messages[3]"),
            (r#"{"role":"tool","content":"x"}"#, "messages[3].role"),
            (r#"{"role":"user"}"#, "messages[3].content"),
            (r#"{"role":"user","content":7}"#, "messages[3].content"),
            (r#"{"role":"user","content":["x"]}"#, "messages[3].content[0]"),
            (r#"{"role":"user","content":[{"text":"x"}]}"#, "messages[3].content[0].type"),
            (r#"{"role":"user","content":[{"type":"text"}]}"#, "messages[3].content[0].text"),
            (r#"{"role":"user","content":[{"type":"image"}]}"#, "messages[3].content[0].source"),
            (
                r#"{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}"#,
                "messages[3].content[0].source.type",
            ),
            (r#"{"role":"user","content":[{"type":"tool_result"}]}"#, "messages[3].content[0].tool_use_id"),
            (
                r#"{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":"x"}]}"#,
                "messages[3].content[0].input",
            ),
        ] {
            assert_eq!(converted(message).unwrap_err().details["field"], field, "{message}");
        }
        let unknown = r#"{"role":"user","content":[{"type":"search_result","x":1}]}"#;
        assert!(converted(unknown).unwrap().contains(r#"[{"type":"search_result","x":1}]"#));
    }
}
