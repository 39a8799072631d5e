//! What a language model is asked: the rules, the catalog of agents and the conversation, and the schema of the answer.

use std::fmt::Write;

use phoenix_domain::{
    AgentCatalog, AgentSpec,
    action::CHAT_ACTION,
    agent::ANY_ACTION,
    json::{Json, Object},
    object,
    plan::{OnFailure, PLANNING_KEY, Plan, PlanKind, StartConditions, TaskSpec},
    planning::PlanningSettings,
};

use super::{
    answer::{Answer, shown_text},
    limits::RoundLimits,
    results,
    rounds::rounds,
};

/// Version of the text below. A plan shows it in the input of its planning tasks.
const PROMPT: &str = "1";

/// Version of the text with [`CONTINUING`].
pub(super) const CONTINUING_PROMPT: &str = "2";

/// Beginning of the text, which names its version.
const OPENING: &str = "Phoenix planning prompt, version ";

/// Bytes of the catalog in the text.
const MAX_CATALOG_BYTES: usize = 64 * 1024;

/// Bytes of a rejected answer in the next question.
const MAX_REPEATED_BYTES: usize = 16 * 1024;

const RULES: &str = r#"You plan work. You get a message and a list of agents with their actions, and answer with a plan: tasks that
agents run. You do not do the work, and you do not answer the message yourself.

Rules:
- A task has a `key` (letters, digits, `_`, `-`; unique), an `agent` and one of its `action`s.
- `input` is a JSON object, written as text, that is valid for the input schema of the action.
- A task that needs the output of an earlier one refers to it inside a string of its input: {{tasks.KEY.output}} is the whole
  output, {{tasks.KEY.output.items.0.name}} a part of an output that is JSON. A reference is a dependency.
- `depends_on` has the keys of other tasks that must end first. Tasks without dependencies run at the same time.
- `on_failure` is `fail` (the plan fails with the task) or `continue` (references to its output are null).
- The output of the last task in the list is the answer to the message. If agents only collect facts, let the last task be a
  chat that answers the message with these facts.
- Use only agents and actions of the list. Use as few tasks as possible.
"#;

const CONTINUING: &str = r"- `continue` is true if you must see the outputs of these tasks before you know what follows: then you get them, and propose
  further tasks or answer the message. It is false if the plan ends with these tasks; that is faster. A task with the
  `on_failure` `continue` that fails is shown to you with its error.
";

/// The first question for the tasks of a message. `messages` is the conversation that ends with it, in OpenAI's shape, if there is
/// one; it contains the context then. `kind` is that of the plan.
pub(crate) fn ask(
    agents: &AgentCatalog,
    settings: &PlanningSettings,
    kind: PlanKind,
    message: &str,
    context: &str,
    messages: &[Json],
) -> TaskSpec {
    // A proposal runs nothing, so there is nothing to continue with.
    let continuations = if kind == PlanKind::Planned { settings.max_continuations } else { 0 };
    let limits = RoundLimits::first(settings, continuations);
    let (version, rules) = match continuations {
        0 => (PROMPT, RULES.to_owned()),
        times => (
            CONTINUING_PROMPT,
            format!("{RULES}{CONTINUING}- You may continue {times} times. These limits are for all of it:\n"),
        ),
    };
    let system = format!(
        "{OPENING}{version}.\n\n{rules}- At most {} tasks, of which at most {} depend on each other in a row.\n\nAgents, one a line:\n{}",
        limits.tasks,
        limits.depth,
        catalog_text(agents),
    );
    let mut asked: Vec<Json> = vec![object! {"role": "system", "content": system}.into()];
    if messages.is_empty() {
        if !context.is_empty() {
            let content = format!("Context of the message:\n{context}");
            asked.push(object! {"role": "system", "content": content}.into());
        }
        asked.push(object! {"role": "user", "content": message}.into());
    }
    asked.extend(messages.iter().cloned());
    let mut payload = Object::from_iter([
        ("message".to_owned(), message.into()),
        ("messages".to_owned(), Json::Array(asked)),
        ("options".to_owned(), options(settings, &limits)),
    ]);
    if let Some(model) = &settings.model {
        payload.insert("model".to_owned(), model.as_str().into());
    }
    TaskSpec {
        key: format!("{PLANNING_KEY}1"),
        agent: settings.agent.clone(),
        action: CHAT_ACTION.into(),
        payload,
        depends_on: Vec::new(),
        on_failure: OnFailure::Fail,
        start: StartConditions::default(),
    }
}

/// The question that follows when the tasks of the last round of a plan have ended: the first one, what was proposed and what came of
/// it. `number` is that of the question.
pub(super) fn ask_on(
    plan: &Plan,
    first: &TaskSpec,
    number: usize,
    limits: &RoundLimits,
    settings: &PlanningSettings,
) -> TaskSpec {
    let mut payload = first.payload.clone();
    if let Some(Json::Array(messages)) = payload.get_mut("messages") {
        messages.extend(results::messages(plan, limits));
    }
    payload.insert("options".to_owned(), options(settings, limits));
    let last = rounds(plan).pop().map(|round| round.tasks).unwrap_or_default();
    TaskSpec {
        key: format!("{PLANNING_KEY}{number}"),
        payload,
        depends_on: last.map(|ordinal| plan.tasks[ordinal].spec.key.clone()).collect(),
        start: StartConditions::default(),
        ..first.clone()
    }
}

fn options(settings: &PlanningSettings, limits: &RoundLimits) -> Json {
    let schema = object! {"name": "plan", "strict": true, "schema": answer_schema(limits)};
    let format = object! {"type": "json_schema", "json_schema": schema};
    object! {"response_format": format, "max_tokens": settings.max_tokens}.into()
}

/// The next question: the previous one, its answer, and the problems of that.
pub(crate) fn ask_again(
    question: &TaskSpec,
    number: usize,
    answer: Answer<'_>,
    problems: &[String],
    is_first_round: bool,
) -> TaskSpec {
    let mut payload = question.payload.clone();
    let text = answer.data.to_text();
    let text =
        if text.trim().is_empty() { "(nothing)".to_owned() } else { shown_text(&text, MAX_REPEATED_BYTES) };
    let mut complaint = "This plan was rejected:\n".to_owned();
    for problem in problems {
        let _ = writeln!(complaint, "- {problem}");
    }
    complaint.push_str(if is_first_round {
        "Answer with the whole corrected plan."
    } else {
        "Answer the message, or propose all further tasks again, corrected."
    });
    if let Some(Json::Array(messages)) = payload.get_mut("messages") {
        messages.push(object! {"role": "assistant", "content": text}.into());
        messages.push(object! {"role": "user", "content": complaint}.into());
    }
    TaskSpec {
        key: format!("{PLANNING_KEY}{number}"),
        payload,
        depends_on: vec![question.key.clone()],
        start: StartConditions::default(),
        ..question.clone()
    }
}

/// Version of the prompt of a planning task.
pub(crate) fn prompt_version(question: &TaskSpec) -> Option<String> {
    let messages = question.payload.get("messages")?.as_array()?;
    let text = messages.first()?.as_object()?.get("content")?.as_str()?;
    let version = text.strip_prefix(OPENING)?.split_once('.')?.0;
    Some(version.to_owned())
}

/// Schema of an answer. Every member is required and none is free, as the structured output of providers demands.
fn answer_schema(limits: &RoundLimits) -> Object {
    let members = limits.members();
    let properties: Object = members.iter().map(|name| ((*name).to_owned(), member(name).into())).collect();
    let required: Vec<Json> = members.iter().map(|name| (*name).into()).collect();
    closed_object(properties, required)
}

fn member(name: &str) -> Object {
    match name {
        "answer" => text("The answer to the message; empty if tasks are proposed"),
        "continue" => {
            object! {"type": "boolean", "description": "Whether you want the outputs of the tasks"}
        }
        _ => object! {"type": "array", "items": task()},
    }
}

fn task() -> Object {
    let properties = object! {
        "key": text("Unique key of the task"),
        "agent": text("Name of the agent"),
        "action": text("Action of the agent"),
        "input": text("Input of the action: a JSON object as text"),
        "depends_on": object! {"type": "array", "items": object! {"type": "string"}},
        "on_failure": object! {"type": "string", "enum": ["fail", "continue"]},
    };
    let required = properties.keys().map(|name| name.as_str().into()).collect();
    closed_object(properties, required)
}

fn text(description: &str) -> Object {
    object! {"type": "string", "description": description}
}

fn closed_object(properties: Object, required: Vec<Json>) -> Object {
    object! {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }
}

/// The agents, one line of JSON each. Where they do not fit, the last ones have no schemas, or are left out.
fn catalog_text(agents: &AgentCatalog) -> String {
    let mut text = String::new();
    let mut left_out = 0;
    for agent in agents.iter() {
        let lines = [true, false].map(|with_schemas| agent_line(agent, with_schemas));
        match lines.iter().find(|line| text.len() + line.len() < MAX_CATALOG_BYTES) {
            Some(line) => {
                text.push_str(line);
                text.push('\n');
            }
            None => left_out += 1,
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "({left_out} more agents are left out)");
    }
    text
}

fn agent_line(agent: &AgentSpec, with_schemas: bool) -> String {
    let message = || object! {"message": "text"};
    let mut actions = Object::new();
    if !agent.actions.contains_key(CHAT_ACTION) {
        actions.set(CHAT_ACTION, object! {"input": message()});
    }
    for (name, action) in &agent.actions {
        // Only what helps to plan: a conversation is none of it.
        let schema = action.input_schema.as_ref().map(phoenix_domain::schema::InputSchema::source);
        let mut about = object! {"description": action.description.as_str()};
        match schema {
            _ if name == CHAT_ACTION => about.set("input", message()),
            Some(schema) if with_schemas => about.set("input", schema.clone()),
            _ => {}
        }
        let name = if name == ANY_ACTION { "(any other name)" } else { name };
        actions.set(name, about);
    }
    let description = agent.description.as_str();
    object! {"agent": agent.name.as_str(), "description": description, "actions": actions}.to_string()
}
