//! Bodies of plans: one plan, a page of plans, an accepted plan, a dry run, a cancel.

use jiff::Timestamp;
use phoenix_domain::{CorrelationId, PlanId, plan::PlanStatus};
use phoenix_proto::{InvalidField, id, optional, planner, required_timestamp, timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{ToSchema, openapi::schema::Object};

use super::{
    budget::BudgetLimitsV1,
    error::ErrorBody,
    schemas::{as_text, states},
    task::TaskV1,
    truncation::{Truncation, output_path},
    usage::UsageV1,
};

/// A plan that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedV1 {
    /// Identifier of the plan; `GET /api/v1/plans/{plan_id}` shows its progress.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) plan_id: PlanId,
    /// Correlation id of the request.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
    /// Always `pending`: the plan is durable, and will run.
    #[schema(schema_with = plan_states)]
    #[serde(serialize_with = "as_text")]
    pub(crate) status: PlanStatus,
}

/// The order in which the tasks of a plan would run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DryRunV1 {
    /// Keys of tasks. The tasks of one wave run concurrently, after the waves before it.
    pub(crate) waves: Vec<Vec<String>>,
}

/// One page of plans.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanPageV1 {
    /// Plans without their tasks, newest first.
    pub(crate) plans: Vec<PlanSummaryV1>,
    /// `page_token` of the next page; null on the last.
    #[schema(required)]
    pub(crate) next_page_token: Option<String>,
}

/// The reason of a cancel. Unknown fields are rejected.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelRequestV1 {
    /// Reason of the cancel, kept with the plan: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub(crate) reason: Option<String>,
}

/// A plan without its tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanSummaryV1 {
    /// Identifier of the plan.
    #[schema(value_type = String, format = Uuid)]
    plan_id: PlanId,
    /// Correlation id of the request that created the plan.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// State of the plan.
    #[schema(schema_with = plan_states)]
    #[serde(serialize_with = "as_text")]
    status: PlanStatus,
    /// When the plan was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the plan fails with `timeout` if it has not ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    deadline_at: Option<Timestamp>,
    /// When the plan ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ended_at: Option<Timestamp>,
    /// Output as text, once the plan has succeeded; null in listings. The beginning of it when it is `truncated`.
    #[schema(required)]
    output: Option<String>,
    #[serde(flatten)]
    truncation: Truncation,
    /// Error of a plan that did not succeed.
    #[schema(required)]
    error: Option<ErrorBody>,
    /// The plan that this plan redrives: a task that succeeded there is kept, and has no attempts here.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    redrive_of: Option<PlanId>,
    /// The plan that redrives this plan.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    redriven_as: Option<PlanId>,
}

/// A plan with its tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanV1 {
    #[serde(flatten)]
    summary: PlanSummaryV1,
    /// What the attempts used; null when none reported anything.
    #[schema(required)]
    usage: Option<UsageV1>,
    /// Limits on what the tasks may use together; null without any. `GET /api/v1/budgets` shows what is used of them.
    #[schema(required)]
    budget: Option<BudgetLimitsV1>,
    /// Tasks, in the order of the request.
    tasks: Vec<TaskV1>,
}

impl TryFrom<planner::Plan> for PlanSummaryV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::Plan) -> Result<Self, InvalidField> {
        let status: Option<PlanStatus> = wire.status().into();
        let planner::Plan {
            plan_id,
            correlation_id,
            status: _,
            created_at,
            ended_at,
            output,
            error,
            tasks,
            deadline_at,
            redrive_of,
            redriven_as,
            output_size,
            usage: _,
            budget: _,
            records_output: _,
        } = wire;
        let last_key = tasks.last().map(|task| task.key.as_str()).unwrap_or_default();
        Ok(Self {
            truncation: Truncation::of(output_size, || output_path(&plan_id, last_key)),
            plan_id: id("plan_id", &plan_id)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            status: status.ok_or_else(|| InvalidField::new("status", "is missing"))?,
            created_at: required_timestamp("created_at", created_at)?,
            deadline_at: timestamp("deadline_at", deadline_at)?,
            ended_at: timestamp("ended_at", ended_at)?,
            output,
            error: error.map(ErrorBody::from),
            redrive_of: optional("redrive_of", &redrive_of.unwrap_or_default())?,
            redriven_as: optional("redriven_as", &redriven_as.unwrap_or_default())?,
        })
    }
}

impl PlanV1 {
    /// A plan as it is at `now`: times of tasks that have not ended are measured up to `now`.
    pub(crate) fn at(now: Timestamp, mut wire: planner::Plan) -> Result<Self, InvalidField> {
        let plan_id = wire.plan_id.clone();
        // The summary needs the key of the last task, and no more of the tasks.
        let key_only =
            |task: &planner::Task| planner::Task { key: task.key.clone(), ..planner::Task::default() };
        let last = wire.tasks.last().map(key_only).into_iter().collect();
        let tasks = std::mem::replace(&mut wire.tasks, last);
        let usage = wire.usage.take().map(UsageV1::from);
        let budget = wire.budget.take().map(BudgetLimitsV1::from);
        Ok(Self {
            summary: wire.try_into()?,
            usage,
            budget,
            tasks: tasks.into_iter().map(|task| TaskV1::at(now, &plan_id, task)).collect::<Result<_, _>>()?,
        })
    }
}

fn plan_states() -> Object {
    states("State of the plan.", PlanStatus::ALL.iter().map(|state| state.as_str()))
}
