use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use phoenix_domain::{CorrelationId, OrchestratorErrorCode};
use phoenix_proto::{
    ExecuteTask, PlanAndExecute,
    executor::ExecuteTaskRequest,
    planner::{PlanAndExecuteRequest, PlanAndExecuteResponse},
    status_from_error,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{
    Handler, MultiplexClient, ResponseSender, limits::BATCH_BYTES, send_queue::send_queue,
    server::DRAIN_GRACE,
};
use crate::{
    RequestContext,
    client::{self, call_error, was_sent},
    readiness::Readiness,
    server::{GrpcServer, MAX_MESSAGE_BYTES},
    service_token::ServiceToken,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Messages in the response to `flood`, and their size.
const FLOOD_MESSAGES: usize = 500;
const FLOOD_BYTES: usize = 64 * 1024;

/// Messages of it that were sent.
static SENT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Executes the command in the message.
struct CommandHandler {
    /// Receives the start and the end of each `wait`.
    log: mpsc::Sender<&'static str>,
    go_on: CancellationToken,
}

impl Handler for CommandHandler {
    type Method = PlanAndExecute;

    async fn call(
        &self,
        request: Request<PlanAndExecuteRequest>,
        responses: &mut ResponseSender,
    ) -> Result<(), Status> {
        let context = RequestContext::of(&request);
        let message = request.into_inner().message;
        let output = match message.split_once(' ').unwrap_or((&message, "")) {
            ("echo", text) => text.to_owned(),
            ("large", bytes) => "x".repeat(bytes.parse().unwrap()),
            ("refuse", text) => {
                return Err(status_from_error(&phoenix_domain::OrchestratorError::new(
                    OrchestratorErrorCode::Overloaded,
                    text,
                )));
            }
            ("context", _) => format!(
                "{} {} {}",
                context.correlation_id,
                context.traceparent(),
                context.remaining().unwrap_or_default().as_secs()
            ),
            ("wait", _) => {
                self.log.send("began").await.unwrap();
                let _guard = LogOnDrop(self.log.clone());
                self.go_on.cancelled().await;
                "waited".into()
            }
            ("flood", _) => {
                for _ in 0..FLOOD_MESSAGES {
                    let output = "x".repeat(FLOOD_BYTES);
                    responses.send(&PlanAndExecuteResponse { output, ..Default::default() }).await?;
                    SENT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                return Ok(());
            }
            ("reason", _) => {
                self.log.send("began").await.unwrap();
                self.go_on.cancelled().await;
                context.cancel_reason.get().unwrap_or("none").to_owned()
            }
            (what, _) => panic!("{what}?"),
        };
        responses.send(&PlanAndExecuteResponse { output, ..Default::default() }).await
    }
}

struct LogOnDrop(mpsc::Sender<&'static str>);

impl Drop for LogOnDrop {
    fn drop(&mut self) {
        let _ = self.0.try_send("dropped");
    }
}

/// A server in its own runtime, so that it can die as by SIGKILL.
struct Server {
    url: String,
    runtime: Runtime,
    shutdown: CancellationToken,
    go_on: CancellationToken,
    log: mpsc::Receiver<&'static str>,
    served: tokio::task::JoinHandle<()>,
}

fn server(addr: &str) -> Server {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind(addr).unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, log) = mpsc::channel(64);
    let (shutdown, go_on) = (CancellationToken::new(), CancellationToken::new());
    let handler = CommandHandler { log: sender, go_on: go_on.clone() };
    let stop = shutdown.clone();
    let served = runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let server = GrpcServer::new(Readiness::needing(&[]), token()).add_multiplexed(handler);
        server.serve(listener, stop).await.unwrap();
    });
    Server { url, runtime, shutdown, go_on, log, served }
}

fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

fn context() -> RequestContext {
    RequestContext::new(CorrelationId::generate()).with_deadline(Instant::now() + Duration::from_secs(60))
}

async fn ask(calls: &MultiplexClient, message: &str) -> Result<String, Status> {
    let request = PlanAndExecuteRequest { message: message.into(), ..Default::default() };
    Ok(calls.call_once::<PlanAndExecute>(&context(), request).await?.output)
}

/// A client of the server at `url` with an open stream. The server implements the method on shared streams only.
async fn calls_to(url: &str) -> MultiplexClient {
    let calls = MultiplexClient::new(client::channel(url, token()).unwrap());
    is_open(&calls).await;
    calls
}

async fn is_open(calls: &MultiplexClient) {
    let open = async {
        while ask(calls, "echo once").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, open).await.expect("the stream was never opened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_a_shared_stream_get_their_own_responses() {
    let server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let mut asked = JoinSet::new();
    for number in 0..500 {
        let calls = calls.clone();
        asked.spawn(async move {
            match number % 10 {
                1 => {
                    let status = ask(&calls, "refuse too much").await.unwrap_err();
                    let error = call_error("the planner", &status);
                    assert_eq!(error.code, OrchestratorErrorCode::Overloaded);
                    assert_eq!(error.message, "too much");
                    assert!(!was_sent(&status), "the status came from the peer");
                }
                2 => assert_eq!(ask(&calls, "large 300000").await.unwrap().len(), 300_000),
                3 if number < 30 => {
                    assert_eq!(ask(&calls, "panic").await.unwrap_err().code(), Code::Internal);
                }
                4 => {
                    let request = ExecuteTaskRequest::default();
                    let other = calls.call_once::<ExecuteTask>(&context(), request).await;
                    assert_eq!(other.unwrap_err().code(), Code::Unimplemented, "not shared here");
                }
                _ => {
                    let text = format!("echo {number}");
                    assert_eq!(ask(&calls, &text).await.unwrap(), number.to_string());
                }
            }
        });
    }
    tokio::time::timeout(LIMIT, asked.join_all()).await.unwrap();
    server.runtime.shutdown_background();
}

#[tokio::test]
async fn context_reaches_the_handler() {
    let server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let context = context();
    let request = PlanAndExecuteRequest { message: "context".into(), ..Default::default() };
    let answer = calls.call_once::<PlanAndExecute>(&context, request).await.unwrap().output;
    let [id, traceparent, left] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
    assert_eq!(id, context.correlation_id.to_string());
    assert_eq!(traceparent, context.traceparent());
    assert!((50..60).contains(&left.parse::<u64>().unwrap()), "{left} s left of 60");
    server.runtime.shutdown_background();
}

#[tokio::test]
async fn dropped_response_cancels_its_call_only() {
    let mut server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let stays = tokio::spawn({
        let calls = calls.clone();
        async move { ask(&calls, "wait").await }
    });
    assert_eq!(server.log.recv().await, Some("began"));
    let leaves = tokio::spawn(async move { ask(&calls, "wait").await });
    assert_eq!(server.log.recv().await, Some("began"));
    leaves.abort();
    let dropped = tokio::time::timeout(LIMIT, server.log.recv()).await.unwrap();
    assert_eq!(dropped, Some("dropped"));
    server.go_on.cancel();
    assert_eq!(stays.await.unwrap().unwrap(), "waited");
    server.runtime.shutdown_background();
}

#[tokio::test]
async fn response_over_the_size_limit_fails_its_call_only() {
    let server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let fits = MAX_MESSAGE_BYTES - 64;
    assert_eq!(ask(&calls, &format!("large {fits}")).await.unwrap().len(), fits);
    let status = ask(&calls, &format!("large {MAX_MESSAGE_BYTES}")).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(ask(&calls, "echo still").await.unwrap(), "still", "on the same stream");
    server.runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_peer_fails_every_call_until_it_is_back() {
    let mut first = server("127.0.0.1:0");
    let calls = calls_to(&first.url).await;
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let calls = calls.clone();
        waiting.spawn(async move { ask(&calls, "wait").await });
        assert_eq!(first.log.recv().await, Some("began"));
    }
    let addr = first.url.trim_start_matches("http://").to_owned();
    first.runtime.shutdown_background();
    for answer in tokio::time::timeout(LIMIT, waiting.join_all()).await.unwrap() {
        let status = answer.unwrap_err();
        let error = call_error("the planner", &status);
        assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{status:?}");
        assert!(was_sent(&status), "the peer may have accepted it: {status:?}");
    }
    let second = tokio::task::spawn_blocking(move || {
        loop {
            // The port accepts connections until the dead server's tasks are gone.
            if let Ok(free) = std::net::TcpListener::bind(&addr) {
                drop(free);
                return server(&addr);
            }
        }
    });
    let second = tokio::time::timeout(LIMIT, second).await.unwrap().unwrap();
    is_open(&calls).await;
    second.runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_several_peers_are_spread_and_outlive_one() {
    let (mut first, mut second) = (server("127.0.0.1:0"), server("127.0.0.1:0"));
    let calls = calls_to(&format!("{},{}", first.url, second.url)).await;
    let mut in_a_row = 0;
    while in_a_row < 30 {
        in_a_row = if ask(&calls, "echo both").await.is_ok() { in_a_row + 1 } else { 0 };
    }
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let calls = calls.clone();
        waiting.spawn(async move { ask(&calls, "wait").await });
        // Until one of them has it, so that the next choice sees its load.
        let began = async {
            tokio::select! { one = first.log.recv() => one, other = second.log.recv() => other }
        };
        assert_eq!(tokio::time::timeout(LIMIT, began).await.unwrap(), Some("began"));
    }
    first.runtime.shutdown_background();
    second.go_on.cancel();
    let answers = tokio::time::timeout(LIMIT, waiting.join_all()).await.unwrap();
    let (answered, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((answered.len(), lost.len()), (10, 10), "each got half of the calls");
    assert!(lost.into_iter().all(|answer| was_sent(&answer.unwrap_err())));
    for _ in 0..50 {
        assert_eq!(ask(&calls, "echo still").await.unwrap(), "still");
    }
    second.runtime.shutdown_background();
}

#[tokio::test]
async fn server_answers_accepted_calls_during_shutdown() {
    let mut server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let waiting = tokio::spawn({
        let calls = calls.clone();
        async move { ask(&calls, "wait").await }
    });
    assert_eq!(server.log.recv().await, Some("began"));
    server.shutdown.cancel();
    // New calls are refused once the notice has arrived.
    let refused = async { while ask(&calls, "echo more").await.is_ok() {} };
    tokio::time::timeout(LIMIT, refused).await.unwrap();
    assert!(!server.served.is_finished(), "a call is in flight");
    server.go_on.cancel();
    assert_eq!(waiting.await.unwrap().unwrap(), "waited");
    tokio::time::timeout(LIMIT, server.served).await.expect("no call holds it open").unwrap();
    server.runtime.shutdown_background();
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the runtime thread is to be blocked")]
async fn call_that_a_stopping_server_did_not_accept_is_made_again() {
    let (stops, stays) = (server("127.0.0.1:0"), server("127.0.0.1:0"));
    let calls = calls_to(&format!("{},{}", stops.url, stays.url)).await;
    // Both streams are open once each server answers on its own.
    for _ in 0..50 {
        is_open(&calls).await;
    }
    stops.shutdown.cancel();
    // Blocks this thread, and so the client, for longer than the server waits for calls that are on their way.
    std::thread::sleep(DRAIN_GRACE * 3);
    let mut asked = JoinSet::new();
    for number in 0..50 {
        let calls = calls.clone();
        asked.spawn(async move { ask(&calls, &format!("echo {number}")).await });
    }
    for answer in tokio::time::timeout(LIMIT, asked.join_all()).await.unwrap() {
        answer.expect("the other server answers");
    }
    stops.runtime.shutdown_background();
    stays.runtime.shutdown_background();
}

#[tokio::test]
async fn send_queue_is_bounded_and_sends_batches() {
    let (sender, batches) = send_queue::<usize>();
    let mut batches = Box::pin(batches);
    for number in 0..10 {
        sender.send(number, BATCH_BYTES / 4);
    }
    assert_eq!(batches.next().await.unwrap(), [0, 1, 2, 3]);
    assert_eq!(batches.next().await.unwrap(), [4, 5, 6, 7]);
    assert_eq!(batches.next().await.unwrap(), [8, 9]);

    let log = Arc::new(Mutex::new(Vec::new()));
    sender.send(10, MAX_MESSAGE_BYTES);
    let waits = tokio::spawn({
        let (sender, log) = (sender.clone(), Arc::clone(&log));
        async move {
            sender.capacity().await;
            log.lock().unwrap().push("capacity");
            sender.send(11, 1);
        }
    });
    tokio::task::yield_now().await;
    assert!(log.lock().unwrap().is_empty(), "the peer has read nothing yet");
    drop(sender);
    assert_eq!(batches.next().await.unwrap(), [10]);
    waits.await.unwrap();
    assert_eq!(batches.next().await.unwrap(), [11]);
    assert_eq!(batches.next().await, None, "every sender is dropped");
}

#[tokio::test]
async fn response_without_reader_stops_at_its_credit() {
    let server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let request = PlanAndExecuteRequest { message: "flood".into(), ..Default::default() };
    let mut answers = calls.call::<PlanAndExecute>(&context(), request);
    assert!(answers.message().await.unwrap().is_some());
    // Other calls on the stream proceed while this response is not read.
    for _ in 0..200 {
        assert_eq!(ask(&calls, "echo still").await.unwrap(), "still");
    }
    let sent = SENT.load(std::sync::atomic::Ordering::SeqCst) * FLOOD_BYTES;
    assert!(sent < 2 * 1024 * 1024, "{sent} bytes are kept for a caller that does not read");
    let mut read = 1;
    while answers.message().await.unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, FLOOD_MESSAGES);
    assert!(answers.message().await.unwrap().is_none(), "the end stays the end");
    server.runtime.shutdown_background();
}

#[tokio::test]
async fn call_that_did_not_start_has_ended() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let calls = MultiplexClient::new(client::channel(&url, token()).unwrap());
    let mut answers = calls.call::<PlanAndExecute>(&context(), PlanAndExecuteRequest::default());
    assert!(answers.message().await.is_err());
    assert!(answers.message().await.unwrap().is_none());
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn retracted_frame_leaves_the_send_queue() {
    let (sender, batches) = send_queue::<usize>();
    let mut batches = Box::pin(batches);
    for number in 0..3 {
        sender.send(number, MAX_MESSAGE_BYTES);
    }
    assert!(sender.is_full());
    assert!(sender.retract(|number| *number == 1) && !sender.retract(|number| *number == 1));
    assert_eq!(batches.next().await.unwrap(), [0]);
    assert_eq!(batches.next().await.unwrap(), [2]);
    assert!(!sender.is_full());
}

#[tokio::test]
async fn cancel_reason_reaches_the_calls_of_the_connection() {
    let mut server = server("127.0.0.1:0");
    let calls = calls_to(&server.url).await;
    let waiting = tokio::spawn({
        let calls = calls.clone();
        async move { ask(&calls, "reason").await }
    });
    assert_eq!(server.log.recv().await, Some("began"));
    calls.announce_cancel_reason("the gateway stopped");
    // Frames arrive in the order of the stream.
    ask(&calls, "echo later").await.unwrap();
    server.go_on.cancel();
    assert_eq!(waiting.await.unwrap().unwrap(), "the gateway stopped");
    server.runtime.shutdown_background();
}
