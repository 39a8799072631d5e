//! One MCP server: kept running, its tools published, its state shown to the attempts that need it.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use metrics::Counter;
use parking_lot::RwLock;
use phoenix_domain::{
    ActionSpec, AgentName, AgentSpec, FailureClass,
    json::{Json, Object},
    mcp::McpSettings,
};
use phoenix_platform::readiness::Readiness;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    connection::{Connection, LostResponse},
    message::{RpcError, object},
    result,
    session::{Session, SessionEnd},
    tools::{Collector, Tools},
};
use crate::{
    agents::{
        attempt::Attempt,
        crash_backoff::{CrashBackoff, STABLE_AFTER},
    },
    cleanup::Cleanup,
    failure::{AttemptFailure, format_duration},
    process::Program,
    redact::Redactor,
};

/// Newest version of the protocol with a handshake. A server answers with the version that it prefers.
const PROTOCOL_VERSION: &str = "2025-11-25";

/// Limit of the pages of `tools/list`.
const MAX_PAGES: usize = 64;

/// Shortest time between two readings of the list of tools.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// Publishes the actions of an agent.
pub(crate) type Publish = Box<dyn Fn(BTreeMap<String, ActionSpec>) + Send + Sync>;

/// A server as its supervisor keeps it running.
pub(super) struct Server {
    agent: AgentName,
    settings: McpSettings,
    program: Program,
    start_timeout: Duration,
    /// Time limit of an attempt, after which a server that does not answer a ping is restarted.
    timeout: Duration,
    redactor: Arc<Redactor>,
    crashes: CrashBackoff,
    restarts: Counter,
    publish: Publish,
    state: watch::Sender<State>,
}

/// State of the process.
#[derive(Clone)]
enum State {
    Starting,
    Ready(Arc<Process>),
    /// The last start failed; the next one follows.
    Failed(AttemptFailure),
}

/// A process that is ready.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) connection: Arc<Connection>,
    tools: RwLock<Arc<Tools>>,
}

impl Server {
    pub(super) fn new(
        spec: &AgentSpec,
        program: Program,
        redactor: Arc<Redactor>,
        crashes: CrashBackoff,
        restarts: Counter,
        publish: Publish,
    ) -> Self {
        Self {
            agent: spec.name.clone(),
            settings: spec.mcp.clone().unwrap_or_default(),
            program,
            start_timeout: spec.start_timeout,
            timeout: spec.timeout,
            redactor,
            crashes,
            restarts,
            publish,
            state: watch::Sender::new(State::Starting),
        }
    }

    /// Keeps the process running from the moment the executor is ready until it stops.
    pub(super) async fn supervise(self: Arc<Self>, readiness: Readiness, cleanup: Cleanup) {
        let mut stopping = pin!(cleanup.stopping());
        tokio::select! {
            () = readiness.ready() => {}
            () = &mut stopping => return,
        }
        let mut is_first = true;
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => return,
                () = self.crashes.wait() => {}
            }
            if !std::mem::take(&mut is_first) {
                self.restarts.increment(1);
            }
            let process = match self.program.spawn(None) {
                Ok(process) => process,
                Err(error) => {
                    self.fail_start(AttemptFailure::not_started(&error));
                    continue;
                }
            };
            let (pid, started_at) = (process.pid, Instant::now());
            let connection = Arc::new(Connection::default());
            let mut session = Session::new(process, Arc::clone(&connection));
            let end = tokio::select! {
                biased;
                () = &mut stopping => None,
                end = session.run() => Some(end),
                failure = self.use_process(pid, &connection) => Some(SessionEnd::Broken(failure)),
            };
            let Some(end) = end else {
                let failure =
                    AttemptFailure::new(FailureClass::Io, "was ended: the executor is shutting down");
                connection.close(&failure.neutral_if(true));
                return;
            };
            let failure = end.failure().with_stderr(session.stderr_text(&self.redactor));
            if !matches!(end, SessionEnd::Exited(_)) {
                session.group.kill();
            }
            drop(session);
            if matches!(*self.state.borrow(), State::Ready(_)) {
                tracing::warn!(agent = %self.agent, pid, reason = failure.description, "MCP server ended; starting it again");
                self.crashes.record_crash(started_at.elapsed() >= STABLE_AFTER);
                // First, so that an attempt whose request was not written waits for the next process.
                self.state.send_replace(State::Starting);
            } else {
                self.fail_start(failure.clone());
            }
            connection.close(&failure);
        }
    }

    fn fail_start(&self, failure: AttemptFailure) {
        tracing::warn!(agent = %self.agent, reason = failure.description, "MCP server could not be started");
        self.crashes.record_crash(false);
        self.state.send_replace(State::Failed(failure));
    }

    /// Starts a conversation with a new process, then keeps its tools up to date. Returns when the process is of no use.
    async fn use_process(&self, pid: u32, connection: &Arc<Connection>) -> AttemptFailure {
        let started = timeout(self.start_timeout, self.start(connection)).await;
        let tools = match started {
            Ok(Ok(tools)) => tools,
            Ok(Err(failure)) => return failure,
            Err(_) => {
                let limit = format_duration(self.start_timeout);
                return AttemptFailure::new(FailureClass::Io, format!("did not start within {limit}"));
            }
        };
        (self.publish)(tools.actions());
        let stable_at = Instant::now() + STABLE_AFTER;
        let process = Arc::new(Process {
            pid,
            connection: Arc::clone(connection),
            tools: RwLock::new(Arc::new(tools)),
        });
        self.state.send_replace(State::Ready(Arc::clone(&process)));
        let mut is_stable = false;
        loop {
            tokio::select! {
                () = connection.tools_changed.notified() => {
                    match timeout(self.timeout, self.list_tools(connection)).await {
                        Ok(Ok(tools)) => self.replace_tools(&process, tools),
                        Ok(Err(failure)) => {
                            tracing::warn!(agent = %self.agent, reason = failure.description, "tools cannot be listed; the former ones stay");
                        }
                        Err(_) => connection.doubted.notify_one(),
                    }
                    tokio::time::sleep(REFRESH_INTERVAL).await;
                }
                () = connection.doubted.notified() => if let Err(failure) = self.ping(connection).await {
                    return failure;
                },
                () = sleep_until(stable_at), if !is_stable => {
                    is_stable = true;
                    self.crashes.reset();
                }
            }
        }
    }

    fn replace_tools(&self, process: &Process, tools: Tools) {
        if *process.tools() != tools {
            tracing::info!(agent = %self.agent, "tools have changed");
            (self.publish)(tools.actions());
            *process.tools.write() = Arc::new(tools);
        }
    }

    /// The handshake, and the first list of tools.
    async fn start(&self, connection: &Arc<Connection>) -> Result<Tools, AttemptFailure> {
        let client = object([("name", "phoenix".into()), ("version", env!("CARGO_PKG_VERSION").into())]);
        let params = object([
            ("protocolVersion", PROTOCOL_VERSION.into()),
            ("capabilities", Object::new().into()),
            ("clientInfo", client.into()),
        ]);
        let server = self.request(connection, "initialize", params).await?;
        connection.notify("notifications/initialized", Object::new());
        let tools = match &server["capabilities"]["tools"] {
            Json::Null => Collector::new(&self.agent, &self.settings).finish(),
            _ => self.list_tools(connection).await?,
        };
        tracing::info!(
            agent = %self.agent,
            server = server["serverInfo"]["name"].as_str(),
            server_version = server["serverInfo"]["version"].as_str(),
            protocol_version = server["protocolVersion"].as_str(),
            tools = tools.actions().len(),
            "MCP server is ready"
        );
        Ok(tools)
    }

    async fn list_tools(&self, connection: &Arc<Connection>) -> Result<Tools, AttemptFailure> {
        let mut collector = Collector::new(&self.agent, &self.settings);
        let mut cursor = Json::Null;
        for _ in 0..MAX_PAGES {
            let params = match &cursor {
                Json::Null => Object::new(),
                cursor => object([("cursor", cursor.clone())]),
            };
            let page = self.request(connection, "tools/list", params).await?;
            let Some(definitions) = page["tools"].as_array() else {
                let problem = "answered `tools/list` without a list of tools";
                return Err(AttemptFailure::new(FailureClass::BackendFailure, problem));
            };
            definitions.iter().for_each(|definition| collector.add(definition));
            let next = page["nextCursor"].clone();
            if next.is_null() || next == cursor || collector.is_full() {
                break;
            }
            cursor = next;
        }
        Ok(collector.finish())
    }

    /// The result of a request.
    async fn request(
        &self,
        connection: &Arc<Connection>,
        method: &str,
        params: Object,
    ) -> Result<Json, AttemptFailure> {
        let lost = |LostResponse { failure, .. }| failure;
        let mut call = connection.call(method, |_| params).map_err(lost)?;
        call.response().await.map_err(lost)?.map_err(|error: RpcError| {
            let failure = result::failure(&error, &self.redactor);
            // What is wrong with these requests is not the caller's fault.
            let description =
                format!("refused `{method}`: {}", failure.description.trim_start_matches("answered: "));
            AttemptFailure::new(FailureClass::BackendFailure, description)
        })
    }

    /// Checks that the server still answers, for as long as an attempt may take.
    async fn ping(&self, connection: &Arc<Connection>) -> Result<(), AttemptFailure> {
        let Ok(mut call) = connection.call("ping", |_| Object::new()) else { return Ok(()) };
        if timeout(self.timeout, call.response()).await.is_ok() {
            // Any response, even an error, is one.
            return Ok(());
        }
        let limit = format_duration(self.timeout);
        let description = format!("answered neither a call nor a ping within {limit}, and was restarted");
        Err(AttemptFailure::new(FailureClass::Timeout, description))
    }

    /// The process, once it is ready.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready at the attempt's deadline.
    pub(super) async fn ready(&self, attempt: &Attempt<'_>) -> Result<Arc<Process>, AttemptFailure> {
        let mut states = self.state.subscribe();
        let state = states.borrow_and_update().clone();
        match state {
            State::Ready(process) => return Ok(process),
            State::Failed(_) => self.crashes.check(attempt.deadline)?,
            State::Starting => {}
        }
        let next = async {
            loop {
                if states.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let state = states.borrow_and_update().clone();
                match state {
                    State::Ready(process) => return Ok(process),
                    State::Failed(failure) => return Err(failure),
                    State::Starting => {}
                }
            }
        };
        match tokio::time::timeout_at(attempt.deadline, next).await {
            Ok(ready) => ready,
            Err(_) => Err(AttemptFailure::still_starting(attempt.limit)),
        }
    }
}

impl Process {
    /// The present tools.
    pub(super) fn tools(&self) -> Arc<Tools> {
        Arc::clone(&self.tools.read())
    }
}
