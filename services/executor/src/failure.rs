//! Failed attempts, and the error that a task ends with when its last attempt has failed.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use phoenix_domain::{
    AgentName, FailureClass, OrchestratorError, OrchestratorErrorCode,
    action::{DEPENDENCY_REFUSED, RATE_LIMITED},
    health::Outcome,
    rejections::agent_failure,
};

/// How much of an agent's own words goes into a message.
const MAX_SENTENCE_CHARS: usize = 500;

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptFailure {
    /// Decides about retries.
    pub(crate) class: FailureClass,
    /// What the agent did, as the rest of a sentence: "exited with code 3".
    pub(crate) deed: String,
    /// The end of its standard error.
    pub(crate) stderr: String,
    /// Its exit code, when it exited and had one.
    pub(crate) exit_code: Option<i32>,
    /// The code of its answer, when it answered.
    pub(crate) response_code: Option<u16>,
    /// When the same request may succeed, when it answered that a limit is used up.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the failure says nothing about the agent: the caller's own deadline passed, or no process received the
    /// request.
    pub(crate) neutral: bool,
}

impl AttemptFailure {
    pub(crate) fn new(class: FailureClass, deed: impl Into<String>) -> Self {
        Self {
            class,
            deed: deed.into(),
            stderr: String::new(),
            exit_code: None,
            response_code: None,
            retry_after: None,
            neutral: false,
        }
    }

    /// What the failure says about the agent's health.
    pub(crate) const fn outcome(&self) -> Outcome {
        if self.class.counts_against_agent() && !self.neutral { Outcome::Failure } else { Outcome::Neutral }
    }

    pub(crate) const fn neutral_if(mut self, neutral: bool) -> Self {
        self.neutral |= neutral;
        self
    }

    /// The process could not be started. The operating system's own words name no path.
    pub(crate) fn not_started(error: &io::Error) -> Self {
        let deed = match error.kind() {
            io::ErrorKind::NotFound => {
                "could not be started: its program, or the interpreter of it, was not found".into()
            }
            io::ErrorKind::PermissionDenied => "could not be started: its program may not be executed".into(),
            _ => format!("could not be started: {error}"),
        };
        Self::new(FailureClass::Io, deed)
    }

    /// It took longer than `limit`.
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::new(FailureClass::Timeout, format!("did not answer within {}", seconds(limit)))
    }

    /// It was still starting after `limit`, and was not handed the request.
    pub(crate) fn still_starting(limit: Duration) -> Self {
        let deed = format!("did not answer within {}: it is still starting", seconds(limit));
        Self::new(FailureClass::Timeout, deed).neutral_if(true)
    }

    /// It answered, but was still there after `limit`.
    pub(crate) fn did_not_exit(limit: Duration) -> Self {
        let deed = format!("answered, but did not exit within {}", seconds(limit));
        Self::new(FailureClass::Timeout, deed)
    }

    /// Its process ended with `status`.
    pub(crate) fn exited(status: ExitStatus) -> Self {
        let deed = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(signal) => format!("was ended by {signal}"),
                Err(_) => format!("was ended by signal {signal}"),
            },
            (None, None) => "ended in an unknown way".into(),
        };
        Self::new(FailureClass::BackendFailure, deed).with_exit(status)
    }

    pub(crate) fn with_exit(mut self, status: ExitStatus) -> Self {
        self.exit_code = status.code();
        self
    }

    pub(crate) fn with_stderr(mut self, stderr: String) -> Self {
        self.stderr = stderr;
        self
    }

    /// One sentence, for the journal.
    pub(crate) fn message(&self) -> String {
        format!("the agent {}", self.deed)
    }

    /// The error of a task whose last attempt failed like this. `attempts` counts all of the task's.
    pub(crate) fn into_error(self, agent: &AgentName, attempts: u32) -> OrchestratorError {
        let message = agent_failure(agent, attempts, &self.deed);
        self.error_with(message, agent, attempts)
    }

    /// The error of a task that has no time left for the attempt that should follow this failure. Its code is that of
    /// the failure: the lack of time is not what went wrong.
    pub(crate) fn into_deadline_error(self, agent: &AgentName, attempts: u32) -> OrchestratorError {
        let message = format!("agent `{agent}` {}; no time is left for another attempt", self.deed);
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
        error
    }
}

/// The beginning of what an agent says about itself.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(MAX_SENTENCE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// A time as a person says it.
pub(crate) fn seconds(time: Duration) -> String {
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
    fn an_error_tells_what_happened_and_how_often() {
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
            AttemptFailure::timed_out(Duration::from_millis(2500)).deed,
            "did not answer within 2.5 s"
        );
    }

    #[test]
    fn classes_become_the_codes_callers_know() {
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
        assert_eq!(sentence(&"ä".repeat(900)).chars().count(), MAX_SENTENCE_CHARS + 1);
    }
}
