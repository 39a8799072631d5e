//! The callee's side.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
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
    RequestContext, correlation_span,
    propagation::{CancelReason, mark_answered},
    rpc_metrics::{RpcCall, RpcMetrics},
    server::MAX_MESSAGE_BYTES,
};

/// How long a stream without calls is kept for a caller that was told that the server ends.
const GRACE: Duration = Duration::from_millis(200);

/// ResponseStream calls that share a stream: those of one method.
pub trait Handler: Send + Sync + 'static {
    /// The method.
    type Method: Method;

    /// ResponseStream a call with the messages that it gives to `responses`. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The status that the call ends with.
    fn call(
        &self,
        request: Request<<Self::Method as Method>::Request>,
        responses: &mut ResponseSender,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Where the answer of one call goes.
#[derive(Debug)]
pub struct ResponseSender {
    frames: Sender<ExchangeFrame>,
    call_id: u64,
    credit: Arc<Credit>,
    /// Until the answer begins.
    observed: Option<RpcCall>,
}

/// A frame, or the word that no more calls are wanted.
#[derive(Debug)]
enum ExchangeFrame {
    Call(CalleeFrame),
    Draining,
}

impl ResponseSender {
    /// Sends a message of the answer, once the caller has read enough of those before.
    ///
    /// # Errors
    /// OUT_OF_RANGE when it is larger than any message may be.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        let bytes = message.encoded_len();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(Status::out_of_range(format!(
                "the answer takes {bytes} bytes, and {MAX_MESSAGE_BYTES} are the most"
            )));
        }
        self.began(Code::Ok);
        self.credit.take(cost(bytes)).await;
        self.frame(callee_frame::Frame::Message(message.encode_to_vec().into()), bytes);
        self.frames.room().await;
        Ok(())
    }

    fn began(&mut self, code: Code) {
        if let Some(observed) = self.observed.take() {
            observed.answered(code);
        }
    }

    fn frame(&self, frame: callee_frame::Frame, bytes: usize) {
        let frame = CalleeFrame { call_id: self.call_id, frame: Some(frame) };
        self.frames.send(ExchangeFrame::Call(frame), bytes);
    }
}

/// The service that takes calls for `handler` until `draining`.
pub(crate) fn service<H: Handler>(
    handler: H,
    observe: RpcMetrics,
    draining: CancellationToken,
) -> MultiplexServiceServer<Exchange<H>> {
    let exchange = Exchange(Arc::new(Shared { handler, observe, draining }));
    MultiplexServiceServer::new(exchange).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// `MultiplexService` over a [`Handler`].
pub(crate) struct Exchange<H>(Arc<Shared<H>>);

struct Shared<H> {
    handler: H,
    observe: RpcMetrics,
    draining: CancellationToken,
}

/// The calls of one stream that run.
#[derive(Debug, Default)]
struct RunningCalls(Mutex<HashMap<u64, Running>>);

#[derive(Debug)]
struct Running {
    task: AbortHandle,
    credit: Arc<Credit>,
}

/// Every batch of frames for one caller. MultiplexClient that run are left with it.
pub(crate) struct Outgoing {
    batches: Pin<Box<dyn Stream<Item = Vec<ExchangeFrame>> + Send>>,
    driver: AbortHandle,
    calls: Arc<RunningCalls>,
}

#[tonic::async_trait]
impl<H: Handler> MultiplexService for Exchange<H> {
    type ExchangeStream = Outgoing;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (frames, batches) = send_queue();
        let calls = Arc::new(RunningCalls::default());
        let cancel_reason = RequestContext::cancel_reason_of(&request);
        let stream =
            Incoming { shared: Arc::clone(&self.0), frames, calls: Arc::clone(&calls), cancel_reason };
        let driver = tokio::spawn(stream.drive(request.into_inner())).abort_handle();
        Ok(Response::new(Outgoing { batches: Box::pin(batches), driver, calls }))
    }
}

struct Incoming<H> {
    shared: Arc<Shared<H>>,
    frames: Sender<ExchangeFrame>,
    calls: Arc<RunningCalls>,
    /// That of the connection, and so of every call on it.
    cancel_reason: CancelReason,
}

impl<H: Handler> Incoming<H> {
    /// Takes calls until the caller will make no more, or the server ends.
    async fn drive(self, mut requests: Streaming<ExchangeRequest>) {
        let draining = self.shared.draining.clone();
        loop {
            tokio::select! {
                batch = requests.message() => match batch {
                    Ok(Some(request)) => self.take(request),
                    // What runs goes on; if the connection is gone, the other half of the stream learns of it.
                    Ok(None) | Err(_) => return,
                },
                () = draining.cancelled() => break,
            }
        }
        self.frames.send(ExchangeFrame::Draining, 0);
        loop {
            match tokio::time::timeout(GRACE, requests.message()).await {
                Ok(Ok(Some(request))) => self.take(request),
                Ok(Ok(None) | Err(_)) => return,
                Err(_) if self.calls.lock().is_empty() => return,
                Err(_) => {}
            }
        }
    }

    fn take(&self, ExchangeRequest { frames, leaving }: ExchangeRequest) {
        if !leaving.is_empty() {
            self.cancel_reason.set(leaving);
        }
        for CallerFrame { call_id, frame } in frames {
            match frame {
                Some(caller_frame::Frame::Start(start)) => self.start(call_id, start),
                Some(caller_frame::Frame::Cancel(_)) => {
                    let call = self.calls.lock().remove(&call_id);
                    call.inspect(|call| call.task.abort());
                }
                Some(caller_frame::Frame::Credit(CallCredit { bytes })) => {
                    let credit = self.calls.lock().get(&call_id).map(|call| Arc::clone(&call.credit));
                    credit.inspect(|credit| credit.grant(bytes));
                }
                None => {}
            }
        }
    }

    fn start(&self, call_id: u64, start: CallStart) {
        let credit = Arc::new(Credit::new(start.credit));
        let responses = ResponseSender {
            frames: self.frames.clone(),
            call_id,
            credit: Arc::clone(&credit),
            observed: None,
        };
        let mut call = RunningCall { responses, calls: Arc::clone(&self.calls), end: None };
        let (shared, cancel_reason) = (Arc::clone(&self.shared), self.cancel_reason.clone());
        // Held until it is known by its id: it may end at once.
        let mut calls = self.calls.lock();
        let task = tokio::spawn(async move {
            let end = shared.serve(start, cancel_reason, &mut call.responses).await;
            call.ended(end);
        });
        calls.insert(call_id, Running { task: task.abort_handle(), credit });
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
        responses.observed = Some(self.observe.begin(&method));
        let span = correlation_span(method.trim_start_matches('/'), &context);
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
        mark_answered(&span, code);
        responses.began(code);
        result
    }
}

/// A call that runs. However its task ends, a caller that is still there is told.
struct RunningCall {
    responses: ResponseSender,
    calls: Arc<RunningCalls>,
    end: Option<Result<(), Status>>,
}

impl RunningCall {
    fn ended(mut self, end: Result<(), Status>) {
        self.end = Some(end);
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let was_wanted = self.calls.lock().remove(&self.responses.call_id).is_some();
        let end = match self.end.take() {
            _ if !was_wanted => return,
            Some(Ok(())) => CallEnd::default(),
            Some(Err(status)) => CallEnd {
                code: status.code() as i32,
                message: status.message().into(),
                details: status.details().into(),
            },
            // A defect, of which the panic has told.
            None => CallEnd { code: Code::Internal as i32, ..CallEnd::default() },
        };
        let bytes = end.message.len() + end.details.len();
        self.responses.frame(callee_frame::Frame::End(end), bytes);
    }
}

impl RunningCalls {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
                        ExchangeFrame::Call(frame) => response.frames.push(frame),
                        ExchangeFrame::Draining => response.draining = true,
                    }
                }
                Ok(response)
            })
        })
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.driver.abort();
        let calls = std::mem::take(&mut *self.calls.lock());
        calls.into_values().for_each(|call| call.task.abort());
    }
}
