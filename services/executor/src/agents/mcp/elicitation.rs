//! Questions in the middle of a call (`elicitation/create`), as servers with a handshake ask them.
//!
//! A person may need days for an answer, and a call lasts as long as its process. The call therefore ends with the question, and its
//! task waits. When the question is answered, the tool is called again, and gets the answers to its questions at once. What was
//! answered so far is the state of the [`Questions`].
//!
//! <https://modelcontextprotocol.io/specification/2025-11-25/client/elicitation>

use phoenix_domain::{
    json::{Json, Object},
    questions::Questions,
};

use super::{
    message::{ELICIT, object},
    questions::{MAX_QUESTIONS, asking, question, too_many, too_much},
};
use crate::{failure::AttemptFailure, redact::Redactor};

/// Questions of one call that wait to be read; a server waits for the answer before it asks the next one.
pub(super) const MAX_UNREAD: usize = 4;

/// Name of the question of a call.
const NAME: &str = "question";

/// Beginning of a state that has answers.
const ANSWERED: &str = "phoenix/answered:";

/// A question, and the id of the request that asks it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: Json,
    pub(super) params: Object,
}

/// What was answered in earlier calls of the same task.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<Answered>);

/// One question with its answer.
#[derive(Debug)]
struct Answered {
    question: Object,
    /// Null where it is declined.
    answer: Json,
    /// Whether the present call has asked it. It may ask the same again.
    is_used: bool,
}

impl Answers {
    /// The answers in `questions`; `None` for questions of a server that gets its answers with the next call.
    pub(super) fn of(questions: &Questions) -> Option<Self> {
        let earlier = questions.state.as_deref()?.strip_prefix(ANSWERED)?;
        let earlier = Json::parse_stored(earlier).ok()?;
        let mut answers = Self::default();
        for one in earlier.as_array()? {
            answers.add(one["question"].as_object()?.clone(), one["answer"].clone());
        }
        if let Some(question) = questions.asked.get(NAME).and_then(Json::as_object) {
            let answer = questions.answers.as_ref().and_then(|answers| answers.get(NAME));
            answers.add(question.clone(), answer.cloned().unwrap_or_default());
        }
        Some(answers)
    }

    fn add(&mut self, question: Object, answer: Json) {
        self.0.push(Answered { question, answer, is_used: false });
    }

    /// The response to `asked`, if it was answered before.
    ///
    /// # Errors
    /// The question, as the failure of the call that asks it.
    pub(super) fn respond(&mut self, asked: &Asked, redactor: &Redactor) -> Result<Object, AttemptFailure> {
        let request = object([("method", ELICIT.into()), ("params", asked.params.clone().into())]);
        let question = question(&request.into())?;
        let known = self.0.iter_mut().find(|known| known.question == question && !known.is_used);
        let Some(known) = known else { return Err(self.ask(question, redactor)) };
        known.is_used = true;
        Ok(match &known.answer {
            Json::Null => object([("action", "decline".into())]),
            answer => object([("action", "accept".into()), ("content", answer.clone())]),
        })
    }

    fn ask(&self, question: Object, redactor: &Redactor) -> AttemptFailure {
        let answered = |one: &Answered| {
            object([("question", one.question.clone().into()), ("answer", one.answer.clone())]).into()
        };
        let state = format!("{ANSWERED}{}", Json::Array(self.0.iter().map(answered).collect()));
        let asked = object([(NAME, question.into())]);
        if self.0.len() >= MAX_QUESTIONS {
            return too_many();
        }
        if let Some(failure) = too_much(&asked, Some(&state)) {
            return failure;
        }
        asking(Questions { asked, state: Some(state), attempts: 0, answers: None }, redactor)
    }
}

/// The response to a question that is not answered in this call.
pub(super) fn dismissed() -> Object {
    object([("action", "cancel".into())])
}

#[cfg(test)]
mod tests {
    use phoenix_domain::FailureClass;
    use serde_json::{Value, json};

    use super::*;

    fn asked(message: &str) -> Asked {
        let params = json!({"message": message, "requestedSchema": {"type": "object"}});
        Asked { id: 1.into(), params: Object::try_from(Json::from(params)).unwrap() }
    }

    /// What the task waits for, with its answer.
    fn answered(answers: &mut Answers, message: &str, answer: Value) -> Answers {
        let failure = answers.respond(&asked(message), &Redactor::default()).unwrap_err();
        let questions = *failure.questions.unwrap();
        let given = object([(NAME, answer.into())]);
        Answers::of(&Questions { answers: Some(given), ..questions }).unwrap()
    }

    fn response(answers: &mut Answers, message: &str) -> Option<Value> {
        let response = answers.respond(&asked(message), &Redactor::default());
        response.ok().map(|response| Json::from(response).to_value())
    }

    #[test]
    fn answers_are_given_again_in_each_call_once() {
        let mut answers = answered(&mut Answers::default(), "a?", json!({"n": 1}));
        answers.0.iter_mut().for_each(|answer| answer.is_used = true);
        let mut answers = answered(&mut answers, "b?", Value::Null);
        answers.0.iter_mut().for_each(|answer| answer.is_used = true);
        let answers = &mut answered(&mut answers, "a?", json!({"n": 2}));
        let accepted = |n: u32| Some(json!({"action": "accept", "content": {"n": n}}));
        assert_eq!(response(answers, "a?"), accepted(1));
        assert_eq!(response(answers, "b?"), Some(json!({"action": "decline"})));
        assert_eq!(response(answers, "a?"), accepted(2));
        assert_eq!(response(answers, "a?"), None, "each answer is for one question");
        assert_eq!(response(answers, "c?"), None);
    }

    #[test]
    fn number_and_size_of_questions_are_bounded() {
        let mut answers = Answers::default();
        for number in 0..MAX_QUESTIONS {
            answers = answered(&mut answers, &format!("{number}?"), json!({}));
        }
        for (mut answers, message) in
            [(answers, "one more?".to_owned()), (Answers::default(), "x".repeat(300_000))]
        {
            let failure = answers.respond(&asked(&message), &Redactor::default()).unwrap_err();
            assert_eq!((failure.class, failure.questions), (FailureClass::BackendFailure, None));
            assert!(failure.description.contains("at most 16 questions"), "{}", failure.description);
        }
        let page = json!({"mode": "url", "message": "Log in", "url": "https://x"});
        let asked = Asked { id: 1.into(), params: Object::try_from(Json::from(page)).unwrap() };
        let failure = Answers::default().respond(&asked, &Redactor::default()).unwrap_err();
        assert_eq!((failure.class, failure.questions), (FailureClass::ActionNotSupported, None));
    }

    #[test]
    fn state_of_a_server_is_no_answer() {
        for state in [None, Some("x"), Some("phoenix/answered:7"), Some("phoenix/answered:[7]")] {
            let questions = Questions { state: state.map(str::to_owned), ..Questions::default() };
            assert!(Answers::of(&questions).is_none(), "{state:?}");
        }
    }
}
