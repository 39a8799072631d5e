//! The agent's side of the contract: lines in, lines out.
//!
//! Each line of input gets exactly one answer, in order, which an agent that streams precedes with chunks. A line that is no
//! request, a handler that fails and a handler that panics are answered as well; the loop ends with the input, or when the
//! reader of the output is gone. Standard output belongs to the protocol: diagnostics go to standard error.

mod output;

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
    json::{Json, Object},
    limits::{MAX_ANSWER_BYTES, MAX_FILLED_INPUT_BYTES},
    usage::{FAILED_CALLS, ModelCall},
};
use serde_json::Value;
use uuid::Uuid;

pub use self::output::Output;

/// Longest response in bytes, newline included: the limit of the executor.
pub const MAX_LINE_BYTES: usize = MAX_ANSWER_BYTES;

/// Longest request in bytes, without the newline: the largest input, its context and the rest of the line.
pub const MAX_REQUEST_LINE_BYTES: usize = MAX_FILLED_INPUT_BYTES + 2 * 1024 * 1024;

/// Handles requests. Closures implement it too.
pub trait Agent {
    /// Handles `request`. The loop echoes ids, encodes and flushes.
    ///
    /// # Errors
    /// The error that the caller gets instead of a result.
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError>;

    /// Handles `request`, and sends parts of the result to `output` as they come into being. The result is complete in any
    /// case. An agent that does not stream leaves this method as it is.
    ///
    /// # Errors
    /// As [`Self::handle`].
    fn stream(
        &mut self,
        request: &ActionRequest,
        output: &mut Output<'_>,
    ) -> Result<ActionResult, ActionError> {
        let _ = output;
        self.handle(request)
    }
}

impl<F> Agent for F
where
    F: FnMut(&ActionRequest) -> Result<ActionResult, ActionError>,
{
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        self(request)
    }
}

/// Reason why an action has no result. The code decides about retries by the executor:
/// [`phoenix_domain::FailureClass::of_response_code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ActionError {
    /// Code like an HTTP status; never 0.
    pub code: u16,
    /// One sentence for the reader of the error, without paths of this machine and without secrets.
    pub message: String,
    /// For code 429: wait after which the same request may succeed.
    pub retry_after: Option<Duration>,
    /// Calls of models that used tokens before the error.
    pub model_calls: Vec<ModelCall>,
}

impl ActionError {
    /// An error with any code.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, model_calls: Vec::new() }
    }

    /// 400: the request is invalid, or this installation cannot serve it. A retry does not help.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 500: the agent failed at something that should work. A retry may help.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// 501: the action is unknown; `known` lists the actions of the agent.
    #[must_use]
    pub fn unknown_action(action: &str, known: &[&str]) -> Self {
        let action = shortened(action, 64);
        Self::new(501, format!("unknown action `{action}`; known actions: {}", known.join(", ")))
    }

    /// 424: a service that the agent depends on rejects it, and a retry does not help.
    #[must_use]
    pub fn dependency_refused(message: impl Into<String>) -> Self {
        Self::new(DEPENDENCY_REFUSED, message)
    }

    /// 429: a limit is used up; `retry_after` is the wait until it is available again, if known.
    #[must_use]
    pub fn rate_limited(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..Self::new(RATE_LIMITED, message) }
    }

    /// 504: the deadline of the request passed.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, message)
    }
}

/// The moment at which the answer to `request`, which has just arrived, should be sent: shortly before the executor kills
/// the agent, so that a timeout is answered instead of ending the process.
#[must_use]
pub fn deadline(request: &ActionRequest) -> Instant {
    let granted = Duration::from_millis(request.meta.deadline_ms).min(Duration::from_secs(24 * 3600));
    Instant::now() + granted.saturating_sub((granted / 10).min(Duration::from_millis(250)))
}

/// Serves `agent` on standard input and output until the input ends.
#[must_use]
pub fn serve_stdio(agent: impl Agent) -> ExitCode {
    match serve(agent, io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // A failure to write to standard error cannot be reported anywhere.
            let _ = writeln!(io::stderr(), "agent: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every line of `input` on `output` until the input ends. A closed `output` ends it without an error.
///
/// # Errors
/// When `input` cannot be read, or `output` cannot be written for any other reason.
pub fn serve(mut agent: impl Agent, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    while let Some(length) = read_line(&mut input, &mut line)? {
        let response = match length {
            Length::Complete => match answer(&mut agent, &line, &mut output) {
                Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                answer => answer?,
            },
            Length::TooLong => invalid_line(
                &Value::Null,
                413,
                format!("a request is at most {MAX_REQUEST_LINE_BYTES} bytes"),
            ),
        };
        match output.write_all(&encode(&response)?).and_then(|()| output.flush()) {
            Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

enum Length {
    Complete,
    TooLong,
}

/// Reads one line without its newline into `line`; a line over the limit is truncated. `None` at the end of input. The last
/// line needs no newline.
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
    Ok(Some(Length::Complete))
}

/// The answer to `line`, after the chunks before it were written to `sink`.
fn answer(agent: &mut impl Agent, line: &[u8], sink: &mut impl Write) -> io::Result<ActionResponse> {
    let request: ActionRequest = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(problem) => {
            let fields = serde_json::from_slice(line).unwrap_or_default();
            let problem = shortened(&problem.to_string(), 256);
            return Ok(invalid_line(&fields, 400, format!("the line is not an action request: {problem}")));
        }
    };
    if request.api_version != API_VERSION {
        let version = shortened(&request.api_version, 64);
        let problem = format!("unsupported api_version `{version}`; this agent speaks `{API_VERSION}`");
        return Ok(ActionResponse::failure(&request, 400, problem));
    }
    let mut output = Output::of(&request, sink);
    // Unwind safety: a handler that panicked leaves its agent in a state that may be incomplete but is never unsound, and
    // serving the next request with it is better than ending the process.
    let result = panic::catch_unwind(AssertUnwindSafe(|| agent.stream(&request, &mut output)));
    output.into_failure().map_or(Ok(()), Err)?;
    Ok(match result {
        Ok(Ok(result)) => ActionResponse::success(&request, result),
        Ok(Err(ActionError { code, message, retry_after, model_calls })) => ActionResponse {
            metadata: failed_calls(&model_calls).into_iter().collect(),
            retry_after_ms: retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            ..ActionResponse::failure(&request, code, message)
        },
        Err(_) => ActionResponse::failure(&request, 500, "the agent panicked; its standard error says where"),
    })
}

/// The member of the metadata that lists `calls`, unless there are none.
pub(crate) fn failed_calls(calls: &[ModelCall]) -> Option<(String, Json)> {
    let listed = || Json::Array(calls.iter().map(ModelCall::to_json).collect());
    (!calls.is_empty()).then(|| (FAILED_CALLS.to_owned(), listed()))
}

/// The answer to a line that is no request, with the ids that the line contains and nil ids otherwise.
fn invalid_line(line: &Value, code: u16, error: String) -> ActionResponse {
    let id = |name: &str| line[name].as_str().and_then(|text| Uuid::try_parse(text).ok()).unwrap_or_default();
    ActionResponse {
        request_id: id("request_id"),
        api_version: API_VERSION.into(),
        status: ActionStatus::Error,
        code,
        result: None,
        error: Some(error),
        retry_after_ms: None,
        metadata: Object::new(),
        plan_id: id("plan_id").into(),
        task_id: id("task_id").into(),
        correlation_id: id("correlation_id").into(),
    }
}

/// One line, newline included. A response over the limit becomes an error that says so.
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
