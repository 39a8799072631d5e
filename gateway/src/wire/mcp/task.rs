//! Tasks: calls that outlive their request. Every plan is one, by its id. An extension of the version without a handshake.
//!
//! <https://modelcontextprotocol.io/seps/2663-tasks-extension>

use axum::http::StatusCode;
use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    json::{Json, Object},
    plan::PlanStatus,
};
use phoenix_proto::{InvalidField, planner, required_timestamp, timestamp};
use serde::Serialize;

use super::{
    era::{CAPABILITIES_MEMBER, Era},
    message::RpcError,
    result::{COMPLETE, CallResult, ResultMeta},
};

/// Name of the extension.
const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// The client has not declared a capability that its request needs.
const MISSING_CAPABILITY: i32 = -32021;

/// Type of a result that is a task which has just begun.
const TASK: &str = "task";

const WORKING: &str = "working";
const COMPLETED: &str = "completed";

/// How often a client should ask for a task.
const POLL_INTERVAL_MS: u32 = 1000;

/// The extensions of a client or a server that speaks of tasks.
pub(crate) fn extensions() -> Object {
    [(EXTENSION.to_owned(), Object::new().into())].into_iter().collect()
}

/// Whether the client of a request with these parameters takes tasks.
pub(crate) fn is_declared(params: &Object) -> bool {
    let capabilities = params.get("_meta").map(|meta| &meta[CAPABILITIES_MEMBER]);
    capabilities.is_some_and(|declared| declared["extensions"][EXTENSION].as_object().is_some())
}

/// The error of a request about a task by a client that takes none.
pub(crate) fn not_declared() -> RpcError {
    let required: Object = [("extensions".to_owned(), extensions().into())].into_iter().collect();
    let data: Object = [("requiredCapabilities".to_owned(), Json::from(required))].into_iter().collect();
    let message =
        format!("declare the extension `{EXTENSION}` in the capabilities of the client to use tasks");
    RpcError::new(MISSING_CAPABILITY, message).with_status(StatusCode::BAD_REQUEST).with_data(data)
}

/// A task, or that it has begun.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Task {
    result_type: &'static str,
    task_id: PlanId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_message: Option<&'static str>,
    created_at: Timestamp,
    last_updated_at: Timestamp,
    /// A plan is kept as long as the journal keeps it.
    ttl_ms: Option<u64>,
    poll_interval_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<CallResult>,
    #[serde(rename = "_meta")]
    meta: ResultMeta,
}

impl Task {
    /// That a task has begun, which is this plan.
    ///
    /// # Errors
    /// For a plan that is not valid.
    pub(crate) fn begun(plan_id: PlanId, plan: &planner::Plan) -> Result<Self, InvalidField> {
        Ok(Self { result_type: TASK, ..Self::of(plan_id, plan)? })
    }

    /// That a task has begun, about whose plan nothing more is known.
    pub(crate) fn accepted(plan_id: PlanId, at: Timestamp) -> Self {
        Self { result_type: TASK, ..Self::new(plan_id, WORKING, (at, at)) }
    }

    /// The task that is this plan.
    ///
    /// # Errors
    /// For a plan that is not valid.
    pub(crate) fn of(plan_id: PlanId, plan: &planner::Plan) -> Result<Self, InvalidField> {
        let created_at = required_timestamp("created_at", plan.created_at)?;
        let mut last_updated_at = timestamp("ended_at", plan.ended_at)?.unwrap_or(created_at);
        for task in &plan.tasks {
            last_updated_at =
                last_updated_at.max(timestamp("tasks.ended_at", task.ended_at)?.unwrap_or(created_at));
        }
        let status = match Option::<PlanStatus>::from(plan.status()) {
            Some(PlanStatus::Succeeded | PlanStatus::Failed) => COMPLETED,
            Some(PlanStatus::Cancelled) => "cancelled",
            Some(PlanStatus::Draft | PlanStatus::Pending | PlanStatus::Running) | None => WORKING,
        };
        let waits = |status| plan.tasks.iter().any(|task| task.status() == status);
        let status_message = if waits(planner::TaskStatus::AwaitingApproval) {
            Some("waits for an approval")
        } else if waits(planner::TaskStatus::AwaitingBudget) {
            Some("waits for a larger budget")
        } else {
            None
        };
        Ok(Self { status_message, ..Self::new(plan_id, status, (created_at, last_updated_at)) })
    }

    fn new(task_id: PlanId, status: &'static str, (created_at, last_updated_at): (Timestamp, Timestamp)) -> Self {
        Self {
            result_type: COMPLETE,
            task_id,
            status,
            status_message: None,
            created_at,
            last_updated_at,
            ttl_ms: None,
            poll_interval_ms: POLL_INTERVAL_MS,
            result: None,
            meta: ResultMeta::of(Era::Modern),
        }
    }

    /// Whether the task has a result. So has a plan that failed: a failure of a task is one of the protocol.
    pub(crate) fn is_completed(&self) -> bool {
        self.status == COMPLETED
    }

    /// The task with its result.
    pub(crate) fn with_result(self, result: CallResult) -> Self {
        Self { result: Some(result), ..self }
    }
}

/// That a request about a task was taken.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acknowledged {
    result_type: &'static str,
    #[serde(rename = "_meta")]
    meta: ResultMeta,
}

impl Acknowledged {
    pub(crate) fn new() -> Self {
        Self { result_type: COMPLETE, meta: ResultMeta::of(Era::Modern) }
    }
}
