//! Messages and options in Google's shape.

use serde_json::{Value, json};

use super::super::{
    content::{self, Part, ResponseFormat, Role, ToolChoice},
    types::{Prompt, Unsupported},
};

pub(super) fn body(prompt: &Prompt<'_>) -> Result<Value, Unsupported> {
    let mut body = json!({
        "contents": contents(prompt.messages)?,
        "generationConfig": generation(prompt),
    });
    let mut system: Vec<String> = vec![prompt.system.to_owned()];
    system.extend(prompt.messages.iter().filter(|m| content::role(m) == Role::System).map(content::text));
    system.retain(|text| !text.is_empty());
    if !system.is_empty() {
        body["systemInstruction"] = json!({"parts": [{"text": system.join("\n\n")}]});
    }
    let functions: Vec<Value> = content::functions(prompt.options).map(declaration).collect();
    if !functions.is_empty() {
        body["tools"] = json!([{"functionDeclarations": functions}]);
        if let Some(choice) = content::tool_choice(prompt.options) {
            let calling = match choice {
                ToolChoice::Auto => json!({"mode": "AUTO"}),
                ToolChoice::None => json!({"mode": "NONE"}),
                ToolChoice::Required => json!({"mode": "ANY"}),
                ToolChoice::Function(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
            };
            body["toolConfig"] = json!({"functionCallingConfig": calling});
        }
    }
    Ok(body)
}

fn generation(prompt: &Prompt<'_>) -> Value {
    let mut generation = json!({"maxOutputTokens": prompt.max_tokens});
    let names = [
        ("temperature", "temperature"),
        ("top_p", "topP"),
        ("top_k", "topK"),
        ("seed", "seed"),
        ("presence_penalty", "presencePenalty"),
        ("frequency_penalty", "frequencyPenalty"),
    ];
    content::copy(prompt.options, &names, &mut generation);
    if let Some(stops) = content::stops(prompt.options) {
        generation["stopSequences"] = stops;
    }
    if let Some(format) = content::response_format(prompt.options) {
        generation["responseMimeType"] = "application/json".into();
        if let ResponseFormat::Schema(schema) = format {
            generation["responseJsonSchema"] = schema.clone();
        }
    }
    generation
}

fn declaration(function: &Value) -> Value {
    let mut declaration = json!({"name": function["name"]});
    if let Some(description) = function["description"].as_str() {
        declaration["description"] = description.into();
    }
    // An object without properties is refused as a schema.
    if function["parameters"]["properties"].as_object().is_some_and(|members| !members.is_empty()) {
        declaration["parametersJsonSchema"] = function["parameters"].clone();
    }
    declaration
}

/// The messages of user and model. Several in a row become one: the results of parallel calls have to be in one message.
fn contents(messages: &[Value]) -> Result<Vec<Value>, Unsupported> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let (role, parts) = match content::role(message) {
            Role::System => continue,
            Role::User => ("user", parts(message, index)?),
            Role::Assistant => {
                let mut all = parts(message, index)?;
                all.extend(content::tool_calls(message).map(|call| function_call(&call)));
                ("model", all)
            }
            Role::Tool => ("user", vec![result(messages, index)]),
        };
        match turns.last_mut() {
            Some((last, all)) if *last == role => all.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    let turns = turns.into_iter().filter(|(_, parts)| !parts.is_empty());
    Ok(turns.map(|(role, parts)| json!({"role": role, "parts": parts})).collect())
}

fn parts(message: &Value, index: usize) -> Result<Vec<Value>, Unsupported> {
    let part = |part: Part<'_>| match part {
        Part::Text("") => Ok(None),
        Part::Text(text) => Ok(Some(json!({ "text": text }))),
        Part::Data { media_type, base64 } | Part::Document { media_type, base64 } => {
            Ok(Some(json!({"inlineData": {"mimeType": media_type, "data": base64}})))
        }
        Part::Url(_) => Err(content::no_url(index)),
    };
    content::parts(message, index)?.into_iter().filter_map(|p| part(p).transpose()).collect()
}

fn function_call(call: &content::ToolCall<'_>) -> Value {
    let mut part = json!({"functionCall": {"name": call.name, "args": call.arguments}});
    if let Some(signature) = call.value["extra_content"]["google"]["thought_signature"].as_str() {
        part["thoughtSignature"] = signature.into();
    }
    part
}

fn result(messages: &[Value], index: usize) -> Value {
    let text = content::text(&messages[index]);
    let object = serde_json::from_str::<Value>(&text).ok().filter(Value::is_object);
    let response = object.unwrap_or_else(|| json!({ "result": text }));
    json!({"functionResponse": {"name": content::name_of_result(messages, index), "response": response}})
}
