//! Mode `mcp`: one process, or one address, that is a server of the [Model Context Protocol](https://modelcontextprotocol.io), whose tools are
//! the actions of the agent.
//!
//! ```text
//!  Mcp::run ──▶ connection.rs ◀──▶ session.rs ◀── pipes ──▶ process
//!  an attempt   requests by id     lines          │
//!                     ▲                           │
//!                     └── server.rs: start, handshake, tools, pings, restart
//! ```
//!
//! A server at an address has `remote.rs` instead of a session and a process: each request is a `POST`. `handshake.rs` finds out
//! which era of the protocol it speaks.
//!
//! The process starts with the executor, because its tools are part of the catalog, and is started again whenever it ends, with
//! the backoff of crashing workers. Many attempts use it at the same time. A request whose response is late, invalid or too
//! long fails alone; a process that does not read, writes only noise, or answers no ping is restarted.
//!
//! A tool may have effects, and a call cannot be undone. Therefore an attempt whose request may have been read is retried only
//! if the server says that its tool is read-only or idempotent. The same holds for a task that is sent again after its executor or
//! planner was lost, as far as the planner knows that an attempt had started.

mod connection;
mod elicitation;
mod events;
mod handshake;
mod lines;
mod listing;
mod message;
mod pages;
mod questions;
mod remote;
mod result;
mod server;
mod session;
mod tools;

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use phoenix_domain::{
    ActionLimits, AgentSpec, FailureClass,
    action::{ActionRequest, ActionResult},
    json::{Json, Object},
    questions::{MEMBER, Questions},
};
use phoenix_platform::readiness::Readiness;
use tokio::time::sleep_until;

use self::{
    connection::{CALL_TOOL, Call, LostResponse, Response},
    elicitation::{Answers, Asked},
    message::{INVALID_PARAMS, object},
    questions::Continuation,
    remote::Remote,
    server::{Process, Server, Transport},
    tools::{Selected, Tool},
};
use super::{
    attempt::{AgentRunner, Attempt},
    crash_backoff::CrashBackoff,
};
use crate::{
    cleanup::Cleanup, failure::AttemptFailure, metrics::AgentMetrics, process::Program, published::Publish,
    redact::Redactor,
};

/// Pause before a call that the server wants to be made again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Runs one agent in this mode.
pub(crate) struct Mcp {
    server: Arc<Server>,
    redactor: Arc<Redactor>,
}

impl Mcp {
    /// The server of `spec`, which is started as soon as the executor is ready. `publish` receives its tools.
    pub(crate) fn start(
        spec: &AgentSpec,
        program: Program,
        redactor: Arc<Redactor>,
        metrics: &AgentMetrics,
        publish: Publish,
        readiness: Readiness,
        cleanup: &Cleanup,
    ) -> Self {
        let crashes = CrashBackoff::new(spec.name.clone(), metrics);
        let restarts = metrics.restarts.clone();
        let remote = spec.mcp.as_ref().and_then(|settings| settings.remote.as_ref());
        let transport = match remote {
            Some(settings) => Transport::Remote(Remote::new(settings).map(Arc::new)),
            None => Transport::Process(program),
        };
        let server = Server::new(spec, transport, Arc::clone(&redactor), crashes, restarts, publish);
        let server = Arc::new(server);
        cleanup.spawn(Arc::clone(&server).supervise(readiness, cleanup.clone()));
        Self { server, redactor }
    }

    async fn run_attempt(&self, attempt: &mut Attempt<'_>) -> Result<ActionResult, AttemptFailure> {
        let mut input = Cow::Borrowed(&attempt.request.payload);
        let answers = if input.contains_key(MEMBER) { Questions::take(input.to_mut()) } else { None };
        let given = answers.as_ref().and_then(Answers::of);
        let mut continuation = match (&answers, &given) {
            (Some(answers), None) => Continuation::answered(answers),
            _ => Continuation::default(),
        };
        let mut given = given.unwrap_or_default();
        loop {
            let process = self.server.ready(attempt).await?;
            let tools = process.tools();
            let Selected { name, tool, arguments } = tools.select(&attempt.request.action, &input)?;
            if attempt.follows_lost_dispatch && !tool.is_repeatable {
                return Err(may_have_been_called(name));
            }
            attempt.report_start(process.pid);
            let params =
                |id| continuation.added_to(call_params(&*attempt.request, id, &tool.name, arguments));
            // A process that has just ended gets no request.
            let Ok(mut call) = process.connection.call(CALL_TOOL, params) else { continue };
            let response = match wait(&mut call, &mut given, attempt, &self.redactor).await {
                Ok(response) => response,
                Err((asked, question)) => {
                    call.end_with(asked);
                    return Err(question);
                }
            };
            match response {
                // The next process gets it. Without one the attempt has failed, and can be repeated.
                Some(Err(LostResponse { was_written: false, .. })) if process.pid.is_some() => {}
                Some(Err(LostResponse { was_written: false, failure })) => return Err(failure),
                Some(response) => match self.read(response, name, tool, &process)? {
                    Answer::Result(result) => return Ok(result),
                    Answer::Again(state) => {
                        continuation = continuation.again(state)?;
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                },
                None => {
                    let was_written = call.was_written();
                    call.doubt_server();
                    return Err(repeatable(
                        AttemptFailure::timed_out(attempt.limit),
                        was_written,
                        name,
                        tool,
                    ));
                }
            }
        }
    }

    fn read(
        &self,
        response: Response,
        name: &str,
        tool: &Tool,
        process: &Process,
    ) -> Result<Answer, AttemptFailure> {
        let failure = match response {
            Ok(Ok(result)) if questions::is_input_required(&result) => {
                match questions::read(&result, &self.redactor) {
                    Ok(state) => return Ok(Answer::Again(state)),
                    Err(failure) => failure,
                }
            }
            Ok(Ok(result)) => match result::read(result, tool, &self.redactor) {
                Ok(result) => return Ok(Answer::Result(result)),
                Err(failure) => failure,
            },
            Ok(Err(error)) => {
                if error.code == INVALID_PARAMS {
                    // The tool may be gone.
                    process.connection.tools_changed.notify_one();
                }
                result::failure(&error, &self.redactor)
            }
            Err(LostResponse { failure, .. }) => failure,
        };
        Err(repeatable(failure, true, name, tool))
    }
}

/// What follows from a response that is no failure.
enum Answer {
    Result(ActionResult),
    /// The call is to be made again at once, with this state.
    Again(String),
}

impl AgentRunner for Mcp {
    fn run<'a>(
        &'a self,
        attempt: &'a mut Attempt<'_>,
    ) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.run_attempt(attempt))
    }

    fn limits_of(&self, action: &str) -> ActionLimits {
        self.server.limits_of(action)
    }
}

/// Waits for the response to `call` until the deadline of `attempt`, passes on reports of progress, and answers questions as `given`
/// says.
///
/// # Errors
/// A question without an answer, and the failure that it is.
async fn wait(
    call: &mut Call,
    given: &mut Answers,
    attempt: &Attempt<'_>,
    redactor: &Redactor,
) -> Result<Option<Response>, (Asked, AttemptFailure)> {
    let mut progress = call.progress.clone();
    loop {
        tokio::select! {
            biased;
            () = sleep_until(attempt.deadline) => return Ok(None),
            Ok(()) = progress.changed() => {
                let report = progress.borrow_and_update().clone();
                report.into_iter().for_each(|report| attempt.push_progress(report));
            }
            next = call.next() => match next {
                Ok(response) => return Ok(Some(response)),
                Err(asked) => match given.respond(&asked, redactor) {
                    Ok(answer) => call.answer(asked, answer),
                    Err(question) => return Err((asked, question)),
                },
            },
        }
    }
}

/// The failure of a call of `tool`, which is final if a second call might repeat the effect of the first.
fn repeatable(failure: AttemptFailure, was_written: bool, name: &str, tool: &Tool) -> AttemptFailure {
    if !was_written || tool.is_repeatable || !failure.class.is_retried() {
        return failure;
    }
    let description =
        format!("{}; the call of `{name}` may have had an effect, and is not repeated", failure.description);
    AttemptFailure { description, may_have_effect: true, ..failure }
}

/// The failure of a task that was sent again because its executor or its planner was lost.
fn may_have_been_called(name: &str) -> AttemptFailure {
    let description = format!(
        "was called before contact with it was lost; the call of `{name}` may have had an effect, and is not repeated"
    );
    let failure = AttemptFailure::new(FailureClass::Io, description).neutral_if(true);
    AttemptFailure { may_have_effect: true, ..failure }
}

/// The parameters of `tools/call`.
fn call_params(request: &ActionRequest, id: u64, tool: &str, arguments: Object) -> Object {
    let mut meta = object([("phoenix/idempotency_key", request.meta.idempotency_key.as_str().into())]);
    if let Some(traceparent) = &request.meta.traceparent {
        meta.insert("traceparent".into(), Json::from(traceparent.as_str()));
    }
    if request.meta.stream {
        meta.insert("progressToken".into(), id.into());
    }
    object([("name", tool.into()), ("arguments", arguments.into()), ("_meta", meta.into())])
}
