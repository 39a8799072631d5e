//! The answer of a language model as specifications of tasks.

use phoenix_domain::{
    AgentName,
    action::CHAT_ACTION,
    json::{Json, Object},
    plan::{OnFailure, StartConditions, TaskSpec},
};

/// Members of a proposed task.
const MEMBERS: [&str; 6] = ["key", "agent", "action", "input", "depends_on", "on_failure"];

/// Problems that one answer is rejected with.
const MAX_PROBLEMS: usize = 16;

/// Answer of a planning task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) data: &'a Json,
    pub(crate) metadata: &'a Object,
}

/// The tasks of an answer, at most `max_tasks`.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn tasks_of(data: &Json, max_tasks: usize) -> Result<Vec<TaskSpec>, Vec<String>> {
    let parsed;
    let answer = match data {
        Json::String(text) => {
            parsed = Json::parse(unfenced(text))
                .map_err(|error| vec![format!("the answer is not JSON: {error}")])?;
            &parsed
        }
        other => other,
    };
    let tasks = answer.as_object().and_then(|answer| answer.get("tasks")).and_then(Json::as_array);
    let Some(tasks) = tasks else {
        return Err(vec!["the answer is not an object with an array `tasks`".into()]);
    };
    if tasks.is_empty() {
        return Err(vec!["`tasks` must hold at least one task".into()]);
    }
    if tasks.len() > max_tasks {
        return Err(vec![format!("`tasks` holds {} tasks; at most {max_tasks} are allowed", tasks.len())]);
    }
    let (mut specs, mut problems) = (Vec::new(), Vec::new());
    for (index, task) in tasks.iter().enumerate() {
        match spec_of(task) {
            Ok(spec) => specs.push(spec),
            Err(problem) if problems.len() < MAX_PROBLEMS => {
                problems.push(format!("tasks[{index}]: {problem}"));
            }
            Err(_) => {}
        }
    }
    if problems.is_empty() { Ok(specs) } else { Err(problems) }
}

/// The text without the code fence that many models put around JSON.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```json").or_else(|| text.strip_prefix("```"));
    inner.and_then(|inner| inner.trim_end().strip_suffix("```")).map_or(text, str::trim)
}

fn spec_of(task: &Json) -> Result<TaskSpec, String> {
    let task = task.as_object().ok_or("is not an object")?;
    if let Some(unknown) = task.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        let unknown: String = unknown.chars().take(64).collect();
        return Err(format!("has an unknown member `{unknown}`; known are {}", MEMBERS.join(", ")));
    }
    let agent = required(task, "agent")?;
    let agent: AgentName = agent.parse().map_err(|problem| format!("`agent` {problem}"))?;
    let on_failure = match text(task, "on_failure")? {
        Some(name) => OnFailure::from_name(name).ok_or("`on_failure` must be `fail` or `continue`")?,
        None => OnFailure::Fail,
    };
    Ok(TaskSpec {
        key: required(task, "key")?.to_owned(),
        agent,
        action: text(task, "action")?.filter(|action| !action.is_empty()).unwrap_or(CHAT_ACTION).to_owned(),
        payload: input(task.get("input"))?,
        depends_on: keys(task.get("depends_on"))?,
        on_failure,
        start: StartConditions::default(),
    })
}

/// An input is an object, or an object as JSON text: structured output of some providers has no free objects.
fn input(value: Option<&Json>) -> Result<Object, String> {
    match value {
        None | Some(Json::Null) => Ok(Object::new()),
        Some(Json::Object(input)) => Ok(input.clone()),
        Some(Json::String(text)) if text.trim().is_empty() => Ok(Object::new()),
        Some(Json::String(text)) => {
            Object::parse(text).map_err(|error| format!("`input` is not a JSON object as text: {error}"))
        }
        Some(_) => Err("`input` must be a JSON object, or one as text".into()),
    }
}

fn keys(value: Option<&Json>) -> Result<Vec<String>, String> {
    match value {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(keys)) => keys
            .iter()
            .map(|key| {
                key.as_str().map(str::to_owned).ok_or_else(|| "`depends_on` must hold keys of tasks".into())
            })
            .collect(),
        Some(_) => Err("`depends_on` must be an array of keys of tasks".into()),
    }
}

fn required<'a>(task: &'a Object, name: &str) -> Result<&'a str, String> {
    text(task, name)?.ok_or_else(|| format!("`{name}` is missing"))
}

fn text<'a>(task: &'a Object, name: &str) -> Result<Option<&'a str>, String> {
    match task.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` must be text")),
    }
}

/// The first bytes of a text, with a mark if there are more.
pub(super) fn shown_text(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit);
    format!("{}… ({} bytes in all)", &text[..end], text.len())
}
