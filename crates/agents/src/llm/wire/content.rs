//! Readers of messages in OpenAI's shape, for APIs with another one.

use phoenix_domain::{
    conversation::arguments_object,
    json::{Json, Object},
    object,
};

use super::types::Unsupported;

/// Role of a message, for APIs with two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `system` and `developer`
    System,
    User,
    Assistant,
    Tool,
}

/// A part of a message's content.
pub(super) enum Part<'a> {
    Text(&'a str),
    /// An image inside the message.
    Data {
        media_type: &'a str,
        base64: &'a str,
    },
    /// An image elsewhere.
    Url(&'a str),
    /// A document inside the message.
    Document {
        media_type: &'a str,
        base64: &'a str,
    },
}

/// The role of `message`. Unknown roles were refused before.
pub(super) fn role(message: &Json) -> Role {
    match message["role"].as_str() {
        Some("system" | "developer") => Role::System,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        _ => Role::User,
    }
}

/// The text of a message's content, or of the text parts in it.
pub(super) fn text(message: &Json) -> String {
    match &message["content"] {
        Json::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        content => content.as_str().unwrap_or_default().to_owned(),
    }
}

/// The parts of message number `index`.
///
/// # Errors
/// For a part that is neither text nor an image nor a document.
pub(super) fn parts(message: &Json, index: usize) -> Result<Vec<Part<'_>>, Unsupported> {
    let parts = match &message["content"] {
        Json::Array(parts) => parts,
        content => return Ok(content.as_str().map(Part::Text).into_iter().collect()),
    };
    parts.iter().enumerate().map(|(number, part)| part_of(part, index, number)).collect()
}

fn part_of(part: &Json, index: usize, number: usize) -> Result<Part<'_>, Unsupported> {
    if let Some(text) = part["text"].as_str() {
        return Ok(Part::Text(text));
    }
    if part["type"] == "file" {
        return document(part, index, number);
    }
    let url = part["image_url"]["url"].as_str().or_else(|| part["image_url"].as_str());
    let Some(url) = url else {
        let kind = part["type"].as_str().unwrap_or("none").chars().take(64).collect::<String>();
        return Err(Unsupported(format!(
            "`messages[{index}].content[{number}]` has the type `{kind}`; this provider takes `text` and `image_url`"
        )));
    };
    let Some(data) = url.strip_prefix("data:") else { return Ok(Part::Url(url)) };
    let image = data.split_once(";base64,").filter(|(media_type, _)| media_type.starts_with("image/"));
    let (media_type, base64) = image.ok_or_else(|| {
        Unsupported(format!(
            "`messages[{index}].content[{number}].image_url.url` must be a URL or `data:image/…;base64,…`"
        ))
    })?;
    Ok(Part::Data { media_type: media_type.split(';').next().unwrap_or(media_type), base64 })
}

fn document(part: &Json, index: usize, number: usize) -> Result<Part<'_>, Unsupported> {
    let data = part["file"]["file_data"].as_str().and_then(|data| data.strip_prefix("data:"));
    let document = data.and_then(|data| data.split_once(";base64,"));
    let (media_type, base64) = document.ok_or_else(|| {
        Unsupported(format!(
            "`messages[{index}].content[{number}].file.file_data` must be `data:application/pdf;base64,…`"
        ))
    })?;
    Ok(Part::Document { media_type, base64 })
}

/// The error for a document, which the provider does not read.
pub(super) fn no_document(index: usize) -> Unsupported {
    Unsupported(format!("`messages[{index}]` has a document; this provider takes `text` and `image_url`"))
}

/// The error for an image that the provider does not load itself.
pub(super) fn no_url(index: usize) -> Unsupported {
    Unsupported(format!(
        "`messages[{index}]` has an image by its address; this provider takes images as `data:image/…;base64,…`"
    ))
}

/// A tool call in a message of the assistant.
pub(super) struct ToolCall<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    /// Text that should be a JSON object.
    arguments: &'a str,
    pub(super) value: &'a Json,
}

impl ToolCall<'_> {
    /// The arguments as an object.
    pub(super) fn arguments(&self) -> Object {
        arguments_object(self.arguments)
    }
}

/// The tool calls of `message`.
pub(super) fn tool_calls(message: &Json) -> impl Iterator<Item = ToolCall<'_>> {
    message["tool_calls"].as_array().into_iter().flatten().map(|call| ToolCall {
        id: call["id"].as_str().unwrap_or_default(),
        name: call["function"]["name"].as_str().unwrap_or_default(),
        arguments: call["function"]["arguments"].as_str().unwrap_or_default(),
        value: call,
    })
}

/// The name of the function whose result the tool message answers: from the message itself, else from the call before it.
pub(super) fn name_of_result(messages: &[Json], index: usize) -> String {
    let message = &messages[index];
    let id = message["tool_call_id"].as_str().unwrap_or_default();
    let called = || {
        let calls = messages[..index].iter().rev().flat_map(tool_calls);
        calls.into_iter().find(|call| call.id == id).map(|call| call.name)
    };
    message["name"].as_str().or_else(called).unwrap_or(id).to_owned()
}

/// The tools of `options` that are functions.
pub(super) fn tools(options: &Object) -> impl Iterator<Item = &Json> {
    let tools = options.get("tools").and_then(Json::as_array).into_iter().flatten();
    tools.filter(|tool| tool["function"].is_object())
}

/// The functions among the tools of `options`.
pub(super) fn functions(options: &Object) -> impl Iterator<Item = &Json> {
    tools(options).map(|tool| &tool["function"])
}

/// A function's parameters as a JSON Schema.
pub(super) fn parameters(function: &Json) -> Json {
    let schema = function.get("parameters").filter(|schema| schema.is_object());
    schema.cloned().unwrap_or_else(|| object! {"type": "object", "properties": Object::new()}.into())
}

/// What `tool_choice` asks for.
pub(super) enum ToolChoice<'a> {
    Auto,
    None,
    Required,
    Function(&'a str),
}

pub(super) fn tool_choice(options: &Object) -> Option<ToolChoice<'_>> {
    let choice = options.get("tool_choice")?;
    Some(match choice.as_str() {
        Some("none") => ToolChoice::None,
        Some("required" | "any") => ToolChoice::Required,
        Some(_) => ToolChoice::Auto,
        None => choice["function"]["name"].as_str().map_or(ToolChoice::Auto, ToolChoice::Function),
    })
}

/// The form that `response_format` asks for.
pub(super) enum ResponseFormat<'a> {
    /// Any JSON object.
    Object,
    Schema(&'a Json),
}

pub(super) fn response_format(options: &Object) -> Option<ResponseFormat<'_>> {
    let format = options.get("response_format")?;
    match format["type"].as_str()? {
        "json_object" => Some(ResponseFormat::Object),
        "json_schema" => Some(ResponseFormat::Schema(&format["json_schema"]["schema"])),
        _ => None,
    }
}

/// The texts of `stop`, which is a text or a list.
pub(super) fn stops(options: &Object) -> Option<Json> {
    match options.get("stop")? {
        Json::String(text) => Some(vec![text.as_str()].into()),
        texts @ Json::Array(items) if !items.is_empty() => Some(texts.clone()),
        _ => None,
    }
}

/// Copies the options of the first names under the second names into `target`.
pub(super) fn copy(options: &Object, names: &[(&str, &str)], target: &mut Object) {
    for (from, to) in names {
        if let Some(value) = options.get(*from).filter(|value| !value.is_null()) {
            target.set(to, value.clone());
        }
    }
}
