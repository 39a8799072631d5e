//! Translation of provider failures into errors of the agent.
//!
//! The codes decide about retries and about responsibility:
//!
//! | code | when | consequence |
//! |---|---|---|
//! | 4xx | the provider rejects the request, or its model the message | final; the caller's mistake |
//! | 424 | it rejects the key, requires payment, or `base_url` is wrong | final; for the operator |
//! | 429 | a limit is used up, or it names a time to come back | final; the caller learns when |
//! | 502, 503, 504 | it is unavailable, fails, is too slow or its response is invalid | retried |
//!
//! No message contains a key or an address; the provider's own message is one short, redacted sentence.

use std::time::Duration;

use phoenix_domain::llm::{Provider, Secret};

use super::{
    error_body::ErrorBody,
    http::{Head, HttpResponse, MAX_BODY_BYTES, TransportError},
    redact::redact,
    wire::{
        frames::MAX_EVENT_BYTES,
        types::{ResponseError, Unsupported},
    },
};
use crate::protocol::{ActionError, shortened};

const MAX_MESSAGE_CHARS: usize = 240;

/// Longest part of a provider's message that is processed.
const MAX_INPUT_CHARS: usize = 16 * 1024;

/// Errors of requests to one provider.
#[derive(Clone, Copy)]
pub(super) struct ProviderErrors<'a> {
    provider: Provider<'a>,
    /// Name of the agent in the configuration.
    agent: &'a str,
    /// Time of the attempt, or of the answer if the settings give it less.
    granted: Duration,
    /// Whether the settings do.
    is_own_limit: bool,
}

impl<'a> ProviderErrors<'a> {
    pub(super) fn of(provider: Provider<'a>, agent: &'a str, granted: Duration) -> Self {
        let own_limit = provider.total_timeout.filter(|limit| *limit < granted);
        Self { provider, agent, granted: own_limit.unwrap_or(granted), is_own_limit: own_limit.is_some() }
    }

    pub(super) fn no_key(self) -> ActionError {
        let hint = self.key_hint();
        ActionError::dependency_refused(format!("{} has no API key: {hint}", self.provider.name))
    }

    /// The provider has no model.
    pub(super) fn no_model(self) -> ActionError {
        let (name, setting) = (self.provider.name, self.provider.setting("model_name"));
        ActionError::dependency_refused(format!(
            "{name} has no model; install one, such as `ollama pull {}`, or set {setting}",
            self.provider.model_name
        ))
    }

    /// The provider's API cannot express the conversation.
    pub(super) fn unsupported(self, problem: Unsupported) -> ActionError {
        ActionError::invalid(format!("{}: {}", self.provider.name, problem.0))
    }

    /// A streamed answer did not begin in `limit`.
    pub(super) fn late(self, limit: Duration) -> ActionError {
        let (name, setting) = (self.provider.name, self.provider.setting("first_token_timeout_secs"));
        let (agent, limit) = (self.agent, limit.as_secs_f64());
        ActionError::timeout(format!(
            "{name} did not begin its answer within {limit:.1} s; if the model needs longer, raise {setting}, or \
             timeout_secs of [agents.{agent}], which the fallbacks share"
        ))
    }

    /// A streamed answer stopped for `limit`.
    pub(super) fn stalled(self, limit: Duration) -> ActionError {
        let (name, setting) = (self.provider.name, self.provider.setting("stall_timeout_secs"));
        let limit = limit.as_secs_f64();
        ActionError::timeout(format!(
            "{name} sent nothing for {limit:.1} s in the middle of its answer; if the model needs longer, raise {setting}"
        ))
    }

    pub(super) fn transport(self, error: TransportError) -> ActionError {
        let (kind, setting) = (self.provider.name, self.provider.setting("base_url"));
        let operator = ActionError::dependency_refused;
        match error {
            TransportError::NoClient => operator(
                "cannot build an HTTPS client; are root certificates (ca-certificates) installed?".into(),
            ),
            TransportError::Address => operator(format!("{setting} is not a valid URL")),
            TransportError::Key => {
                let hint = self.key_hint();
                operator(format!("the API key of {kind} contains characters that cannot be sent: {hint}"))
            }
            TransportError::Proxy(variable) => operator(format!("{variable} is not a proxy URL")),
            TransportError::ProxyKey(variable) => {
                operator(format!("the proxy in {variable} requires a user and a password, or other ones"))
            }
            TransportError::Certificate(what) => operator(format!(
                "the certificate of {kind} is rejected: {what}; check {setting}, or name the authority's certificate in \
                     SSL_CERT_FILE"
            )),
            TransportError::NoTls => operator(format!(
                "the server in {setting} does not speak TLS; write the address with http:// if that is intended"
            )),
            TransportError::Tls => {
                operator(format!("cannot establish a TLS connection to {kind}; check {setting}"))
            }
            TransportError::NoHttp => operator(format!(
                "the server in {setting} does not speak HTTP; if it speaks TLS, write the address with https://"
            )),
            TransportError::NoHost => {
                ActionError::new(503, format!("cannot resolve the host name of {kind}; check {setting}"))
            }
            TransportError::Unreachable(None) => {
                ActionError::new(503, format!("cannot connect to {kind}; check {setting} and the network"))
            }
            TransportError::Unreachable(Some(variable)) => ActionError::new(
                503,
                format!(
                    "cannot connect to {kind} through the proxy in {variable}; check both and the network"
                ),
            ),
            TransportError::Interrupted => {
                ActionError::new(503, format!("the connection to {kind} was interrupted"))
            }
            TransportError::TooLarge => {
                ActionError::new(502, format!("the response of {kind} exceeds {MAX_BODY_BYTES} bytes"))
            }
            TransportError::Timeout if self.is_own_limit => {
                let (setting, granted) = (self.provider.setting("timeout_secs"), self.granted.as_secs_f64());
                ActionError::timeout(format!(
                    "{kind} did not end its answer within {granted:.1} s; if the model needs longer, raise {setting}"
                ))
            }
            TransportError::Timeout => {
                let (agent, granted) = (self.agent, self.granted.as_secs_f64());
                ActionError::timeout(format!(
                    "{kind} did not answer within {granted:.1} s; if the model needs longer, raise timeout_secs of \
                             [agents.{agent}], or the caller's deadline if that is shorter"
                ))
            }
        }
    }

    /// The error behind a response with a status other than 2xx.
    pub(super) fn status(self, response: &HttpResponse) -> ActionError {
        self.rejected(response.head.status, &ErrorBody::read(&response.body), &response.head)
    }

    /// The error behind a 2xx response without a completion.
    pub(super) fn response(self, error: ResponseError, head: &Head) -> ActionError {
        let kind = self.provider.name;
        let backend = |problem: String| ActionError::new(502, problem + &request(head));
        match error {
            ResponseError::Malformed => backend(format!("the response of {kind} does not match its API")),
            ResponseError::Unfinished => {
                backend(format!("{kind} broke its answer off: the stream ended without a finish reason"))
            }
            ResponseError::TooLarge => backend(format!(
                "the streamed answer of {kind}, or one event of it, exceeds {MAX_EVENT_BYTES} bytes"
            )),
            ResponseError::Empty(reason) => {
                let reason = self.clean(&reason);
                ActionError::invalid(format!("{kind} returned no text (finish reason: {reason})"))
            }
            ResponseError::CutOff => ActionError::invalid(format!(
                "{kind} reached llm.max_tokens before it wrote an answer; raise llm.max_tokens"
            )),
            ResponseError::Declined(reason) => {
                let reason = self.clean(&reason);
                ActionError::invalid(format!("{kind} declined to answer this message: {reason}"))
            }
            ResponseError::Error { status, body } => self.rejected(status, &body, head),
        }
    }

    fn rejected(self, status: u16, body: &ErrorBody, head: &Head) -> ActionError {
        let (kind, base_url) = (self.provider.name, self.provider.setting("base_url"));
        let message = match self.clean(&body.message) {
            empty if empty.is_empty() => String::new(),
            message => format!(": {message}"),
        };
        let retry_after = head.retry_after.or(body.retry_after);
        let answer = head
            .request_id
            .as_ref()
            .map_or_else(|| status.to_string(), |id| format!("{status}, request {id}"));
        match status {
            401 => self.key_rejected(&answer, &message),
            400 | 403 if body.is_about_key => self.key_rejected(&answer, &message),
            402 => ActionError::dependency_refused(format!(
                "{kind} requires the account's balance to be settled ({answer}){message}"
            )),
            404 if message.is_empty() => {
                ActionError::new(404, format!("{kind} rejected the request ({answer}); check {base_url}"))
            }
            400 | 403 | 404 | 409 | 410 | 413..=415 | 422 | 451 => {
                ActionError::new(status, format!("{kind} rejected the request ({answer}){message}"))
            }
            408 | 504 => ActionError::timeout(format!("{kind} did not finish in time ({answer}){message}")),
            429 => ActionError::rate_limited(
                format!("{kind} is over its rate limit or quota ({answer}){message}"),
                retry_after,
            ),
            500..=599 if retry_after.is_some() => {
                ActionError::rate_limited(format!("{kind} has no capacity ({answer}){message}"), retry_after)
            }
            425 | 500..=599 => ActionError::new(503, format!("{kind} failed ({answer}){message}")),
            _ => ActionError::dependency_refused(format!(
                "{kind} answered {answer}; check {base_url}{message}"
            )),
        }
    }

    fn key_rejected(self, answer: &str, message: &str) -> ActionError {
        let hint = self.key_hint();
        ActionError::dependency_refused(format!(
            "{} rejected its API key ({answer}){message}; {hint}",
            self.provider.name
        ))
    }

    fn key_hint(self) -> String {
        let setting = self.provider.setting("api_key");
        match self.provider.kind.and_then(|kind| kind.key_variables().first()) {
            Some(variable) => format!("check {setting} or {variable}"),
            None => format!("check {setting}"),
        }
    }

    /// One short line without keys and control characters.
    fn clean(self, text: &str) -> String {
        let end = text.char_indices().nth(MAX_INPUT_CHARS).map_or(text.len(), |(end, _)| end);
        let text = match self.provider.api_key.map(Secret::expose) {
            Some(key) => redact(&text[..end], key),
            None => text[..end].to_owned(),
        };
        let text = text.replace(char::is_control, " ");
        shortened(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_MESSAGE_CHARS)
    }
}

/// The provider's name for the request, at the end of a message.
fn request(head: &Head) -> String {
    head.request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default()
}
