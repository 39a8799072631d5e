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

use phoenix_domain::llm::{Provider, ProviderKind, Secret};

use super::{
    error_body::ErrorBody,
    http::{HttpResponse, MAX_BODY_BYTES, TransportError},
    redact::redact,
    wire::types::ResponseError,
};
use crate::protocol::{ActionError, shortened};

const MAX_MESSAGE_CHARS: usize = 240;

/// Longest part of a provider's message that is processed.
const MAX_INPUT_CHARS: usize = 16 * 1024;

/// Errors of requests to one provider.
#[derive(Clone, Copy)]
pub(super) struct ProviderErrors<'a> {
    kind: ProviderKind,
    key: Option<&'a str>,
    /// Name of the agent in the configuration.
    agent: &'a str,
    /// Time of the attempt.
    granted: Duration,
}

impl<'a> ProviderErrors<'a> {
    pub(super) fn of(provider: Provider<'a>, agent: &'a str, granted: Duration) -> Self {
        Self { kind: provider.kind, key: provider.api_key.map(Secret::expose), agent, granted }
    }

    pub(super) fn no_key(self) -> ActionError {
        let hint = self.key_hint();
        ActionError::dependency_refused(format!("{} has no API key: {hint}", self.kind))
    }

    /// The provider has no model.
    pub(super) fn no_model(self) -> ActionError {
        let kind = self.kind;
        ActionError::dependency_refused(format!(
            "{kind} has no model; install one, such as `ollama pull {}`, or set llm.{kind}.model_name",
            kind.default_model()
        ))
    }

    pub(super) fn transport(self, error: TransportError) -> ActionError {
        let (kind, setting) = (self.kind, format!("llm.{}.base_url", self.kind));
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
        self.rejected(response.status, &ErrorBody::read(&response.body), response.retry_after)
    }

    /// The error behind a 2xx response without a completion.
    pub(super) fn response(self, error: ResponseError, response: &HttpResponse) -> ActionError {
        let kind = self.kind;
        match error {
            ResponseError::Malformed => {
                ActionError::new(502, format!("the response of {kind} does not match its API"))
            }
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
            ResponseError::Error { status, body } => self.rejected(status, &body, response.retry_after),
        }
    }

    fn rejected(self, status: u16, body: &ErrorBody, retry_after: Option<Duration>) -> ActionError {
        let kind = self.kind;
        let message = match self.clean(&body.message) {
            empty if empty.is_empty() => String::new(),
            message => format!(": {message}"),
        };
        let retry_after = retry_after.or(body.retry_after);
        match status {
            401 => self.key_rejected(status, &message),
            400 | 403 if body.is_about_key => self.key_rejected(status, &message),
            402 => ActionError::dependency_refused(format!(
                "{kind} requires the account's balance to be settled (402){message}"
            )),
            404 if message.is_empty() => {
                ActionError::new(404, format!("{kind} rejected the request (404); check llm.{kind}.base_url"))
            }
            400 | 403 | 404 | 409 | 410 | 413..=415 | 422 | 451 => {
                ActionError::new(status, format!("{kind} rejected the request ({status}){message}"))
            }
            408 | 504 => ActionError::timeout(format!("{kind} did not finish in time ({status}){message}")),
            429 => ActionError::rate_limited(
                format!("{kind} is over its rate limit or quota (429){message}"),
                retry_after,
            ),
            500..=599 if retry_after.is_some() => {
                ActionError::rate_limited(format!("{kind} has no capacity ({status}){message}"), retry_after)
            }
            425 | 500..=599 => ActionError::new(503, format!("{kind} failed ({status}){message}")),
            _ => ActionError::dependency_refused(format!(
                "{kind} answered {status}; check llm.{kind}.base_url{message}"
            )),
        }
    }

    fn key_rejected(self, status: u16, message: &str) -> ActionError {
        let hint = self.key_hint();
        ActionError::dependency_refused(format!(
            "{} rejected its API key ({status}){message}; {hint}",
            self.kind
        ))
    }

    fn key_hint(self) -> String {
        let kind = self.kind;
        match kind.key_variables().first() {
            Some(variable) => format!("check llm.{kind}.api_key or {variable}"),
            None => format!("check llm.{kind}.api_key"),
        }
    }

    /// One short line without keys and control characters.
    fn clean(self, text: &str) -> String {
        let end = text.char_indices().nth(MAX_INPUT_CHARS).map_or(text.len(), |(end, _)| end);
        let text = match self.key {
            Some(key) => redact(&text[..end], key),
            None => text[..end].to_owned(),
        };
        let text = text.replace(char::is_control, " ");
        shortened(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_MESSAGE_CHARS)
    }
}
