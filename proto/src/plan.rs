//! Plans on the wire.

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError,
    approval::ApprovalTerms,
    budget::OnBudget,
    plan::{
        Attempt, AttemptOutcome, OnFailure, Plan, PlanStatus, StartConditions, Task, TaskSpec, TaskStatus,
    },
    usage::Usage,
    wait::{Wait, not_before, waits},
};

use crate::{
    action::json_object, approval::approval_view, budget::wire_limits, id, planner, preview::PreviewBudget,
    timestamp, to_timestamp, usage::wire_usage,
};

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
            TaskStatus::AwaitingApproval => Self::AwaitingApproval,
            TaskStatus::AwaitingTime => Self::AwaitingTime,
            TaskStatus::AwaitingBudget => Self::AwaitingBudget,
            TaskStatus::Dispatched => Self::Dispatched,
            TaskStatus::InProgress => Self::InProgress,
            TaskStatus::Retried => Self::Retried,
            TaskStatus::Succeeded => Self::Succeeded,
            TaskStatus::DeadLettered => Self::DeadLettered,
            TaskStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// A view of a plan with large texts cut ([`crate::preview`]).
impl From<Plan> for planner::Plan {
    fn from(plan: Plan) -> Self {
        let (usage, waits) = (wire_usage(plan.usage()), waits(&plan));
        let Plan {
            plan_id,
            correlation_id,
            kind,
            status,
            created_at,
            deadline_at,
            ended_at,
            context: _,
            budget: limits,
            output,
            error,
            redrive_of,
            redriven_as,
            tasks,
        } = plan;
        let mut budget = PreviewBudget::new();
        let error = error.map(|error| budget.error(error));
        let (output, output_size) = output.map(|text| budget.beginning(&text)).unzip();
        let tasks =
            tasks.into_iter().zip(waits).map(|(task, wait)| task_view(task, wait, &mut budget)).collect();
        Self {
            plan_id: plan_id.to_string(),
            correlation_id: correlation_id.to_string(),
            status: planner::PlanStatus::from(status).into(),
            created_at: Some(to_timestamp(created_at)),
            ended_at: ended_at.map(to_timestamp),
            output,
            error,
            tasks,
            deadline_at: deadline_at.map(to_timestamp),
            redrive_of: redrive_of.map(|id| id.to_string()),
            redriven_as: redriven_as.map(|id| id.to_string()),
            output_size: output_size.unwrap_or_default(),
            usage,
            budget: wire_limits(limits),
            records_output: kind.records_output(),
        }
    }
}

fn task_view(task: Task, wait: Option<Wait>, budget: &mut PreviewBudget) -> planner::Task {
    let usages: Vec<Usage> = task.attempts.iter().map(|attempt| task.usage_of(attempt)).collect();
    let Task {
        task_id,
        spec,
        status,
        queued_at,
        dispatched_at,
        ended_at,
        output,
        error,
        attempts,
        approval,
        pause,
    } = task;
    let TaskSpec { key, agent, action, payload, depends_on, on_failure, start } = spec;
    let error = error.map(|error| budget.error(error));
    let (output, output_size) = output.as_ref().map(|output| budget.output(output)).unzip();
    planner::Task {
        task_id: task_id.to_string(),
        key,
        agent: agent.into(),
        action,
        status: planner::TaskStatus::from(status).into(),
        queued_at: Some(to_timestamp(queued_at)),
        dispatched_at: dispatched_at.map(to_timestamp),
        ended_at: ended_at.map(to_timestamp),
        output,
        error,
        attempts: attempts
            .into_iter()
            .zip(usages)
            .map(|(attempt, usage)| attempt_view(attempt, usage, budget))
            .collect(),
        depends_on,
        input_json: payload.to_string(),
        continue_on_failure: on_failure == OnFailure::Continue,
        output_size: output_size.unwrap_or_default(),
        approval: approval.map(|approval| approval_view(*approval, budget)),
        waits_for: wait.map(|Wait { kind, until }| planner::Wait {
            kind: kind.as_str().into(),
            until: until.map(to_timestamp),
        }),
        not_before: start.not_before.map(to_timestamp),
        pause: pause.map(|pause| approval_view(*pause, budget)),
    }
}

fn attempt_view(attempt: Attempt, usage: Usage, budget: &mut PreviewBudget) -> planner::Attempt {
    let Attempt { number, started_at, ended_at, outcome, worker } = attempt;
    let name = outcome.as_ref().map_or("", AttemptOutcome::as_str);
    let (error_class, message, stderr_tail) = match outcome {
        Some(AttemptOutcome::Failed { class, message, stderr_tail, model_calls: _ }) => {
            (class.as_str(), message, stderr_tail)
        }
        Some(AttemptOutcome::Cancelled { reason }) => ("", reason, String::new()),
        Some(AttemptOutcome::Succeeded) | None => ("", String::new(), String::new()),
    };
    let (message, _) = budget.beginning(&message);
    let (stderr_tail, stderr_size) = budget.end(&stderr_tail);
    planner::Attempt {
        number,
        started_at: Some(to_timestamp(started_at)),
        ended_at: ended_at.map(to_timestamp),
        outcome: name.into(),
        error_class: error_class.into(),
        message,
        stderr_tail,
        worker,
        stderr_size,
        usage: wire_usage(usage),
    }
}

impl From<TaskSpec> for planner::TaskSpec {
    fn from(spec: TaskSpec) -> Self {
        let TaskSpec { key, agent, action, payload, depends_on, on_failure, start } = spec;
        let StartConditions { approval, not_before, on_budget: _ } = start;
        Self {
            key,
            agent: agent.into(),
            action,
            input_json: payload.to_string(),
            depends_on,
            continue_on_failure: on_failure == OnFailure::Continue,
            approval: approval.map(Into::into),
            not_before: not_before.map(to_timestamp),
            delay_ms: 0,
        }
    }
}

/// The task with this ordinal, of a request that is accepted at `at`.
///
/// # Errors
/// `validation_failed` that names the field.
pub fn task_spec(
    at: Timestamp,
    ordinal: usize,
    wire: planner::TaskSpec,
) -> Result<TaskSpec, OrchestratorError> {
    let planner::TaskSpec {
        key,
        agent,
        action,
        input_json,
        depends_on,
        continue_on_failure,
        approval,
        not_before: absolute,
        delay_ms,
    } = wire;
    let field = format!("tasks[{ordinal}].");
    let absolute = timestamp("not_before", absolute)?;
    let not_before =
        not_before(&field, at, absolute, delay_ms).map_err(|error| error.with_detail("key", &key))?;
    Ok(TaskSpec {
        agent: id("agent", &agent)?,
        action,
        payload: json_object("input_json", &input_json)?,
        depends_on,
        on_failure: if continue_on_failure { OnFailure::Continue } else { OnFailure::Fail },
        start: StartConditions {
            approval: approval.map(ApprovalTerms::try_from).transpose()?,
            not_before,
            on_budget: OnBudget::default(),
        },
        key,
    })
}
