//! Questions of an agent: what a tool of an MCP server wants to know before it answers.
//!
//! A call that ends with questions is an approval of the task, whose input has the questions beside the arguments. The input of the
//! decision has the answers, too; with them the tool is called again.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    agent_name::AgentName,
    approval::{Approval, ApprovalKind},
    error::OrchestratorError,
    json::{Json, Object},
    limits::{MAX_FILLED_INPUT_BYTES, MAX_REASON_BYTES, check_bytes, check_depth},
    schema::{InputSchema, Mismatch},
};

/// Member of an input that has the questions. No caller may set it.
pub const MEMBER: &str = "phoenix/questions";

/// Detail of an error of a task that waits for answers, with the questions as JSON.
pub const DETAIL: &str = "questions";

/// Questions of one call, by the names that the server gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Questions {
    /// With each name goes `message`, and `schema` of the answer, which is an object.
    pub asked: Object,
    /// What the server wants to get back with the answers, as it is.
    pub state: Option<String>,
    /// Attempts of the task up to the one that asked.
    pub attempts: u32,
    /// With each name goes an object, or null where the question is declined. Absent before a decision.
    pub answers: Option<Object>,
}

impl Questions {
    /// The questions as JSON.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let Self { asked, state, attempts, answers } = self;
        let mut members = Object::new();
        members.insert("asked".into(), asked.clone().into());
        members.insert("attempts".into(), (*attempts).into());
        if let Some(state) = state {
            members.insert("state".into(), state.as_str().into());
        }
        if let Some(answers) = answers {
            members.insert("answers".into(), answers.clone().into());
        }
        members.into()
    }

    /// The questions in their JSON.
    #[must_use]
    pub fn from_json(json: &Json) -> Option<Self> {
        Some(Self {
            asked: json["asked"].as_object()?.clone(),
            state: json["state"].as_str().map(str::to_owned),
            attempts: u32::try_from(json["attempts"].as_u64()?).ok()?,
            answers: json["answers"].as_object().cloned(),
        })
    }

    /// Takes the questions out of an input. What is left are the arguments of the call.
    pub fn take(input: &mut Object) -> Option<Self> {
        let questions = Self::from_json(input.get(MEMBER)?)?;
        input.shift_remove(MEMBER);
        Some(questions)
    }

    /// The questions behind the error of a task, if there are any.
    #[must_use]
    pub fn of_error(error: &OrchestratorError) -> Option<Self> {
        Self::from_json(&Json::parse_stored(error.details.get(DETAIL)?).ok()?)
    }

    /// The questions for one reader.
    #[must_use]
    pub fn message(&self) -> String {
        let messages: Vec<_> = self.asked.values().filter_map(|asked| asked["message"].as_str()).collect();
        messages.join(" / ")
    }

    /// The approval of a task that `agent` asks about, whose call had this input. It expires after `timeout`.
    #[must_use]
    pub fn approval(
        &self,
        at: Timestamp,
        agent: &AgentName,
        mut input: Object,
        timeout: Duration,
    ) -> Approval {
        input.insert(MEMBER.into(), self.to_json());
        let mut reason = format!("{agent} asks: {}", self.message());
        let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        Approval::waiting(ApprovalKind::Input, at, timeout, reason, input)
    }
}

/// Whether an approval is about questions.
#[must_use]
pub fn are_asked(approval: &Approval) -> bool {
    approval.input.contains_key(MEMBER)
}

/// The input of a task with `answers` to the questions of its approval. A question without an answer gets an empty one.
///
/// # Errors
/// `validation_failed` that names the answer which is no answer to a question, or does not match its schema.
pub fn answered(approval: &Approval, answers: Option<&Object>) -> Result<Object, OrchestratorError> {
    let mut input = approval.input.clone();
    let Some(mut questions) = Questions::take(&mut input) else { return Ok(input) };
    let names = || questions.asked.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut given = answers.cloned().unwrap_or_default();
    check_depth("input", given.depth())?;
    if let Some(name) = given.keys().find(|name| !questions.asked.contains_key(*name)) {
        let problem = format!("is no question of the task; its input has an answer to each of: {}", names());
        return Err(OrchestratorError::invalid(&format!("input.{name}"), problem));
    }
    for (name, question) in questions.asked.iter() {
        let field = format!("input.{name}");
        match given.get(name) {
            Some(Json::Null) => {}
            Some(Json::Object(answer)) => check_answer(&field, answer, question)?,
            Some(_) => {
                return Err(OrchestratorError::invalid(&field, "must be an object, or null to decline"));
            }
            None => {
                check_answer(&field, &Object::new(), question)?;
                given.insert(name.clone(), Object::new().into());
            }
        }
    }
    questions.answers = Some(given);
    input.insert(MEMBER.into(), questions.to_json());
    check_bytes("input", input.text_len(), MAX_FILLED_INPUT_BYTES)?;
    Ok(input)
}

fn check_answer(field: &str, answer: &Object, question: &Json) -> Result<(), OrchestratorError> {
    // A schema that is not valid accepts every answer; the server checks it in any case.
    let Ok(schema) = InputSchema::new(question["schema"].clone()) else { return Ok(()) };
    schema.check(answer).map_err(|Mismatch { field: inside, problem }| {
        let asked = question["message"].as_str().unwrap_or_default();
        OrchestratorError::invalid(
            &format!("{field}{inside}"),
            format!("{problem}; the question is: {asked}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        Object::try_from(Json::from(value)).unwrap()
    }

    fn approval() -> Approval {
        let schema =
            json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
        let asked = json!({
            "branch": {"message": "Which branch?", "schema": schema},
            "sure": {"message": "Sure?", "schema": {"type": "object", "properties": {}}},
        });
        let state = Some("opaque".to_owned());
        let questions = Questions { asked: object(asked), state, attempts: 2, answers: None };
        let agent = "hub".parse().unwrap();
        questions.approval(Timestamp::now(), &agent, object(json!({"repo": "r"})), Duration::from_secs(60))
    }

    #[test]
    fn answers_join_the_arguments_and_leave_them_again() {
        let approval = approval();
        assert_eq!(approval.reason, "hub asks: Which branch? / Sure?");
        assert!(are_asked(&approval));
        let answers = object(json!({"branch": {"name": "main"}}));
        let mut input = answered(&approval, Some(&answers)).unwrap();
        let questions = Questions::take(&mut input).unwrap();
        assert_eq!(input, object(json!({"repo": "r"})));
        assert_eq!((questions.attempts, questions.state.as_deref()), (2, Some("opaque")));
        assert_eq!(questions.answers, Some(object(json!({"branch": {"name": "main"}, "sure": {}}))));
        assert!(Questions::take(&mut input).is_none());
    }

    #[test]
    fn answers_must_fit_the_questions() {
        let approval = approval();
        for (answers, problem) in [
            (None, "`input.branch.name` is missing"),
            (
                Some(json!({"branch": {"name": 7}})),
                "`input.branch.name` must be a string; the question is: Which branch?",
            ),
            (Some(json!({"branch": "main"})), "`input.branch` must be an object, or null"),
            (Some(json!({"branch": {"name": "x"}, "other": {}})), "`input.other` is no question of the task"),
        ] {
            let error = answered(&approval, answers.clone().map(object).as_ref()).unwrap_err();
            assert!(error.message.starts_with(problem), "{answers:?}: {}", error.message);
        }
        let declined = answered(&approval, Some(&object(json!({"branch": null, "sure": null})))).unwrap();
        assert_eq!(declined[MEMBER]["answers"]["branch"], Json::Null);
    }

    #[test]
    fn error_carries_the_questions() {
        let questions = Questions::from_json(&approval().input[MEMBER]).unwrap();
        let error = OrchestratorError::internal("x").with_detail(DETAIL, questions.to_json());
        assert_eq!(Questions::of_error(&error), Some(questions));
        assert_eq!(Questions::of_error(&OrchestratorError::internal("x")), None);
        assert_eq!(Questions::of_error(&OrchestratorError::internal("x").with_detail(DETAIL, "{}")), None);
    }

    #[test]
    fn long_reason_ends_at_a_character() {
        let asked = object(json!({"a": {"message": "ä".repeat(3000)}}));
        let questions = Questions { asked, ..Questions::default() };
        let approval = questions.approval(
            Timestamp::now(),
            &"x".parse().unwrap(),
            Object::new(),
            Duration::from_secs(1),
        );
        assert!(approval.reason.len() <= MAX_REASON_BYTES && approval.reason.len() > MAX_REASON_BYTES - 4);
    }
}
