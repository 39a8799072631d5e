//! The options of a response as options of chat completions.

use phoenix_domain::{
    OrchestratorError,
    json::{Json, Object},
};

use crate::wire::members_body::AnyMembers;

/// Members that say how a response is delivered or stored. An agent does not see them.
const OF_DELIVERY: [&str; 6] =
    ["store", "metadata", "include", "stream_options", "truncation", "max_tool_calls"];

/// The options of a request, which has lost what they replace.
///
/// # Errors
/// `validation_failed` that names the member.
pub(super) fn of(mut members: AnyMembers) -> Result<Object, OrchestratorError> {
    for name in OF_DELIVERY {
        members.take(name);
    }
    let limit = members.take("max_output_tokens");
    if !limit.is_null() && limit.as_f64().is_none_or(|limit| limit < 1.0 || limit.fract() != 0.0) {
        let problem = "must be a whole number of at least 1";
        return Err(OrchestratorError::invalid("max_output_tokens", problem));
    }
    let reasoning = members.take("reasoning");
    let text = members.take("text");
    let tools = tools(&members.take("tools"))?;
    let choice = tool_choice(&members.take("tool_choice"))?;
    let format = response_format(&text["format"])?;
    let mut options = members.rest();
    options.retain(|_, value| !value.is_null());
    for (name, value) in [
        ("max_completion_tokens", limit),
        ("reasoning_effort", reasoning["effort"].clone()),
        ("verbosity", text["verbosity"].clone()),
        ("response_format", format),
        // Without tools a choice of them is refused by providers.
        ("tool_choice", if tools.is_empty() { Json::Null } else { choice }),
        ("tools", if tools.is_empty() { Json::Null } else { Json::Array(tools) }),
    ] {
        if !value.is_null() {
            options.insert(name.to_owned(), value);
        }
    }
    Ok(options)
}

/// Whether a tool is run by the client. Clients offer tools that only OpenAI runs in every request; those are left out.
pub(super) fn is_function(tool: &Json) -> bool {
    tool["type"] == "function"
}

fn tools(tools: &Json) -> Result<Vec<Json>, OrchestratorError> {
    let tools = match tools {
        Json::Null => return Ok(Vec::new()),
        Json::Array(tools) => tools,
        _ => return Err(OrchestratorError::invalid("tools", "must be an array of tools")),
    };
    let mut functions = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        if tool["type"].as_str().is_none() {
            return Err(OrchestratorError::invalid(&format!("tools[{index}].type"), "must be a string"));
        }
        if !is_function(tool) {
            continue;
        }
        if tool["name"].as_str().is_none() {
            return Err(OrchestratorError::invalid(&format!("tools[{index}].name"), "must be a string"));
        }
        let function = ["name", "description", "parameters", "strict"].map(|name| (name, tool[name].clone()));
        functions.push(given([("type", "function".into()), ("function", given(function).into())]).into());
    }
    Ok(functions)
}

fn tool_choice(choice: &Json) -> Result<Json, OrchestratorError> {
    match (choice.as_str(), choice["type"].as_str(), &choice["name"]) {
        (Some("auto" | "none" | "required"), _, _) => Ok(choice.clone()),
        (_, Some("function"), Json::String(name)) => {
            let function = given([("name", name.as_str().into())]);
            Ok(given([("type", "function".into()), ("function", function.into())]).into())
        }
        _ if choice.is_null() => Ok(Json::Null),
        _ => {
            let problem = "must be `auto`, `none`, `required`, or a function by its name";
            Err(OrchestratorError::invalid("tool_choice", problem))
        }
    }
}

/// The form of the answer.
fn response_format(format: &Json) -> Result<Json, OrchestratorError> {
    match format["type"].as_str() {
        None if format.is_null() => Ok(Json::Null),
        Some("text") => Ok(Json::Null),
        Some("json_object") => Ok(given([("type", "json_object".into())]).into()),
        Some("json_schema") if format["schema"].as_object().is_some() => {
            let schema = ["name", "description", "schema", "strict"].map(|name| (name, format[name].clone()));
            Ok(given([("type", "json_schema".into()), ("json_schema", given(schema).into())]).into())
        }
        _ => {
            let problem = "must have the type `text`, `json_object`, or `json_schema` with a `schema`";
            Err(OrchestratorError::invalid("text.format", problem))
        }
    }
}

/// An object of the members that are not null.
fn given<const N: usize>(members: [(&str, Json); N]) -> Object {
    let members = members.into_iter().filter(|(_, value)| !value.is_null());
    members.map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<String, OrchestratorError> {
        of(serde_json::from_str(text).unwrap()).map(|options| options.to_string())
    }

    #[test]
    fn options_have_the_names_of_chat_completions() {
        let sent = r#"{"temperature":0.50,"max_output_tokens":9,"store":false,"metadata":{"a":"b"},"include":[],
            "reasoning":{"effort":"low","summary":"auto"},"tool_choice":{"type":"function","name":"f"},
            "tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true},{"type":"web_search"}],
            "text":{"verbosity":"low","format":{"type":"json_schema","name":"x","schema":{"type":"object"}}},"top_p":null}"#;
        assert_eq!(
            options(sent).unwrap(),
            concat!(
                r#"{"temperature":0.50,"max_completion_tokens":9,"reasoning_effort":"low","verbosity":"low","#,
                r#""response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}},"#,
                r#""tool_choice":{"type":"function","function":{"name":"f"}},"#,
                r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}}]}"#
            )
        );
        let few =
            r#"{"tools":[{"type":"web_search"}],"tool_choice":"auto","text":{"format":{"type":"text"}}}"#;
        assert_eq!(options(few).unwrap(), "{}");
    }

    #[test]
    fn option_that_would_be_misread_is_refused() {
        for (sent, field) in [
            (r#"{"max_output_tokens":0}"#, "max_output_tokens"),
            (r#"{"tools":{}}"#, "tools"),
            (r#"{"tools":["f"]}"#, "tools[0].type"),
            (r#"{"tools":[{"type":"function"}]}"#, "tools[0].name"),
            (r#"{"tool_choice":{"type":"web_search"}}"#, "tool_choice"),
            (r#"{"text":{"format":{"type":"json_schema"}}}"#, "text.format"),
        ] {
            assert_eq!(options(sent).unwrap_err().details["field"], field, "{sent}");
        }
    }
}
