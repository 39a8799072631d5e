//! The answer of a language model: specifications of tasks, or the answer to the message.

use phoenix_domain::{
    AgentName,
    action::CHAT_ACTION,
    json::{Json, Object},
    limits::MAX_TASKS,
    plan::{OnFailure, StartConditions, TaskSpec},
    planning::unfenced,
};

use super::limits::RoundLimits;

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

/// What a language model answers.
#[derive(Debug, PartialEq)]
pub(crate) enum Proposed {
    /// Tasks.
    Tasks(Vec<TaskSpec>),
    /// The answer to the message.
    Answer(String),
}

/// What an answer proposes.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn proposed_in(data: &Json, limits: &RoundLimits) -> Result<Proposed, Vec<String>> {
    let Some(answer) = object(data)? else { return Err(vec![no_tasks(limits)]) };
    let tasks = answer.get("tasks").filter(|tasks| !tasks.is_null());
    let text =
        if limits.may_answer { text(&answer, "answer").map_err(|problem| vec![problem])? } else { None };
    let text = text.filter(|text| !text.trim().is_empty());
    let tasks = match (tasks.map(|tasks| tasks.as_array()), text) {
        (None | Some(Some([])), Some(text)) => return Ok(Proposed::Answer(text.to_owned())),
        (Some(Some(_)), Some(_)) => {
            return Err(vec![
                "has both `answer` and `tasks`: answer, or propose tasks with an empty `answer`".into(),
            ]);
        }
        (Some(Some(tasks)), None) => tasks,
        (Some(None), _) | (None, None) => return Err(vec![no_tasks(limits)]),
    };
    match flag(answer.get("continue")) {
        Some(true) if limits.continuations == 0 => {
            return Err(vec!["`continue` must not be true: the plan ends with these tasks, and the output of the last one is the answer".into()]);
        }
        Some(_) => {}
        None => return Err(vec!["`continue` must be true or false".into()]),
    }
    specs_of(tasks, limits).map(Proposed::Tasks)
}

/// The tasks of an answer that was accepted earlier, whatever the settings were.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn tasks_of(data: &Json) -> Result<Vec<TaskSpec>, Vec<String>> {
    let limits = RoundLimits { tasks: MAX_TASKS, depth: MAX_TASKS, may_answer: false, continuations: 1 };
    match proposed_in(data, &limits)? {
        Proposed::Tasks(tasks) => Ok(tasks),
        Proposed::Answer(_) => Err(vec![no_tasks(&limits)]),
    }
}

/// Whether an answer wants the outputs of its tasks.
pub(super) fn says_continue(data: &Json) -> bool {
    object(data).ok().flatten().is_some_and(|answer| flag(answer.get("continue")) == Some(true))
}

/// An answer as an object, if it is one.
fn object(data: &Json) -> Result<Option<Object>, Vec<String>> {
    let answer = match data {
        Json::String(text) => {
            Json::parse(unfenced(text)).map_err(|error| vec![format!("the answer is not JSON: {error}")])?
        }
        other => other.clone(),
    };
    Ok(match answer {
        Json::Object(answer) => Some(answer),
        _ => None,
    })
}

fn no_tasks(limits: &RoundLimits) -> String {
    if limits.may_answer {
        "the answer is not an object with text in `answer`, or an array `tasks`".into()
    } else {
        "the answer is not an object with an array `tasks`".into()
    }
}

fn specs_of(tasks: &[Json], limits: &RoundLimits) -> Result<Vec<TaskSpec>, Vec<String>> {
    if tasks.is_empty() {
        let or = if limits.may_answer { ", or `answer` must be the answer to the message" } else { "" };
        return Err(vec![format!("`tasks` must hold at least one task{or}")]);
    }
    if tasks.len() > limits.tasks {
        let limit = limits.tasks;
        return Err(vec![format!("`tasks` holds {} tasks; at most {limit} are allowed", tasks.len())]);
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

/// The value of a member as a truth value; absent and null are false.
fn flag(value: Option<&Json>) -> Option<bool> {
    match value {
        None | Some(Json::Null) => Some(false),
        Some(value) => value.as_bool(),
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
