//! What a provider's failure means to the caller.
//!
//! The codes decide about retries and about whose fault it was:
//!
//! | code | when | what follows |
//! |---|---|---|
//! | 4xx | the provider refuses the request, or its model the message | asked once; the caller's mistake |
//! | 424 | it refuses the key, wants to be paid, or is not what `base_url` says | asked once; the operator's affair |
//! | 429 | a limit is used up, or it says when to come back | asked once; the caller learns when |
//! | 502, 503, 504 | it is away, fails, is too slow or answers nonsense | asked again |
//!
//! No message carries a key or an address; the provider's own words are one short, cleaned sentence.

use std::time::Duration;

use phoenix_domain::llm::{Provider, ProviderKind, Secret};

use super::{
    http::{MAX_BODY_BYTES, Reply, Trouble},
    redact::redact,
    refusal::Refusal,
    wire::Unusable,
};
use crate::{ActionError, protocol::shortened};

const MAX_SENTENCE_CHARS: usize = 240;

/// As much of a provider's words as is looked at.
const MAX_WORDS_CHARS: usize = 16 * 1024;

/// Failures of one provider.
#[derive(Clone, Copy)]
pub(super) struct Failure<'a> {
    kind: ProviderKind,
    key: Option<&'a str>,
    /// The agent's name in the configuration.
    agent: &'a str,
    /// The time that the attempt has.
    granted: Duration,
}

impl<'a> Failure<'a> {
    pub(super) fn of(provider: Provider<'a>, agent: &'a str, granted: Duration) -> Self {
        Self { kind: provider.kind, key: provider.api_key.map(Secret::expose), agent, granted }
    }

    pub(super) fn no_key(self) -> ActionError {
        let hint = self.where_the_key_is();
        ActionError::dependency_refused(format!("{} has no API key: {hint}", self.kind))
    }

    /// No model is there that could be asked.
    pub(super) fn no_model(self) -> ActionError {
        let kind = self.kind;
        ActionError::dependency_refused(format!(
            "{kind} has no model; install one, such as `ollama pull {}`, or set llm.{kind}.model_name",
            kind.default_model()
        ))
    }

    pub(super) fn trouble(self, trouble: Trouble) -> ActionError {
        let (kind, setting) = (self.kind, format!("llm.{}.base_url", self.kind));
        let operator = ActionError::dependency_refused;
        match trouble {
            Trouble::NoClient => operator(
                "no HTTPS client could be built; are root certificates (ca-certificates) installed?".into(),
            ),
            Trouble::Address => operator(format!("{setting} is not a valid URL")),
            Trouble::Key => {
                let hint = self.where_the_key_is();
                operator(format!("the API key of {kind} has characters that can't be sent: {hint}"))
            }
            Trouble::Proxy(variable) => operator(format!("{variable} is not the address of a proxy")),
            Trouble::ProxyKey(variable) => {
                operator(format!("the proxy in {variable} wants a user and a password, or another one"))
            }
            Trouble::Certificate(what) => operator(format!(
                "the certificate of {kind} is not accepted: {what}; check {setting}, or name the authority's \
                 certificate in SSL_CERT_FILE"
            )),
            Trouble::NoTls => operator(format!(
                "the server in {setting} does not speak TLS; write the address with http:// if that is meant"
            )),
            Trouble::Tls => operator(format!("no TLS connection to {kind} could be made; check {setting}")),
            Trouble::NoHttp => operator(format!(
                "the server in {setting} does not answer in HTTP; does it speak TLS, so that https:// is needed?"
            )),
            Trouble::NoHost => {
                ActionError::new(503, format!("the host name of {kind} can't be resolved; check {setting}"))
            }
            Trouble::Unreachable(None) => {
                ActionError::new(503, format!("{kind} can't be reached; check {setting} and the network"))
            }
            Trouble::Unreachable(Some(variable)) => ActionError::new(
                503,
                format!(
                    "{kind} can't be reached through the proxy in {variable}; check both and the network"
                ),
            ),
            Trouble::Interrupted => ActionError::new(503, format!("the connection to {kind} broke off")),
            Trouble::TooLarge => {
                ActionError::new(502, format!("{kind} answered more than {MAX_BODY_BYTES} bytes"))
            }
            Trouble::Timeout => {
                let (agent, granted) = (self.agent, self.granted.as_secs_f64());
                ActionError::timeout(format!(
                    "{kind} did not answer within {granted:.1} s; if the model needs longer, raise timeout_secs of \
                     [agents.{agent}], or the caller's deadline where that is shorter"
                ))
            }
        }
    }

    /// The failure behind an answer with a status other than 2xx.
    pub(super) fn refused(self, reply: &Reply) -> ActionError {
        self.refusal(reply.status, &Refusal::read(&reply.body), reply.retry_after)
    }

    /// The failure behind an answer that was called a success.
    pub(super) fn unusable(self, unusable: Unusable, reply: &Reply) -> ActionError {
        let kind = self.kind;
        match unusable {
            Unusable::Malformed => {
                ActionError::new(502, format!("{kind} answered something that is not its API"))
            }
            Unusable::Empty(reason) => {
                let reason = self.clean(&reason);
                ActionError::invalid(format!("{kind} answered without any text (finish reason: {reason})"))
            }
            Unusable::CutOff => ActionError::invalid(format!(
                "{kind} used all of llm.max_tokens before it wrote an answer; raise it"
            )),
            Unusable::Declined(reason) => {
                let reason = self.clean(&reason);
                ActionError::invalid(format!("{kind} declined to answer this message: {reason}"))
            }
            Unusable::Refused { status, refusal } => self.refusal(status, &refusal, reply.retry_after),
        }
    }

    fn refusal(self, status: u16, refusal: &Refusal, retry_after: Option<Duration>) -> ActionError {
        let kind = self.kind;
        let said = match self.clean(&refusal.sentence) {
            nothing if nothing.is_empty() => String::new(),
            sentence => format!(": {sentence}"),
        };
        let retry_after = retry_after.or(refusal.retry_after);
        match status {
            401 => self.key_refused(status, &said),
            400 | 403 if refusal.is_about_key => self.key_refused(status, &said),
            402 => ActionError::dependency_refused(format!(
                "{kind} wants the account's balance to be settled (402){said}"
            )),
            404 if said.is_empty() => ActionError::new(
                404,
                format!("{kind} refused the request (404); is llm.{kind}.base_url right?"),
            ),
            400 | 403 | 404 | 409 | 410 | 413..=415 | 422 | 451 => {
                ActionError::new(status, format!("{kind} refused the request ({status}){said}"))
            }
            408 | 504 => ActionError::timeout(format!("{kind} did not finish in time ({status}){said}")),
            429 => ActionError::rate_limited(
                format!("{kind} is over its rate limit or quota (429){said}"),
                retry_after,
            ),
            500..=599 if retry_after.is_some() => {
                ActionError::rate_limited(format!("{kind} has no capacity ({status}){said}"), retry_after)
            }
            425 | 500..=599 => ActionError::new(503, format!("{kind} failed ({status}){said}")),
            _ => ActionError::dependency_refused(format!(
                "{kind} answered {status}; is llm.{kind}.base_url right?{said}"
            )),
        }
    }

    fn key_refused(self, status: u16, said: &str) -> ActionError {
        let hint = self.where_the_key_is();
        ActionError::dependency_refused(format!("{} refused its API key ({status}){said}; {hint}", self.kind))
    }

    fn where_the_key_is(self) -> String {
        let kind = self.kind;
        match kind.key_variables().first() {
            Some(variable) => format!("check llm.{kind}.api_key or {variable}"),
            None => format!("check llm.{kind}.api_key"),
        }
    }

    /// One short line without keys and control characters.
    fn clean(self, text: &str) -> String {
        let end = text.char_indices().nth(MAX_WORDS_CHARS).map_or(text.len(), |(end, _)| end);
        let text = match self.key {
            Some(key) => redact(&text[..end], key),
            None => text[..end].to_owned(),
        };
        let text = text.replace(char::is_control, " ");
        shortened(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_SENTENCE_CHARS)
    }
}
