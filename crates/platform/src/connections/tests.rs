use std::time::{Duration, Instant};

use axum::{Router, body::Body, extract::Request as AxumRequest, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tower::ServiceExt;

use super::{acceptor::CAPACITY_PAUSE, *};
use crate::http2::PREFACE;

/// Time limit of every wait.
const LIMIT: Duration = Duration::from_secs(15);

/// Time limit of a stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A server whose `POST /` echoes the body, and `POST /wait` does so after `go_on`.
struct Server {
    addr: SocketAddr,
    began: mpsc::Receiver<()>,
    go_on: CancellationToken,
    shutdown: CancellationToken,
    overdue: CancellationToken,
    served: JoinHandle<io::Result<()>>,
}

async fn server(protocol: Protocol, max_connections: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, began) = mpsc::channel(64);
    let (go_on, shutdown, overdue) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let wait = {
        let go_on = go_on.clone();
        async move |body: String| {
            tell.send(()).await.unwrap();
            go_on.cancelled().await;
            body
        }
    };
    let router = Router::new().route("/", post(async |body: String| body)).route("/wait", post(wait));
    let service = router.map_request(|request: AxumRequest<RequestBody>| request.map(Body::new));
    let options = Options { protocol, tls: None, max_connections, overdue: overdue.clone() };
    let served = tokio::spawn(serve(listener, options, service, shutdown.clone()));
    Server { addr, began, go_on, shutdown, overdue, served }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Stops the server. Returns the time that took.
    async fn stop(self) -> Duration {
        let asked = Instant::now();
        self.shutdown.cancel();
        timeout(LIMIT, self.served).await.expect("it ends").unwrap().unwrap();
        asked.elapsed()
    }
}

/// Reads to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    String::from_utf8_lossy(&bytes).into_owned()
}

const WHOLE: &str = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";

#[tokio::test]
async fn connections_without_a_call_do_not_delay_shutdown() {
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let server = server(protocol, 64).await;
        let half = "POST / HTTP/1.1\r\nhos";
        let idle = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
        let half_body = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\nhi";
        let mut open = vec![server.connect().await, server.send("PRI * HT").await];
        if protocol == Protocol::Http {
            open.extend([server.send(half).await, server.send(half_body).await]);
            let mut answered = server.send(idle).await;
            timeout(LIMIT, answered.read_exact(&mut [0; 12])).await.unwrap().unwrap();
            open.push(answered);
        }
        let mut http2 = server.connect().await;
        http2.write_all(&[&PREFACE[..], SETTINGS].concat()).await.unwrap();
        timeout(LIMIT, http2.read_exact(&mut [0; 9])).await.unwrap().unwrap();
        let took = server.stop().await;
        assert!(took < STOP_LIMIT, "{protocol:?}: {took:?}");
        drop((open, http2));
    }
}

#[tokio::test]
async fn call_in_flight_is_answered_during_shutdown() {
    let mut server = server(Protocol::Http, 64).await;
    let mut waiting = server.send(&WHOLE.replace("POST /", "POST /wait")).await;
    timeout(LIMIT, server.began.recv()).await.unwrap().unwrap();
    let silent = server.connect().await;
    server.shutdown.cancel();
    // A new connection is refused, while the call continues.
    let refused = async { while TcpStream::connect(server.addr).await.is_ok() {} };
    timeout(LIMIT, refused).await.unwrap();
    assert!(!server.served.is_finished());
    server.go_on.cancel();
    assert!(rest(&mut waiting).await.ends_with("hi"));
    assert!(!server.overdue.is_cancelled());
    timeout(LIMIT, server.served).await.expect("it ends").unwrap().unwrap();
    drop(silent);
}

#[tokio::test]
async fn version_is_known_however_the_first_bytes_arrive() {
    let server = server(Protocol::Http, 64).await;
    let preface = [&PREFACE[..], SETTINGS].concat();
    for size in [1, 2, 5, 23, 24, 1000] {
        let (mut http1, mut http2) = (server.connect().await, server.connect().await);
        for (caller, bytes) in [(&mut http1, WHOLE.as_bytes()), (&mut http2, &preface)] {
            caller.set_nodelay(true).unwrap();
            for part in bytes.chunks(size) {
                caller.write_all(part).await.unwrap();
                // The server may see each part alone.
                tokio::task::yield_now().await;
            }
        }
        assert!(rest(&mut http1).await.ends_with("hi"), "{size}");
        let mut frame = [0; 9];
        timeout(LIMIT, http2.read_exact(&mut frame)).await.unwrap().unwrap();
        assert_eq!(frame[3], SETTINGS[3], "{size}: it is a frame of the same type");
    }
    assert!(server.stop().await < STOP_LIMIT);
}

#[tokio::test]
async fn oldest_silent_connection_is_closed_at_the_limit() {
    let server = server(Protocol::Http, 8).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(server.connect().await);
    }
    let mut caller = server.send(WHOLE).await;
    assert!(rest(&mut caller).await.ends_with("hi"));
    assert_eq!(rest(&mut silent[0]).await, "", "the oldest was closed");
    assert!(server.stop().await < STOP_LIMIT);
}

#[tokio::test]
async fn calls_in_flight_are_kept_at_the_connection_limit() {
    let mut server = server(Protocol::Http, 2).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(server.send(&WHOLE.replace("POST /", "POST /wait")).await);
        timeout(LIMIT, server.began.recv()).await.unwrap().unwrap();
    }
    let mut later = server.send(WHOLE).await;
    let nothing = timeout(CAPACITY_PAUSE * 5, later.read_u8()).await;
    assert!(nothing.is_err(), "the limit is reached");
    server.go_on.cancel();
    assert!(rest(&mut later).await.ends_with("hi"));
    for mut stream in waiting {
        assert!(rest(&mut stream).await.ends_with("hi"));
    }
    server.stop().await;
}

#[tokio::test]
async fn connection_that_resets_too_many_streams_is_closed() {
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let server = server(protocol, 64).await;
        let mut stream = server.connect().await;
        stream.write_all(&[&PREFACE[..], SETTINGS].concat()).await.unwrap();
        // `:method: GET`, `:scheme: http`, `:path: /`, from the static table of HPACK; the end of headers and stream.
        let flood = async {
            for number in 0..40_000_u32 {
                let id = (2 * number + 1).to_be_bytes();
                let headers = [&[0, 0, 3, 1, 5][..], &id, &[0x82, 0x86, 0x84]].concat();
                let reset = [&[0, 0, 4, 3, 0][..], &id, &[0, 0, 0, 8]].concat();
                stream.write_all(&[headers, reset].concat()).await?;
            }
            Ok::<_, io::Error>(())
        };
        let flooded = timeout(LIMIT, flood).await.expect("it is closed in time");
        assert!(flooded.is_err(), "{protocol:?}: 40 000 streams were taken");
        // Others are served.
        if protocol == Protocol::Http {
            assert!(rest(&mut server.send(WHOLE).await).await.ends_with("hi"));
        }
        server.stop().await;
    }
}
