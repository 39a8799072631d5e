//! Messages and options in Google's shape.

use phoenix_domain::{
    json::{Json, Object},
    object,
};

use super::super::{
    content::{self, Part, ResponseFormat, Role, ToolChoice},
    types::{Prompt, Unsupported},
};

pub(super) fn body(prompt: &Prompt<'_>) -> Result<Object, Unsupported> {
    let mut body = object! {
        "contents": contents(prompt.messages)?,
        "generationConfig": generation(prompt),
    };
    let mut system: Vec<String> = vec![prompt.system.to_owned()];
    system.extend(prompt.messages.iter().filter(|m| content::role(m) == Role::System).map(content::text));
    system.retain(|text| !text.is_empty());
    if !system.is_empty() {
        body.set("systemInstruction", object! {"parts": [object! {"text": system.join("\n\n")}]});
    }
    let functions: Vec<Object> = content::functions(prompt.options).map(declaration).collect();
    if !functions.is_empty() {
        body.set("tools", [object! {"functionDeclarations": functions}]);
        if let Some(choice) = content::tool_choice(prompt.options) {
            let calling = match choice {
                ToolChoice::Auto => object! {"mode": "AUTO"},
                ToolChoice::None => object! {"mode": "NONE"},
                ToolChoice::Required => object! {"mode": "ANY"},
                ToolChoice::Function(name) => object! {"mode": "ANY", "allowedFunctionNames": [name]},
            };
            body.set("toolConfig", object! {"functionCallingConfig": calling});
        }
    }
    Ok(body)
}

fn generation(prompt: &Prompt<'_>) -> Object {
    let mut generation = object! {"maxOutputTokens": prompt.max_tokens};
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
        generation.set("stopSequences", stops);
    }
    if let Some(format) = content::response_format(prompt.options) {
        generation.set("responseMimeType", "application/json");
        if let ResponseFormat::Schema(schema) = format {
            generation.set("responseJsonSchema", schema.clone());
        }
    }
    generation
}

fn declaration(function: &Json) -> Object {
    let mut declaration = object! {"name": function["name"].clone()};
    if let Some(description) = function["description"].as_str() {
        declaration.set("description", description);
    }
    // An object without properties is refused as a schema.
    if function["parameters"]["properties"].as_object().is_some_and(|members| !members.is_empty()) {
        declaration.set("parametersJsonSchema", function["parameters"].clone());
    }
    declaration
}

/// The messages of user and model. Several in a row become one: the results of parallel calls have to be in one message.
fn contents(messages: &[Json]) -> Result<Vec<Object>, Unsupported> {
    let mut turns: Vec<(&str, Vec<Object>)> = Vec::new();
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
    Ok(turns.map(|(role, parts)| object! {"role": role, "parts": parts}).collect())
}

fn parts(message: &Json, index: usize) -> Result<Vec<Object>, Unsupported> {
    let part = |part: Part<'_>| match part {
        Part::Text("") => Ok(None),
        Part::Text(text) => Ok(Some(object! {"text": text})),
        Part::Data { media_type, base64 } | Part::Document { media_type, base64 } => {
            Ok(Some(object! {"inlineData": object! {"mimeType": media_type, "data": base64}}))
        }
        Part::Url(_) => Err(content::no_url(index)),
    };
    content::parts(message, index)?.into_iter().filter_map(|p| part(p).transpose()).collect()
}

fn function_call(call: &content::ToolCall<'_>) -> Object {
    let mut part = object! {"functionCall": object! {"name": call.name, "args": call.arguments()}};
    if let Some(signature) = call.value["extra_content"]["google"]["thought_signature"].as_str() {
        part.set("thoughtSignature", signature);
    }
    part
}

fn result(messages: &[Json], index: usize) -> Object {
    let text = content::text(&messages[index]);
    let response = match Json::parse_stored(&text) {
        Ok(Json::Object(response)) => response,
        _ => object! {"result": text},
    };
    let name = content::name_of_result(messages, index);
    object! {"functionResponse": object! {"name": name, "response": response}}
}
