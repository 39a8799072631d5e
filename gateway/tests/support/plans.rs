//! Plans, as the planner returns them.

use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::{
    common::{self, Budget, Tokens, Usage},
    planner::{
        Approval, ApprovalTerms, Attempt, DeadLetter, DeadLetterState, GetStatisticsResponse, Plan,
        PlanStatus, ProposePlanResponse, Statistics, Task, TaskSpec, TaskStatus, WaitingApproval,
        WatchPlanResponse, approval::Decision, dead_letter::Settled, dry_run_plan_response::Wave,
        get_statistics_response::Bucket, statistics::Percentiles,
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
        records_output: false,
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
    task.output = Some(common::ActionOutput { metadata_json: r#"{"exit":0}"#.into(), ..output_of(output) });
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

/// An approval that was given with another input.
pub fn approval() -> Approval {
    Approval {
        state: "approved".into(),
        requested_at: at(0),
        expires_at: at(3_600_000),
        reason: "it writes".into(),
        approver: String::new(),
        on_expiry: "reject".into(),
        input_json: r#"{"n":1.50}"#.into(),
        input_hash: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a".into(),
        decision: Some(Decision {
            at: at(90_000),
            actor: "ann".into(),
            reason: String::new(),
            correlation_id: CORRELATION.into(),
            input_json: r#"{"n":2}"#.into(),
        }),
    }
}

/// The only task, as it waits for an approval.
pub fn waiting() -> WaitingApproval {
    let Approval { requested_at, expires_at, reason, approver, on_expiry, input_json, input_hash, .. } =
        approval();
    WaitingApproval {
        kind: "input".into(),
        plan_id: FakePlanner::PLAN.into(),
        correlation_id: CORRELATION.into(),
        key: "chat".into(),
        agent: "echo_agent".into(),
        action: "chat".into(),
        requested_at,
        expires_at,
        on_expiry,
        reason,
        approver,
        input_hash,
        input_preview: input_json,
    }
}

/// A task that waits for the budget of its plan, which is used up.
pub fn pause() -> Approval {
    Approval {
        state: "waiting".into(),
        reason: format!("the budget of plan `{}` is used up: `max_calls` is 1, 1 is used", FakePlanner::PLAN),
        on_expiry: "fail".into(),
        input_json: json!({
            "budget": format!("plan/{}", FakePlanner::PLAN), "limit": "max_calls", "limit_value": 1, "used": 1, "reserved": 0
        })
        .to_string(),
        decision: None,
        ..approval()
    }
}

/// The same as it is listed.
pub fn paused() -> WaitingApproval {
    let Approval { reason, on_expiry, input_json, .. } = pause();
    WaitingApproval {
        kind: "budget".into(),
        key: "second".into(),
        reason,
        on_expiry,
        input_preview: input_json,
        ..waiting()
    }
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
        approval: None,
        waits_for: None,
        not_before: None,
        pause: None,
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

/// A plan of `count` tasks: each depends on up to two before it, and has four attempts. When the plan runs, the last attempts of
/// the last three tasks do, too; otherwise the last task has failed.
pub fn large(count: usize, runs: bool) -> Plan {
    let task = |index: usize| {
        let begin = i64::try_from(index).unwrap() * 40;
        let is_running = runs && index + 3 >= count;
        let attempts = (0..4_u32).map(|number| attempt(begin, number, is_running && number == 3)).collect();
        let needs = [index.checked_sub(1), index.checked_sub(7)].into_iter().flatten();
        Task {
            task_id: PlanId::generate().to_string(),
            key: format!("step-{index:03}"),
            agent: ["git_agent", "echo_agent", "llm_router_agent"][index % 3].into(),
            status: if is_running { TaskStatus::InProgress } else { TaskStatus::Succeeded }.into(),
            queued_at: at(0),
            dispatched_at: at(begin),
            ended_at: if is_running { None } else { at(begin + 460) },
            output: (!is_running).then(|| output_of(&format!("result of {index}"))),
            attempts,
            depends_on: needs
                .filter(|_| !index.is_multiple_of(8))
                .map(|index| format!("step-{index:03}"))
                .collect(),
            ..task()
        }
    };
    let mut tasks: Vec<_> = (0..count).map(task).collect();
    let (Some(last), false) = (tasks.last_mut(), runs) else { return Plan { tasks, ..running() } };
    let Plan { error, tasks: failed, .. } = failed("the agent did not answer within 80 ms");
    (last.status, last.output, last.error) = (failed[0].status, None, error.clone());
    last.attempts.truncate(3);
    let ended_at = last.ended_at;
    Plan { status: PlanStatus::Failed.into(), tasks, error, ended_at, ..running() }
}

/// An attempt of a task of a [`large`] plan that began at `begin`.
fn attempt(begin: i64, number: u32, is_running: bool) -> Attempt {
    let begin = begin + 20 + i64::from(number) * 110;
    let is_last = number == 3;
    Attempt {
        number: number + 1,
        started_at: at(begin),
        ended_at: if is_running { None } else { at(begin + 80) },
        outcome: if is_running {
            ""
        } else if is_last {
            "succeeded"
        } else {
            "failed"
        }
        .into(),
        error_class: if is_last { "" } else { "timeout" }.into(),
        message: if is_last { "" } else { "the agent did not answer within 80 ms" }.into(),
        worker: format!("pid {}", 4000 + number),
        ..Default::default()
    }
}

fn output_of(text: &str) -> common::ActionOutput {
    common::ActionOutput {
        output_type: "text".into(),
        data_json: json!(text).to_string(),
        metadata_json: "{}".into(),
    }
}

/// Statistics in buckets of a minute, the last of which begins with every plan here.
#[allow(clippy::cast_precision_loss)] // Small numbers.
pub fn statistics(window_secs: u32) -> GetStatisticsResponse {
    let percentiles = |p50: f64| Percentiles { p50, p95: p50 * 2.5, p99: p50 * 4.0 };
    let of = |accepted: u64| Statistics {
        accepted,
        succeeded: accepted * 9 / 10,
        failed: accepted / 20,
        cancelled: accepted / 60,
        latency: (accepted > 0).then(|| percentiles(200.0 + 10.0 * (accepted % 7) as f64)),
        wait: (accepted > 0).then(|| percentiles(12.0)),
        cost_nanos: accepted * 1_500_000,
        input_tokens: accepted * 10,
        output_tokens: accepted * 5,
    };
    let buckets = window_secs / 60;
    let count = |index: u32| if index % 20 == 3 { 0 } else { u64::from(index * index % 97) };
    let bucket = |index: u32| Bucket {
        at: at((i64::from(index + 1) - i64::from(buckets)) * 60_000),
        statistics: Some(of(count(index))),
    };
    GetStatisticsResponse {
        total: Some(of((0..buckets).map(count).sum())),
        buckets: (0..buckets).map(bucket).collect(),
        bucket_secs: 60,
        pending: 3,
        running: 2,
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

/// A proposal of two tasks, of which the second changes something.
pub fn proposal(replay_of: &str) -> ProposePlanResponse {
    let task = |key: &str, agent: &str, action: &str, input: Value| TaskSpec {
        key: key.into(),
        agent: agent.into(),
        action: action.into(),
        input_json: input.to_string(),
        ..Default::default()
    };
    let approval = ApprovalTerms { reason: "proposed by openai/m".into(), ..Default::default() };
    let add = task("add", "git_agent", "git_add", json!({"paths": ["{{tasks.status.output}}"]}));
    ProposePlanResponse {
        plan_id: FakePlanner::PLAN.into(),
        strategy: "model".into(),
        tasks: vec![
            task("status", "git_agent", "git_status", json!({})),
            TaskSpec { approval: Some(approval), depends_on: vec!["status".into()], ..add },
        ],
        waves: vec![Wave { keys: vec!["status".into()] }, Wave { keys: vec!["add".into()] }],
        rounds: 2,
        prompt_version: "1".into(),
        metadata_json: json!({"provider": "openai", "model": "m"}).to_string(),
        usage: None,
        replay_of: replay_of.into(),
    }
}
