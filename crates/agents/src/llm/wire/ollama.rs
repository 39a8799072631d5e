//! Ollama's own chat API. <https://docs.ollama.com/api/chat>

use phoenix_domain::{
    json::{Json, Object},
    llm::Provider,
    object,
};

use super::{
    content::{self, Part, ResponseFormat, Role},
    json::{bearer, parse, text_of, tokens, word},
    types::{Completion, Prompt, ProviderRequest, Step, Unsupported, Usage},
};

/// Options that have an equivalent.
pub(super) const OPTIONS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "tools",
    "response_format",
];

pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> Result<ProviderRequest, Unsupported> {
    let mut options = object! {"num_predict": prompt.max_tokens};
    let same = ["temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty"];
    content::copy(prompt.options, &same.map(|name| (name, name)), &mut options);
    if let Some(stops) = content::stops(prompt.options) {
        options.set("stop", stops);
    }
    let mut body = object! {
        "model": provider.model_name,
        "messages": messages(prompt)?,
        "stream": prompt.is_streamed,
        "options": options,
    };
    content::copy(prompt.options, &[("tools", "tools")], &mut body);
    match content::response_format(prompt.options) {
        Some(ResponseFormat::Object) => body.set("format", "json"),
        Some(ResponseFormat::Schema(schema)) => body.set("format", schema.clone()),
        None => {}
    }
    Ok(ProviderRequest { url: format!("{}/api/chat", provider.base_url), headers: bearer(provider), body })
}

fn messages(prompt: &Prompt<'_>) -> Result<Vec<Object>, Unsupported> {
    let system = || object! {"role": "system", "content": prompt.system};
    let mut all: Vec<Object> = (!prompt.system.is_empty()).then(system).into_iter().collect();
    for (index, message) in prompt.messages.iter().enumerate() {
        all.push(converted(prompt.messages, message, index)?);
    }
    Ok(all)
}

fn converted(messages: &[Json], message: &Json, index: usize) -> Result<Object, Unsupported> {
    let (mut text, mut images) = (String::new(), Vec::new());
    for part in content::parts(message, index)? {
        match part {
            Part::Text(part) => text.push_str(part),
            Part::Data { base64, .. } => images.push(base64),
            Part::Url(_) => return Err(content::no_url(index)),
            Part::Document { .. } => return Err(content::no_document(index)),
        }
    }
    let role = content::role(message);
    let name = match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut converted = object! {"role": name, "content": text};
    if !images.is_empty() {
        converted.set("images", images);
    }
    if role == Role::Tool {
        converted.set("tool_name", content::name_of_result(messages, index));
    }
    let calls = content::tool_calls(message)
        .map(|call| object! {"function": object! {"name": call.name, "arguments": call.arguments()}});
    let calls: Vec<Object> = calls.collect();
    if !calls.is_empty() {
        converted.set("tool_calls", calls);
    }
    Ok(converted)
}

/// The request for the installed models.
pub(in crate::llm) fn tags(provider: Provider<'_>) -> ProviderRequest {
    ProviderRequest {
        url: format!("{}/api/tags", provider.base_url),
        headers: bearer(provider),
        body: Object::new(),
    }
}

/// The names of the installed models in the response.
pub(in crate::llm) fn installed(body: &[u8]) -> Option<Vec<String>> {
    let body = parse(body)?;
    let models = body["models"].as_array()?;
    Some(models.iter().filter_map(|model| word(&model["name"]).or_else(|| word(&model["model"]))).collect())
}

pub(super) fn completion(body: &Json) -> Option<Completion> {
    let message = body.get("message")?;
    let calls = calls(message, 0);
    // A message that only calls tools may have no content.
    let text = message.get("content").and_then(text_of).or_else(|| (!calls.is_empty()).then(String::new))?;
    Some(Completion {
        text,
        extra: extra(message, calls),
        model: word(&body["model"]),
        finish_reason: word(&body["done_reason"]),
        usage: usage(body),
    })
}

fn usage(body: &Json) -> Usage {
    Usage {
        input: tokens(&body["prompt_eval_count"]),
        output: tokens(&body["eval_count"]),
        ..Usage::default()
    }
}

fn extra(message: &Json, calls: Vec<Object>) -> Object {
    let mut extra = Object::new();
    if let Some(thinking) = message["thinking"].as_str().filter(|text| !text.is_empty()) {
        extra.set("reasoning_content", thinking);
    }
    if !calls.is_empty() {
        extra.set("tool_calls", calls);
    }
    extra
}

/// The tool calls of a message in OpenAI's shape, after `before` others.
fn calls(message: &Json, before: usize) -> Vec<Object> {
    let call = |(index, call): (usize, &Json)| {
        let function = &call["function"];
        let arguments = match &function["arguments"] {
            Json::Null => "{}".to_owned(),
            Json::String(text) => text.clone(),
            arguments => arguments.to_string(),
        };
        let id = word(&call["id"]).unwrap_or_else(|| format!("call_{}", uuid::Uuid::new_v4().simple()));
        let function = object! {"name": function["name"].clone(), "arguments": arguments};
        object! {"index": before + index, "id": id, "type": "function", "function": function}
    };
    message["tool_calls"].as_array().into_iter().flatten().enumerate().map(call).collect()
}

/// Reader of a streamed answer, each of whose lines has the shape of a whole one.
#[derive(Debug, Default)]
pub(in crate::llm) struct Stream {
    calls: usize,
}

impl Stream {
    /// `None` for data that is no line of this API.
    pub(super) fn step(&mut self, data: &Json) -> Option<Step> {
        let message = &data["message"];
        let is_last = data["done"].as_bool() == Some(true);
        if !message.is_object() && !is_last {
            return None;
        }
        let calls = calls(message, self.calls);
        self.calls += calls.len();
        Some(Step {
            text: text_of(&message["content"]).unwrap_or_default(),
            delta: extra(message, calls),
            model: word(&data["model"]),
            finish_reason: word(&data["done_reason"]).filter(|_| is_last),
            usage: if is_last { usage(data) } else { Usage::default() },
            is_last,
        })
    }
}
