//! Plans, as the planner returns them.

use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::{
    common::{self, Budget, Tokens, Usage},
    planner::{
        Attempt, DeadLetter, DeadLetterState, Plan, PlanStatus, Task, TaskStatus, WatchPlanResponse,
        dead_letter::Settled,
    },
    to_timestamp,
};
use serde_json::{Value, json};

use super::FakePlanner;

pub const CORRELATION: &str = "4f9d3c1e-7a55-4d0a-9d2b-0c7f5f0c2f11";

/// `millis` after the start of every plan here.
fn at(millis: i64) -> Option<prost_types::Timestamp> {
    let begin: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
    Some(to_timestamp(begin + jiff::SignedDuration::from_millis(millis)))
}

/// The plan [`FakePlanner::PLAN`], running.
pub fn running() -> Plan {
    Plan {
        plan_id: FakePlanner::PLAN.into(),
        correlation_id: CORRELATION.into(),
        status: PlanStatus::Running.into(),
        created_at: at(0),
        ended_at: None,
        output: None,
        error: None,
        tasks: vec![task()],
        deadline_at: at(60_000),
        redrive_of: None,
        redriven_as: None,
        output_size: 0,
        usage: used(),
        budget: Some(budget()),
    }
}

/// At most 2.50 dollars and ten calls.
pub fn budget() -> Budget {
    Budget { max_cost_nanos: Some(2_500_000_000), max_tokens: None, max_calls: Some(10), max_wall_ms: None }
}

/// The same plan after its only task has succeeded in the second attempt.
pub fn succeeded(output: &str) -> Plan {
    let mut task = task();
    task.set_status(TaskStatus::Succeeded);
    task.ended_at = at(900);
    task.output = Some(common::ActionOutput {
        output_type: "text".into(),
        data_json: json!(output).to_string(),
        metadata_json: r#"{"exit":0}"#.into(),
    });
    task.attempts.push(Attempt {
        number: 2,
        started_at: at(500),
        ended_at: at(900),
        outcome: "succeeded".into(),
        worker: "pid 12".into(),
        ..Default::default()
    });
    let (ended_at, output) = (at(901), Some(output.into()));
    Plan { status: PlanStatus::Succeeded.into(), ended_at, output, tasks: vec![task], ..running() }
}

/// The same plan after its only task has failed for good.
pub fn failed(message: &str) -> Plan {
    let error = OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message);
    let mut task = task();
    task.set_status(TaskStatus::DeadLettered);
    task.ended_at = at(300);
    task.error = Some(error.clone().into());
    let (ended_at, error) = (at(301), Some(error.into()));
    Plan { status: PlanStatus::Failed.into(), ended_at, error, tasks: vec![task], ..running() }
}

/// The task of the plan that has [`failed`], as a dead letter that was redriven.
pub fn dead_letter(message: &str) -> DeadLetter {
    let error = OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message);
    DeadLetter {
        plan_id: FakePlanner::PLAN.into(),
        correlation_id: CORRELATION.into(),
        task_id: task().task_id,
        key: "chat".into(),
        agent: "echo_agent".into(),
        action: "chat".into(),
        error: Some(error.into()),
        attempts: 1,
        dead_lettered_at: at(300),
        state: DeadLetterState::Redriven.into(),
        settled: Some(Settled {
            at: at(90_000),
            correlation_id: CORRELATION.into(),
            reason: "fixed".into(),
            redriven_as: FakePlanner::PLAN.into(),
        }),
    }
}

/// 10 tokens of input and 5 of output, for 0.0015 dollars.
fn used() -> Option<Usage> {
    let tokens = Some(Tokens { input: 10, output: 5, cached_input: 4, reasoning: 0 });
    Some(Usage { calls: 2, tokens, cost_nanos: Some(1_500_000), unpriced_calls: 1 })
}

/// A task whose first attempt has failed.
fn task() -> Task {
    Task {
        task_id: "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e60".into(),
        key: "chat".into(),
        agent: "echo_agent".into(),
        action: "chat".into(),
        status: TaskStatus::Retried.into(),
        queued_at: at(0),
        dispatched_at: at(90),
        ended_at: None,
        output: None,
        error: None,
        attempts: vec![Attempt {
            number: 1,
            started_at: at(100),
            ended_at: at(300),
            outcome: "failed".into(),
            error_class: "io".into(),
            message: "the pipe broke".into(),
            stderr_tail: "boom\n".into(),
            worker: "pid 11".into(),
            stderr_size: 0,
            usage: used(),
        }],
        depends_on: vec!["before".into()],
        input_json: r#"{"message":"hi"}"#.into(),
        continue_on_failure: false,
        output_size: 0,
    }
}

/// An event of the plan itself or, of kinds that begin with `task` or `attempt`, of its task.
pub fn event(position: u64, kind: &str, data: &Value) -> WatchPlanResponse {
    WatchPlanResponse {
        position,
        kind: kind.into(),
        at: at(i64::try_from(position).unwrap()),
        task_key: if kind.starts_with("plan") { String::new() } else { "chat".into() },
        data_json: data.to_string(),
    }
}

/// Every event of a plan that succeeds: positions 11, 13, 17 and 19.
pub fn whole() -> Vec<WatchPlanResponse> {
    vec![
        event(11, "plan_accepted", &json!({"tasks": 1})),
        event(13, "attempt_started", &json!({"attempt": 1})),
        event(17, "task_ended", &json!({"status": "succeeded"})),
        event(19, "plan_ended", &json!({"status": "succeeded"})),
    ]
}

/// The events of `plan`.
pub fn events_of(plan: &Plan) -> Vec<WatchPlanResponse> {
    let mut events = whole();
    if plan.ended_at.is_none() {
        events.truncate(2);
    }
    events
}
