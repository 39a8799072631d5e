//! Results of `tools/call` that ask for further input (`input_required`), and the calls that bring it.
//!
//! <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/mrtr>

use phoenix_domain::{
    FailureClass,
    json::{Json, Object},
    questions::Questions,
};

use super::message::{ELICIT, object};
use crate::{
    failure::{AttemptFailure, truncate_message},
    redact::Redactor,
};

/// Limit of the questions of one call.
pub(super) const MAX_QUESTIONS: usize = 16;

/// Limit of the questions and the state of one call in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Limit of the depth of questions, which are a part of the task's input.
const MAX_QUESTION_DEPTH: usize = 32;

/// Limit of the calls of one attempt that the server wants to be made again at once.
const MAX_AGAIN: u32 = 8;

/// What a call has beside the tool and its arguments when it is not the first.
#[derive(Debug, Default)]
pub(super) struct Continuation {
    responses: Option<Object>,
    state: Option<String>,
    again: u32,
}

impl Continuation {
    /// With the answers to `questions`. A question without one was not decided about.
    pub(super) fn answered(questions: &Questions) -> Self {
        let answers = questions.answers.as_ref();
        let response = |name: &String| match answers.and_then(|answers| answers.get(name)) {
            Some(Json::Null) => object([("action", "decline".into())]),
            Some(answer) => object([("action", "accept".into()), ("content", answer.clone())]),
            None => object([("action", "cancel".into())]),
        };
        let responses = questions.asked.keys().map(|name| (name.clone(), response(name).into())).collect();
        Self { responses: Some(responses), state: questions.state.clone(), again: 0 }
    }

    /// The same call, with a new state.
    ///
    /// # Errors
    /// When the server wants it too often.
    pub(super) fn again(self, state: String) -> Result<Self, AttemptFailure> {
        if self.again == MAX_AGAIN {
            return Err(broken(&format!(
                "answered {} times that the call is to be made again",
                MAX_AGAIN + 1
            )));
        }
        Ok(Self { responses: None, state: Some(state), again: self.again + 1 })
    }

    /// The parameters of the call.
    pub(super) fn added_to(&self, mut params: Object) -> Object {
        if let Some(responses) = &self.responses {
            params.insert("inputResponses".into(), responses.clone().into());
        }
        if let Some(state) = &self.state {
            params.insert("requestState".into(), state.as_str().into());
        }
        params
    }
}

/// Whether a result asks for further input.
pub(super) fn is_input_required(result: &Json) -> bool {
    result["resultType"] == "input_required"
}

/// The state with which the call is to be made again at once.
///
/// # Errors
/// The questions of the server, as a failure that has them; `action_not_supported` for a question that is not passed on, and
/// `backend_failure` for a result that is not valid.
pub(super) fn read(result: &Json, redactor: &Redactor) -> Result<String, AttemptFailure> {
    let state = result["requestState"].as_str().map(str::to_owned);
    let requests = match &result["inputRequests"] {
        Json::Object(requests) => requests.clone(),
        Json::Null => Object::new(),
        _ => return Err(broken("asks for input with `inputRequests` that is no object")),
    };
    if requests.is_empty() {
        return state.ok_or_else(|| broken("asks for input, and does not say for which"));
    }
    if let Some(failure) = too_much(&requests, state.as_deref()) {
        return Err(failure);
    }
    let mut asked = Object::new();
    for (name, request) in requests.iter() {
        asked.insert(name.clone(), question(request)?.into());
    }
    Err(asking(Questions { asked, state, attempts: 0, answers: None }, redactor))
}

/// The failure of a call that ends with `questions`.
pub(super) fn asking(questions: Questions, redactor: &Redactor) -> AttemptFailure {
    let message = truncate_message(&redactor.clean(&*questions.message()));
    let failure = AttemptFailure::new(FailureClass::ActionNotSupported, format!("asks for input: {message}"));
    AttemptFailure { questions: Some(Box::new(questions)), ..failure }
}

/// The failure of a call with these requests and this state, if they are too many, too large or too deep.
pub(super) fn too_much(requests: &Object, state: Option<&str>) -> Option<AttemptFailure> {
    let size = requests.text_len() + state.map_or(0, str::len);
    let is_allowed =
        requests.len() <= MAX_QUESTIONS && size <= MAX_BYTES && requests.depth() <= MAX_QUESTION_DEPTH;
    (!is_allowed).then(too_many)
}

/// The failure of a call that asks for too much.
pub(super) fn too_many() -> AttemptFailure {
    broken(&format!(
        "asks for too much input: at most {MAX_QUESTIONS} questions of {} KiB, {MAX_QUESTION_DEPTH} levels deep, are allowed",
        MAX_BYTES >> 10
    ))
}

/// The question of a request: its message, and the schema of the answer.
///
/// # Errors
/// `action_not_supported` for a request that is no question with a form.
pub(super) fn question(request: &Json) -> Result<Object, AttemptFailure> {
    let not_supported = |what: String| {
        let description = format!("asks for input before it answers: {what}, which is not supported");
        AttemptFailure::new(FailureClass::ActionNotSupported, description)
    };
    let method = request["method"].as_str().unwrap_or_default();
    if method != ELICIT {
        return Err(not_supported(format!("`{}`", truncate_message(method))));
    }
    let params = &request["params"];
    let message = params["message"].as_str().unwrap_or_default();
    match params["mode"].as_str() {
        None | Some("form") => {}
        Some(_) => return Err(not_supported(format!("a page to visit ({})", truncate_message(message)))),
    }
    Ok(object([("message", message.into()), ("schema", params["requestedSchema"].clone())]))
}

fn broken(description: &str) -> AttemptFailure {
    AttemptFailure::new(FailureClass::BackendFailure, description)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_json(result: Value) -> Result<String, AttemptFailure> {
        read(&result.into(), &Redactor::default())
    }

    #[test]
    fn questions_become_a_failure_that_has_them() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        let request = json!({"method": ELICIT, "params": {"message": "Which?", "requestedSchema": schema}});
        let failure = read_json(json!({"inputRequests": {"a": request}, "requestState": "s"})).unwrap_err();
        assert_eq!(
            (failure.class, &*failure.description),
            (FailureClass::ActionNotSupported, "asks for input: Which?")
        );
        let questions = failure.questions.unwrap();
        assert_eq!(questions.asked["a"], Json::from(json!({"message": "Which?", "schema": schema})));
        let answers = Json::from(json!({"a": {"name": "x"}})).as_object().cloned();
        let answered = Continuation::answered(&Questions { answers, ..*questions });
        let params = Json::from(answered.added_to(Object::new())).to_string();
        let expected =
            r#"{"inputResponses":{"a":{"action":"accept","content":{"name":"x"}}},"requestState":"s"}"#;
        assert_eq!(params, expected);
    }

    #[test]
    fn question_without_an_answer_is_cancelled_and_null_declines() {
        let asked = Json::from(json!({"a": {}, "b": {}})).as_object().cloned().unwrap();
        let answers = Json::from(json!({"a": null})).as_object().cloned();
        let params = Continuation::answered(&Questions { asked, answers, ..Questions::default() })
            .added_to(Object::new());
        let expected = json!({"a": {"action": "decline"}, "b": {"action": "cancel"}});
        assert_eq!(params["inputResponses"], Json::from(expected));
    }

    #[test]
    fn what_is_no_question_is_named() {
        let sampling = json!({"method": "sampling/createMessage", "params": {}});
        let page =
            json!({"method": ELICIT, "params": {"mode": "url", "message": "Log in", "url": "https://x"}});
        let many: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), sampling.clone())).collect();
        for (result, class, says) in [
            (
                json!({"inputRequests": {"a": sampling}}),
                FailureClass::ActionNotSupported,
                "`sampling/createMessage`",
            ),
            (
                json!({"inputRequests": {"a": page}}),
                FailureClass::ActionNotSupported,
                "a page to visit (Log in)",
            ),
            (json!({"inputRequests": {"a": 7}}), FailureClass::ActionNotSupported, "not supported"),
            (json!({"inputRequests": many}), FailureClass::BackendFailure, "at most 16 questions"),
            (json!({"inputRequests": {"a": "x".repeat(300_000)}}), FailureClass::BackendFailure, "256 KiB"),
            (json!({"inputRequests": []}), FailureClass::BackendFailure, "no object"),
            (json!({}), FailureClass::BackendFailure, "does not say"),
        ] {
            let failure = read_json(result).unwrap_err();
            assert_eq!((failure.class, failure.questions.is_none()), (class, true), "{says}");
            assert!(failure.description.contains(says), "{}", failure.description);
        }
    }

    #[test]
    fn call_is_made_again_a_bounded_number_of_times() {
        assert_eq!(read_json(json!({"requestState": "s"})).unwrap(), "s");
        let mut call = Continuation::default();
        for _ in 0..MAX_AGAIN {
            call = call.again("s".into()).unwrap();
        }
        assert!(call.again("s".into()).is_err());
    }
}
