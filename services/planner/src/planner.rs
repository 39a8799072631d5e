//! Plans: made, journalled, run, ended.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId, TaskId,
    action::{ActionResult, CHAT_ACTION},
    chat::Chat,
    plan::{Plan, PlanStatus, Task, TaskSpec, TaskStatus},
};
use phoenix_platform::RequestContext;
use serde_json::{Map, Value};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    agent_health::{Admitted, HealthView},
    execution::{TaskEnd, TaskRunner},
    metrics::CountedPlan,
    routing::route,
    store::{Entry, Journal, JournalError, TaskRef},
};

/// What a caller asks for in a chat, unchecked.
#[derive(Debug, Clone)]
pub struct ChatWish {
    /// What the person wrote.
    pub message: String,
    /// What the agent should know beside it.
    pub context: String,
    /// The agent to use instead of routing.
    pub agent: Option<String>,
}

/// A chat that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The plan that was made of it.
    pub plan_id: PlanId,
    /// The answer as a person reads it.
    pub output: String,
    /// Who gave it.
    pub agent: AgentName,
}

/// Makes plans and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Planner {
    agents: AgentCatalog,
    journal: Journal,
    health: HealthView,
    runner: TaskRunner,
    running: TaskTracker,
}

impl Planner {
    /// A planner over these parts.
    #[must_use]
    pub fn new(agents: AgentCatalog, journal: Journal, health: HealthView, runner: TaskRunner) -> Self {
        Self { agents, journal, health, runner, running: TaskTracker::new() }
    }

    /// The journal, for reading.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Waits until every plan in flight has written its end, at most for `limit`. To be called when nobody can start
    /// another.
    pub async fn drained(&self, limit: Duration) {
        self.running.close();
        if tokio::time::timeout(limit, self.running.wait()).await.is_err() {
            tracing::warn!(plans = self.running.len(), "plans did not end in time");
        }
    }

    /// Makes a plan of a chat, runs it and waits for its end. Dropping the future cancels the plan.
    ///
    /// # Errors
    /// What the caller got wrong, what the agent failed with, `agent_unavailable`, `timeout`. Once there is a plan, the
    /// details name it.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty))]
    pub async fn plan_and_execute_v1(
        &self,
        context: RequestContext,
        wish: ChatWish,
    ) -> Result<Answer, OrchestratorError> {
        let counted = CountedPlan::start();
        let plan =
            self.plan_chat(context.correlation_id, wish).inspect_err(|error| refused(&counted, error))?;
        let plan_id = plan.plan_id;
        tracing::Span::current().record("plan_id", tracing::field::display(plan_id));
        let cancelled = CancellationToken::new();
        let _cancel_on_drop = cancelled.clone().drop_guard();
        let run = Run { planner: self.clone(), plan, context, cancelled };
        // A task of its own: when the caller goes away, the plan still gets to write how it ended.
        let ended = self.running.spawn(run.finish(counted).in_current_span()).await;
        let result =
            ended.unwrap_or_else(|_| Err(OrchestratorError::internal("the plan ended unexpectedly")));
        result.map_err(|error| error.with_detail("plan_id", plan_id))
    }

    /// A plan with one task for the agent that the chat is meant for.
    fn plan_chat(&self, correlation_id: CorrelationId, wish: ChatWish) -> Result<Plan, OrchestratorError> {
        let ChatWish { message, context, agent } = wish;
        let chat = Chat::new(message, Some(context), correlation_id, agent.as_deref())?;
        let Chat { message, context, correlation_id, agent } = chat;
        let agent = match agent {
            Some(named) => self.agents.get(&named)?.name.clone(),
            None => self.agents.get(route(&self.agents, &message))?.name.clone(),
        };
        let payload = Map::from_iter([("message".to_owned(), Value::String(message))]);
        let spec = TaskSpec { key: "chat".into(), agent, action: CHAT_ACTION.into(), payload };
        Ok(pending_plan(correlation_id, context, vec![spec]))
    }
}

fn refused(counted: &CountedPlan, error: &OrchestratorError) {
    tracing::info!(code = %error.code, elapsed_ms = counted.elapsed_ms(), "plan refused");
}

fn pending_plan(correlation_id: CorrelationId, context: String, specs: Vec<TaskSpec>) -> Plan {
    let now = Timestamp::now();
    let tasks = specs.into_iter().map(|spec| Task {
        task_id: TaskId::generate(),
        spec,
        status: TaskStatus::Queued,
        queued_at: now,
        dispatched_at: None,
        ended_at: None,
        output: None,
        error: None,
        attempts: Vec::new(),
    });
    Plan {
        plan_id: PlanId::generate(),
        correlation_id,
        status: PlanStatus::Pending,
        created_at: now,
        ended_at: None,
        context,
        output: None,
        error: None,
        tasks: tasks.collect(),
    }
}

/// One plan on its way.
struct Run {
    planner: Planner,
    plan: Plan,
    context: RequestContext,
    cancelled: CancellationToken,
}

impl Run {
    /// Journals the plan, runs it, journals its end, and only then tells.
    async fn finish(self, counted: CountedPlan) -> Result<Answer, OrchestratorError> {
        let result = self.execute().await;
        let elapsed_ms = counted.elapsed_ms();
        let agent = self.agent();
        match &result {
            Ok(_) => {
                counted.succeeded();
                tracing::info!(%agent, status = "succeeded", elapsed_ms, "plan ended");
            }
            Err(error) => {
                let status = terminal_status(Some(error));
                tracing::info!(%agent, status = status.as_str(), code = %error.code, elapsed_ms, "plan ended");
            }
        }
        result.map(|output| Answer { plan_id: self.plan.plan_id, output, agent: agent.clone() })
    }

    fn agent(&self) -> AgentName {
        // Every plan is made with at least one task.
        self.plan
            .tasks
            .first()
            .map_or_else(|| self.planner.agents.default_agent().clone(), |t| t.spec.agent.clone())
    }

    async fn execute(&self) -> Result<String, OrchestratorError> {
        let accepted = Entry::PlanAccepted(Box::new(self.plan.clone()));
        let journal = &self.planner.journal;
        let admitted = match self.planner.health.admit(&self.agent(), &self.context).await {
            Ok(admitted) => admitted,
            // Refused in the same commit that accepts it: a plan that fails fast costs one fsync.
            Err(error) => {
                let task = TaskRef { plan_id: self.plan.plan_id, ordinal: 0 };
                let end = self.planner.runner.start(task).end(Err(error.clone()));
                journal.accept([vec![accepted], self.end(end).0].concat()).await?;
                return Err(error);
            }
        };
        journal.accept(vec![accepted]).await?;
        let end = self.run_task(admitted).await?;
        let (entries, result) = self.end(end);
        journal.record(entries).await?;
        result
    }

    /// Runs the plan's task until it ends, its time is up, or its caller has gone.
    async fn run_task(&self, admitted: Admitted) -> Result<TaskEnd, JournalError> {
        let task_ref = TaskRef { plan_id: self.plan.plan_id, ordinal: 0 };
        let mut run = self.planner.runner.start(task_ref);
        let Some(task) = self.plan.tasks.first() else {
            return Ok(run.end(Err(OrchestratorError::internal("the plan has no task"))));
        };
        let ended = tokio::select! {
            end = run.drive(task, &self.plan.context, admitted, &self.context) => return end,
            () = at(self.context.deadline) => self.timed_out(),
            () = self.cancelled.cancelled() => self.abandoned(),
        };
        Ok(run.end(Err(ended)))
    }

    fn timed_out(&self) -> OrchestratorError {
        let agent = self.agent();
        let message = format!("agent `{agent}` did not end within the time the caller gave");
        OrchestratorError::new(OrchestratorErrorCode::Timeout, message).with_detail("agent", agent)
    }

    /// The caller has gone. One that leaves when its time is up has not changed its mind.
    fn abandoned(&self) -> OrchestratorError {
        match self.context.remaining() {
            Some(Duration::ZERO) => self.timed_out(),
            Some(_) | None => OrchestratorError::new(
                OrchestratorErrorCode::Cancelled,
                "the caller went away before the plan ended",
            ),
        }
    }

    /// The last entries of the plan, and what its caller is told.
    fn end(&self, end: TaskEnd) -> (Vec<Entry>, Result<String, OrchestratorError>) {
        let TaskEnd { result, mut entries } = end;
        let result = result.map(|output: ActionResult| output.to_text());
        entries.push(Entry::PlanEnded {
            plan_id: self.plan.plan_id,
            status: terminal_status(result.as_ref().err()),
            at: Timestamp::now(),
            result: result.clone(),
        });
        (entries, result)
    }
}

fn terminal_status(error: Option<&OrchestratorError>) -> PlanStatus {
    match error.map(|error| error.code) {
        None => PlanStatus::Succeeded,
        Some(OrchestratorErrorCode::Cancelled) => PlanStatus::Cancelled,
        Some(_) => PlanStatus::Failed,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
