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
use tokio::sync::{Notify, oneshot, watch};

use super::{
    lines::IdScanner,
    message::{self, Incoming, RpcError, notification, object, request, response},
};
use crate::failure::{AttemptFailure, truncate_message};

/// Bytes of waiting messages beyond which requests of the server get no response.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// The requests to one process.
#[derive(Debug, Default)]
pub(super) struct Connection {
    state: Mutex<State>,
    /// Raised when there is something to write.
    pub(super) to_write: Notify,
    /// Raised when the server says that its tools have changed.
    pub(super) tools_changed: Notify,
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
        let mut state = self.state.lock();
        if let Some(failure) = &state.closed {
            return Err(LostResponse { failure: failure.clone(), was_written: false });
        }
        state.last_id += 1;
        let id = state.last_id;
        let pending = Pending { response: sender, progress: progress_sender, was_written: false };
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
        Ok(Call { connection: Arc::clone(self), id, response, progress })
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
        match message::parse(line) {
            Ok(messages) => {
                messages.into_iter().for_each(|message| self.accept_message(message));
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

    fn accept_message(&self, message: Incoming) {
        match message {
            Incoming::Response { id, outcome } => self.resolve(id, |_| Ok(outcome)),
            Incoming::Request { id, method } => {
                let mut state = self.state.lock();
                let waiting: usize = state.waiting.iter().map(|message| message.line.len()).sum();
                if waiting <= MAX_WAITING_BYTES {
                    state.waiting.push_back(Outgoing::new(response(id, &method)));
                    self.to_write.notify_one();
                }
            }
            Incoming::Notification { method, params } => match method.as_str() {
                "notifications/progress" => self.report(&params),
                "notifications/tools/list_changed" => self.tools_changed.notify_one(),
                _ => {}
            },
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

impl Call {
    /// Waits for the response.
    ///
    /// # Errors
    /// When there will be none that is valid.
    pub(super) async fn response(&mut self) -> Response {
        match (&mut self.response).await {
            Ok(response) => response,
            // The connection answers or closes before it drops a request.
            Err(_) => Err(LostResponse {
                failure: AttemptFailure::new(FailureClass::Io, "lost the request"),
                was_written: true,
            }),
        }
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

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.abandon(self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn written(connection: &Connection) -> Vec<String> {
        std::iter::from_fn(|| connection.next_line()).map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn responses_in_any_order_reach_their_requests_once() {
        let connection = Arc::new(Connection::default());
        let mut calls = [1, 2].map(|_| connection.call("tools/call", |_| Object::new()).unwrap());
        assert_eq!(written(&connection).len(), 2);
        for line in [r#"{"id":2,"result":"b"}"#, r#"{"id":2,"result":"again"}"#, r#"{"id":1,"result":"a"}"#] {
            assert!(connection.accept(line.as_bytes()));
        }
        let results = calls.each_mut().map(|call| call.response().now_or_never().unwrap().unwrap().unwrap());
        assert_eq!(results, [Json::from("a"), "b".into()]);
        drop(calls);
        assert!(written(&connection).is_empty(), "an answered request is not cancelled");
    }

    #[test]
    fn dropped_request_is_cancelled_once_it_was_written() {
        let connection = Arc::new(Connection::default());
        drop(connection.call("tools/call", |_| Object::new()).unwrap());
        assert!(written(&connection).is_empty(), "it was never written");
        let call = connection.call("tools/call", |_| Object::new()).unwrap();
        assert_eq!((written(&connection).len(), call.was_written()), (1, true));
        drop(call);
        let [cancelled] = &written(&connection)[..] else { panic!("one notification") };
        assert!(cancelled.contains("notifications/cancelled") && cancelled.contains("\"requestId\":2"));
        assert!(connection.accept(br#"{"id":2,"result":"late"}"#), "a late answer is ignored");
    }

    #[test]
    fn invalid_response_fails_its_own_request() {
        let connection = Arc::new(Connection::default());
        let [mut broken, mut other] =
            [1, 2].map(|_| connection.call("tools/call", |_| Object::new()).unwrap());
        written(&connection);
        assert!(!connection.accept(br#"{"id":1,"result":{"a":tru}}"#));
        assert!(!connection.accept(b"INFO starting\n"));
        let lost = broken.response().now_or_never().unwrap().unwrap_err();
        assert!(lost.was_written && lost.failure.description.contains("no message of JSON-RPC"));
        assert!(other.response().now_or_never().is_none());
        connection.close(&AttemptFailure::new(FailureClass::Io, "is gone"));
        assert_eq!(other.response().now_or_never().unwrap().unwrap_err().failure.description, "is gone");
        assert!(connection.call("x", |_| Object::new()).is_err());
    }

    #[test]
    fn flood_of_requests_gets_a_bounded_number_of_responses() {
        let connection = Connection::default();
        let ping = format!(r#"{{"id":"{}","method":"ping"}}"#, "x".repeat(100_000));
        for _ in 0..1000 {
            assert!(connection.accept(ping.as_bytes()));
        }
        assert!(written(&connection).len() < 20);
    }
}
