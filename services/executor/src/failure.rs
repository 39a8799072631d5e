//! Failed attempts, and the error that a task ends with when its last attempt has failed.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use phoenix_domain::{
    AgentName, FailureClass, OrchestratorError, OrchestratorErrorCode,
    action::{DEPENDENCY_REFUSED, RATE_LIMITED},
    health::Outcome,
    questions::{self, Questions},
    rejections::agent_failure,
    usage::ModelCall,
};

/// Longest part of an agent's own message that is quoted.
const MAX_MESSAGE_CHARS: usize = 500;

/// Reason why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptFailure {
    /// Class, which decides about retries.
    pub(crate) class: FailureClass,
    /// What happened, as the predicate of a sentence about the agent: "exited with code 3".
    pub(crate) description: String,
    /// End of the standard error.
    pub(crate) stderr: String,
    /// Exit code, if the process exited with one.
    pub(crate) exit_code: Option<i32>,
    /// Code of the response, if there was one.
    pub(crate) response_code: Option<u16>,
    /// Wait after which the same request may succeed, if the response asked for it.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the failure is no evidence about the agent: the caller's own deadline passed, or no process received the
    /// request.
    pub(crate) neutral: bool,
    /// Calls of models that used tokens before the failure.
    pub(crate) model_calls: Vec<ModelCall>,
    /// Whether another attempt might repeat an effect of this one, and is not made.
    pub(crate) may_have_effect: bool,
    /// Questions of the agent, with whose answers it is to be called again.
    pub(crate) questions: Option<Box<Questions>>,
}

impl AttemptFailure {
    pub(crate) fn new(class: FailureClass, description: impl Into<String>) -> Self {
        Self {
            class,
            description: description.into(),
            stderr: String::new(),
            exit_code: None,
            response_code: None,
            retry_after: None,
            neutral: false,
            model_calls: Vec::new(),
            may_have_effect: false,
            questions: None,
        }
    }

    /// Outcome that the failure is reported as.
    pub(crate) const fn outcome(&self) -> Outcome {
        if self.class.counts_against_agent() && !self.neutral { Outcome::Failure } else { Outcome::Neutral }
    }

    pub(crate) const fn neutral_if(mut self, neutral: bool) -> Self {
        self.neutral |= neutral;
        self
    }

    /// The process could not be started. The operating system's message contains no path.
    pub(crate) fn not_started(error: &io::Error) -> Self {
        let description = match error.kind() {
            io::ErrorKind::NotFound => {
                "could not be started: its program, or the interpreter of it, was not found".into()
            }
            io::ErrorKind::PermissionDenied => "could not be started: its program may not be executed".into(),
            _ => format!("could not be started: {error}"),
        };
        Self::new(FailureClass::Io, description)
    }

    /// The process did not answer within `limit`.
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::new(FailureClass::Timeout, format!("did not answer within {}", format_duration(limit)))
    }

    /// The process was still starting after `limit` and did not receive the request.
    pub(crate) fn still_starting(limit: Duration) -> Self {
        let description = format!("did not answer within {}: it is still starting", format_duration(limit));
        Self::new(FailureClass::Timeout, description).neutral_if(true)
    }

    /// The process answered and was still running after `limit`.
    pub(crate) fn did_not_exit(limit: Duration) -> Self {
        let description = format!("answered, but did not exit within {}", format_duration(limit));
        Self::new(FailureClass::Timeout, description)
    }

    /// The process ended with `status`.
    pub(crate) fn exited(status: ExitStatus) -> Self {
        let description = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(signal) => format!("was ended by {signal}"),
                Err(_) => format!("was ended by signal {signal}"),
            },
            (None, None) => "ended in an unknown way".into(),
        };
        Self::new(FailureClass::BackendFailure, description).with_exit(status)
    }

    pub(crate) fn with_exit(mut self, status: ExitStatus) -> Self {
        self.exit_code = status.code();
        self
    }

    pub(crate) fn with_stderr(mut self, stderr: String) -> Self {
        self.stderr = stderr;
        self
    }

    /// The failure as one sentence, for the journal.
    pub(crate) fn message(&self) -> String {
        format!("the agent {}", self.description)
    }

    /// The error of a task whose last attempt failed like this. `attempts` counts all attempts of the task.
    pub(crate) fn into_error(self, agent: &AgentName, attempts: u32) -> OrchestratorError {
        let message = agent_failure(agent, attempts, &self.description);
        self.error_with(message, agent, attempts)
    }

    /// The error of a task that has no time left for the attempt that would follow this failure. Its code is that of the
    /// failure, which is the cause.
    pub(crate) fn into_deadline_error(self, agent: &AgentName, attempts: u32) -> OrchestratorError {
        let message = format!("agent `{agent}` {}; no time is left for another attempt", self.description);
        self.error_with(message, agent, attempts)
    }

    const fn code(&self) -> OrchestratorErrorCode {
        match (self.class, self.response_code) {
            (FailureClass::InvalidRequest, Some(RATE_LIMITED)) => OrchestratorErrorCode::Overloaded,
            (FailureClass::InvalidRequest, Some(DEPENDENCY_REFUSED)) => {
                OrchestratorErrorCode::ExecutionFailed
            }
            (FailureClass::InvalidRequest, _) => OrchestratorErrorCode::ValidationFailed,
            (FailureClass::ActionNotSupported, _) => OrchestratorErrorCode::PlanningFailed,
            (FailureClass::Timeout, _) => OrchestratorErrorCode::Timeout,
            (FailureClass::Io | FailureClass::BackendFailure, _) => OrchestratorErrorCode::ExecutionFailed,
        }
    }

    fn error_with(self, message: String, agent: &AgentName, attempts: u32) -> OrchestratorError {
        let code = self.code();
        let mut error = OrchestratorError::new(code, message)
            .with_detail("agent", agent)
            .with_detail("attempts", attempts)
            .with_detail("error_class", self.class.as_str());
        if !self.stderr.is_empty() {
            error = error.with_detail("stderr", self.stderr);
        }
        if let Some(code) = self.exit_code {
            error = error.with_detail("exit_code", code);
        }
        if let Some(code) = self.response_code {
            error = error.with_detail("response_code", code);
        }
        if let Some(after) = self.retry_after.filter(|_| code == OrchestratorErrorCode::Overloaded) {
            error = error.with_retry_after(after);
        }
        match self.questions {
            Some(questions) => {
                error.with_detail(questions::DETAIL, Questions { attempts, ..*questions }.to_json())
            }
            None => error,
        }
    }
}

/// The beginning of an agent's own message.
pub(crate) fn truncate_message(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// A duration in seconds or milliseconds, such as `2.5 s`.
pub(crate) fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{} s", (seconds * 10.0).round() / 10.0)
    } else {
        format!("{} ms", time.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_error_names_cause_attempts_and_details() {
        let agent = "git_agent".parse().unwrap();
        let failure = AttemptFailure::exited(ExitStatus::from_raw(3 << 8)).with_stderr("boom".into());
        let once = failure.clone().into_error(&agent, 1);
        assert_eq!(once.to_string(), "execution_failed: agent `git_agent` exited with code 3");
        let details: Vec<_> = once.details.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            details,
            ["agent=git_agent", "attempts=1", "error_class=backend_failure", "exit_code=3", "stderr=boom"]
        );
        assert!(failure.into_error(&agent, 3).message.contains("failed 3 times; the last time it exited"));
        let killed = AttemptFailure::exited(ExitStatus::from_raw(9));
        assert_eq!((killed.message().as_str(), killed.exit_code), ("the agent was ended by SIGKILL", None));
        assert_eq!(
            AttemptFailure::timed_out(Duration::from_millis(2500)).description,
            "did not answer within 2.5 s"
        );
    }

    #[test]
    fn failure_classes_map_to_error_codes() {
        let agent = "a".parse().unwrap();
        for (class, code) in [
            (FailureClass::InvalidRequest, OrchestratorErrorCode::ValidationFailed),
            (FailureClass::ActionNotSupported, OrchestratorErrorCode::PlanningFailed),
            (FailureClass::Timeout, OrchestratorErrorCode::Timeout),
            (FailureClass::Io, OrchestratorErrorCode::ExecutionFailed),
            (FailureClass::BackendFailure, OrchestratorErrorCode::ExecutionFailed),
        ] {
            let failure = AttemptFailure::new(class, "x");
            assert_eq!(failure.clone().into_deadline_error(&agent, 1).code, code);
            assert_eq!(failure.into_error(&agent, 1).code, code);
        }
        assert_eq!(truncate_message(&"ä".repeat(900)).chars().count(), MAX_MESSAGE_CHARS + 1);
    }
}
