//! The agent's side of the contract: lines in, lines out.
//!
//! One line of input gets exactly one line of output, whatever is on it, in order. A line that is no request, a handler
//! that fails and a handler that panics are all answers; the loop ends when the input does, or when nobody reads the
//! output any more. Standard output belongs to the protocol: an agent that has something to say besides writes to
//! standard error.

use std::{
    io::{self, BufRead, Read, Write},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::{Duration, Instant},
};

use phoenix_domain::{
    action::{
        API_VERSION, ActionRequest, ActionResponse, ActionResult, ActionStatus, DEPENDENCY_REFUSED,
        RATE_LIMITED,
    },
    limits::{MAX_ANSWER_BYTES, MAX_FILLED_INPUT_BYTES},
};
use serde_json::Value;
use uuid::Uuid;

/// The longest answer, in bytes with the newline: what the executor reads at most.
pub const MAX_LINE_BYTES: usize = MAX_ANSWER_BYTES;

/// The longest request, in bytes without the newline: the largest input, its context and the rest of the line.
pub const MAX_REQUEST_LINE_BYTES: usize = MAX_FILLED_INPUT_BYTES + 2 * 1024 * 1024;

/// What an agent does with a request. Closures are agents too.
pub trait Agent {
    /// Does what `request` asks for. The loop echoes ids, encodes and flushes.
    ///
    /// # Errors
    /// What the caller is told instead of a result.
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError>;
}

impl<F> Agent for F
where
    F: FnMut(&ActionRequest) -> Result<ActionResult, ActionError>,
{
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        self(request)
    }
}

/// Why an action gave no result. The code decides whether the executor tries again:
/// [`phoenix_domain::FailureClass::of_response_code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ActionError {
    /// Like an HTTP status; never 0.
    pub code: u16,
    /// One sentence for the person who reads it: no path of this machine, no secret.
    pub message: String,
    /// Of a 429: when the same request may succeed.
    pub retry_after: Option<Duration>,
}

impl ActionError {
    /// An error with any code.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// 400: the request is wrong, or this installation can't serve it. Trying again will not help.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 500: the agent failed at something that should have worked. Trying again may help.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// 501: there is no such action; `known` are those there are.
    #[must_use]
    pub fn unknown_action(action: &str, known: &[&str]) -> Self {
        let action = shortened(action, 64);
        Self::new(501, format!("unknown action `{action}`; known actions: {}", known.join(", ")))
    }

    /// 424: a service that the agent depends on refuses it, and another attempt does not change that.
    #[must_use]
    pub fn dependency_refused(message: impl Into<String>) -> Self {
        Self::new(DEPENDENCY_REFUSED, message)
    }

    /// 429: a limit is used up; `retry_after` is when it no longer is, if that is known.
    #[must_use]
    pub fn rate_limited(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..Self::new(RATE_LIMITED, message) }
    }

    /// 504: the request's time is over.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, message)
    }
}

/// The moment by which an answer to `request`, which has just arrived, should be under way: a little before the executor
/// kills the agent, so that "it took too long" is an answer and not a dead process.
#[must_use]
pub fn deadline(request: &ActionRequest) -> Instant {
    let granted = Duration::from_millis(request.meta.deadline_ms).min(Duration::from_secs(24 * 3600));
    Instant::now() + granted.saturating_sub((granted / 10).min(Duration::from_millis(250)))
}

/// Is `agent` on standard input and output until the input ends.
#[must_use]
pub fn serve_stdio(agent: impl Agent) -> ExitCode {
    match serve(agent, io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Standard error may be gone as well; there is nobody left to tell.
            let _ = writeln!(io::stderr(), "agent: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every line of `input` on `output` until the input ends. A reader that closed `output` ends it quietly.
///
/// # Errors
/// `input` can't be read, or `output` can't be written for any other reason.
pub fn serve(mut agent: impl Agent, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    while let Some(length) = read_line(&mut input, &mut line)? {
        let response = match length {
            Length::Whole => answer(&mut agent, &line),
            Length::TooLong => {
                refusal(&Value::Null, 413, format!("a request is at most {MAX_REQUEST_LINE_BYTES} bytes"))
            }
        };
        match output.write_all(&encode(&response)?).and_then(|()| output.flush()) {
            Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

enum Length {
    Whole,
    TooLong,
}

/// Reads one line without its end into `line`; of a line that is too long only the beginning is kept. `None` when the
/// input is over. The last line need not end in a newline.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<Length>> {
    line.clear();
    let limit = MAX_REQUEST_LINE_BYTES as u64 + 1;
    if input.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() && line.len() > MAX_REQUEST_LINE_BYTES {
        input.skip_until(b'\n')?;
        return Ok(Some(Length::TooLong));
    }
    Ok(Some(Length::Whole))
}

fn answer(agent: &mut impl Agent, line: &[u8]) -> ActionResponse {
    let request: ActionRequest = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(problem) => {
            let whatever = serde_json::from_slice(line).unwrap_or_default();
            let problem = shortened(&problem.to_string(), 256);
            return refusal(&whatever, 400, format!("the line is not an action request: {problem}"));
        }
    };
    if request.api_version != API_VERSION {
        let theirs = shortened(&request.api_version, 64);
        let problem = format!("this agent speaks api_version `{API_VERSION}`, not `{theirs}`");
        return ActionResponse::failure(&request, 400, problem);
    }
    // Unwind safety: a handler that panicked may leave its agent in a state of its own making, never in one that is
    // unsound, and the next request is better served by it than by a dead process.
    match panic::catch_unwind(AssertUnwindSafe(|| agent.handle(&request))) {
        Ok(Ok(result)) => ActionResponse::success(&request, result),
        Ok(Err(ActionError { code, message, retry_after })) => ActionResponse {
            retry_after_ms: retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            ..ActionResponse::failure(&request, code, message)
        },
        Err(_) => ActionResponse::failure(&request, 500, "the agent panicked; its standard error says where"),
    }
}

/// The answer to a line that is no request: with the ids that can be found on it, and nil ids for the rest.
fn refusal(line: &Value, code: u16, error: String) -> ActionResponse {
    let id = |name: &str| line[name].as_str().and_then(|text| Uuid::try_parse(text).ok()).unwrap_or_default();
    ActionResponse {
        request_id: id("request_id"),
        api_version: API_VERSION.into(),
        status: ActionStatus::Error,
        code,
        result: None,
        error: Some(error),
        retry_after_ms: None,
        plan_id: id("plan_id").into(),
        task_id: id("task_id").into(),
        correlation_id: id("correlation_id").into(),
    }
}

/// One line, newline included. An answer that is too long for the executor becomes an error that says so.
fn encode(response: &ActionResponse) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(response)?;
    if line.len() >= MAX_LINE_BYTES {
        let error = format!("the answer is {} bytes long; at most {MAX_LINE_BYTES} can be sent", line.len());
        line = serde_json::to_vec(&ActionResponse {
            status: ActionStatus::Error,
            code: 413,
            result: None,
            error: Some(error),
            ..response.clone()
        })?;
    }
    line.push(b'\n');
    Ok(line)
}

/// At most the first `limit` characters of `text`.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
