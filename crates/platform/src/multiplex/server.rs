//! Server side of shared streams.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use phoenix_proto::{
    Method,
    common::{
        CallCredit, CallEnd, CallStart, CalleeFrame, CallerFrame, ExchangeRequest, ExchangeResponse,
        callee_frame, caller_frame,
        multiplex_service_server::{MultiplexService, MultiplexServiceServer},
    },
};
use prost::Message;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{
    credit::{Credit, cost},
    send_queue::{Sender, send_queue},
};
use crate::{
    http2::MAX_MESSAGE_BYTES,
    propagation::{CancelReason, RequestContext, mark_status, rpc_span},
    rpc_metrics::{RpcCall, RpcMetrics},
};

/// During shutdown, time for which a stream without calls stays open for calls that are on their way.
pub(super) const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// Handler of the calls of one method on shared streams.
pub trait Handler: Send + Sync + 'static {
    /// Method of the calls.
    type Method: Method;

    /// Handles a call, whose response messages it sends to `responses`. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The status of the call.
    fn call(
        &self,
        request: Request<<Self::Method as Method>::Request>,
        responses: &mut ResponseSender,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Sender of the response of one call.
#[derive(Debug)]
pub struct ResponseSender {
    queue: Sender<StreamItem>,
    call_id: u64,
    credit: Arc<Credit>,
    /// Absent once the response has begun.
    metrics: Option<RpcCall>,
}

/// A frame, or a notice of a server that shuts down.
#[derive(Debug)]
enum StreamItem {
    Frame(CalleeFrame),
    /// The server soon accepts no further calls.
    Draining,
    /// The server accepts no further calls: the highest id of a call that it has accepted.
    LastCall(u64),
}

impl ResponseSender {
    /// Sends a message of the response, once the caller has read enough of the earlier ones.
    ///
    /// # Errors
    /// OUT_OF_RANGE when the message is over the size limit.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        let bytes = message.encoded_len();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(Status::out_of_range(format!(
                "the response message has {bytes} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
            )));
        }
        self.record_start(Code::Ok);
        self.credit.take(cost(bytes)).await;
        self.send_frame(callee_frame::Frame::Message(message.encode_to_vec().into()), bytes);
        self.queue.capacity().await;
        Ok(())
    }

    fn record_start(&mut self, code: Code) {
        if let Some(call) = self.metrics.take() {
            call.record(code);
        }
    }

    fn send_frame(&self, frame: callee_frame::Frame, bytes: usize) {
        let frame = CalleeFrame { call_id: self.call_id, frame: Some(frame) };
        self.queue.send(StreamItem::Frame(frame), bytes);
    }
}

/// The service that accepts calls for `handler` until `draining`.
pub(crate) fn service<H: Handler>(
    handler: H,
    metrics: RpcMetrics,
    draining: CancellationToken,
) -> MultiplexServiceServer<Exchange<H>> {
    let exchange = Exchange(Arc::new(Shared { handler, metrics, draining }));
    MultiplexServiceServer::new(exchange).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Implementation of `MultiplexService` over a [`Handler`].
pub(crate) struct Exchange<H>(Arc<Shared<H>>);

struct Shared<H> {
    handler: H,
    metrics: RpcMetrics,
    draining: CancellationToken,
}

/// Running calls of one stream by id.
#[derive(Debug, Default)]
struct RunningCalls(Mutex<HashMap<u64, CallHandle>>);

#[derive(Debug)]
struct CallHandle {
    task: AbortHandle,
    credit: Arc<Credit>,
}

/// Batches of frames for one caller. Running calls are cancelled on drop.
pub(crate) struct Outgoing {
    batches: Pin<Box<dyn Stream<Item = Vec<StreamItem>> + Send>>,
    reader: AbortHandle,
    calls: Arc<RunningCalls>,
}

#[tonic::async_trait]
impl<H: Handler> MultiplexService for Exchange<H> {
    type ExchangeStream = Outgoing;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (queue, batches) = send_queue();
        let calls = Arc::new(RunningCalls::default());
        let cancel_reason = RequestContext::cancel_reason_of(&request);
        let (shared, running) = (Arc::clone(&self.0), Arc::clone(&calls));
        let stream = Incoming { shared, queue, calls: running, cancel_reason, last_call_id: 0 };
        let reader = tokio::spawn(stream.read(request.into_inner())).abort_handle();
        Ok(Response::new(Outgoing { batches: Box::pin(batches), reader, calls }))
    }
}

/// Reader of the frames of one caller.
struct Incoming<H> {
    shared: Arc<Shared<H>>,
    queue: Sender<StreamItem>,
    calls: Arc<RunningCalls>,
    /// Cancel reason of the connection, and so of every call on it.
    cancel_reason: CancelReason,
    /// The highest id of a call; zero before the first one.
    last_call_id: u64,
}

impl<H: Handler> Incoming<H> {
    /// Reads frames until the caller ends the stream, or the server shuts down.
    async fn read(mut self, mut requests: Streaming<ExchangeRequest>) {
        let draining = self.shared.draining.clone();
        loop {
            tokio::select! {
                batch = requests.message() => match batch {
                    Ok(Some(request)) => self.handle(request),
                    // Running calls continue; a broken connection drops the sending half.
                    Ok(None) | Err(_) => return,
                },
                () = draining.cancelled() => break,
            }
        }
        self.queue.send(StreamItem::Draining, 0);
        loop {
            match tokio::time::timeout(DRAIN_GRACE, requests.message()).await {
                Ok(Ok(Some(request))) => self.handle(request),
                Ok(Ok(None) | Err(_)) => return,
                Err(_) if self.calls.0.lock().is_empty() => break,
                Err(_) => {}
            }
        }
        self.queue.send(StreamItem::LastCall(self.last_call_id), 0);
    }

    fn handle(&mut self, ExchangeRequest { frames, leaving }: ExchangeRequest) {
        if !leaving.is_empty() {
            self.cancel_reason.set(leaving);
        }
        for CallerFrame { call_id, frame } in frames {
            match frame {
                Some(caller_frame::Frame::Start(start)) => {
                    self.last_call_id = self.last_call_id.max(call_id);
                    self.start(call_id, start);
                }
                Some(caller_frame::Frame::Cancel(_)) => {
                    let call = self.calls.0.lock().remove(&call_id);
                    call.inspect(|call| call.task.abort());
                }
                Some(caller_frame::Frame::Credit(CallCredit { bytes })) => {
                    let credit = self.calls.0.lock().get(&call_id).map(|call| Arc::clone(&call.credit));
                    credit.inspect(|credit| credit.grant(bytes));
                }
                None => {}
            }
        }
    }

    fn start(&self, call_id: u64, start: CallStart) {
        let credit = Arc::new(Credit::new(start.credit));
        let responses =
            ResponseSender { queue: self.queue.clone(), call_id, credit: Arc::clone(&credit), metrics: None };
        let mut call = RunningCall { responses, calls: Arc::clone(&self.calls), end: None };
        let (shared, cancel_reason) = (Arc::clone(&self.shared), self.cancel_reason.clone());
        // Held until the call is registered: its task may end at once.
        let mut calls = self.calls.0.lock();
        let task = tokio::spawn(async move {
            let end = shared.serve(start, cancel_reason, &mut call.responses).await;
            call.finish(end);
        });
        calls.insert(call_id, CallHandle { task: task.abort_handle(), credit });
    }
}

impl<H: Handler> Shared<H> {
    async fn serve(
        &self,
        start: CallStart,
        cancel_reason: CancelReason,
        responses: &mut ResponseSender,
    ) -> Result<(), Status> {
        let (method, mut context, message) = RequestContext::of_call(start)?;
        context.cancel_reason = cancel_reason;
        responses.metrics = Some(self.metrics.start(&method));
        let span = rpc_span(&method, &context);
        let call = async {
            if method != H::Method::PATH {
                return Err(Status::unimplemented("no such method on a shared stream"));
            }
            let message = Message::decode(message)
                .map_err(|error| Status::invalid_argument(format!("unreadable request: {error}")))?;
            self.handler.call(context.request(message), responses).await
        };
        let result = call.instrument(span.clone()).await;
        let code = result.as_ref().map_or_else(Status::code, |()| Code::Ok);
        mark_status(&span, code);
        responses.record_start(code);
        result
    }
}

/// A running call. The end frame is sent however its task ends, unless the caller has cancelled the call.
struct RunningCall {
    responses: ResponseSender,
    calls: Arc<RunningCalls>,
    end: Option<Result<(), Status>>,
}

impl RunningCall {
    fn finish(mut self, end: Result<(), Status>) {
        self.end = Some(end);
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let is_open = self.calls.0.lock().remove(&self.responses.call_id).is_some();
        let end = match self.end.take() {
            _ if !is_open => return,
            Some(Ok(())) => CallEnd::default(),
            Some(Err(status)) => CallEnd {
                code: status.code() as i32,
                message: status.message().into(),
                details: status.details().into(),
            },
            // The task panicked, which is logged.
            None => CallEnd { code: Code::Internal as i32, ..CallEnd::default() },
        };
        let bytes = end.message.len() + end.details.len();
        self.responses.send_frame(callee_frame::Frame::End(end), bytes);
    }
}

impl Stream for Outgoing {
    type Item = Result<ExchangeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx).map(|batch| {
            batch.map(|batch| {
                let mut response = ExchangeResponse::default();
                for frame in batch {
                    match frame {
                        StreamItem::Frame(frame) => response.frames.push(frame),
                        StreamItem::Draining => response.draining = true,
                        StreamItem::LastCall(id) => response.last_call_id = Some(id),
                    }
                }
                Ok(response)
            })
        })
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.reader.abort();
        let calls = std::mem::take(&mut *self.calls.0.lock());
        calls.into_values().for_each(|call| call.task.abort());
    }
}
