//! The input of a response as messages of chat completions.

use phoenix_domain::{
    OrchestratorError,
    json::{Json, Object},
};

/// The messages of `instructions` and `input`.
///
/// # Errors
/// `validation_failed` that names the member.
pub(super) fn messages(instructions: &Json, input: Json) -> Result<Vec<Json>, OrchestratorError> {
    let mut messages = Messages::default();
    match instructions {
        Json::Null => {}
        Json::String(text) if text.is_empty() => {}
        Json::String(text) => messages.push("system", text.as_str().into()),
        _ => return Err(OrchestratorError::invalid("instructions", "must be a string")),
    }
    match input {
        Json::Null => return Err(OrchestratorError::invalid("input", "is missing")),
        Json::String(text) => messages.push("user", text.into()),
        Json::Array(items) if items.is_empty() => {
            return Err(OrchestratorError::invalid("input", "must hold at least one item"));
        }
        Json::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                messages.add(&format!("input[{index}]"), item)?;
            }
        }
        _ => return Err(OrchestratorError::invalid("input", "must be a string or an array of items")),
    }
    messages.close();
    if messages.done.is_empty() {
        return Err(OrchestratorError::invalid("input", "must hold at least one message"));
    }
    Ok(messages.done)
}

/// Messages, and the assistant's message to which items add: reasoning, text, the calls of tools.
#[derive(Default)]
struct Messages {
    done: Vec<Json>,
    open: Option<Object>,
}

impl Messages {
    fn close(&mut self) {
        self.done.extend(self.open.take().map(Json::Object));
    }

    fn push(&mut self, role: &str, content: Json) {
        self.close();
        self.done.push(message(role, content).into());
    }

    fn assistant(&mut self) -> &mut Object {
        self.open.get_or_insert_with(|| message("assistant", Json::Null))
    }

    fn add(&mut self, field: &str, item: Json) -> Result<(), OrchestratorError> {
        let Json::Object(mut item) = item else {
            return Err(OrchestratorError::invalid(field, "must be an object"));
        };
        let kind = take(&mut item, "type");
        match (kind.as_str(), &kind) {
            (None, Json::Null) | (Some("message"), _) => self.message(field, item),
            (Some("function_call"), _) => {
                let [id, name, arguments] = texts(field, &mut item, ["call_id", "name", "arguments"])?;
                let function = members([("name", name.into()), ("arguments", arguments.into())]);
                let call = [("id", id.into()), ("type", "function".into()), ("function", function.into())];
                push(self.assistant(), "tool_calls", members(call).into());
                Ok(())
            }
            (Some("function_call_output"), _) => {
                let [id] = texts(field, &mut item, ["call_id"])?;
                let content = content(&format!("{field}.output"), take(&mut item, "output"))?;
                self.close();
                let result = [("role", "tool".into()), ("tool_call_id", id.into()), ("content", content)];
                self.done.push(members(result).into());
                Ok(())
            }
            (Some("reasoning"), _) => {
                // Written by `item::reasoning`; what others encrypted cannot be read here.
                let encrypted = take(&mut item, "encrypted_content");
                if let Some(Json::Array(blocks)) = encrypted.as_str().and_then(|text| Json::parse(text).ok())
                {
                    let message = self.assistant();
                    blocks.into_iter().for_each(|block| push(message, "thinking_blocks", block));
                }
                Ok(())
            }
            _ => {
                let problem = "must be `message`, `function_call`, `function_call_output` or `reasoning`";
                Err(OrchestratorError::invalid(&format!("{field}.type"), problem))
            }
        }
    }

    fn message(&mut self, field: &str, mut item: Object) -> Result<(), OrchestratorError> {
        let role = take(&mut item, "role");
        let content = content(&format!("{field}.content"), take(&mut item, "content"))?;
        match role.as_str() {
            Some("assistant") => {
                let is_begun = |message: &Object| {
                    message.get("content").is_some_and(|content| !content.is_null())
                        || message.contains_key("tool_calls")
                };
                if self.open.as_ref().is_some_and(is_begun) {
                    self.close();
                }
                self.assistant().insert("content".to_owned(), content);
            }
            Some(role @ ("user" | "system" | "developer")) => self.push(role, content),
            _ => {
                let problem = "must be `user`, `assistant`, `system` or `developer`";
                return Err(OrchestratorError::invalid(&format!("{field}.role"), problem));
            }
        }
        Ok(())
    }
}

/// The content of a message, or the output of a tool.
fn content(field: &str, content: Json) -> Result<Json, OrchestratorError> {
    match content {
        Json::String(_) => Ok(content),
        Json::Array(parts) => {
            let parts = parts.into_iter().enumerate();
            let parts = parts.map(|(index, part)| self::part(&format!("{field}[{index}]"), part));
            let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
            let is_text = parts.len() == 1 && parts[0]["type"] == "text";
            // One text is written as one, which every server reads.
            Ok(match parts.pop() {
                Some(Json::Object(mut part)) if is_text => take(&mut part, "text"),
                last => Json::Array(parts.into_iter().chain(last).collect()),
            })
        }
        Json::Null => Err(OrchestratorError::invalid(field, "is missing")),
        _ => Err(OrchestratorError::invalid(field, "must be a string or an array of parts")),
    }
}

fn part(field: &str, part: Json) -> Result<Json, OrchestratorError> {
    let Json::Object(mut part) = part else {
        return Err(OrchestratorError::invalid(field, "must be an object with `type`"));
    };
    let text = |text: String| members([("type", "text".into()), ("text", text.into())]).into();
    match part.get("type").and_then(Json::as_str) {
        Some("input_text" | "output_text" | "text") => {
            let [said] = texts(field, &mut part, ["text"])?;
            Ok(text(said))
        }
        Some("refusal") => {
            let [said] = texts(field, &mut part, ["refusal"])?;
            Ok(text(said))
        }
        Some("input_image") => {
            let [url] = texts(field, &mut part, ["image_url"])?;
            let mut image = members([("url", url.into())]);
            let detail = take(&mut part, "detail");
            if detail.as_str().is_some() {
                image.insert("detail".to_owned(), detail);
            }
            Ok(members([("type", "image_url".into()), ("image_url", image.into())]).into())
        }
        Some("input_file") => {
            let [data] = texts(field, &mut part, ["file_data"])?;
            let name = take(&mut part, "filename");
            let name = name.as_str().unwrap_or("file");
            let file = members([("filename", name.into()), ("file_data", data.into())]);
            Ok(members([("type", "file".into()), ("file", file.into())]).into())
        }
        // Others are for the model to know.
        Some(_) => Ok(part.into()),
        None => Err(OrchestratorError::invalid(&format!("{field}.type"), "must be a string")),
    }
}

/// Takes texts out of `from`.
fn texts<const N: usize>(
    field: &str,
    from: &mut Object,
    names: [&str; N],
) -> Result<[String; N], OrchestratorError> {
    let mut texts = [const { String::new() }; N];
    for (text, name) in texts.iter_mut().zip(names) {
        *text = match take(from, name) {
            Json::String(found) => found,
            _ => return Err(OrchestratorError::invalid(&format!("{field}.{name}"), "must be a string")),
        };
    }
    Ok(texts)
}

fn message(role: &str, content: Json) -> Object {
    members([("role", role.into()), ("content", content)])
}

fn members<const N: usize>(members: [(&str, Json); N]) -> Object {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn take(members: &mut Object, name: &str) -> Json {
    members.shift_remove(name).unwrap_or_default()
}

fn push(message: &mut Object, name: &str, item: Json) {
    match message.get_mut(name) {
        Some(Json::Array(items)) => items.push(item),
        _ => {
            message.insert(name.to_owned(), Json::Array(vec![item]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(instructions: &str, input: &str) -> Result<String, OrchestratorError> {
        let [instructions, input] = [instructions, input].map(|text| Json::parse(text).unwrap());
        messages(&instructions, input).map(|messages| Json::Array(messages).to_string())
    }

    #[test]
    fn text_is_a_message_after_the_instructions() {
        assert_eq!(
            converted(r#""be brief""#, r#""hi""#).unwrap(),
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}]"#
        );
    }

    #[test]
    fn items_of_one_turn_of_the_assistant_are_one_message() {
        let input = r#"[
            {"role":"user","content":[{"type":"input_text","text":"hi"},
                {"type":"input_image","image_url":"https://x/y.png","detail":"low"}]},
            {"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"[{\"type\":\"thinking\",\"signature\":\"s\"}]"},
            {"type":"message","role":"assistant","content":[{"type":"output_text","text":"ok","annotations":[]}]},
            {"type":"function_call","call_id":"a","name":"f","arguments":"{}"},
            {"type":"function_call","call_id":"b","name":"g","arguments":"{}"},
            {"type":"function_call_output","call_id":"a","output":"1"},
            {"type":"function_call_output","call_id":"b","output":[{"type":"input_text","text":"2"}]}]"#;
        assert_eq!(
            converted("null", input).unwrap(),
            concat!(
                r#"[{"role":"user","content":[{"type":"text","text":"hi"},"#,
                r#"{"type":"image_url","image_url":{"url":"https://x/y.png","detail":"low"}}]},"#,
                r#"{"role":"assistant","content":"ok","thinking_blocks":[{"type":"thinking","signature":"s"}],"tool_calls":["#,
                r#"{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},"#,
                r#"{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]},"#,
                r#"{"role":"tool","tool_call_id":"a","content":"1"},{"role":"tool","tool_call_id":"b","content":"2"}]"#
            )
        );
    }

    #[test]
    fn invalid_item_is_named_by_its_place() {
        for (input, field) in [
            ("null", "input"),
            ("7", "input"),
            ("[]", "input"),
            (r#"[{"type":"reasoning"}]"#, "input"),
            (r#"["x"]"#, "input[0]"),
            (r#"[{"type":"item_reference","id":"x"}]"#, "input[0].type"),
            (r#"[{"role":"robot","content":"x"}]"#, "input[0].role"),
            (r#"[{"role":"user"}]"#, "input[0].content"),
            (r#"[{"role":"user","content":[{"text":"x"}]}]"#, "input[0].content[0].type"),
            (
                r#"[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]"#,
                "input[0].content[0].image_url",
            ),
            (r#"[{"type":"function_call","name":"f","arguments":"{}"}]"#, "input[0].call_id"),
            (r#"[{"type":"function_call_output","call_id":"a"}]"#, "input[0].output"),
        ] {
            assert_eq!(converted("null", input).unwrap_err().details["field"], field, "{input}");
        }
    }
}
