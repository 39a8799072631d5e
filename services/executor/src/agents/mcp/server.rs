//! One MCP server: kept running, its tools published, its state shown to the attempts that need it.

use std::{pin::pin, sync::Arc, time::Duration};

use metrics::Counter;
use parking_lot::{Mutex, RwLock};
use phoenix_domain::{
    ActionLimits, AgentName, AgentSpec, FailureClass,
    json::{Json, Object},
    mcp::{MODERN_VERSION, McpSettings},
};
use phoenix_platform::readiness::Readiness;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    connection::{Call, Connection},
    handshake::Handshake,
    listing::{Lister, Offers},
    message::object,
    pages::{self, List},
    remote::{Agreed, DISCOVER, Remote, RemoteSession},
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
    published::{News, Publish},
    redact::Redactor,
};

const TOOLS: List = List { method: "tools/list", member: "tools" };

/// Time between two readings of the list of tools of a server at an address that does not say how long a list is valid.
const REMOTE_REFRESH: Duration = Duration::from_secs(60);

/// Bounds of the time for which a server says that its list of tools is valid.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
const LONGEST_REFRESH: Duration = Duration::from_secs(60 * 60);

/// Shortest time between two readings of the list of tools.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// A server as its supervisor keeps it running.
pub(super) struct Server {
    agent: AgentName,
    settings: McpSettings,
    transport: Transport,
    start_timeout: Duration,
    /// Time limit of an attempt, after which a server that does not answer a ping is restarted.
    timeout: Duration,
    handshake: Handshake,
    redactor: Arc<Redactor>,
    crashes: CrashBackoff,
    restarts: Counter,
    publish: Publish,
    state: watch::Sender<State>,
}

/// How a server is reached.
pub(super) enum Transport {
    /// A process that is started.
    Process(Program),
    /// An address, or the reason why it cannot be used.
    Remote(Result<Arc<Remote>, AttemptFailure>),
}

/// State of the process.
#[derive(Clone)]
enum State {
    Starting,
    Ready(Arc<Process>),
    /// The last start failed; the next one follows.
    Failed(AttemptFailure),
}

/// A conversation that has begun.
struct Started {
    tools: Tools,
    /// What it has beside tools.
    offers: Offers,
    /// Notifications about changes that the server would send, if it were asked to.
    changes: Object,
}

/// A process, or a server at an address, that is ready.
pub(super) struct Process {
    /// Absent for a server at an address.
    pub(super) pid: Option<u32>,
    pub(super) connection: Arc<Connection>,
    tools: RwLock<Arc<Tools>>,
}

impl Server {
    pub(super) fn new(
        spec: &AgentSpec,
        transport: Transport,
        redactor: Arc<Redactor>,
        crashes: CrashBackoff,
        restarts: Counter,
        publish: Publish,
    ) -> Self {
        let settings = spec.mcp.clone().unwrap_or_default();
        let handshake = Handshake::new(settings.protocol.clone(), spec.start_timeout, Arc::clone(&redactor));
        Self {
            agent: spec.name.clone(),
            settings,
            transport,
            handshake,
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
            let connection = Arc::new(Connection::default());
            let started_at = Instant::now();
            let ended = tokio::select! {
                biased;
                () = &mut stopping => None,
                failure = self.run_once(&connection) => Some(failure),
            };
            let Some(failure) = ended else {
                let failure =
                    AttemptFailure::new(FailureClass::Io, "was ended: the executor is shutting down");
                connection.close(&failure.neutral_if(true));
                return;
            };
            if self.handshake.ended_by_probe(&failure) {
                tracing::debug!(agent = %self.agent, reason = failure.description, "MCP server ended when it was asked for its version; starting it again");
                connection.close(&failure);
                continue;
            }
            if matches!(*self.state.borrow(), State::Ready(_)) {
                tracing::warn!(agent = %self.agent, reason = failure.description, "MCP server ended; starting it again");
                self.crashes.record_crash(started_at.elapsed() >= STABLE_AFTER);
                // First, so that an attempt whose request was not written waits for the next process.
                self.state.send_replace(State::Starting);
            } else {
                self.fail_start(failure.clone());
            }
            connection.close(&failure);
        }
    }

    /// Runs the process, or uses the server at the address, until it is of no use any more. Returns why.
    async fn run_once(&self, connection: &Arc<Connection>) -> AttemptFailure {
        match &self.transport {
            Transport::Process(program) => {
                let _slot = program.start_slot().await;
                let process = match program.spawn(None) {
                    Ok(process) => process,
                    Err(error) => return AttemptFailure::not_started(&error),
                };
                let pid = process.pid;
                let mut session = Session::new(process, Arc::clone(connection));
                let end = tokio::select! {
                    biased;
                    end = session.run() => end,
                    failure = self.use_process(Some(pid), connection, None) => SessionEnd::Broken(failure),
                };
                let failure = end.failure().with_stderr(session.stderr_text(&self.redactor));
                if !matches!(end, SessionEnd::Exited(_)) {
                    session.group.kill();
                }
                failure
            }
            Transport::Remote(Err(failure)) => failure.clone(),
            Transport::Remote(Ok(remote)) => {
                let session = RemoteSession::new(Arc::clone(remote), Arc::clone(connection));
                let agreed = session.agreed();
                tokio::select! {
                    biased;
                    failure = session.run() => failure,
                    failure = self.use_process(None, connection, Some(&agreed)) => failure,
                }
            }
        }
    }

    fn fail_start(&self, failure: AttemptFailure) {
        tracing::warn!(agent = %self.agent, reason = failure.description, "MCP server could not be started");
        self.crashes.record_crash(false);
        self.state.send_replace(State::Failed(failure));
    }

    /// Starts a conversation with a new process, then keeps its tools up to date. Returns when the process is of no use.
    async fn use_process(
        &self,
        pid: Option<u32>,
        connection: &Arc<Connection>,
        agreed: Option<&Mutex<Agreed>>,
    ) -> AttemptFailure {
        let started = timeout(self.start_timeout, self.start(connection, agreed)).await;
        let Started { tools, offers, changes } = match started {
            Ok(Ok(started)) => started,
            Ok(Err(failure)) => return failure,
            Err(_) => {
                let limit = format_duration(self.start_timeout);
                return AttemptFailure::new(FailureClass::Io, format!("did not start within {limit}"));
            }
        };
        let refresh = self.refresh_after(pid, &tools);
        // Open as long as the process runs; dropping it would end it.
        let _changes = subscribe_to_changes(connection, changes);
        (self.publish)(News::Actions(tools.actions()));
        let stable_at = Instant::now() + STABLE_AFTER;
        let process = Arc::new(Process {
            pid,
            connection: Arc::clone(connection),
            tools: RwLock::new(Arc::new(tools)),
        });
        self.state.send_replace(State::Ready(Arc::clone(&process)));
        let lister = Lister {
            agent: &self.agent,
            handshake: &self.handshake,
            connection,
            publish: &self.publish,
            offers,
            timeout: self.timeout,
            is_remote: pid.is_none(),
        };
        tokio::select! {
            failure = self.keep_tools(&process, refresh, stable_at) => failure,
            never = lister.keep() => match never {},
        }
    }

    /// Keeps the tools of a process up to date. Returns when the process is of no use.
    async fn keep_tools(
        &self,
        process: &Process,
        mut refresh: Option<Duration>,
        stable_at: Instant,
    ) -> AttemptFailure {
        let (pid, connection) = (process.pid, &process.connection);
        let mut is_stable = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(refresh.unwrap_or_default()), if refresh.is_some() => {
                    connection.tools_changed.notify_one();
                }
                () = connection.tools_changed.notified() => {
                    match timeout(self.timeout, self.list_tools(connection)).await {
                        Ok(Ok(tools)) => {
                            refresh = self.refresh_after(pid, &tools);
                            self.replace_tools(process, tools);
                        }
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

    /// Time until the list of tools is read again: as long as the server says that it is valid. A process can say that it has changed,
    /// a server at an address has no way to.
    fn refresh_after(&self, pid: Option<u32>, tools: &Tools) -> Option<Duration> {
        let asked = tools.valid_for.map(|time| time.clamp(SHORTEST_REFRESH, LONGEST_REFRESH));
        asked.or_else(|| pid.is_none().then_some(REMOTE_REFRESH))
    }

    fn replace_tools(&self, process: &Process, tools: Tools) {
        if process.tools().by_name != tools.by_name {
            tracing::info!(agent = %self.agent, "tools have changed");
            (self.publish)(News::Actions(tools.actions()));
            *process.tools.write() = Arc::new(tools);
        }
    }

    /// The handshake, if the server needs one, and the first list of tools.
    async fn start(
        &self,
        connection: &Arc<Connection>,
        agreed: Option<&Mutex<Agreed>>,
    ) -> Result<Started, AttemptFailure> {
        let server = self.handshake.begin(connection, agreed).await?;
        let tools = match &server["capabilities"]["tools"] {
            Json::Null => Collector::new(&self.agent, &self.settings).finish(),
            _ => self.list_tools(connection).await?,
        };
        let identity = match &server["serverInfo"] {
            Json::Null => &server["_meta"]["io.modelcontextprotocol/serverInfo"],
            identity => identity,
        };
        tracing::info!(
            agent = %self.agent,
            server = identity["name"].as_str(),
            server_version = identity["version"].as_str(),
            protocol_version = server["protocolVersion"].as_str().unwrap_or(MODERN_VERSION),
            tools = tools.actions().len(),
            "MCP server is ready"
        );
        // With a handshake, a server says without being asked that a list has changed.
        let asks_for_changes = connection.meta.get().is_some() && agreed.is_none();
        let capabilities = &server["capabilities"];
        let changes = ["tools", "resources", "prompts"].into_iter();
        let changes = changes.filter(|list| asks_for_changes && capabilities[*list]["listChanged"] == true);
        let changes = changes.map(|list| (format!("{list}ListChanged"), true.into())).collect();
        Ok(Started { tools, offers: Offers::of(capabilities), changes })
    }

    async fn list_tools(&self, connection: &Arc<Connection>) -> Result<Tools, AttemptFailure> {
        let mut collector = Collector::new(&self.agent, &self.settings);
        let take = |definitions: &[Json]| {
            definitions.iter().for_each(|definition| collector.add(definition));
            !collector.is_full()
        };
        let read = pages::read(&self.handshake, connection, TOOLS, take).await?;
        Ok(Tools { valid_for: read.valid_for, ..collector.finish() })
    }

    /// Checks that the server still answers, for as long as an attempt may take.
    async fn ping(&self, connection: &Arc<Connection>) -> Result<(), AttemptFailure> {
        // Without a handshake there is no ping.
        let method = if connection.meta.get().is_some() { DISCOVER } else { "ping" };
        let Ok(mut call) = connection.call(method, |_| Object::new()) else { return Ok(()) };
        if timeout(self.timeout, call.response()).await.is_ok() {
            // Any response, even an error, is one.
            return Ok(());
        }
        let limit = format_duration(self.timeout);
        let description = format!("answered neither a call nor a ping within {limit}, and was restarted");
        Err(AttemptFailure::new(FailureClass::Timeout, description))
    }

    /// Limits of the tool that `action` calls. Before the tools are known, a tool has the name of the action.
    pub(super) fn limits_of(&self, action: &str) -> ActionLimits {
        if let State::Ready(process) = &*self.state.borrow()
            && let Some(limits) = process.tools().limits_of(action)
        {
            return limits;
        }
        self.settings.limits_of(self.settings.tool_of(action))
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

/// Asks a server without a handshake to say when its lists change. Its answer comes at the end of the subscription.
fn subscribe_to_changes(connection: &Arc<Connection>, wanted: Object) -> Option<Call> {
    if wanted.is_empty() {
        return None;
    }
    connection.call("subscriptions/listen", |_| object([("notifications", wanted.into())])).ok()
}
