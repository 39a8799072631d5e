//! The executor: accepts tasks, runs their attempts, reports how they end.
//!
//! ```text
//! execute_agent_for_task        a permit from the agent's queue, the end, metrics and logs
//! └─ execute_agent_with_retries attempts and the pauses between them
//!    └─ attempt                 one process, one response        (agents/<mode>.rs)
//! ```

mod agent;
mod attempt_span;
mod errors;
mod task_run;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use phoenix_domain::{
    AgentCatalog, AgentName, OrchestratorError, OrchestratorErrorCode, TaskId, health::Outcome,
};
use phoenix_platform::{client::InvalidUrl, record_counter};
use phoenix_proto::{
    executor::{AgentLoad, InspectAgentResponse},
    to_timestamp,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use self::{agent::Agent, task_run::TaskRun};
use crate::{
    cleanup::Cleanup,
    config::ExecutorConfig,
    health_reports::{HealthReports, Report},
    load::LoadSignal,
    metrics::TASKS_STARTED,
    process::ExecutorIdentity,
    published::PublishedAgents,
    redact::Redactor,
    running::RunningTasks,
    settings_socket::SettingsSocket,
    task::{EventQueue, Task, TaskStream},
};

/// Runs agents.
pub(crate) struct Executor {
    catalog: AgentCatalog,
    agents: BTreeMap<AgentName, Arc<Agent>>,
    health: HealthReports,
    running: Arc<RunningTasks>,
    cleanup: Cleanup,
    loads: watch::Receiver<Vec<AgentLoad>>,
    published: PublishedAgents,
    _load_publisher: AbortOnDropHandle<()>,
    /// Serves the model settings for as long as the executor can start agents.
    _settings: Option<SettingsSocket>,
}

impl Executor {
    /// An executor whose processes carry `identity`. Must be called inside a tokio runtime.
    pub(crate) fn new(
        config: &ExecutorConfig,
        identity: &ExecutorIdentity,
        running: Arc<RunningTasks>,
        cleanup: Cleanup,
    ) -> Result<Arc<Self>, InvalidUrl> {
        let redactor = Arc::new(Redactor::with_agents(&config.llm, &config.agents));
        let catalog = PublishedAgents::new(&config.agents);
        let settings = settings_socket(config, identity);
        let socket = settings.as_ref().map(SettingsSocket::name);
        let changes = LoadSignal::default();
        let agents = config.agents.iter().map(|spec| {
            let agent = Agent::new(spec, config, socket, identity, &redactor, &cleanup, &changes, &catalog);
            (spec.name.clone(), Arc::new(agent))
        });
        let agents: BTreeMap<_, _> = agents.collect();
        let measured: Vec<_> = agents.values().cloned().collect();
        let load = move || measured.iter().map(|agent| load_of(agent)).collect();
        let (published, loads) = watch::channel(load());
        let publisher = AbortOnDropHandle::new(tokio::spawn(changes.publish(load, published)));
        Ok(Arc::new(Self {
            catalog: config.agents.clone(),
            agents,
            health: HealthReports::new(&config.health_url, &config.identity)?,
            running,
            cleanup,
            loads,
            published: catalog,
            _load_publisher: publisher,
            _settings: settings,
        }))
    }

    /// The agents as they are published now.
    pub(crate) const fn published(&self) -> &PublishedAgents {
        &self.published
    }

    /// A receiver of the load of every agent after each change.
    pub(crate) fn loads(&self) -> watch::Receiver<Vec<AgentLoad>> {
        self.loads.clone()
    }

    /// Accepts `task`. The task runs while its stream is polled; dropping the stream cancels it.
    ///
    /// # Errors
    /// `planning_failed` for an unknown agent, `overloaded` when its queue is full.
    pub(crate) fn execute_task(self: &Arc<Self>, task: Task) -> Result<TaskStream, OrchestratorError> {
        let agent = match self.agents.get(&task.agent) {
            Some(agent) => Arc::clone(agent),
            None => return Err(self.unknown(&task.agent)),
        };
        let Some(ticket) = agent.queue.try_enter() else {
            agent.metrics.overloaded.increment(1);
            self.return_lease(&task);
            return Err(errors::overloaded(&agent.spec));
        };
        if task.earlier_attempts == 0 {
            record_counter(&TASKS_STARTED, 1);
        }
        let span = tracing::info_span!(
            "execute_agent_for_task",
            agent = %task.agent,
            plan_id = %task.plan_id,
            task_id = %task.task_id,
            correlation_id = %task.caller.correlation_id,
            otel.status_description = tracing::field::Empty,
        );
        let registration = self.running.register(task.task_id);
        let cancel = registration.cancel.clone();
        let events = EventQueue::default();
        let run = TaskRun::new(self.health.clone(), agent, task, registration, events.clone());
        let run = run.execute_agent_for_task(ticket).instrument(span);
        Ok(TaskStream::new(run, events, cancel, self.cleanup.clone()))
    }

    /// What is known about the processes of an agent.
    ///
    /// # Errors
    /// `planning_failed` for an unknown agent.
    pub(crate) fn inspect(&self, name: &AgentName) -> Result<InspectAgentResponse, OrchestratorError> {
        let agent = self.agents.get(name).ok_or_else(|| self.unknown(name))?;
        let observed = &agent.metrics.observed;
        let (last_stderr_at, last_stderr) = observed.last_stderr.get().unzip();
        Ok(InspectAgentResponse {
            instance_id: String::new(),
            load: Some(load_of(agent)),
            processes: observed.processes.get(),
            restarts: observed.restarts.get(),
            crash_loop: observed.crash_loop.get() > 0,
            last_stderr: last_stderr.unwrap_or_default(),
            last_stderr_at: last_stderr_at.map(to_timestamp),
        })
    }

    /// Cancels a task, of any caller.
    ///
    /// # Errors
    /// `not_found` when it does not run here.
    pub(crate) fn cancel_task(&self, task: TaskId) -> Result<(), OrchestratorError> {
        if self.running.cancel(task) {
            return Ok(());
        }
        Err(OrchestratorError::new(OrchestratorErrorCode::NotFound, format!("task {task} does not run here")))
    }

    /// The error for an agent that is not in the catalog; the catalog lists those that are.
    fn unknown(&self, agent: &AgentName) -> OrchestratorError {
        match self.catalog.get(agent) {
            Err(error) => error,
            Ok(_) => OrchestratorError::internal("an agent of the catalog cannot be run"),
        }
    }

    /// Returns the lease of a probe that is not made, so that other callers can make theirs.
    fn return_lease(self: &Arc<Self>, task: &Task) {
        if task.probe_lease.is_empty() {
            return;
        }
        let (health, agent) = (self.health.clone(), task.agent.clone());
        let (caller, task_id, probe_lease) = (task.caller.clone(), task.task_id, task.probe_lease.clone());
        let report = async move {
            let outcome = Outcome::Neutral;
            let (took, is_slow) = (Duration::ZERO, false);
            let report =
                Report { caller: &caller, agent: &agent, task: task_id, outcome, probe_lease, took, is_slow };
            health.send(report).await;
        };
        self.cleanup.spawn(report.in_current_span());
    }
}

fn load_of(agent: &Agent) -> AgentLoad {
    let (running, free) = agent.queue.load();
    AgentLoad { agent: agent.spec.name.to_string(), running, free }
}

/// The socket for the model settings, if an agent collects them there.
fn settings_socket(config: &ExecutorConfig, identity: &ExecutorIdentity) -> Option<SettingsSocket> {
    if !config.agents.iter().any(|spec| agent::collects_settings(spec, config)) {
        return None;
    }
    SettingsSocket::start(&config.llm, Arc::clone(&identity.registry))
        .inspect_err(|error| {
            tracing::warn!(%error, "no socket for the model settings; passing them through the environment");
        })
        .ok()
}
