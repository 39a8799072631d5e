//! One agent that can be run: its program, its queue and its metrics.

use std::{path::Path, sync::Arc};

use phoenix_domain::{
    AgentMode, AgentSpec,
    builtin::{BUILTINS, LLM_ROUTER},
    llm::{SETTINGS_SOCKET_VARIABLE, SETTINGS_VARIABLE},
};

use crate::{
    agents::{AgentRunner, CrashBackoff, Mcp, Oneshot, Workers},
    cleanup::Cleanup,
    config::ExecutorConfig,
    load::LoadSignal,
    metrics::AgentMetrics,
    process::{ExecutorIdentity, Launch, Program},
    processes::MARKER_VARIABLE,
    published::PublishedAgents,
    redact::Redactor,
    task_queue::TaskQueue,
};

/// Search path for programs when neither the agent nor the executor has a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// One agent that can be run.
pub(super) struct Agent {
    pub(super) spec: AgentSpec,
    pub(super) runner: Box<dyn AgentRunner>,
    pub(super) queue: TaskQueue,
    pub(super) metrics: AgentMetrics,
}

impl Agent {
    /// The agent that `spec` describes. `socket` is the name of the settings socket. Its queue raises `changes`; the actions
    /// that it discovers are `published`.
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of an executor, at the only place that joins them"
    )]
    pub(super) fn new(
        spec: &AgentSpec,
        config: &ExecutorConfig,
        socket: Option<&str>,
        identity: &ExecutorIdentity,
        redactor: &Arc<Redactor>,
        cleanup: &Cleanup,
        changes: &LoadSignal,
        published: &PublishedAgents,
    ) -> Self {
        let metrics = AgentMetrics::new(&spec.name, spec.concurrency());
        let socket = socket.filter(|_| collects_settings(spec, config));
        let environment = environment_of(spec, config, socket);
        let search_path = (environment.iter().rfind(|(name, _)| name == "PATH").map(|(_, value)| value))
            .or_else(|| config.environment.get("PATH"))
            .map_or(DEFAULT_PATH, String::as_str)
            .to_owned();
        let launch =
            Launch { command: &spec.command, environment, search_path, collects_settings: socket.is_some() };
        let program = Program::new(launch, metrics.processes.clone(), identity.clone(), cleanup.clone());
        let redactor = Arc::clone(redactor);
        let runner: Box<dyn AgentRunner> = match spec.mode {
            AgentMode::Oneshot => Box::new(Oneshot::new(program, redactor)),
            AgentMode::Workers => {
                let crashes = CrashBackoff::new(spec.name.clone(), &metrics);
                let start_timeout = spec.start_timeout;
                Box::new(Workers::new(program, start_timeout, redactor, crashes, &metrics, cleanup.clone()))
            }
            AgentMode::Mcp => {
                let (published, name) = (published.clone(), spec.name.clone());
                let publish = Box::new(move |news| published.take(&name, news));
                let readiness = config.readiness.clone();
                Box::new(Mcp::start(spec, program, redactor, &metrics, publish, readiness, cleanup))
            }
        };
        let queue = TaskQueue::new(spec.concurrency(), spec.max_queue, &metrics, changes.clone());
        Self { spec: spec.clone(), runner, queue, metrics }
    }
}

/// Whether `spec` runs the built-in language-model agent of this installation, which can collect the model settings over a
/// socket. Every other agent finds them in its environment.
pub(super) fn collects_settings(spec: &AgentSpec, config: &ExecutorConfig) -> bool {
    let ([program, agent, subcommand], Some(executable)) = (spec.command.as_slice(), &config.executable)
    else {
        return false;
    };
    let is_llm_router =
        BUILTINS.iter().any(|builtin| builtin.name == LLM_ROUTER && builtin.subcommand == subcommand);
    let names_settings = spec.env.iter().any(|name| name == SETTINGS_VARIABLE);
    is_llm_router && names_settings && agent == "agent" && Path::new(program) == executable
}

/// Environment of the processes of `spec`, except for the marker: the variables that it names, as far as they are set, and those
/// that it sets, which come later and so take precedence.
/// With a `socket`, its name takes the place of the model settings.
fn environment_of(spec: &AgentSpec, config: &ExecutorConfig, socket: Option<&str>) -> Vec<(String, String)> {
    let variable = |name: &String| match name.as_str() {
        MARKER_VARIABLE | SETTINGS_SOCKET_VARIABLE => None,
        SETTINGS_VARIABLE => match socket {
            Some(socket) => Some((SETTINGS_SOCKET_VARIABLE.to_owned(), socket.to_owned())),
            // Serialization cannot fail: every key of the settings is a string.
            None => Some((name.clone(), serde_json::to_string(&config.llm).ok()?)),
        },
        _ => Some((name.clone(), config.environment.get(name)?.clone())),
    };
    let inherited = spec.env.iter().filter_map(variable);
    let own = spec.mcp.iter().flat_map(|server| &server.variables);
    let own = own.filter(|(name, _)| name.as_str() != MARKER_VARIABLE);
    inherited.chain(own.map(|(name, value)| (name.clone(), value.expose().to_owned()))).collect()
}
