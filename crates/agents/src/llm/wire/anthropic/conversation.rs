//! Messages and options in Anthropic's shape.

use serde_json::{Value, json};

use super::{
    super::{
        content::{self, Part, ResponseFormat, Role, ToolChoice},
        types::{Prompt, Unsupported},
    },
    answer::ANSWER_TOOL,
};

/// The body without model and limit.
pub(super) fn body(prompt: &Prompt<'_>) -> Result<Value, Unsupported> {
    let mut body = json!({"messages": messages(prompt.messages)?});
    let system = system(prompt)?;
    if !system.is_empty() {
        body["system"] = match system.iter().any(is_marked) {
            true => system.into(),
            false => system
                .iter()
                .filter_map(|block| block["text"].as_str())
                .collect::<Vec<_>>()
                .join("\n\n")
                .into(),
        };
    }
    let options = prompt.options;
    let same = ["temperature", "top_p", "top_k", "thinking", "cache_control"].map(|name| (name, name));
    content::copy(options, &same, &mut body);
    if let Some(stops) = content::stops(options) {
        body["stop_sequences"] = stops;
    }
    if let Some(user) = options.get("user").and_then(Value::as_str) {
        body["metadata"] = json!({ "user_id": user });
    }
    tools(prompt, &mut body)?;
    Ok(body)
}

/// The instructions as blocks of text.
fn system(prompt: &Prompt<'_>) -> Result<Vec<Value>, Unsupported> {
    let text = |text: &str| json!({"type": "text", "text": text});
    let mut all = vec![text(prompt.system)];
    for (index, message) in prompt.messages.iter().enumerate() {
        if content::role(message) == Role::System {
            all.extend(blocks(message, index)?);
        }
    }
    if matches!(content::response_format(prompt.options), Some(ResponseFormat::Object)) {
        all.push(text("Answer with one JSON object and nothing else."));
    }
    all.retain(|block| block["text"] != "");
    Ok(all)
}

/// Whether a block is marked as one to cache.
fn is_marked(block: &Value) -> bool {
    block["cache_control"].is_object()
}

fn tools(prompt: &Prompt<'_>, body: &mut Value) -> Result<(), Unsupported> {
    let tool = |whole: &Value| {
        let function = &whole["function"];
        let mut tool = json!({"name": function["name"], "input_schema": content::parameters(function)});
        if let Some(description) = function["description"].as_str() {
            tool["description"] = description.into();
        }
        if is_marked(whole) {
            tool["cache_control"] = whole["cache_control"].clone();
        }
        tool
    };
    let mut tools: Vec<Value> = content::tools(prompt.options).map(tool).collect();
    let mut choice = content::tool_choice(prompt.options).map(|choice| match choice {
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::None => json!({"type": "none"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Function(name) => json!({"type": "tool", "name": name}),
    });
    if let Some(ResponseFormat::Schema(schema)) = content::response_format(prompt.options) {
        if !tools.is_empty() {
            return Err(Unsupported(
                "`response_format` with a schema and `tools` exclude each other for this provider; leave one of them out"
                    .into(),
            ));
        }
        let description = "The answer, in the form that is asked for";
        tools.push(json!({"name": ANSWER_TOOL, "description": description, "input_schema": schema}));
        choice = Some(json!({"type": "tool", "name": ANSWER_TOOL}));
    }
    if tools.is_empty() {
        return Ok(());
    }
    if prompt.options.get("parallel_tool_calls").and_then(Value::as_bool) == Some(false) {
        let choice = choice.get_or_insert_with(|| json!({"type": "auto"}));
        if choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = true.into();
        }
    }
    body["tools"] = tools.into();
    if let Some(choice) = choice {
        body["tool_choice"] = choice;
    }
    Ok(())
}

/// The messages of user and assistant. Several in a row become one: the results of parallel calls have to be in one message.
fn messages(messages: &[Value]) -> Result<Vec<Value>, Unsupported> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let (role, blocks) = match content::role(message) {
            Role::System => continue,
            Role::User => ("user", blocks(message, index)?),
            Role::Assistant => ("assistant", assistant(message, index)?),
            Role::Tool => ("user", vec![result(message, index)?]),
        };
        match turns.last_mut() {
            Some((last, all)) if *last == role => all.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    let turn = |(role, blocks): (&str, Vec<Value>)| {
        // One plain text is written as one.
        let is_text = blocks.len() == 1 && blocks[0]["type"] == "text" && !is_marked(&blocks[0]);
        let content = if is_text { blocks[0]["text"].clone() } else { blocks.into() };
        json!({"role": role, "content": content})
    };
    Ok(turns.into_iter().filter(|(_, blocks)| !blocks.is_empty()).map(turn).collect())
}

fn blocks(message: &Value, index: usize) -> Result<Vec<Value>, Unsupported> {
    let block = |part: Part<'_>| match part {
        // Empty texts are refused.
        Part::Text("") => None,
        Part::Text(text) => Some(json!({"type": "text", "text": text})),
        Part::Data { media_type, base64 } => {
            let source = json!({"type": "base64", "media_type": media_type, "data": base64});
            Some(json!({"type": "image", "source": source}))
        }
        Part::Document { media_type, base64 } => {
            let source = json!({"type": "base64", "media_type": media_type, "data": base64});
            Some(json!({"type": "document", "source": source}))
        }
        Part::Url(url) => Some(json!({"type": "image", "source": {"type": "url", "url": url}})),
    };
    let mut blocks: Vec<_> = content::parts(message, index)?.into_iter().filter_map(block).collect();
    // Marks of what to cache are Anthropic's own, and pass through.
    if let Some(parts) = message["content"].as_array().filter(|parts| parts.len() == blocks.len()) {
        for (block, part) in blocks.iter_mut().zip(parts) {
            if is_marked(part) {
                block["cache_control"] = part["cache_control"].clone();
            }
        }
    }
    Ok(blocks)
}

/// Thinking has to be returned before what it led to, with its signature.
fn assistant(message: &Value, index: usize) -> Result<Vec<Value>, Unsupported> {
    let mut all = message["thinking_blocks"].as_array().cloned().unwrap_or_default();
    all.extend(blocks(message, index)?);
    all.extend(
        content::tool_calls(message).map(
            |call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}),
        ),
    );
    Ok(all)
}

fn result(message: &Value, index: usize) -> Result<Value, Unsupported> {
    let blocks = blocks(message, index)?;
    let is_text = blocks.iter().all(|block| block["type"] == "text");
    let content = if is_text { content::text(message).into() } else { Value::from(blocks) };
    let mut result =
        json!({"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content});
    if message["is_error"] == true {
        result["is_error"] = true.into();
    }
    Ok(result)
}
