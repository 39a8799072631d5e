//! What a provider's failure means to the caller.
//!
//! The codes decide about retries and about whose fault it was. A provider that calls the request wrong is believed:
//! 4xx. A provider that refuses the key, or wants to be paid, has a quarrel with the operator: 502. No message carries
//! a key or an address, and of the provider's own words only a short, cleaned sentence.

use phoenix_domain::llm::{Provider, ProviderKind, Secret};
use serde_json::Value;

use super::{
    http::{MAX_BODY_BYTES, Trouble},
    wire::Unusable,
};
use crate::{ActionError, protocol::shortened};

const MAX_SENTENCE_CHARS: usize = 240;

/// The shortest piece of a key that is taken for it when a provider quotes the key in part.
const TELLING_PIECE: usize = 8;

/// Shorter keys are placeholders such as `lm-studio`, which a local server is given because it must be given something.
const SHORTEST_REAL_KEY: usize = 16;

/// Failures of one provider.
#[derive(Clone, Copy)]
pub(super) struct Failure<'a> {
    kind: ProviderKind,
    key: Option<&'a str>,
}

impl<'a> Failure<'a> {
    pub(super) fn of(provider: Provider<'a>) -> Self {
        Self { kind: provider.kind, key: provider.api_key.map(Secret::expose) }
    }

    pub(super) fn no_key(self) -> ActionError {
        ActionError::new(502, format!("{} has no API key: {}", self.kind, self.where_the_key_is()))
    }

    pub(super) fn trouble(self, trouble: Trouble) -> ActionError {
        let kind = self.kind;
        match trouble {
            Trouble::NoClient => ActionError::internal(
                "no HTTPS client could be built; are root certificates (ca-certificates) installed?",
            ),
            Trouble::Address => ActionError::new(502, format!("llm.{kind}.base_url is not a valid URL")),
            Trouble::Key => {
                let hint = self.where_the_key_is();
                ActionError::new(
                    502,
                    format!("the API key of {kind} has characters that can't be sent: {hint}"),
                )
            }
            Trouble::Unreachable => ActionError::new(
                503,
                format!("{kind} can't be reached; check llm.{kind}.base_url and the network"),
            ),
            Trouble::Interrupted => ActionError::new(503, format!("the connection to {kind} broke off")),
            Trouble::TooLarge => {
                ActionError::new(502, format!("{kind} answered more than {MAX_BODY_BYTES} bytes"))
            }
            Trouble::Timeout => ActionError::timeout(format!("{kind} did not answer in time")),
        }
    }

    /// The failure behind an answer with a status other than 2xx.
    pub(super) fn refused(self, status: u16, body: &[u8]) -> ActionError {
        let kind = self.kind;
        let sentence = self.sentence(body);
        // Gemini and Grok answer a wrong key with 400; only their words tell it from a wrong request.
        let about_the_key = status == 400 && sentence.to_lowercase().contains("api key");
        let said = if sentence.is_empty() { String::new() } else { format!(": {sentence}") };
        match status {
            _ if about_the_key => self.key_refused(),
            401 | 403 => self.key_refused(),
            400 | 404 | 413 | 422 => {
                ActionError::new(status, format!("{kind} refused the request ({status}){said}"))
            }
            402 => ActionError::new(502, format!("{kind} wants the account's balance to be settled (402)")),
            408 | 504 => ActionError::timeout(format!("{kind} did not finish in time ({status})")),
            429 => ActionError::new(503, format!("{kind} is over its rate limit or quota (429){said}")),
            500..=599 => ActionError::new(503, format!("{kind} failed ({status}){said}")),
            _ => ActionError::new(
                502,
                format!("{kind} answered {status}; is llm.{kind}.base_url right?{said}"),
            ),
        }
    }

    /// The failure behind an answer that was called a success.
    pub(super) fn unusable(self, unusable: Unusable) -> ActionError {
        let kind = self.kind;
        match unusable {
            Unusable::Malformed => {
                ActionError::new(502, format!("{kind} answered something that is not its API"))
            }
            Unusable::Empty(reason) => {
                let reason = self.clean(&reason);
                ActionError::new(502, format!("{kind} answered without any text (finish reason: {reason})"))
            }
            Unusable::Blocked(reason) => {
                let reason = self.clean(&reason);
                ActionError::new(422, format!("{kind} declined to answer this message: {reason}"))
            }
            Unusable::Refused { status, message } => self.refused(status, message.as_bytes()),
        }
    }

    /// What a model said, without the key. A placeholder may stand in it like any other word.
    pub(super) fn redact_answer(self, text: &str) -> String {
        if self.key.is_some_and(|key| key.len() >= SHORTEST_REAL_KEY) {
            self.redact(text)
        } else {
            text.into()
        }
    }

    /// `text` without the key and without pieces of it.
    fn redact(self, text: &str) -> String {
        let Some(key) = self.key else { return text.into() };
        let text = text.replace(key, "[redacted]");
        let pieces: Vec<&str> = key
            .as_bytes()
            .windows(TELLING_PIECE)
            .filter_map(|piece| std::str::from_utf8(piece).ok())
            .filter(|piece| text.contains(*piece))
            .collect();
        if pieces.is_empty() {
            return text;
        }
        let word = |word: &str| {
            let (bare, end) = word.split_at(word.trim_end().len());
            let telling = pieces.iter().any(|piece| bare.contains(piece));
            if telling { format!("[redacted]{end}") } else { word.to_owned() }
        };
        text.split_inclusive(char::is_whitespace).map(word).collect()
    }

    fn key_refused(self) -> ActionError {
        ActionError::new(502, format!("{} refused its API key: {}", self.kind, self.where_the_key_is()))
    }

    fn where_the_key_is(self) -> String {
        let kind = self.kind;
        match kind.key_variables().first() {
            Some(variable) => format!("check llm.{kind}.api_key or {variable}"),
            None => format!("check llm.{kind}.api_key"),
        }
    }

    /// What the provider says about its refusal, wherever its API puts that; empty when it says nothing readable.
    fn sentence(self, body: &[u8]) -> String {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        // Gemini wraps the error in a list when it meant to stream.
        let body = body.get(0).unwrap_or(&body);
        let error = &body["error"];
        let said = error["message"].as_str().or(error.as_str()).or(body["message"].as_str());
        self.clean(said.unwrap_or_default())
    }

    /// One short line without keys and control characters.
    fn clean(self, text: &str) -> String {
        let text = self.redact(text);
        let text = text.replace(char::is_control, " ");
        shortened(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_SENTENCE_CHARS)
    }
}
