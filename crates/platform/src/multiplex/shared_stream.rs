//! A stream that carries many calls, on the client side.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use parking_lot::Mutex;
use phoenix_proto::common::{
    CallCancel, CallCredit, CallEnd, CallStart, CalleeFrame, CallerFrame, ExchangeRequest, callee_frame,
    caller_frame,
};
use prost::Message;
use tonic::{Code, Status};

use super::{call_receiver::CallReceiver, send_queue::Sender};

/// A stream that is open for calls. Its sending side ends when the last reference is dropped.
#[derive(Debug)]
pub(super) struct SharedStream {
    queue: Sender<StreamItem>,
    calls: Arc<OpenCalls>,
    next_id: AtomicU64,
}

/// A frame, or the reason of later cancellations.
#[derive(Debug)]
pub(super) enum StreamItem {
    Frame(CallerFrame),
    CancelReason(String),
}

/// Open calls of a stream by id; `None` once the stream has ended.
#[derive(Debug)]
pub(super) struct OpenCalls(Mutex<Option<HashMap<u64, Arc<CallReceiver>>>>);

/// The stream of a call broke before the call had ended.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke")]
struct StreamBroken(#[source] Option<Status>);

/// The peer shut down before it accepted the call.
#[derive(Debug, thiserror::Error)]
#[error("the peer was shutting down and did not accept the call")]
struct NotAccepted;

impl SharedStream {
    pub(super) fn new(queue: Sender<StreamItem>, calls: Arc<OpenCalls>) -> Self {
        Self { queue, calls, next_id: AtomicU64::new(1) }
    }

    /// Starts a call. Returns its id and its receiver; `None` when the stream has broken or its peer does not read.
    pub(super) fn start(&self, start: CallStart) -> Option<(u64, Arc<CallReceiver>)> {
        if self.queue.is_full() {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let receiver = Arc::new(CallReceiver::default());
        self.calls.0.lock().as_mut()?.insert(id, Arc::clone(&receiver));
        let bytes = start.encoded_len();
        self.send(id, caller_frame::Frame::Start(start), bytes);
        Some((id, receiver))
    }

    /// Grants the peer further credit for a call.
    pub(super) fn grant(&self, call_id: u64, bytes: u64) {
        self.send(call_id, caller_frame::Frame::Credit(CallCredit { bytes }), size_of::<u64>());
    }

    /// Cancels a call, if it is open.
    pub(super) fn cancel(&self, call_id: u64) {
        let was_open = self.calls.0.lock().as_mut().is_some_and(|calls| calls.remove(&call_id).is_some());
        let is_start = |item: &StreamItem| match item {
            StreamItem::Frame(CallerFrame { call_id: id, frame: Some(caller_frame::Frame::Start(_)) }) => {
                *id == call_id
            }
            StreamItem::Frame(_) | StreamItem::CancelReason(_) => false,
        };
        // A call whose first frame has not been sent does not exist for the peer.
        if was_open && !self.queue.retract(is_start) {
            self.send(call_id, caller_frame::Frame::Cancel(CallCancel {}), 0);
        }
    }

    /// Sends the reason of later cancellations.
    pub(super) fn send_cancel_reason(&self, reason: &str) {
        self.queue.send(StreamItem::CancelReason(reason.to_owned()), reason.len());
    }

    fn send(&self, call_id: u64, frame: caller_frame::Frame, bytes: usize) {
        self.queue.send(StreamItem::Frame(CallerFrame { call_id, frame: Some(frame) }), bytes);
    }
}

impl OpenCalls {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    /// Delivers frames to their calls. Frames of calls that were cancelled are dropped.
    pub(super) fn deliver(&self, frames: Vec<CalleeFrame>) {
        let mut wakers = Vec::with_capacity(frames.len());
        if let Some(calls) = self.0.lock().as_mut() {
            for CalleeFrame { call_id, frame } in frames {
                let waker = match frame {
                    Some(callee_frame::Frame::Message(message)) => {
                        calls.get(&call_id).and_then(|receiver| receiver.push(message))
                    }
                    Some(callee_frame::Frame::End(end)) => {
                        calls.remove(&call_id).and_then(|receiver| receiver.end(result(end)))
                    }
                    None => None,
                };
                wakers.extend(waker);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Fails every call, because the stream has ended. Those after `last_accepted` are known not to have begun.
    pub(super) fn fail(&self, cause: Option<&Status>, last_accepted: Option<u64>) {
        let calls = self.0.lock().take().unwrap_or_default();
        for (id, receiver) in calls {
            let mut status = Status::unavailable("the connection broke");
            if last_accepted.is_some_and(|last| id > last) {
                status.set_source(Arc::new(NotAccepted));
            } else {
                status.set_source(Arc::new(StreamBroken(cause.cloned())));
            }
            if let Some(waker) = receiver.end(Err(status)) {
                waker.wake();
            }
        }
    }
}

/// Whether a call failed with `status` because its peer shut down before it accepted the call.
pub(super) fn was_not_accepted(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(|source| source.is::<NotAccepted>())
}

/// The message that carries a batch.
pub(super) fn request(batch: Vec<StreamItem>) -> ExchangeRequest {
    let mut request = ExchangeRequest::default();
    for item in batch {
        match item {
            StreamItem::Frame(frame) => request.frames.push(frame),
            StreamItem::CancelReason(reason) => request.leaving = reason,
        }
    }
    request
}

fn result(CallEnd { code, message, details }: CallEnd) -> Result<(), Status> {
    match Code::from_i32(code) {
        Code::Ok => Ok(()),
        code => Err(Status::with_details(code, message, details.into())),
    }
}
