//! Redrives: a plan that has ended is taken up again where it failed.
//!
//! A terminal state never changes, so what was is left as it is and a new plan is made of it
//! (`docs/adr/0006-a-redrive-is-a-new-plan.md`): tasks that had succeeded start as succeeded, with their outputs; those that
//! had not, and everything that depends on one of them, run as new tasks with new ids.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, BulkRedriveId, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    chat::Chat,
    dead_letter::check_reason,
    graph::Graph,
    json::{Json, Object},
    plan::{Plan, PlanKind, TaskSpec, TaskStatus},
    rejections::{no_such_plan, plan_has_not_ended},
};
use phoenix_platform::{RequestContext, metrics::record_counter};

use crate::{
    accept::{Accepted, Made},
    keys::Use,
    make::{Waits, check_input, check_limits, graph_of, pending_plan},
    metrics::{CountedPlan, DEAD_LETTERS_REDRIVEN},
    planner::{Answer, Planner, Submitted},
    running::{CancelOnDrop, Stop},
    store::{Entry, IdempotencyKey, TaskRef},
};

/// The longest key of a task that a caller's mistake is told with.
const MAX_KEY_CHARS: usize = 64;

/// A plan to take up again, unchecked.
#[derive(Debug, Clone)]
pub struct RedriveWish {
    /// The plan, which has ended.
    pub plan_id: PlanId,
    /// By a task's key: its new input, in place of the old one.
    pub inputs: BTreeMap<String, Object>,
    /// Why; may be empty.
    pub reason: String,
    /// Whether the new plan goes on when its caller goes away.
    pub continue_on_disconnect: bool,
    /// The caller's name for this request.
    pub key: Option<IdempotencyKey>,
}

impl Planner {
    /// Takes a plan up again and waits for the new one's end. Dropping the future cancels that, unless the wish says
    /// otherwise.
    ///
    /// # Errors
    /// As [`Self::redrive`], and how the new plan failed; its id is then in the details.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty, redrive_of = %wish.plan_id))]
    pub async fn redrive_and_wait(
        &self,
        context: RequestContext,
        wish: RedriveWish,
    ) -> Result<Answer, OrchestratorError> {
        let stop = Stop::default();
        let _guard =
            (!wish.continue_on_disconnect).then(|| CancelOnDrop(stop.clone(), context.cancel_reason.clone()));
        let accepted = self.accept_redrive(context, wish, Waits::Caller, None, stop).await?;
        self.answer(accepted).await
    }

    /// Takes a plan up again: the new plan, as soon as it is durable.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the plan has not ended, when every task of it has succeeded, or when it was taken up
    /// before (the details then say as what); what is wrong with the new input.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty, redrive_of = %wish.plan_id))]
    pub async fn redrive(
        &self,
        context: RequestContext,
        wish: RedriveWish,
    ) -> Result<Submitted, OrchestratorError> {
        let context = RequestContext { deadline: None, ..context };
        let accepted = self.accept_redrive(context, wish, Waits::Nobody, None, Stop::default()).await?;
        Ok(accepted.submitted())
    }

    /// Takes a plan up again on behalf of a sweep, unless none of its dead letters is open any more.
    ///
    /// # Errors
    /// As [`Self::redrive`].
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty, redrive_of = %wish.plan_id))]
    pub(crate) async fn redrive_swept(
        &self,
        context: RequestContext,
        wish: RedriveWish,
        sweep: BulkRedriveId,
    ) -> Result<PlanId, OrchestratorError> {
        let accepted =
            self.accept_redrive(context, wish, Waits::Nobody, Some(sweep), Stop::default()).await?;
        Ok(accepted.plan_id())
    }

    async fn accept_redrive(
        &self,
        context: RequestContext,
        wish: RedriveWish,
        waits: Waits,
        sweep: Option<BulkRedriveId>,
        stop: Stop,
    ) -> Result<Accepted, OrchestratorError> {
        let RedriveWish { plan_id, inputs, reason, continue_on_disconnect: _, key } = wish;
        check_reason(&reason)?;
        let claim = match self.keys().take(key).await? {
            Use::First(claim) => claim,
            Use::Again(used) => return Ok(used.into()),
        };
        let old = self.to_redrive(plan_id).await?;
        let counted = CountedPlan::start(self.meters());
        let by = context.correlation_id;
        let made = take_up(self.agents(), &old, by, inputs).map(|mut made| {
            let (redriven_as, at) = (made.plan.plan_id, made.plan.created_at);
            made.entries.push(Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep });
            made
        });
        match self.launch(context, made, claim, waits, counted, stop).await {
            // Somebody did the same in the same moment: say so as if it had been earlier.
            Err(error) if error.code == OrchestratorErrorCode::Conflict => {
                self.to_redrive(plan_id).await?;
                Err(error)
            }
            Ok(accepted) => {
                record_counter(&DEAD_LETTERS_REDRIVEN, dead_letters(&old));
                Ok(accepted)
            }
            refused => refused,
        }
    }

    /// A plan that can be taken up again.
    async fn to_redrive(&self, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
        let plan = self.journal().plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        let conflict = |message: String| OrchestratorError::new(OrchestratorErrorCode::Conflict, message);
        if !plan.status.is_terminal() {
            return Err(plan_has_not_ended(plan.status));
        }
        if let Some(redriven_as) = plan.redriven_as {
            let message = format!("the plan was redriven before, as {redriven_as}");
            return Err(conflict(message).with_detail("redriven_as", redriven_as));
        }
        if plan.tasks.iter().all(|task| task.status == TaskStatus::Succeeded) {
            return Err(conflict("every task of the plan has succeeded; there is nothing to redrive".into()));
        }
        Ok(plan)
    }
}

fn dead_letters(plan: &Plan) -> u64 {
    plan.tasks.iter().filter(|task| task.status == TaskStatus::DeadLettered).count() as u64
}

/// A new plan that goes on where `old` failed.
fn take_up(
    agents: &AgentCatalog,
    old: &Plan,
    correlation_id: CorrelationId,
    inputs: BTreeMap<String, Object>,
) -> Result<Made, OrchestratorError> {
    let again = run_again(old, &graph_of(old, agents)?);
    let mut specs: Vec<_> = old.tasks.iter().map(|task| task.spec.clone()).collect();
    for (key, input) in inputs {
        let place = to_edit(&specs, &again, &key)?;
        if old.kind == PlanKind::Chat {
            check_chat(&input, correlation_id)?;
        }
        specs[place].payload = input;
    }
    // What the plan was given of time, it is given again.
    let limit = old.deadline_at.map(|at| at.duration_since(old.created_at));
    let deadline_at = limit.and_then(|limit| Timestamp::now().checked_add(limit).ok());
    let mut plan = pending_plan(correlation_id, old.kind, old.context.clone(), deadline_at, specs);
    plan.redrive_of = Some(old.plan_id);
    check_limits(&plan)?;
    let graph = graph_of(&plan, agents)?;
    (0..plan.tasks.len())
        .filter(|place| again[*place])
        .try_for_each(|place| check_input(&plan, place, agents))?;
    let mut entries = vec![Entry::PlanAccepted { plan: Arc::new(plan.clone()) }];
    let (plan_id, at) = (plan.plan_id, plan.created_at);
    for (ordinal, (task, before)) in plan.tasks.iter_mut().zip(&old.tasks).enumerate() {
        if let (false, Some(output)) = (again[ordinal], &before.output) {
            (task.status, task.ended_at, task.output) =
                (TaskStatus::Succeeded, Some(at), Some(output.clone()));
            let task = TaskRef { plan_id, ordinal };
            entries.push(Entry::TaskEnded {
                task,
                status: TaskStatus::Succeeded,
                at,
                result: Ok(output.clone()),
            });
        }
    }
    Ok(Made { plan: Arc::new(plan), graph, entries })
}

/// By place: whether the task runs again. One that succeeded after a failure which its plan survived does, for its input
/// will be another.
fn run_again(plan: &Plan, graph: &Graph) -> Vec<bool> {
    let mut again: Vec<_> = plan.tasks.iter().map(|task| task.output.is_none()).collect();
    for place in graph.order().into_iter().flatten() {
        again[place] |= graph.dependencies(place).iter().any(|before| again[*before]);
    }
    again
}

/// The place of a task whose input may be another.
fn to_edit(specs: &[TaskSpec], again: &[bool], key: &str) -> Result<usize, OrchestratorError> {
    let shown: String = key.chars().take(MAX_KEY_CHARS).collect();
    let invalid = |problem: &str| {
        OrchestratorError::invalid(&format!("input.{shown}"), problem).with_detail("key", &shown)
    };
    let place =
        specs.iter().position(|spec| spec.key == key).ok_or_else(|| invalid("is no task of the plan"))?;
    if again[place] { Ok(place) } else { Err(invalid("has succeeded and is kept as it is")) }
}

/// A chat's input is a message, as in the chat itself.
fn check_chat(input: &Object, correlation_id: CorrelationId) -> Result<(), OrchestratorError> {
    const FIELD: &str = "input.chat.message";
    let Some(Json::String(message)) = input.get("message") else {
        return Err(OrchestratorError::invalid(FIELD, "must be the message as text"));
    };
    let chat = Chat::new(message.clone(), None, correlation_id, None);
    chat.map(drop).map_err(|error| error.with_detail("field", FIELD))
}
