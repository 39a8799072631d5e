//! Messages and options in Anthropic's shape.

use phoenix_domain::{
    json::{Json, Object},
    object,
};

use super::{
    super::{
        content::{self, Part, ResponseFormat, Role, ToolChoice},
        types::{Prompt, Unsupported},
    },
    answer::ANSWER_TOOL,
};

/// The body without model and limit.
pub(super) fn body(prompt: &Prompt<'_>) -> Result<Object, Unsupported> {
    let mut body = object! {"messages": messages(prompt.messages)?};
    let system = system(prompt)?;
    if !system.is_empty() {
        let texts = || system.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>();
        let system = match system.iter().any(is_marked) {
            true => system.into(),
            false => Json::from(texts().join("\n\n")),
        };
        body.set("system", system);
    }
    let options = prompt.options;
    let same = ["temperature", "top_p", "top_k", "thinking", "cache_control"].map(|name| (name, name));
    content::copy(options, &same, &mut body);
    if let Some(stops) = content::stops(options) {
        body.set("stop_sequences", stops);
    }
    if let Some(user) = options.get("user").and_then(Json::as_str) {
        body.set("metadata", object! {"user_id": user});
    }
    tools(prompt, &mut body)?;
    Ok(body)
}

/// The instructions as blocks of text.
fn system(prompt: &Prompt<'_>) -> Result<Vec<Json>, Unsupported> {
    let text = |text: &str| Json::from(object! {"type": "text", "text": text});
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
fn is_marked(block: &Json) -> bool {
    block["cache_control"].is_object()
}

fn tools(prompt: &Prompt<'_>, body: &mut Object) -> Result<(), Unsupported> {
    let tool = |whole: &Json| {
        let function = &whole["function"];
        let (name, schema) = (function["name"].clone(), content::parameters(function));
        let mut tool = object! {"name": name, "input_schema": schema};
        if let Some(description) = function["description"].as_str() {
            tool.set("description", description);
        }
        if is_marked(whole) {
            tool.set("cache_control", whole["cache_control"].clone());
        }
        tool
    };
    let mut tools: Vec<Object> = content::tools(prompt.options).map(tool).collect();
    let mut choice = content::tool_choice(prompt.options).map(|choice| match choice {
        ToolChoice::Auto => object! {"type": "auto"},
        ToolChoice::None => object! {"type": "none"},
        ToolChoice::Required => object! {"type": "any"},
        ToolChoice::Function(name) => object! {"type": "tool", "name": name},
    });
    if let Some(ResponseFormat::Schema(schema)) = content::response_format(prompt.options) {
        if !tools.is_empty() {
            return Err(Unsupported(
                "`response_format` with a schema and `tools` exclude each other for this provider; leave one of them out"
                    .into(),
            ));
        }
        let description = "The answer, in the form that is asked for";
        let schema = schema.clone();
        tools.push(object! {"name": ANSWER_TOOL, "description": description, "input_schema": schema});
        choice = Some(object! {"type": "tool", "name": ANSWER_TOOL});
    }
    if tools.is_empty() {
        return Ok(());
    }
    if prompt.options.get("parallel_tool_calls").and_then(Json::as_bool) == Some(false) {
        let choice = choice.get_or_insert_with(|| object! {"type": "auto"});
        if choice.get("type").is_none_or(|kind| *kind != "none") {
            choice.set("disable_parallel_tool_use", true);
        }
    }
    body.set("tools", tools);
    if let Some(choice) = choice {
        body.set("tool_choice", choice);
    }
    Ok(())
}

/// The messages of user and assistant. Several in a row become one: the results of parallel calls have to be in one message.
fn messages(messages: &[Json]) -> Result<Vec<Object>, Unsupported> {
    let mut turns: Vec<(&str, Vec<Json>)> = Vec::new();
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
    let turn = |(role, blocks): (&str, Vec<Json>)| {
        // One plain text is written as one.
        let is_text = blocks.len() == 1 && blocks[0]["type"] == "text" && !is_marked(&blocks[0]);
        let content = if is_text { blocks[0]["text"].clone() } else { blocks.into() };
        object! {"role": role, "content": content}
    };
    Ok(turns.into_iter().filter(|(_, blocks)| !blocks.is_empty()).map(turn).collect())
}

fn blocks(message: &Json, index: usize) -> Result<Vec<Json>, Unsupported> {
    let block = |part: Part<'_>| match part {
        // Empty texts are refused.
        Part::Text("") => None,
        Part::Text(text) => Some(object! {"type": "text", "text": text}),
        Part::Data { media_type, base64 } => {
            let source = object! {"type": "base64", "media_type": media_type, "data": base64};
            Some(object! {"type": "image", "source": source})
        }
        Part::Document { media_type, base64 } => {
            let source = object! {"type": "base64", "media_type": media_type, "data": base64};
            Some(object! {"type": "document", "source": source})
        }
        Part::Url(url) => Some(object! {"type": "image", "source": object! {"type": "url", "url": url}}),
    };
    let mut blocks: Vec<_> = content::parts(message, index)?.into_iter().filter_map(block).collect();
    // Marks of what to cache are Anthropic's own, and pass through.
    if let Some(parts) = message["content"].as_array().filter(|parts| parts.len() == blocks.len()) {
        for (block, part) in blocks.iter_mut().zip(parts) {
            if is_marked(part) {
                block.set("cache_control", part["cache_control"].clone());
            }
        }
    }
    Ok(blocks.into_iter().map(Json::Object).collect())
}

/// Thinking has to be returned before what it led to, with its signature.
fn assistant(message: &Json, index: usize) -> Result<Vec<Json>, Unsupported> {
    let mut all = message["thinking_blocks"].as_array().map(<[Json]>::to_vec).unwrap_or_default();
    all.extend(blocks(message, index)?);
    all.extend(content::tool_calls(message).map(|call| {
        let input = call.arguments();
        object! {"type": "tool_use", "id": call.id, "name": call.name, "input": input}.into()
    }));
    Ok(all)
}

fn result(message: &Json, index: usize) -> Result<Json, Unsupported> {
    let blocks = blocks(message, index)?;
    let is_text = blocks.iter().all(|block| block["type"] == "text");
    let content = if is_text { content::text(message).into() } else { Json::from(blocks) };
    let id = message["tool_call_id"].clone();
    let mut result = object! {"type": "tool_result", "tool_use_id": id, "content": content};
    if message["is_error"] == true {
        result.set("is_error", true);
    }
    Ok(result.into())
}
