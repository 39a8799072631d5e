//! Plans on the wire.

use phoenix_domain::plan::{
    Attempt, AttemptOutcome, OnFailure, Plan, PlanStatus, Task, TaskSpec, TaskStatus,
};

use crate::{InvalidField, action::json_object, id, planner, to_timestamp};

impl From<PlanStatus> for planner::PlanStatus {
    fn from(status: PlanStatus) -> Self {
        match status {
            PlanStatus::Draft => Self::Draft,
            PlanStatus::Pending => Self::Pending,
            PlanStatus::Running => Self::Running,
            PlanStatus::Succeeded => Self::Succeeded,
            PlanStatus::Failed => Self::Failed,
            PlanStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// The status that a request filters by; `None` stands for every status.
impl From<planner::PlanStatus> for Option<PlanStatus> {
    fn from(status: planner::PlanStatus) -> Self {
        match status {
            planner::PlanStatus::Unspecified => None,
            planner::PlanStatus::Draft => Some(PlanStatus::Draft),
            planner::PlanStatus::Pending => Some(PlanStatus::Pending),
            planner::PlanStatus::Running => Some(PlanStatus::Running),
            planner::PlanStatus::Succeeded => Some(PlanStatus::Succeeded),
            planner::PlanStatus::Failed => Some(PlanStatus::Failed),
            planner::PlanStatus::Cancelled => Some(PlanStatus::Cancelled),
        }
    }
}

impl From<TaskStatus> for planner::TaskStatus {
    fn from(status: TaskStatus) -> Self {
        match status {
            TaskStatus::Queued => Self::Queued,
            TaskStatus::Dispatched => Self::Dispatched,
            TaskStatus::InProgress => Self::InProgress,
            TaskStatus::Retried => Self::Retried,
            TaskStatus::Succeeded => Self::Succeeded,
            TaskStatus::DeadLettered => Self::DeadLettered,
            TaskStatus::Cancelled => Self::Cancelled,
        }
    }
}

impl From<Plan> for planner::Plan {
    fn from(plan: Plan) -> Self {
        let Plan {
            plan_id,
            correlation_id,
            kind: _,
            status,
            created_at,
            deadline_at,
            ended_at,
            context: _,
            output,
            error,
            redrive_of,
            redriven_as,
            tasks,
        } = plan;
        Self {
            plan_id: plan_id.to_string(),
            correlation_id: correlation_id.to_string(),
            status: planner::PlanStatus::from(status).into(),
            created_at: Some(to_timestamp(created_at)),
            ended_at: ended_at.map(to_timestamp),
            output,
            error: error.map(Into::into),
            tasks: tasks.into_iter().map(Into::into).collect(),
            deadline_at: deadline_at.map(to_timestamp),
            redrive_of: redrive_of.map(|id| id.to_string()),
            redriven_as: redriven_as.map(|id| id.to_string()),
        }
    }
}

impl From<Task> for planner::Task {
    fn from(task: Task) -> Self {
        let Task { task_id, spec, status, queued_at, dispatched_at, ended_at, output, error, attempts } =
            task;
        let TaskSpec { key, agent, action, payload, depends_on, on_failure } = spec;
        Self {
            task_id: task_id.to_string(),
            key,
            agent: agent.into(),
            action,
            status: planner::TaskStatus::from(status).into(),
            queued_at: Some(to_timestamp(queued_at)),
            dispatched_at: dispatched_at.map(to_timestamp),
            ended_at: ended_at.map(to_timestamp),
            output: output.as_ref().map(Into::into),
            error: error.map(Into::into),
            attempts: attempts.into_iter().map(Into::into).collect(),
            depends_on,
            input_json: payload.to_string(),
            continue_on_failure: on_failure == OnFailure::Continue,
        }
    }
}

impl From<Attempt> for planner::Attempt {
    fn from(Attempt { number, started_at, ended_at, outcome, worker }: Attempt) -> Self {
        let name = outcome.as_ref().map_or("", AttemptOutcome::as_str);
        let (error_class, message, stderr_tail) = match outcome {
            Some(AttemptOutcome::Failed { class, message, stderr_tail }) => {
                (class.as_str(), message, stderr_tail)
            }
            Some(AttemptOutcome::Succeeded | AttemptOutcome::Cancelled) | None => {
                ("", String::new(), String::new())
            }
        };
        Self {
            number,
            started_at: Some(to_timestamp(started_at)),
            ended_at: ended_at.map(to_timestamp),
            outcome: name.into(),
            error_class: error_class.into(),
            message,
            stderr_tail,
            worker,
        }
    }
}

impl TryFrom<planner::TaskSpec> for TaskSpec {
    type Error = InvalidField;

    fn try_from(wire: planner::TaskSpec) -> Result<Self, InvalidField> {
        let planner::TaskSpec { key, agent, action, input_json, depends_on, continue_on_failure } = wire;
        Ok(Self {
            key,
            agent: id("agent", &agent)?,
            action,
            payload: json_object("input_json", &input_json)?,
            depends_on,
            on_failure: if continue_on_failure { OnFailure::Continue } else { OnFailure::Fail },
        })
    }
}
