//! Options in Anthropic's shape as options in OpenAI's.

use phoenix_domain::{
    OrchestratorError,
    json::{Json, Object},
};

use crate::wire::members_body::AnyMembers;

/// The options of a request. Members without an equivalent in OpenAI's API stay as they are: `top_k`, `thinking`.
///
/// # Errors
/// `validation_failed` that names the member, also for one that would be ignored silently.
pub(super) fn of(mut members: AnyMembers) -> Result<Object, OrchestratorError> {
    refuse("mcp_servers", &members.take("mcp_servers"))?;
    refuse("container", &members.take("container"))?;
    let stops = stops(members.take("stop_sequences"))?;
    let user = take_from(&mut members.take("metadata"), "user_id");
    let tools = tools(members.take("tools"))?;
    let (choice, is_serial) = tool_choice(&members.take("tool_choice"))?;
    let mut output = members.take("output_config");
    let (format, effort) = (take_from(&mut output, "format"), take_from(&mut output, "effort"));
    let older = members.take("output_format");
    let format = response_format(&if format.is_null() { older } else { format })?;
    let thinking = thinking(members.take("thinking"))?;
    let mut options = members.rest();
    options.retain(|_, value| !value.is_null());
    for (name, value) in [
        ("stop", stops),
        ("user", user),
        ("tools", tools),
        ("tool_choice", choice),
        ("parallel_tool_calls", if is_serial { false.into() } else { Json::Null }),
        ("response_format", format),
        ("reasoning_effort", effort),
        ("thinking", thinking),
    ] {
        if !value.is_null() {
            options.insert(name.to_owned(), value);
        }
    }
    Ok(options)
}

/// Checks the limit of tokens, which Anthropic's API requires.
///
/// # Errors
/// `validation_failed` when it is missing or no positive whole number.
pub(super) fn check_max_tokens(limit: Option<&Json>) -> Result<(), OrchestratorError> {
    match limit {
        None | Some(Json::Null) => Err(OrchestratorError::invalid("max_tokens", "is missing")),
        Some(limit) if limit.as_f64().is_some_and(|limit| limit >= 1.0 && limit.fract() == 0.0) => Ok(()),
        Some(_) => Err(OrchestratorError::invalid("max_tokens", "must be a whole number of at least 1")),
    }
}

/// Refuses a member that would be ignored silently.
fn refuse(name: &str, value: &Json) -> Result<(), OrchestratorError> {
    if value.is_null() || value.as_array().is_some_and(<[Json]>::is_empty) {
        return Ok(());
    }
    Err(OrchestratorError::invalid(name, "is not supported; leave it out"))
}

fn stops(stops: Json) -> Result<Json, OrchestratorError> {
    match &stops {
        Json::Null => Ok(stops),
        Json::Array(texts) if texts.is_empty() => Ok(Json::Null),
        Json::Array(texts) if texts.iter().all(|text| text.as_str().is_some()) => Ok(stops),
        _ => Err(OrchestratorError::invalid("stop_sequences", "must be an array of strings")),
    }
}

fn thinking(thinking: Json) -> Result<Json, OrchestratorError> {
    match thinking["type"].as_str() {
        Some("disabled") => Ok(Json::Null),
        Some(_) => Ok(thinking),
        None if thinking.is_null() => Ok(thinking),
        None => Err(OrchestratorError::invalid("thinking.type", "must be a string")),
    }
}

fn tools(tools: Json) -> Result<Json, OrchestratorError> {
    let tools = match tools {
        Json::Null => return Ok(Json::Null),
        Json::Array(tools) => tools,
        _ => return Err(OrchestratorError::invalid("tools", "must be an array of tools")),
    };
    let tools = tools.into_iter().enumerate();
    let tools = tools.map(|(index, tool)| function(&format!("tools[{index}]"), tool));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    Ok(if tools.is_empty() { Json::Null } else { Json::Array(tools) })
}

/// A tool that the client runs. A tool that the provider runs has no equivalent, and its results none either.
fn function(field: &str, tool: Json) -> Result<Json, OrchestratorError> {
    let Json::Object(mut tool) = tool else {
        return Err(OrchestratorError::invalid(field, "must be an object with `name` and `input_schema`"));
    };
    let mut take = |name: &str| tool.shift_remove(name).unwrap_or_default();
    let kind = take("type");
    if !kind.is_null() && kind != "custom" {
        let problem = "must be `custom`: tools that a provider runs are not supported";
        return Err(OrchestratorError::invalid(&format!("{field}.type"), problem));
    }
    let (name, schema) = (take("name"), take("input_schema"));
    if name.as_str().is_none() {
        return Err(OrchestratorError::invalid(&format!("{field}.name"), "must be a string"));
    }
    if schema.as_object().is_none() {
        return Err(OrchestratorError::invalid(&format!("{field}.input_schema"), "must be an object"));
    }
    let (description, strict) = (take("description"), take("strict"));
    let function = [("name", name), ("description", description), ("parameters", schema), ("strict", strict)];
    let tool = [
        ("type", "function".into()),
        ("function", given(function).into()),
        ("cache_control", take("cache_control")),
    ];
    Ok(given(tool).into())
}

/// The choice of a tool, and whether tools are called one at a time.
fn tool_choice(choice: &Json) -> Result<(Json, bool), OrchestratorError> {
    if choice.is_null() {
        return Ok((Json::Null, false));
    }
    let is_serial = choice["disable_parallel_tool_use"].as_bool() == Some(true);
    let choice = match (choice["type"].as_str(), &choice["name"]) {
        (Some(kind @ ("auto" | "none")), _) => kind.into(),
        (Some("any"), _) => "required".into(),
        (Some("tool"), Json::String(name)) => {
            let function = given([("name", name.as_str().into())]);
            given([("type", "function".into()), ("function", function.into())]).into()
        }
        (Some("tool"), _) => return Err(OrchestratorError::invalid("tool_choice.name", "must be a string")),
        _ => {
            let problem = "must be `auto`, `any`, `tool` or `none`";
            return Err(OrchestratorError::invalid("tool_choice.type", problem));
        }
    };
    Ok((choice, is_serial))
}

/// The form of the answer: a JSON Schema.
fn response_format(format: &Json) -> Result<Json, OrchestratorError> {
    if format.is_null() {
        return Ok(Json::Null);
    }
    if format["type"] != "json_schema" || format["schema"].as_object().is_none() {
        let problem = "must be an object with the type `json_schema` and a `schema`";
        return Err(OrchestratorError::invalid("output_config.format", problem));
    }
    let schema =
        given([("name", "answer".into()), ("schema", format["schema"].clone()), ("strict", true.into())]);
    Ok(given([("type", "json_schema".into()), ("json_schema", schema.into())]).into())
}

/// An object of the members that are not null.
fn given<const N: usize>(members: [(&str, Json); N]) -> Object {
    let members = members.into_iter().filter(|(_, value)| !value.is_null());
    members.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn take_from(value: &mut Json, name: &str) -> Json {
    let Json::Object(members) = value else { return Json::Null };
    members.shift_remove(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<String, OrchestratorError> {
        of(serde_json::from_str(text).unwrap()).map(|options| options.to_string())
    }

    #[test]
    fn options_have_the_names_of_openai() {
        let sent = r#"{"max_tokens":9,"top_k":5,"temperature":0.50,"stop_sequences":["END"],"metadata":{"user_id":"me"},
            "tools":[{"name":"f","description":"d","input_schema":{"type":"object"},"cache_control":{"type":"ephemeral"}}],
            "tool_choice":{"type":"any","disable_parallel_tool_use":true},"thinking":{"type":"enabled","budget_tokens":8},
            "output_config":{"effort":"low","format":{"type":"json_schema","schema":{"type":"object"}}}}"#;
        assert_eq!(
            options(sent).unwrap(),
            concat!(
                r#"{"max_tokens":9,"top_k":5,"temperature":0.50,"stop":["END"],"user":"me","#,
                r#""tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}},"#,
                r#""cache_control":{"type":"ephemeral"}}],"tool_choice":"required","parallel_tool_calls":false,"#,
                r#""response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"},"#,
                r#""strict":true}},"reasoning_effort":"low","thinking":{"type":"enabled","budget_tokens":8}}"#
            )
        );
        let few = r#"{"stop_sequences":[],"tools":[],"thinking":{"type":"disabled"},"mcp_servers":[],"top_p":null}"#;
        assert_eq!(options(few).unwrap(), "{}");
    }

    #[test]
    fn option_that_would_be_ignored_or_misread_is_refused() {
        for (sent, field) in [
            (r#"{"mcp_servers":[{}]}"#, "mcp_servers"),
            (r#"{"container":"c"}"#, "container"),
            (r#"{"stop_sequences":"END"}"#, "stop_sequences"),
            (r#"{"tools":{}}"#, "tools"),
            (r#"{"tools":[{"type":"web_search_20250305","name":"web_search"}]}"#, "tools[0].type"),
            (r#"{"tools":[{"input_schema":{}}]}"#, "tools[0].name"),
            (r#"{"tools":[{"name":"f"}]}"#, "tools[0].input_schema"),
            (r#"{"tool_choice":"auto"}"#, "tool_choice.type"),
            (r#"{"tool_choice":{"type":"tool"}}"#, "tool_choice.name"),
            (r#"{"thinking":true}"#, "thinking.type"),
            (r#"{"output_format":{"type":"text"}}"#, "output_config.format"),
        ] {
            assert_eq!(options(sent).unwrap_err().details["field"], field, "{sent}");
        }
        for (limit, is_good) in [("1", true), ("4e3", true), ("0", false), ("1.5", false), ("\"9\"", false)] {
            let limit = Json::parse(limit).unwrap();
            assert_eq!(check_max_tokens(Some(&limit)).is_ok(), is_good, "{limit}");
        }
    }
}
