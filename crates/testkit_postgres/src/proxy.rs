//! A TCP proxy in front of a server: delays, cuts and refuses connections, and loses requests and answers.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running proxy. Dropping it ends it with its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    link: watch::Sender<Link>,
    loss: Losses,
    _stop: DropGuard,
}

/// What is lost of a request, such as a `COMMIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The request: a transaction is rolled back.
    Request,
    /// Its answer: the server has done the work.
    Answer,
}

/// State of the link between client and server.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// Port of the server to which new connections lead.
    port: u16,
    /// Delay in each direction.
    delay: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing arrives, and nothing is closed.
    Cut,
    /// Connections are closed, and new ones refused.
    Refusing,
}

/// Losses of a proxy.
type Losses = Arc<Mutex<Planned>>;

/// The next loss, and the number of past ones.
#[derive(Debug, Default)]
struct Planned {
    next: Option<Loss>,
    /// Whether any request is lost, or only a `COMMIT`.
    of_any: bool,
    done: usize,
}

/// One direction of a connection.
struct Direction {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    link: watch::Receiver<Link>,
    /// Ends both directions.
    closed: CancellationToken,
    inspect: Inspect,
}

/// What a direction looks for.
enum Inspect {
    /// The request of the client that is to be lost.
    Requests(Losses, Arc<Mutex<bool>>),
    /// The answer that is to be lost.
    Answers(Losses, Arc<Mutex<bool>>),
}

impl Proxy {
    /// Starts a proxy of the server on `port`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (link, state) = watch::channel(Link { port, delay: Duration::ZERO, state: State::Open });
        let loss = Losses::default();
        let stop = CancellationToken::new();
        let accepting = accept(listener, addr, state, Arc::clone(&loss), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { addr, link, loss, _stop: stop.drop_guard() }
    }

    /// The URL of a database, through this proxy.
    ///
    /// # Panics
    /// When the URL names no port.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (user, rest) = database.rsplit_once('@').expect("a user");
        let (_, name) = rest.split_once('/').expect("a database");
        format!("{user}@{}/{name}", self.addr)
    }

    /// Delays each direction, so that a round trip takes twice as long.
    pub fn delay(&self, delay: Duration) {
        self.link.send_modify(|link| link.delay = delay);
    }

    /// Leads new connections to the server on `port`, as a name does that follows the primary.
    pub fn redirect(&self, port: u16) {
        self.link.send_modify(|link| link.port = port);
    }

    /// Interrupts every connection without closing it.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.state = State::Cut);
    }

    /// Closes every connection and refuses new ones.
    pub fn refuse(&self) {
        self.link.send_modify(|link| link.state = State::Refusing);
    }

    /// Ends [`cut`](Self::cut) and [`refuse`](Self::refuse).
    pub fn restore(&self) {
        self.link.send_modify(|link| link.state = State::Open);
    }

    /// Loses the next `COMMIT` of a simple query, or its answer, and closes its connection.
    ///
    /// # Panics
    /// Never, unless a connection panicked.
    pub fn lose_next_commit(&self, loss: Loss) {
        let mut planned = self.loss.lock().unwrap();
        (planned.next, planned.of_any) = (Some(loss), false);
    }

    /// Loses the next request of any kind, or its answer, and closes its connection.
    ///
    /// # Panics
    /// Never, unless a connection panicked.
    pub fn lose_next(&self, loss: Loss) {
        let mut planned = self.loss.lock().unwrap();
        (planned.next, planned.of_any) = (Some(loss), true);
    }

    /// Number of lost requests and answers.
    ///
    /// # Panics
    /// Never, unless a connection panicked.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.loss.lock().unwrap().done
    }
}

/// Accepts connections while the link does not refuse them.
async fn accept(
    listener: TcpListener,
    addr: SocketAddr,
    mut link: watch::Receiver<Link>,
    loss: Losses,
    stop: CancellationToken,
) {
    let mut listener = Some(listener);
    loop {
        if link.borrow_and_update().state == State::Refusing {
            listener = None;
        } else if listener.is_none() {
            // Its own connections may still occupy the port.
            listener = TcpListener::bind(addr).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
            }
        };
        tokio::select! {
            accepted = accepted => if let Ok((client, _)) = accepted {
                let port = link.borrow().port;
                tokio::spawn(connect(client, port, link.clone(), Arc::clone(&loss), stop.child_token()));
            },
            changed = link.changed() => if changed.is_err() { return },
        }
    }
}

/// Connects `client` with the server.
async fn connect(
    client: TcpStream,
    port: u16,
    mut link: watch::Receiver<Link>,
    loss: Losses,
    closed: CancellationToken,
) {
    let connected = async {
        link.wait_for(|link| link.state != State::Cut).await.ok()?;
        let server = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).ok()?;
        Some(server)
    };
    let Some(Some(server)) = closed.run_until_cancelled(connected).await else { return };
    let ((client_reads, client_writes), (server_reads, server_writes)) =
        (client.into_split(), server.into_split());
    let loses_answer = Arc::new(Mutex::new(false));
    let requests = Direction {
        from: client_reads,
        to: server_writes,
        link: link.clone(),
        closed: closed.clone(),
        inspect: Inspect::Requests(Arc::clone(&loss), Arc::clone(&loses_answer)),
    };
    let answers = Direction {
        from: server_reads,
        to: client_writes,
        link: link.clone(),
        closed: closed.clone(),
        inspect: Inspect::Answers(loss, loses_answer),
    };
    let refusing = async {
        let _ = link.wait_for(|link| link.state == State::Refusing).await;
    };
    tokio::select! {
        () = closed.cancelled() => {}
        () = refusing => {}
        ((), ()) = async { tokio::join!(requests.run(), answers.run()) } => {}
    }
}

impl Direction {
    /// Passes bytes on until the end of the connection.
    async fn run(self) {
        let Self { mut from, mut to, mut link, closed, inspect } = self;
        let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
        let delay = link.clone();
        let read = async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                if !inspect.passes(&buffer[..length]) {
                    closed.cancel();
                    break;
                }
                let due = Instant::now() + delay.borrow().delay;
                if queue.send((due, buffer[..length].to_vec())).await.is_err() {
                    break;
                }
            }
        };
        let write = async move {
            while let Some((due, bytes)) = queued.recv().await {
                tokio::time::sleep_until(due).await;
                if link.wait_for(|link| link.state != State::Cut).await.is_err()
                    || to.write_all(&bytes).await.is_err()
                {
                    return;
                }
            }
            let _ = link.wait_for(|link| link.state != State::Cut).await;
            let _ = to.shutdown().await;
        };
        tokio::join!(read, write);
    }
}

impl Inspect {
    /// Whether `bytes` are passed on; else the connection is closed.
    fn passes(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Requests(loss, loses_answer) => {
                let mut planned = loss.lock().unwrap();
                // The end of a connection has no answer.
                if bytes.first() == Some(&b'X') {
                    return true;
                }
                // A simple query ends with a zero.
                if !planned.of_any && !bytes.windows(7).any(|seven| seven == b"COMMIT\0") {
                    return true;
                }
                match planned.next.take() {
                    None => true,
                    Some(Loss::Request) => {
                        planned.done += 1;
                        false
                    }
                    Some(Loss::Answer) => {
                        *loses_answer.lock().unwrap() = true;
                        true
                    }
                }
            }
            Self::Answers(loss, loses_answer) => {
                let loses = *loses_answer.lock().unwrap();
                if loses {
                    loss.lock().unwrap().done += 1;
                }
                !loses
            }
        }
    }
}
