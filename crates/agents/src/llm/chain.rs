//! The models that may answer a chat: the chosen one, and the fallbacks of the settings when it fails before its answer begins.
//!
//! A model that the chat names has no fallback: the caller gets that model, or its failure.
//!
//! An answer that broke off after its first piece fails the attempt, because what another model says must not be appended. The
//! executor's next attempt is announced to the caller as a new beginning (`output_reset`). Where the caller or the settings
//! allow it, it begins with the next model. Which one follows from the number of the attempt, so that it needs no memory: a
//! later attempt may reach another worker, another executor or another planner.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    FailureClass,
    action::ActionResult,
    llm::{LlmSettings, Provider},
};

use super::{
    clients::{Clients, Limits},
    conversation::Conversation,
    cost,
    exchange::{Exchange, Failure},
    result,
    wire::types::{Completion, Prompt},
};
use crate::protocol::{ActionError, Output};

/// A chat and the models for it.
pub(super) struct Chain<'a> {
    settings: &'a LlmSettings,
    targets: Vec<Provider<'a>>,
    conversation: &'a Conversation,
    /// Whether an answer that broke off may begin anew with the next model.
    is_allowed_after_output: bool,
}

impl<'a> Chain<'a> {
    pub(super) fn new(
        settings: &'a LlmSettings,
        first: Provider<'a>,
        conversation: &'a Conversation,
    ) -> Self {
        let mut targets = vec![first];
        if conversation.model.is_none() {
            for target in settings.fallback.iter().filter_map(|name| settings.target(name)) {
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
        let is_allowed = conversation.fallback_after_output.unwrap_or(settings.fallback_after_output);
        Self { settings, is_allowed_after_output: is_allowed && targets.len() > 1, targets, conversation }
    }

    /// The chain of this attempt (1 is the first): where a streamed answer may begin anew, each one begins with the next model.
    pub(super) fn of_attempt(mut self, attempt: u32, is_streamed: bool) -> Self {
        if self.is_allowed_after_output && is_streamed {
            let before = usize::try_from(attempt.saturating_sub(1)).unwrap_or_default();
            let first = before % self.targets.len();
            self.targets.rotate_left(first);
        }
        self
    }

    /// The answer of the first model that begins one.
    pub(super) fn run(
        self,
        clients: &mut Clients,
        limits: Limits<'_>,
        output: &mut Output<'_>,
    ) -> Result<ActionResult, ActionError> {
        cost::prepare();
        let mut failed: Vec<(Provider<'_>, ActionError)> = Vec::new();
        for (index, target) in self.targets.iter().enumerate() {
            let remaining = self.targets.len() - index;
            // The last one is asked in any case: there is no other.
            let admitted = match clients.breakers.admit(target.name, Timestamp::now()) {
                Err(wait) if remaining > 1 => {
                    let error = passed_over(*target, wait);
                    log(&error.message);
                    failed.push((*target, error));
                    continue;
                }
                admitted => admitted.unwrap_or_default(),
            };
            let time = Self::share(remaining, limits);
            let asked_at = Instant::now();
            let asked = self.ask(*target, time, clients, limits, output);
            let ended = asked.as_ref().map(drop).map_err(|failure| failure.error.code);
            clients.breakers.record(target.name, admitted, ended, time, Timestamp::now());
            match asked {
                Ok(completion) => {
                    return Ok(result::of(
                        *target,
                        completion,
                        &self.conversation.options,
                        &failed,
                        asked_at.elapsed(),
                    ));
                }
                Err(Failure { error, has_begun }) => {
                    let is_final = has_begun || remaining == 1 || !may_succeed_elsewhere(error.code);
                    if is_final || Instant::now() >= limits.until {
                        let error = if has_begun { self.broken_off(index, error) } else { error };
                        return Err(last(error, &failed));
                    }
                    log(&format!("{} failed before its answer: {}", target.target(), error.message));
                    failed.push((*target, error));
                }
            }
        }
        Err(ActionError::internal("no model is configured"))
    }

    /// The error of an answer that broke off. Where another model may begin it anew, the executor is to repeat the attempt also
    /// after an error that is final otherwise, such as a rate limit.
    fn broken_off(&self, index: usize, error: ActionError) -> ActionError {
        if !self.is_allowed_after_output || !may_succeed_elsewhere(error.code) {
            return error;
        }
        let next = self.targets[(index + 1) % self.targets.len()];
        let message = format!("{}; the next attempt begins with {}", error.message, next.target());
        let is_repeated = FailureClass::of_response_code(error.code).is_retried();
        ActionError { code: if is_repeated { error.code } else { 503 }, message, retry_after: None, ..error }
    }

    /// Time for a model to begin its answer: each of those that remain gets its share.
    fn share(remaining: usize, limits: Limits<'_>) -> Duration {
        let left = limits.until.saturating_duration_since(Instant::now());
        let share = u32::try_from(remaining).ok().and_then(|remaining| left.checked_div(remaining));
        share.unwrap_or(left)
    }

    fn ask(
        &self,
        provider: Provider<'_>,
        time: Duration,
        clients: &mut Clients,
        limits: Limits<'_>,
        output: &mut Output<'_>,
    ) -> Result<Completion, Failure> {
        let errors = limits.errors(provider);
        if provider.lacks_key() {
            return Err(errors.no_key().into());
        }
        let system = [self.settings.system_prompt.as_deref().unwrap_or_default(), &self.conversation.context]
            .into_iter()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n\n");
        let prompt = Prompt {
            system: &system,
            messages: &self.conversation.messages,
            options: &self.conversation.options,
            max_tokens: self.conversation.max_tokens(self.settings.max_tokens.get()),
            is_streamed: output.is_wanted(),
        };
        let begin_until = Instant::now() + time;
        let exchange = Exchange { provider, prompt: &prompt, errors, until: limits.until, begin_until };
        exchange.run(clients.client(provider, errors)?, output)
    }
}

/// The error of a provider that was not asked.
fn passed_over(target: Provider<'_>, wait: Duration) -> ActionError {
    let seconds = wait.as_secs().max(1);
    let message = format!(
        "{} was passed over: {} failed several times in a row and is asked again in {seconds} s",
        target.target(),
        target.name
    );
    ActionError::new(503, message)
}

/// Whether another model may answer what one failed at: not a request that is wrong, nor a message that was declined.
const fn may_succeed_elsewhere(code: u16) -> bool {
    matches!(code, 404 | 408 | 409 | 410 | 424 | 425 | 429 | 500..)
}

/// The failure of the last model, with those before it.
fn last(error: ActionError, failed: &[(Provider<'_>, ActionError)]) -> ActionError {
    if failed.is_empty() {
        return error;
    }
    let before = failed.iter().map(|(target, error)| format!("{}: {}", target.target(), error.message));
    let before = before.collect::<Vec<_>>().join("; ");
    let message = format!("{}; before it failed {before}", error.message);
    let used_before = failed.iter().flat_map(|(_, error)| error.model_calls.iter().cloned());
    let model_calls = used_before.chain(error.model_calls.iter().cloned()).collect();
    ActionError { message, model_calls, ..error }
}

/// Writes a line to standard error, which the executor logs.
fn log(line: &str) {
    // Without a reader, the answer still names the model that failed.
    let _ = writeln!(io::stderr(), "llm: {line}");
}
