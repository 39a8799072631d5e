//! The executor: takes tasks in, runs their attempts, tells everyone how they end.
//!
//! ```text
//! execute_agent_for_task        a place in the agent's queue, the end, what is measured and logged
//! └─ execute_agent_with_retries attempts and the pauses between them
//!    └─ attempt                 one process, one answer          (agents/<mode>.rs)
//! ```

mod run;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use phoenix_domain::{
    AgentCatalog, AgentMode, AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode, TaskId,
    health::Outcome, llm::SETTINGS_VARIABLE,
};
use phoenix_platform::{client::InvalidUrl, record_counter};
use tracing::Instrument;

use crate::{
    agents::{AgentRunner, Crashes, Oneshot, Workers},
    cleanup::Cleanup,
    config::ExecutorConfig,
    health_reports::{HealthReports, Report},
    limits::Places,
    metrics::{AgentMeters, TASKS_STARTED},
    process::{Origin, Program},
    processes::MARKER_VARIABLE,
    redact::Redactor,
    running::{CancelReason, RunningTasks},
    task::{Events, Task, TaskStream},
};

/// What a caller who was turned away is told to wait.
const OVERLOAD_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where programs are looked for when nobody has a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Runs agents.
pub(crate) struct Executor {
    catalog: AgentCatalog,
    agents: BTreeMap<AgentName, Arc<Agent>>,
    health: HealthReports,
    running: Arc<RunningTasks>,
    cleanup: Cleanup,
}

/// One agent that can be run.
struct Agent {
    spec: AgentSpec,
    runner: Box<dyn AgentRunner>,
    places: Places,
    meters: AgentMeters,
}

impl Executor {
    /// An executor whose agents come from `origin`.
    pub(crate) fn new(
        config: &ExecutorConfig,
        origin: &Origin,
        running: Arc<RunningTasks>,
        cleanup: Cleanup,
    ) -> Result<Arc<Self>, InvalidUrl> {
        let redactor = Arc::new(Redactor::new(&config.llm));
        let agent = |spec: &AgentSpec| {
            let running = match spec.mode {
                AgentMode::Oneshot => spec.max_concurrency,
                AgentMode::Workers => spec.workers,
            };
            let meters = AgentMeters::new(&spec.name, running);
            let environment = environment_of(spec, config);
            let search_path = (environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value))
                .or_else(|| config.environment.get("PATH"))
                .map_or(DEFAULT_PATH, String::as_str)
                .to_owned();
            let program = Program::new(
                &spec.command,
                environment,
                search_path,
                meters.processes.clone(),
                origin.clone(),
                cleanup.clone(),
            );
            let redactor = Arc::clone(&redactor);
            let runner: Box<dyn AgentRunner> = match spec.mode {
                AgentMode::Oneshot => Box::new(Oneshot::new(program, redactor)),
                AgentMode::Workers => {
                    let crashes = Crashes::new(spec.name.clone(), &meters);
                    let start_limit = spec.start_timeout;
                    Box::new(Workers::new(program, start_limit, redactor, crashes, &meters, cleanup.clone()))
                }
            };
            let places = Places::new(spec.concurrency(), spec.max_queue, &meters);
            (spec.name.clone(), Arc::new(Agent { spec: spec.clone(), runner, places, meters }))
        };
        Ok(Arc::new(Self {
            catalog: config.agents.clone(),
            agents: config.agents.iter().map(agent).collect(),
            health: HealthReports::new(&config.health_url, &config.service_token)?,
            running,
            cleanup,
        }))
    }

    /// Takes `task` in. Nothing happens before the stream is polled; dropping the stream cancels the task.
    ///
    /// # Errors
    /// `planning_failed` for an unknown agent, `overloaded` when too many wait for it.
    pub(crate) fn execute_task(self: &Arc<Self>, task: Task) -> Result<TaskStream, OrchestratorError> {
        let agent = match self.agents.get(&task.agent) {
            Some(agent) => Arc::clone(agent),
            None => return Err(self.unknown(&task.agent)),
        };
        let Some(ticket) = agent.places.enter() else {
            agent.meters.overloaded.increment(1);
            self.give_lease_back(&task);
            return Err(overloaded(&agent.spec));
        };
        let first_time = task.earlier_attempts == 0;
        if first_time {
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
        let events = Events::default();
        let run = run::TaskRun::new(Arc::clone(self), agent, task, registration, events.clone());
        let run = run.execute_agent_for_task(ticket).instrument(span);
        Ok(TaskStream::new(run, events, cancel, self.cleanup.clone()))
    }

    /// Cancels a task, whoever sent it.
    ///
    /// # Errors
    /// `not_found` when it does not run here.
    pub(crate) fn cancel_task(&self, task: TaskId) -> Result<(), OrchestratorError> {
        if self.running.cancel(task) {
            return Ok(());
        }
        Err(OrchestratorError::new(OrchestratorErrorCode::NotFound, format!("task {task} does not run here")))
    }

    /// The catalog knows every agent there is; its own words say which.
    fn unknown(&self, agent: &AgentName) -> OrchestratorError {
        match self.catalog.get(agent) {
            Err(error) => error,
            Ok(_) => OrchestratorError::internal("an agent of the catalog can't be run"),
        }
    }

    /// A probe that is not made must not keep others from making theirs.
    fn give_lease_back(self: &Arc<Self>, task: &Task) {
        if task.probe_lease.is_empty() {
            return;
        }
        let (executor, agent) = (Arc::clone(self), task.agent.clone());
        let (caller, task_id, probe_lease) = (task.caller.clone(), task.task_id, task.probe_lease.clone());
        let report = async move {
            let outcome = Outcome::Neutral;
            let report = Report { caller: &caller, agent: &agent, task: task_id, outcome, probe_lease };
            executor.health.send(report).await;
        };
        self.cleanup.spawn(report.in_current_span());
    }
}

fn overloaded(spec: &AgentSpec) -> OrchestratorError {
    let AgentSpec { name, max_queue, .. } = spec;
    let running = spec.concurrency();
    OrchestratorError::new(
        OrchestratorErrorCode::Overloaded,
        format!("agent `{name}` is busy: {running} tasks run and {max_queue} wait; try again shortly"),
    )
    .with_detail("agent", name)
    .with_retry_after(OVERLOAD_RETRY_AFTER)
}

/// What the processes of `spec` find in their environment beside the marker: what it names, of what there is.
fn environment_of(spec: &AgentSpec, config: &ExecutorConfig) -> Vec<(String, String)> {
    let value_of = |name: &String| match name.as_str() {
        MARKER_VARIABLE => None,
        // A map with string keys has no value that can't be written.
        SETTINGS_VARIABLE => serde_json::to_string(&config.llm).ok(),
        name => config.environment.get(name).cloned(),
    };
    spec.env.iter().filter_map(|name| Some((name.clone(), value_of(name)?))).collect()
}

/// What the log says about a cancelled task, and its caller is told.
fn cancelled(agent: &AgentName, attempts: u32, reason: CancelReason) -> OrchestratorError {
    let message = match reason {
        CancelReason::CallerLeft => "the task was cancelled: nobody waited for it any more",
        CancelReason::Requested => "the task was cancelled",
        CancelReason::Superseded => "the task was cancelled: it was sent again and runs under its newer call",
        CancelReason::Stopping => "the executor is shutting down; try again shortly",
    };
    let code = match reason {
        CancelReason::Stopping => OrchestratorErrorCode::Unavailable,
        _ => OrchestratorErrorCode::Cancelled,
    };
    let error =
        OrchestratorError::new(code, message).with_detail("agent", agent).with_detail("attempts", attempts);
    match reason {
        CancelReason::Stopping => error.with_retry_after(OVERLOAD_RETRY_AFTER),
        _ => error,
    }
}
