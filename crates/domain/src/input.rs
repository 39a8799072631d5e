//! Validation of tasks against the declared actions of their agents.
//!
//! An agent without declarations accepts any action and input. A task's input is checked twice: when its plan is accepted, as
//! far as it is known before references are rendered, and again after they are rendered.

use crate::{
    agent::{AgentSpec, UnknownAction},
    catalog::AgentCatalog,
    error::{OrchestratorError, OrchestratorErrorCode},
    json::Object,
    plan::TaskSpec,
    questions,
    schema::{InputSchema, Mismatch},
    template,
};

/// Validates the task at `index` of a plan, whose input may have references.
///
/// # Errors
/// `planning_failed` for an action that the agent does not declare, `validation_failed` for an input that no value of the
/// references makes valid. The details have the task's `key` and the `field`.
pub fn check_task(index: usize, task: &TaskSpec, agents: &AgentCatalog) -> Result<(), OrchestratorError> {
    check(index, task, agents, |schema| {
        schema.check_partial(&task.payload, &template::pointers(&task.payload))
    })
}

/// Validates the rendered `input` of the task at `index` of a plan.
///
/// # Errors
/// As [`check_task`].
pub fn check_rendered(
    index: usize,
    task: &TaskSpec,
    input: &Object,
    agents: &AgentCatalog,
) -> Result<(), OrchestratorError> {
    check(index, task, agents, |schema| schema.check(input))
}

/// Validates the task of a chat.
///
/// # Errors
/// `validation_failed` with the `field` of the chat request.
pub fn check_chat(task: &TaskSpec, agents: &AgentCatalog) -> Result<(), OrchestratorError> {
    check_reserved("agent", task)?;
    let agent = agents.get(&task.agent)?;
    let action = agent.action(&task.action).map_err(|unknown| no_such_action("agent", agent, &unknown))?;
    let Some(schema) = action.and_then(|action| action.input_schema.as_ref()) else { return Ok(()) };
    schema.check(&task.payload).map_err(|Mismatch { field, problem }| {
        let field = field.trim_start_matches('.');
        let field = if field.is_empty() { "message" } else { field };
        OrchestratorError::invalid(field, problem).with_detail("agent", &task.agent)
    })
}

fn check(
    index: usize,
    task: &TaskSpec,
    agents: &AgentCatalog,
    check: impl FnOnce(&InputSchema) -> Result<(), Mismatch>,
) -> Result<(), OrchestratorError> {
    check_reserved(&format!("tasks[{index}].input"), task)?;
    let TaskSpec { key, agent, action, .. } = task;
    let agent = agents.get(agent)?;
    let action = agent.action(action).map_err(|unknown| {
        no_such_action(&format!("tasks[{index}].action"), agent, &unknown).with_detail("key", key)
    })?;
    let Some(schema) = action.and_then(|action| action.input_schema.as_ref()) else { return Ok(()) };
    check(schema).map_err(|Mismatch { field, problem }| {
        OrchestratorError::invalid(&format!("tasks[{index}].input{field}"), problem).with_detail("key", key)
    })
}

/// Only a planner adds questions and answers to an input.
fn check_reserved(field: &str, task: &TaskSpec) -> Result<(), OrchestratorError> {
    if !task.payload.contains_key(questions::MEMBER) {
        return Ok(());
    }
    let problem = format!(
        "must not have the member `{}`, which is reserved for answers to an agent",
        questions::MEMBER
    );
    Err(OrchestratorError::invalid(field, problem).with_detail("key", &task.key))
}

fn no_such_action(field: &str, agent: &AgentSpec, unknown: &UnknownAction) -> OrchestratorError {
    let message = format!("agent `{}` {unknown}", agent.name);
    OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, message)
        .with_detail("field", field)
        .with_detail("agent", &agent.name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        agent::ActionSpec,
        plan::{OnFailure, StartConditions},
    };

    fn agents() -> AgentCatalog {
        let schema = |source| Some(InputSchema::new(source).unwrap());
        let action = |input_schema| ActionSpec { input_schema, ..ActionSpec::default() };
        let agent = |name: &str, actions: &[(&str, ActionSpec)]| {
            let actions = actions.iter().map(|(name, action)| ((*name).to_owned(), action.clone()));
            let spec = AgentSpec::new(name.parse().unwrap(), vec!["true".into()]);
            AgentSpec { actions: actions.collect(), ..spec }
        };
        let text = json!({"type": "string", "maxLength": 5});
        let note = schema(json!({
            "properties": {"title": text, "tags": {"items": text}}, "required": ["title"], "additionalProperties": false
        }));
        let short = schema(json!({"properties": {"message": text}}));
        AgentCatalog::new(
            [
                agent("open", &[]),
                agent("notes", &[("note", action(note)), ("ping", action(None))]),
                agent("terse", &[("chat", action(short.clone())), ("*", action(short))]),
            ],
            "open".parse().unwrap(),
        )
    }

    fn task(agent: &str, action: &str, input: Value) -> TaskSpec {
        let crate::json::Json::Object(payload) = input.into() else { panic!("an input is an object") };
        let (agent, action) = (agent.parse().unwrap(), action.into());
        TaskSpec {
            key: "k".into(),
            agent,
            action,
            payload,
            depends_on: vec![],
            on_failure: OnFailure::Fail,
            start: StartConditions::default(),
        }
    }

    #[test]
    fn undeclared_action_or_invalid_input_is_named() {
        for (agent, action, input, field) in [
            ("notes", "knit", json!({}), "tasks[2].action"),
            ("notes", "note", json!({}), "tasks[2].input.title"),
            ("notes", "note", json!({"title": 7}), "tasks[2].input.title"),
            ("notes", "note", json!({"title": "a", "titel": "a"}), "tasks[2].input.titel"),
            ("notes", "note", json!({"title": "a", "tags": ["a", "too long"]}), "tasks[2].input.tags[1]"),
            ("terse", "anything", json!({"message": "too long"}), "tasks[2].input.message"),
        ] {
            let error = check_task(2, &task(agent, action, input), &agents()).unwrap_err();
            assert_eq!((&*error.details["field"], &*error.details["key"]), (field, "k"), "{error}");
            let planning = field.ends_with("action");
            assert_eq!(error.code == OrchestratorErrorCode::PlanningFailed, planning, "{error}");
        }
        let error = check_task(0, &task("notes", "knit", json!({})), &agents()).unwrap_err();
        assert_eq!(error.message, "agent `notes` has no action `knit`; there are chat, note, ping");
    }

    #[test]
    fn undeclared_input_is_unchecked_and_chat_is_accepted() {
        for (agent, action, input) in [
            ("open", "anything", json!({"x": 1})),
            ("notes", "ping", json!({"x": 1})),
            ("notes", "chat", json!({"x": 1})),
            ("terse", "anything", json!({"x": 1})),
        ] {
            check_task(0, &task(agent, action, input), &agents()).unwrap();
        }
    }

    #[test]
    fn reference_is_checked_after_rendering() {
        let open = task("notes", "note", json!({"title": "{{tasks.a.output}}"}));
        check_task(0, &open, &agents()).unwrap();
        let filled = task("notes", "note", json!({"title": "too long"}));
        let error = check_rendered(1, &open, &filled.payload, &agents()).unwrap_err();
        assert_eq!(error.details["field"], "tasks[1].input.title");
        let wrong_anyway = task(
            "notes",
            "note",
            json!({"title": "{{tasks.a.output}}", "tags": "{{tasks.a.output}}", "x": 1}),
        );
        assert_eq!(check_task(0, &wrong_anyway, &agents()).unwrap_err().details["field"], "tasks[0].input.x");
    }

    #[test]
    fn chat_error_names_the_field_of_the_request() {
        check_chat(&task("open", "chat", json!({"message": "much too long"})), &agents()).unwrap();
        check_chat(&task("terse", "chat", json!({"message": "short"})), &agents()).unwrap();
        // A message is not a template.
        let refused = task("terse", "chat", json!({"message": "{{tasks.a.output}}"}));
        let error = check_chat(&refused, &agents()).unwrap_err();
        assert_eq!(error.message, "`message` must be at most 5 characters long");
    }
}
