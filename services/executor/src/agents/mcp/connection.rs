//! The requests to one server process: those that wait to be written, and those that wait for a response.
//!
//! Nothing here reads or writes. The session takes what is to be written, and hands in what was read. Requests share the
//! process without waiting for each other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use phoenix_domain::{
    FailureClass,
    action::ProgressReport,
    json::{Json, Object},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    elicitation::{Asked, MAX_UNREAD, dismissed},
    lines::IdScanner,
    message::{self, ELICIT, INVALID_PARAMS, Incoming, RpcError, notification, object, request, response},
};
use crate::failure::{AttemptFailure, truncate_message};

/// Bytes of waiting messages beyond which requests of the server get no response.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// Request that calls a tool.
pub(super) const CALL_TOOL: &str = "tools/call";

/// The requests to one process.
#[derive(Debug, Default)]
pub(super) struct Connection {
    state: Mutex<State>,
    /// Raised when there is something to write.
    pub(super) to_write: Notify,
    /// Raised when the server says that its tools have changed.
    pub(super) tools_changed: Notify,
    /// Raised when the server says that its resources or its prompts have changed.
    pub(super) lists_changed: Notify,
    /// Raised when a request was not answered in time.
    pub(super) doubted: Notify,
    /// Members of `_meta` of every request; empty until a handshake sets them.
    pub(super) meta: OnceLock<Object>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    waiting: VecDeque<Outgoing>,
    calls: HashMap<u64, Pending>,
    /// Reason why no further request is possible.
    closed: Option<AttemptFailure>,
}

/// A message to the server.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The message with a newline.
    pub(super) line: Vec<u8>,
    /// The request that the message is.
    pub(super) id: Option<u64>,
    /// Name of the method; empty for a response.
    pub(super) method: String,
    /// The tool that it calls.
    pub(super) name: Option<String>,
    /// The request that it cancels.
    pub(super) cancels: Option<u64>,
}

impl Outgoing {
    const fn new(line: Vec<u8>) -> Self {
        Self { line, id: None, method: String::new(), name: None, cancels: None }
    }
}

/// A request without a response.
#[derive(Debug)]
struct Pending {
    response: oneshot::Sender<Response>,
    progress: watch::Sender<Option<ProgressReport>>,
    /// Takes questions about a call of a tool.
    asked: Option<mpsc::Sender<Asked>>,
    was_written: bool,
}

/// The result or the error that a server responds with, or the failure of a request without a valid response.
pub(super) type Response = Result<Result<Json, RpcError>, LostResponse>;

/// A request that gets no valid response.
#[derive(Debug, Clone)]
pub(super) struct LostResponse {
    pub(super) failure: AttemptFailure,
    /// Whether the server may have read the request.
    pub(super) was_written: bool,
}

/// A request to the server. Dropping it before its response cancels it.
#[derive(Debug)]
pub(super) struct Call {
    connection: Arc<Connection>,
    id: u64,
    pub(super) response: oneshot::Receiver<Response>,
    pub(super) progress: watch::Receiver<Option<ProgressReport>>,
    /// Questions of the server, if it has a handshake.
    pub(super) asked: mpsc::Receiver<Asked>,
}

impl Connection {
    /// Queues the request that `params` returns the parameters of, given its id.
    ///
    /// # Errors
    /// When the connection is closed.
    pub(super) fn call(
        self: &Arc<Self>,
        method: &str,
        params: impl FnOnce(u64) -> Object,
    ) -> Result<Call, LostResponse> {
        let (sender, response) = oneshot::channel();
        let (progress_sender, progress) = watch::channel(None);
        let (asked_sender, asked) = mpsc::channel(MAX_UNREAD);
        let mut state = self.state.lock();
        if let Some(failure) = &state.closed {
            return Err(LostResponse { failure: failure.clone(), was_written: false });
        }
        state.last_id += 1;
        let id = state.last_id;
        let pending = Pending {
            response: sender,
            progress: progress_sender,
            asked: (method == CALL_TOOL).then_some(asked_sender),
            was_written: false,
        };
        state.calls.insert(id, pending);
        let params = self.with_meta(params(id));
        let name = params.get("name").and_then(Json::as_str).map(str::to_owned);
        let line = request(id, method, params);
        state.waiting.push_back(Outgoing {
            id: Some(id),
            method: method.to_owned(),
            name,
            ..Outgoing::new(line)
        });
        drop(state);
        self.to_write.notify_one();
        Ok(Call { connection: Arc::clone(self), id, response, progress, asked })
    }

    /// `params` with the members that every request has in `_meta`.
    fn with_meta(&self, mut params: Object) -> Object {
        if let Some(common) = self.meta.get() {
            let own =
                params.shift_remove("_meta").and_then(|own| Object::try_from(own).ok()).unwrap_or_default();
            let meta: Object = common.clone().into_iter().chain(own).collect();
            params.insert("_meta".into(), meta.into());
        }
        params
    }

    /// Queues a notification.
    pub(super) fn notify(&self, method: &str, params: Object) {
        let cancels = params.get("requestId").and_then(message::number);
        let outgoing =
            Outgoing { method: method.to_owned(), cancels, ..Outgoing::new(notification(method, params)) };
        self.state.lock().waiting.push_back(outgoing);
        self.to_write.notify_one();
    }

    /// The next message to write. A request counts as written from then on.
    pub(super) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut state = self.state.lock();
        let outgoing = state.waiting.pop_front()?;
        if let Some(pending) = outgoing.id.and_then(|id| state.calls.get_mut(&id)) {
            pending.was_written = true;
        }
        Some(outgoing)
    }

    /// The line of the next message to write.
    pub(super) fn next_line(&self) -> Option<Vec<u8>> {
        self.next_outgoing().map(|outgoing| outgoing.line)
    }

    /// Whether the request `id` waits for its response.
    pub(super) fn is_pending(&self, id: u64) -> bool {
        self.state.lock().calls.contains_key(&id)
    }

    /// Fails the request `id`, which the server has read if `was_read`.
    pub(super) fn lose(&self, id: u64, failure: AttemptFailure, was_read: bool) {
        self.resolve(id, |_| Err(LostResponse { failure, was_written: was_read }));
    }

    /// Takes a line of the server. Returns whether it is a message.
    pub(super) fn accept(&self, line: &[u8]) -> bool {
        self.accept_about(None, line)
    }

    /// Takes a line of the server that belongs to the request `about`, where the transport says so.
    pub(super) fn accept_about(&self, about: Option<u64>, line: &[u8]) -> bool {
        match message::parse(line) {
            Ok(messages) => {
                messages.into_iter().for_each(|message| self.accept_message(message, about));
                true
            }
            Err(problem) => {
                // Text that is no message has no id.
                if let Some(id) = IdScanner::id_in(line) {
                    let problem = truncate_message(&problem);
                    self.fail(id, format!("wrote a line that is no message of JSON-RPC: {problem}"));
                }
                false
            }
        }
    }

    fn accept_message(&self, message: Incoming, about: Option<u64>) {
        match message {
            Incoming::Response { id, outcome } => self.resolve(id, |_| Ok(outcome)),
            Incoming::Request { id, method, params } if method == ELICIT && self.meta.get().is_none() => {
                let asked = Asked { id: id.clone(), params };
                let taken = self.state.lock().take_question(about, asked);
                if let Err(problem) = taken {
                    self.respond(message::refusal(id, INVALID_PARAMS, problem.into()));
                }
            }
            Incoming::Request { id, method, .. } => self.respond(response(id, &method)),
            Incoming::Notification { method, params } => match method.as_str() {
                "notifications/progress" => self.report(&params),
                "notifications/tools/list_changed" => self.tools_changed.notify_one(),
                "notifications/resources/list_changed" | "notifications/prompts/list_changed" => {
                    self.lists_changed.notify_one();
                }
                _ => {}
            },
        }
    }

    /// Queues the response to a request of the server, unless it reads none.
    fn respond(&self, line: Vec<u8>) {
        let mut state = self.state.lock();
        let waiting: usize = state.waiting.iter().map(|message| message.line.len()).sum();
        if waiting <= MAX_WAITING_BYTES {
            state.waiting.push_back(Outgoing::new(line));
            self.to_write.notify_one();
        }
    }

    /// Fails the request `id`, whose response is invalid.
    pub(super) fn fail(&self, id: u64, description: String) {
        self.resolve(id, |was_written| {
            let failure = AttemptFailure::new(FailureClass::BackendFailure, description);
            Err(LostResponse { failure, was_written })
        });
    }

    /// Closes the connection: no request gets a response any more, because of `failure`.
    pub(super) fn close(&self, failure: &AttemptFailure) {
        let mut state = self.state.lock();
        state.closed = Some(failure.clone());
        state.waiting.clear();
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        for Pending { response, was_written, .. } in calls.into_values() {
            let _ = response.send(Err(LostResponse { failure: failure.clone(), was_written }));
        }
    }

    /// Ends the request `id`. A response to no request is ignored: it was cancelled, or answered before.
    fn resolve(&self, id: u64, response: impl FnOnce(bool) -> Response) {
        let pending = self.state.lock().calls.remove(&id);
        if let Some(pending) = pending {
            let _ = pending.response.send(response(pending.was_written));
        }
    }

    fn report(&self, params: &Object) {
        let Some(id) = params.get("progressToken").and_then(message::number) else { return };
        let state = self.state.lock();
        let Some(pending) = state.calls.get(&id) else { return };
        let number = |name: &str| params.get(name).and_then(Json::as_f64);
        let message = params.get("message").and_then(Json::as_str).map(truncate_message);
        let report = ProgressReport { message, progress: number("progress"), total: number("total") };
        pending.progress.send_replace(Some(report));
    }

    fn abandon(&self, id: u64) {
        let mut state = self.state.lock();
        let Some(pending) = state.calls.remove(&id) else { return };
        if !pending.was_written {
            return state.waiting.retain(|message| message.id != Some(id));
        }
        drop(state);
        let reason = "the caller no longer waits for the result";
        self.notify("notifications/cancelled", object([("requestId", id.into()), ("reason", reason.into())]));
    }
}

impl State {
    /// Hands a question to the call that it is about: the one that the transport names, or the only one.
    ///
    /// # Errors
    /// Why no call gets it.
    fn take_question(&self, about: Option<u64>, asked: Asked) -> Result<(), &'static str> {
        let call = match about {
            Some(id) => self.calls.get(&id).and_then(|pending| pending.asked.as_ref()),
            None => {
                let mut calls = self.calls.values().filter_map(|pending| pending.asked.as_ref());
                let first = calls.next();
                if calls.next().is_some() {
                    return Err(
                        "several calls are under way, and the question does not say which of them it is about; \
                                set max_concurrency = 1 for this server",
                    );
                }
                first
            }
        };
        let call = call.ok_or("no call is under way that the question can be about")?;
        call.try_send(asked).map_err(|_| "the call has unanswered questions already")
    }
}

impl Call {
    /// Answers a question of the server.
    pub(super) fn answer(&self, asked: Asked, answer: Object) {
        self.connection.respond(message::result(asked.id, answer));
    }

    /// Ends the call because of a question that has no answer yet. The server gets to know that first, so that it does not take
    /// the dismissal of its question for a decision.
    pub(super) fn end_with(self, asked: Asked) {
        self.connection.abandon(self.id);
        self.answer(asked, dismissed());
    }

    /// Waits for the response, or for a question about the call.
    pub(super) async fn next(&mut self) -> Result<Response, Asked> {
        tokio::select! {
            biased;
            Some(asked) = self.asked.recv() => Err(asked),
            response = received(&mut self.response) => Ok(response),
        }
    }

    /// Waits for the response.
    ///
    /// # Errors
    /// When there will be none that is valid.
    pub(super) async fn response(&mut self) -> Response {
        received(&mut self.response).await
    }

    /// Whether the server may have read the request.
    pub(super) fn was_written(&self) -> bool {
        self.connection.state.lock().calls.get(&self.id).is_none_or(|pending| pending.was_written)
    }

    /// Ends the request without a word to the server, which may answer it or not.
    pub(super) fn forget(self) {
        self.connection.state.lock().calls.remove(&self.id);
    }

    /// Has the process checked, because it does not respond in time.
    pub(super) fn doubt_server(&self) {
        self.connection.doubted.notify_one();
    }
}

async fn received(response: &mut oneshot::Receiver<Response>) -> Response {
    match response.await {
        Ok(response) => response,
        // The connection answers or closes before it drops a request.
        Err(_) => Err(LostResponse {
            failure: AttemptFailure::new(FailureClass::Io, "lost the request"),
            was_written: true,
        }),
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.abandon(self.id);
        while let Ok(asked) = self.asked.try_recv() {
            self.connection.respond(message::result(asked.id, dismissed()));
        }
    }
}

#[cfg(test)]
mod tests;
