//! Bodies of agents.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, TaskId,
    health::{Cause, CircuitState, Evidence, HealthState, Isolation, Standing, Transition, check_decision},
    json::Json,
};
use phoenix_proto::{
    HealthSnapshot, InvalidField, decode_state,
    health_v1::{AgentAction, AgentProcesses, CircuitDetails, GetAgentHealthResponse},
    required, timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    mcp_listing::McpListingV1,
    schemas::{self, states},
};

/// Health of one agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentHealthSummaryV1 {
    /// Name of the agent.
    #[schema(value_type = String, examples("git_agent"))]
    agent_id: AgentName,
    /// `healthy`, `degraded` after a failure, `unhealthy` while the circuit is open or the agent is isolated.
    #[schema(schema_with = health_states)]
    health: HealthState,
    /// Failures since the last success.
    consecutive_failures: u32,
    /// When the agent last failed.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_failure_at: Option<Timestamp>,
    /// When the agent last succeeded.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_success_at: Option<Timestamp>,
    /// When the circuit admits one chat as a probe; chats are rejected until then. Null for a closed circuit and an isolated agent.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    circuit_open_until: Option<Timestamp>,
}

/// One agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentV1 {
    #[serde(flatten)]
    health: AgentHealthSummaryV1,
    #[serde(flatten)]
    circuit: CircuitV1,
    /// Its processes, by executor. Executors that do not answer in time are missing.
    workers: Vec<WorkersV1>,
    /// Standard error of the last failed attempt that wrote any, of all executors. Null when there is none.
    #[schema(required)]
    last_stderr: Option<StderrV1>,
    /// Purpose in one line.
    #[schema(examples("Shows and changes a git repository: status, diff, log, add, commit"))]
    description: String,
    /// Declared actions by name, in addition to `chat`. An agent without declarations accepts any action.
    actions: Vec<AgentActionV1>,
    /// What an MCP server offers beside its tools. Null for other agents, and until it is known.
    #[schema(required)]
    mcp_listing: Option<McpListingV1>,
}

/// Processes of an agent at one executor.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkersV1 {
    /// Identifier of the executor process, new at each start.
    executor: String,
    /// Tasks that run.
    running: u32,
    /// Tasks that the executor would accept in addition.
    free: u32,
    /// Processes that run.
    processes: u32,
    /// Workers that were started to replace others, since the executor started.
    restarts: u64,
    /// Whether workers crash again and again and are started slowly.
    crash_loop: bool,
}

/// The end of a standard error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StderrV1 {
    /// When the attempt ended.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// At most 4 KiB, with secrets of the configuration replaced.
    text: String,
}

/// Circuit of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CircuitV1 {
    /// `closed`: tasks run. `open`: tasks are rejected. `half_open`: one probe runs or may run, other tasks are rejected.
    /// `isolated`: tasks are rejected until an operator restores the agent.
    #[schema(schema_with = circuit_states)]
    state: CircuitState,
    /// Why the circuit is in this state; an operator's reason after an isolation or a restoration. Null before the first change.
    #[schema(required)]
    reason: Option<String>,
    /// Since when. Null before the first change.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    since: Option<Timestamp>,
    /// Who isolated the agent. Null for an agent that is not isolated.
    #[schema(required)]
    isolated_by: Option<String>,
    /// When the next probe is allowed: at the end of the open time, or when the current probe ends or is given up. Null for a circuit
    /// that is closed or isolated.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_probe_at: Option<Timestamp>,
    /// The newest changes of the circuit, at most 20, the newest first. Null while they cannot be read, and in lists.
    #[schema(required)]
    transitions: Option<Vec<TransitionV1>>,
}

/// A change of a circuit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TransitionV1 {
    /// When it changed.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// State before it.
    #[schema(schema_with = circuit_states)]
    from: CircuitState,
    /// State after it.
    #[schema(schema_with = circuit_states)]
    to: CircuitState,
    /// Cause.
    #[schema(schema_with = causes)]
    cause: Cause,
    /// The cause for readers; an operator's reason after an isolation or a restoration.
    #[schema(examples("17 of 20 calls failed (85 %)"))]
    reason: String,
    /// Who isolated or restored the agent.
    #[schema(required)]
    actor: Option<String>,
    /// What was known.
    evidence: EvidenceV1,
}

/// What was known at a change of a circuit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvidenceV1 {
    /// Failures since the last success.
    consecutive_failures: u32,
    /// Calls in the window.
    calls: u32,
    /// Failed calls in the window.
    failed_calls: u32,
    /// Slow calls in the window.
    slow_calls: u32,
    /// Tasks of the calls that opened the circuit.
    tasks: u32,
    /// Time of the last call in milliseconds.
    took_ms: u64,
    /// Task whose outcome changed the circuit.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    task_id: Option<TaskId>,
    /// When the circuit admits the next probe, if it was open then.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    open_until: Option<Timestamp>,
}

/// A decision of an operator. Unknown fields are rejected.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentDecisionV1 {
    /// Reason, shown with the agent and to callers whose tasks are rejected: 1 to 1024 bytes.
    #[schema(schema_with = schemas::decision_reason)]
    reason: String,
    /// Who decides, such as `alice`: at most 128 characters; `api` when it is absent.
    #[schema(schema_with = schemas::actor)]
    actor: Option<String>,
}

impl AgentDecisionV1 {
    /// Actor and reason.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(crate) fn checked(self) -> Result<(String, String), OrchestratorError> {
        let (actor, reason) = (self.actor.unwrap_or_else(|| "api".into()), self.reason);
        check_decision(&actor, &reason)?;
        Ok((actor, reason))
    }
}

/// An action of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentActionV1 {
    /// Name, as a task has it in `action`.
    #[schema(examples("git_status"))]
    name: String,
    /// Purpose.
    description: String,
    /// JSON Schema of the input; null when any input is accepted.
    #[schema(value_type = Option<Object>, required)]
    input_schema: Option<Json>,
    /// Time limit of an attempt in milliseconds; null when it is that of the agent.
    #[schema(required)]
    timeout_ms: Option<u64>,
    /// Limit of attempts; null when it is that of the agent.
    #[schema(required)]
    max_attempts: Option<u32>,
}

fn health_states() -> utoipa::openapi::schema::Object {
    let description = "`healthy`, `degraded` after a failure, `unhealthy` while the circuit is open or the agent is isolated.";
    states(description, HealthState::ALL.iter().map(|state| state.as_str()))
}

fn circuit_states() -> utoipa::openapi::schema::Object {
    states("State of a circuit.", CircuitState::ALL.iter().map(|state| state.as_str()))
}

fn causes() -> utoipa::openapi::schema::Object {
    states("Cause of a change.", Cause::ALL.iter().map(|cause| cause.as_str()))
}

impl From<HealthSnapshot> for AgentHealthSummaryV1 {
    fn from(snapshot: HealthSnapshot) -> Self {
        let HealthSnapshot {
            agent,
            state,
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe_until: _,
            standing: _,
            isolation: _,
            revision: _,
        } = snapshot;
        Self {
            agent_id: agent,
            health: state,
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
        }
    }
}

impl TryFrom<GetAgentHealthResponse> for AgentV1 {
    type Error = InvalidField;

    fn try_from(agent: GetAgentHealthResponse) -> Result<Self, InvalidField> {
        let GetAgentHealthResponse { health, description, actions, circuit, processes, listing } = agent;
        let health = HealthSnapshot::try_from(required("health", health)?)?;
        let circuit = CircuitV1::new(&health, required("circuit", circuit)?)?;
        let actions = actions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let stderrs = processes.iter().filter_map(|at_executor| {
            let at = timestamp("last_stderr_at", at_executor.last_stderr_at).ok()??;
            Some(StderrV1 { at, text: at_executor.last_stderr.clone() })
        });
        let last_stderr = stderrs.max_by_key(|stderr| stderr.at);
        let workers = processes.into_iter().map(Into::into).collect();
        let mcp_listing = listing.map(Into::into);
        Ok(Self { health: health.into(), circuit, workers, last_stderr, description, actions, mcp_listing })
    }
}

impl From<AgentProcesses> for WorkersV1 {
    fn from(processes: AgentProcesses) -> Self {
        let AgentProcesses {
            executor,
            running,
            free,
            processes,
            restarts,
            crash_loop,
            last_stderr: _,
            last_stderr_at: _,
        } = processes;
        Self { executor, running, free, processes, restarts, crash_loop }
    }
}

impl CircuitV1 {
    fn new(health: &HealthSnapshot, details: CircuitDetails) -> Result<Self, InvalidField> {
        let CircuitDetails { state, next_probe_at, transitions, has_transitions } = details;
        let state = decode_state("state", &state)?;
        let (reason, since) = match &health.standing {
            Some(Standing { since, cause: _, reason }) => (Some(reason.clone()), Some(*since)),
            None => (None, None),
        };
        // Half open since the end of the open time.
        let since = if state == CircuitState::HalfOpen { health.circuit_open_until } else { since };
        // A cause of a newer service is left out.
        let transitions = transitions.into_iter().filter_map(|change| Transition::try_from(change).ok());
        let isolated_by = health.isolation.as_ref().map(|Isolation { actor, .. }| actor.clone());
        Ok(Self {
            state,
            reason,
            since,
            isolated_by,
            next_probe_at: timestamp("next_probe_at", next_probe_at)?,
            transitions: has_transitions.then(|| transitions.map(Into::into).collect()),
        })
    }
}

impl From<Transition> for TransitionV1 {
    fn from(transition: Transition) -> Self {
        let Transition { at, from, to, cause, reason, actor, evidence, revision: _ } = transition;
        let Evidence { consecutive_failures, calls, failed, slow, tasks, took_ms, task, open_until } =
            evidence;
        let evidence = EvidenceV1 {
            consecutive_failures,
            calls,
            failed_calls: failed,
            slow_calls: slow,
            tasks,
            took_ms,
            task_id: task,
            open_until,
        };
        Self { at, from, to, cause, reason, actor, evidence }
    }
}

impl TryFrom<AgentAction> for AgentActionV1 {
    type Error = InvalidField;

    fn try_from(action: AgentAction) -> Result<Self, InvalidField> {
        let AgentAction { name, description, input_schema_json: schema, timeout_ms, max_attempts } = action;
        let input_schema = (!schema.is_empty())
            .then(|| Json::parse_stored(&schema))
            .transpose()
            .map_err(|problem| InvalidField::new("input_schema_json", problem))?;
        Ok(Self { name, description, input_schema, timeout_ms, max_attempts })
    }
}
