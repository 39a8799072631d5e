//! Bulk operations on dead letters through the server.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, eventually, finished, graph, started,
    task,
};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::planner::{
    DeadLetter, DeadLetterFilter, DeadLetterState as State, DiscardDeadLettersRequest,
    DiscardDeadLettersResponse, ListDeadLettersRequest, PlanStatus, RedriveDeadLettersRequest,
    RedriveDeadLettersResponse, RedrivePlanRequest,
};
use tonic::{Response, Status};

fn read<T>(answer: Result<Response<T>, Status>) -> Result<T, OrchestratorError> {
    answer.map(Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
}

async fn list(
    planner: &TestPlanner,
    request: ListDeadLettersRequest,
) -> Result<Vec<DeadLetter>, OrchestratorError> {
    read(planner.client.clone().list_dead_letters(request).await).map(|page| page.dead_letters)
}

async fn letters(planner: &TestPlanner, state: State) -> Vec<DeadLetter> {
    let request = ListDeadLettersRequest { state: state.into(), page_size: 500, ..Default::default() };
    list(planner, request).await.unwrap()
}

async fn redrive(
    planner: &TestPlanner,
    request: RedriveDeadLettersRequest,
) -> Result<RedriveDeadLettersResponse, OrchestratorError> {
    let context = RequestContext::new(CorrelationId::generate());
    read(planner.client.clone().redrive_dead_letters(context.request(request)).await)
}

async fn discard(
    planner: &TestPlanner,
    request: DiscardDeadLettersRequest,
) -> Result<DiscardDeadLettersResponse, OrchestratorError> {
    read(planner.client.clone().discard_dead_letters(request).await)
}

fn of_agent(agent: &str) -> Option<DeadLetterFilter> {
    Some(DeadLetterFilter { agent: agent.into(), ..Default::default() })
}

/// `count` plans whose only task, for `agent`, fails.
async fn failures(planner: &TestPlanner, agent: &str, count: usize) -> Vec<String> {
    let error = OrchestratorError::new(Code::ExecutionFailed, "no").with_detail("error_class", "io");
    planner.script(agent, Script::Says(vec![started(1), finished(1, Err(error))]));
    let mut plans = Vec::new();
    for _ in 0..count {
        let request = graph(vec![task("a", agent, "{}", &[])]);
        plans.push(planner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id);
    }
    for plan_id in &plans {
        planner.ended(plan_id).await;
    }
    planner.executor.log.lock().unwrap().calls.clear();
    planner.script(agent, Script::Says(answers("at last")));
    plans
}

/// Waits until all of `plans` are redriven. Returns the new plans, one for each.
async fn all_redriven(planner: &TestPlanner, plans: &[String]) -> BTreeSet<String> {
    eventually(async || {
        let open = letters(planner, State::Open).await;
        !open.iter().any(|letter| plans.contains(&letter.plan_id))
    })
    .await;
    let mut new = BTreeSet::new();
    for plan_id in plans {
        assert!(new.insert(planner.plan(plan_id).await.redriven_as.expect("it was redriven")), "one each");
    }
    new
}

#[tokio::test]
async fn bulk_redrive_follows_its_filter_and_rate() {
    let planner = TestPlanner::new().await;
    let (notes, others) = (failures(&planner, "notes", 6).await, failures(&planner, "git_agent", 2).await);
    let open = letters(&planner, State::Open).await;
    let found: Vec<_> = open.iter().map(|letter| &letter.plan_id).collect();
    assert_eq!(found, others.iter().rev().chain(notes.iter().rev()).collect::<Vec<_>>(), "newest first");
    assert_eq!((open[0].key.as_str(), open[0].attempts, open[0].settled.is_some()), ("a", 1, false));
    assert_eq!(open[0].error.as_ref().unwrap().code, "execution_failed");

    let asked = Instant::now();
    let request = RedriveDeadLettersRequest {
        filter: of_agent("notes"),
        rate_per_second: 20.0,
        reason: "fixed".into(),
        ..Default::default()
    };
    let bulk = redrive(&planner, request.clone()).await.unwrap();
    assert_eq!(bulk.selected, 6);
    assert_eq!(redrive(&planner, request).await.unwrap().selected, 0, "they are marked already");
    let new = all_redriven(&planner, &notes).await;
    assert!(asked.elapsed() >= Duration::from_millis(240), "five pauses: {:?}", asked.elapsed());
    for plan_id in &new {
        let plan = planner.ended(plan_id).await;
        assert_eq!((plan.status(), &plan.correlation_id), (PlanStatus::Succeeded, &bulk.correlation_id));
    }
    assert_eq!(planner.plans_of(bulk.correlation_id.parse().unwrap()).await.len(), 6, "found by the request");
    let settled = letters(&planner, State::Redriven).await[0].settled.clone().unwrap();
    assert_eq!((settled.correlation_id, settled.reason), (bulk.correlation_id, "fixed".into()));
    assert!(new.contains(&settled.redriven_as));
    let left: Vec<_> =
        letters(&planner, State::Open).await.into_iter().map(|letter| letter.plan_id).collect();
    assert_eq!(left.iter().rev().collect::<Vec<_>>(), others.iter().collect::<Vec<_>>());
    assert_eq!(planner.executor.log.lock().unwrap().calls.len(), 6, "each once");
}

#[tokio::test]
async fn bulk_redrive_of_a_dead_planner_is_continued_by_the_next() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let on = async || {
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
    };
    let mut planner = on().await;
    let plans = failures(&planner, "notes", 12).await;
    let request = RedriveDeadLettersRequest { rate_per_second: 4.0, ..Default::default() };
    let bulk = redrive(&planner, request).await.unwrap();
    assert_eq!(bulk.selected, 12);
    eventually(async || letters(&planner, State::Redriven).await.len() >= 2).await;
    planner.stop().await;
    let planner = on().await;
    assert!(letters(&planner, State::Open).await.len() >= 6, "it was stopped in the middle");
    let new = all_redriven(&planner, &plans).await;
    assert_eq!(planner.plans_of(bulk.correlation_id.parse().unwrap()).await.len(), new.len(), "none twice");
    for plan_id in &new {
        assert_eq!(planner.ended(plan_id).await.status(), PlanStatus::Succeeded);
    }
}

#[tokio::test]
async fn bulk_and_single_redrive_of_one_plan_redrive_it_once() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let on = async || {
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
    };
    let stages = [on().await, on().await];
    let plans = failures(&stages[0], "notes", 20).await;
    stages[1].script("notes", Script::Says(answers("at last")));
    let request = RedriveDeadLettersRequest { rate_per_second: 200.0, ..Default::default() };
    let bulk = redrive(&stages[0], request).await.unwrap();
    let mut won = 0;
    for plan_id in plans.iter().rev() {
        let request = RedrivePlanRequest { plan_id: plan_id.clone(), ..Default::default() };
        match read(stages[1].client.clone().redrive_plan(request).await) {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.code, Code::Conflict, "{error}"),
        }
    }
    all_redriven(&stages[0], &plans).await;
    let swept = stages[0].plans_of(bulk.correlation_id.parse().unwrap()).await.len();
    assert_eq!(swept + won, plans.len());
}

#[tokio::test]
async fn discard_requires_and_stores_a_reason() {
    let planner = TestPlanner::new().await;
    let (notes, others) = (failures(&planner, "notes", 3).await, failures(&planner, "git_agent", 1).await);
    for reason in ["", " \n"] {
        let request = DiscardDeadLettersRequest {
            filter: of_agent("notes"),
            reason: reason.into(),
            ..Default::default()
        };
        let error = discard(&planner, request).await.unwrap_err();
        assert_eq!((error.code, &*error.details["field"]), (Code::ValidationFailed, "reason"));
    }
    let request =
        DiscardDeadLettersRequest { filter: of_agent("notes"), reason: "old".into(), ..Default::default() };
    let two = DiscardDeadLettersRequest { limit: 2, ..request.clone() };
    assert_eq!(discard(&planner, two).await.unwrap().discarded, 2);
    let done = discard(&planner, request).await.unwrap();
    assert_eq!(done.discarded, 1);
    let discarded = letters(&planner, State::Discarded).await;
    assert_eq!(
        discarded.iter().map(|letter| &letter.plan_id).collect::<Vec<_>>(),
        notes.iter().rev().collect::<Vec<_>>()
    );
    let settled = discarded[0].settled.clone().unwrap();
    assert_eq!((settled.correlation_id, settled.reason.as_str()), (done.correlation_id, "old"));
    assert_eq!(letters(&planner, State::Open).await[0].plan_id, others[0]);
    let swept = redrive(&planner, RedriveDeadLettersRequest::default()).await.unwrap();
    assert_eq!(swept.selected, 1, "what was discarded is not redriven");
    let request = RedrivePlanRequest { plan_id: notes[0].clone(), ..Default::default() };
    planner.client.clone().redrive_plan(request).await.expect("a single redrive is allowed");
}

#[tokio::test]
async fn repeated_bulk_request_receives_the_first_result() {
    let planner = TestPlanner::new().await;
    failures(&planner, "notes", 4).await;
    let request = |limit, digest: &str| RedriveDeadLettersRequest {
        limit,
        idempotency_key: "key-1".into(),
        idempotency_digest: digest.into(),
        ..Default::default()
    };
    let first = redrive(&planner, request(2, "d1")).await.unwrap();
    assert_eq!(first.selected, 2);
    let replay = RedriveDeadLettersResponse { replay_of: first.correlation_id.clone(), ..first };
    assert_eq!(redrive(&planner, request(2, "d1")).await.unwrap(), replay);
    assert_eq!(redrive(&planner, request(3, "d2")).await.unwrap_err().code, Code::IdempotencyMismatch);

    let request = DiscardDeadLettersRequest {
        reason: "old".into(),
        idempotency_key: "key-2".into(),
        idempotency_digest: "d1".into(),
        ..Default::default()
    };
    let first = discard(&planner, request.clone()).await.unwrap();
    assert!(first.discarded >= 2, "{first:?}");
    let replay = DiscardDeadLettersResponse { replay_of: first.correlation_id.clone(), ..first };
    assert_eq!(discard(&planner, request).await.unwrap(), replay);
}

#[tokio::test]
async fn invalid_bulk_request_names_its_field() {
    let planner = TestPlanner::new().await;
    let filter = |change: fn(&mut DeadLetterFilter)| {
        let mut filter = DeadLetterFilter::default();
        change(&mut filter);
        ListDeadLettersRequest { filter: Some(filter), ..Default::default() }
    };
    for (request, field) in [
        (filter(|filter| filter.agent = "../sh".into()), "agent"),
        (filter(|filter| filter.code = "teapot".into()), "code"),
        (filter(|filter| filter.error_class = "teapot".into()), "error_class"),
        (filter(|filter| filter.plan_id = "42".into()), "plan_id"),
        (filter(|filter| filter.correlation_id = "42".into()), "correlation_id"),
        (ListDeadLettersRequest { page_size: 501, ..Default::default() }, "page_size"),
        (ListDeadLettersRequest { page_token: "42".into(), ..Default::default() }, "page_token"),
    ] {
        let error = list(&planner, request).await.unwrap_err();
        assert_eq!((error.code, &*error.details["field"]), (Code::ValidationFailed, field));
    }
    for rate in [-1.0, 1e-300, 1000.1, f64::NAN, f64::INFINITY] {
        let request = RedriveDeadLettersRequest { rate_per_second: rate, ..Default::default() };
        assert_eq!(
            redrive(&planner, request).await.unwrap_err().details["field"],
            "rate_per_second",
            "{rate}"
        );
    }
    let many = RedriveDeadLettersRequest { limit: 10_001, ..Default::default() };
    assert_eq!(redrive(&planner, many).await.unwrap_err().details["field"], "limit");
}
