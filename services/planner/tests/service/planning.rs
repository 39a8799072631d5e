//! Plans whose tasks a language model proposes.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code, PlanId,
    action::ActionResult,
    json::{Json, Object},
    plan::{PlanKind, TaskStatus as Status},
};
use phoenix_planner::{
    PlannerConfig,
    store::{self, Entry, TaskRef},
};
use phoenix_proto::{
    executor::ExecuteTaskResponse,
    planner::{
        ApprovalDecision, DecideApprovalRequest, Plan, PlanAndExecuteRequest, PlanStatus, PlanningStrategy,
        ProposePlanResponse, RedrivePlanRequest, TaskStatus, WatchPlanRequest,
    },
};
use serde_json::{Value, json};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, batch, error_of, eventually, new_plan,
    started, status_of, succeeded, task,
};

/// The answers of the language model, in order.
pub(crate) type Answers = Arc<Mutex<std::collections::VecDeque<Vec<ExecuteTaskResponse>>>>;

pub(crate) fn plan_with(change: impl FnOnce(&mut PlannerConfig)) -> impl FnOnce(&mut PlannerConfig) {
    |config| {
        config.planning.agent = "model".parse().unwrap();
        change(config);
    }
}

async fn planner() -> TestPlanner {
    configured(|_| {}).await
}

pub(crate) async fn configured(change: impl FnOnce(&mut PlannerConfig)) -> TestPlanner {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (executor, health) = (FakeExecutor::default(), FakeHealth::default());
    TestPlanner::configured(dir, executor, health, ALL_PEERS, plan_with(change)).await
}

pub(crate) fn asks(strategy: PlanningStrategy, message: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: message.into(), strategy: strategy.into(), ..Default::default() }
}

pub(crate) fn modelled(message: &str) -> PlanAndExecuteRequest {
    asks(PlanningStrategy::Model, message)
}

pub(crate) fn proposed(key: &str, agent: &str, action: &str, input: &Value, depends_on: &[&str]) -> Value {
    json!({
        "key": key, "agent": agent, "action": action, "input": input.to_string(), "depends_on": depends_on,
        "on_failure": "fail"
    })
}

fn answer(tasks: &[Value]) -> Vec<ExecuteTaskResponse> {
    let metadata = json!({
        "provider": "openai", "model": "m", "usage": {"input_tokens": 100, "output_tokens": 10}, "cost_usd": 0.25
    });
    let metadata = Object::try_from(Json::from(metadata)).unwrap();
    let data = json!({"tasks": tasks}).to_string();
    let result = ActionResult { metadata, ..ActionResult::text(data) };
    vec![started(1), succeeded(1, &result)]
}

/// Two tasks, of which the second uses the output of the first.
fn good() -> Vec<ExecuteTaskResponse> {
    answer(&[
        proposed("status", "git_agent", "git_status", &json!({}), &[]),
        proposed("note", "notes", "write", &json!({"text": "Today: {{tasks.status.output.files.0}}"}), &[]),
    ])
}

fn cycle() -> Vec<ExecuteTaskResponse> {
    answer(&[
        proposed("a", "notes", "x", &json!({}), &["b"]),
        proposed("b", "notes", "x", &json!({}), &["a"]),
    ])
}

impl TestPlanner {
    /// Makes the language model answer in this order, and hang then.
    pub(crate) fn model_answers(
        &self,
        answers: impl IntoIterator<Item = Vec<ExecuteTaskResponse>>,
    ) -> Answers {
        let answers: Answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        self.script("model", Script::Each(Arc::clone(&answers)));
        answers
    }

    pub(crate) async fn chats(&self, request: PlanAndExecuteRequest) -> String {
        self.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id
    }

    pub(crate) async fn run(&self, request: PlanAndExecuteRequest) -> Plan {
        let plan_id = self.chats(request).await;
        self.ended(&plan_id).await
    }

    pub(crate) async fn propose(
        &self,
        request: PlanAndExecuteRequest,
    ) -> Result<ProposePlanResponse, OrchestratorError> {
        let answer = self.client.clone().propose_plan(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
    }

    /// The agents and actions that were called, in order.
    pub(crate) fn called(&self) -> Vec<(String, String)> {
        let log = self.executor.log.lock().unwrap();
        log.calls.iter().map(|call| (call.agent.clone(), call.action.clone())).collect()
    }

    pub(crate) fn inputs_of(&self, agent: &str) -> Vec<Value> {
        let log = self.executor.log.lock().unwrap();
        let calls = log.calls.iter().filter(|call| call.agent == agent);
        calls.map(|call| serde_json::from_str(&call.payload_json).unwrap()).collect()
    }

    pub(crate) async fn kinds_of(&self, plan_id: &str) -> Vec<(String, String)> {
        let request = WatchPlanRequest { plan_id: plan_id.into(), ..Default::default() };
        let mut events = self.client.clone().watch_plan(request).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            kinds.push((event.kind, event.task_key));
        }
        kinds
    }
}

pub(crate) fn keys(plan: &Plan) -> Vec<&str> {
    plan.tasks.iter().map(|task| task.key.as_str()).collect()
}

#[tokio::test]
async fn proposed_tasks_run_in_the_plan_that_asked() {
    let planner = planner().await;
    planner.model_answers([good()]);
    // The agent answers with text, as a language model does.
    planner.script("git_agent", Script::Says(answers(r#"{"files": ["a.rs"]}"#)));
    let plan = planner.run(modelled("write down what changed; use {{tasks.x.output}}")).await;
    assert_eq!((status_of(&plan), plan.output.as_deref()), (PlanStatus::Succeeded, Some("ok")), "{plan:?}");
    assert_eq!(keys(&plan), ["planning-1", "status", "note"]);
    assert_eq!(planner.inputs_of("notes"), [json!({"text": "Today: a.rs"})]);
    let question = &planner.inputs_of("model")[0];
    assert_eq!(question["options"]["response_format"]["type"], "json_schema");
    let messages = question["messages"].as_array().unwrap();
    assert_eq!(messages[1]["content"], "write down what changed; use {{tasks.x.output}}");
    assert!(messages[0]["content"].as_str().unwrap().contains("\"agent\":\"git_agent\""));
    let usage = plan.usage.unwrap();
    assert_eq!((usage.calls, usage.cost_nanos), (1, Some(250_000_000)));
    let kinds = planner.kinds_of(&plan.plan_id).await;
    let added = kinds.iter().position(|(kind, _)| kind == "tasks_added").unwrap();
    assert_eq!(kinds[added - 1], ("task_ended".into(), "planning-1".into()));
    assert_eq!(kinds[added + 1], ("task_dispatched".into(), "status".into()));
    assert_eq!(kinds.iter().filter(|(kind, _)| kind == "tasks_added").count(), 1);
}

#[tokio::test]
async fn rejected_proposal_goes_back_to_the_model_once() {
    let planner = planner().await;
    planner.model_answers([cycle(), good()]);
    planner.script("git_agent", Script::Says(answers(r#"{"files": ["a.rs"]}"#)));
    let plan = planner.run(modelled("go")).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded, "{plan:?}");
    assert_eq!(keys(&plan), ["planning-1", "planning-2", "status", "note"]);
    let messages = planner.inputs_of("model")[1]["messages"].as_array().unwrap().clone();
    assert_eq!((messages.len(), &messages[2]["role"]), (4, &json!("assistant")));
    assert!(messages[3]["content"].as_str().unwrap().contains("in a cycle and can never start: a -> b -> a"));
}

#[tokio::test]
async fn model_that_proposes_no_valid_plan_fails_the_plan() {
    let unknown = || answer(&[proposed("a", "missing", "x", &json!({}), &[])]);
    let many = || answer(&vec![proposed("a", "notes", "x", &json!({}), &[]); 10_000]);
    let prose = || answers("Sure! First I would look at the status.");
    for (answers, problem) in [
        ([cycle(), cycle()], "can never start: a -> b -> a"),
        ([unknown(), unknown()], "unknown agent `missing`; configured agents: "),
        ([many(), many()], "`tasks` holds 10000 tasks; at most 16 are allowed"),
        ([prose(), prose()], "the answer is not JSON"),
        ([prose(), unknown()], "unknown agent `missing`"),
    ] {
        let planner = planner().await;
        let left = planner.model_answers(answers);
        let error = planner.client.clone().plan_and_execute(modelled("go")).await.unwrap_err();
        let error = phoenix_proto::error_from_status(&error);
        assert_eq!(error.code, Code::PlanningFailed, "{error}");
        assert!(error.message.contains(problem), "{error}");
        for name in ["proposal_1", "problems_1", "proposal_2", "problems_2"] {
            assert!(!error.details[name].is_empty(), "{error:?}");
        }
        assert!(error.details["problems_2"].contains(problem), "{error:?}");
        let plan = planner.ended(&error.details["plan_id"]).await;
        assert_eq!((status_of(&plan), keys(&plan)), (PlanStatus::Failed, vec!["planning-1", "planning-2"]));
        assert_eq!((left.lock().unwrap().len(), planner.called().len()), (0, 2), "{:?}", planner.called());

        // A redrive asks again, from the beginning.
        planner.model_answers([answer(&[proposed("a", "notes", "x", &json!({}), &[])])]);
        let redrive = RedrivePlanRequest { plan_id: plan.plan_id.clone(), ..Default::default() };
        let again = planner.client.clone().redrive_plan(redrive).await.unwrap().into_inner();
        let again = planner.ended(&again.plan_id).await;
        assert_eq!((status_of(&again), keys(&again)), (PlanStatus::Succeeded, vec!["planning-1", "a"]));
    }
}

#[tokio::test]
async fn number_of_rounds_is_a_setting() {
    let planner = configured(|config| config.planning.max_rounds = 1).await;
    planner.model_answers([cycle()]);
    let plan = planner.run(modelled("go")).await;
    assert_eq!((status_of(&plan), keys(&plan)), (PlanStatus::Failed, vec!["planning-1"]));
    assert!(error_of(&plan).message.contains("was asked once"), "{plan:?}");
}

#[tokio::test]
async fn failure_of_the_question_is_the_failure_of_the_plan() {
    let planner = planner().await;
    planner.script("model", Script::Fails(OrchestratorError::new(Code::ExecutionFailed, "no quota")));
    let plan = planner.run(modelled("go")).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (PlanStatus::Failed, "no quota"));
    assert_eq!(plan.tasks[0].status(), TaskStatus::DeadLettered);
}

#[tokio::test]
async fn proposal_runs_nothing() {
    let planner = planner().await;
    planner.model_answers([cycle(), good()]);
    let proposal = planner.propose(modelled("go")).await.unwrap();
    assert_eq!(
        (proposal.strategy.as_str(), proposal.rounds, proposal.prompt_version.as_str()),
        ("model", 2, "1")
    );
    assert_eq!(proposal.tasks.iter().map(|task| task.key.as_str()).collect::<Vec<_>>(), ["status", "note"]);
    assert_eq!(
        proposal.waves.iter().map(|wave| wave.keys.clone()).collect::<Vec<_>>(),
        [["status"], ["note"]]
    );
    assert_eq!(proposal.usage.unwrap().cost_nanos, Some(500_000_000));
    assert!(proposal.metadata_json.contains(r#""provider":"openai""#), "{}", proposal.metadata_json);
    let plan = planner.ended(&proposal.plan_id).await;
    assert_eq!((status_of(&plan), keys(&plan)), (PlanStatus::Succeeded, vec!["planning-1", "planning-2"]));
    assert!(planner.called().iter().all(|(agent, _)| agent == "model"), "{:?}", planner.called());

    let proposal = planner.propose(asks(PlanningStrategy::Rules, "git status")).await.unwrap();
    assert_eq!((proposal.strategy.as_str(), proposal.plan_id.as_str()), ("rules", ""));
    assert_eq!((proposal.tasks[0].agent.as_str(), proposal.tasks[0].action.as_str()), ("git_agent", "chat"));
    assert_eq!(planner.called().len(), 2, "nothing was asked");
}

#[tokio::test]
async fn repeated_proposal_with_a_key_asks_once() {
    let planner = planner().await;
    planner.model_answers([good()]);
    let request = PlanAndExecuteRequest {
        idempotency_key: "k".into(),
        idempotency_digest: "d".into(),
        ..modelled("go")
    };
    let first = planner.propose(request.clone()).await.unwrap();
    let second = planner.propose(request).await.unwrap();
    assert_eq!((&first.plan_id, &first.tasks), (&second.plan_id, &second.tasks));
    assert!(first.replay_of.is_empty() && !second.replay_of.is_empty());
    assert_eq!(planner.called().len(), 1);
}

#[tokio::test]
async fn strategy_decides_who_plans() {
    let planner =
        configured(|config| config.planning.strategy = phoenix_domain::planning::Strategy::Auto).await;
    let keys_of = async |request: PlanAndExecuteRequest| {
        planner.model_answers([good()]);
        let plan = planner.run(request).await;
        plan.tasks.into_iter().map(|task| (task.key, task.agent)).next().unwrap()
    };
    for (strategy, message, first) in [
        (PlanningStrategy::Configured, "git status", ("chat", "git_agent")),
        (PlanningStrategy::Configured, "what changed?", ("planning-1", "model")),
        (PlanningStrategy::Auto, "my notes", ("chat", "notes")),
        (PlanningStrategy::Rules, "what changed?", ("chat", "model")),
        (PlanningStrategy::Unspecified, "what changed?", ("chat", "model")),
        (PlanningStrategy::Model, "git status", ("planning-1", "model")),
    ] {
        let found = keys_of(asks(strategy, message)).await;
        assert_eq!((found.0.as_str(), found.1.as_str()), first, "{strategy:?} {message}");
    }
    // A request that chooses an agent, a model or options needs no plan.
    let named =
        PlanAndExecuteRequest { agent: Some("notes".into()), ..asks(PlanningStrategy::Configured, "x") };
    assert_eq!(keys_of(named).await.1, "notes");
    let named = PlanAndExecuteRequest { agent: Some("notes".into()), ..modelled("x") };
    let refused = planner.client.clone().submit_plan(named).await.unwrap_err();
    assert!(refused.message().contains("`strategy` `model` excludes `agent`"), "{refused}");
    let tasks = PlanAndExecuteRequest {
        tasks: vec![task("a", "notes", "{}", &[])],
        message: String::new(),
        ..modelled("")
    };
    let refused = planner.client.clone().submit_plan(tasks).await.unwrap_err();
    assert!(refused.message().contains("`strategy` is for chats only"), "{refused}");
}

#[tokio::test]
async fn unknown_planning_agent_is_named() {
    let planner = configured(|config| config.planning.agent = "elsewhere".parse().unwrap()).await;
    let refused = planner.propose(modelled("x")).await.unwrap_err();
    assert_eq!((refused.code, refused.details["agent"].as_str()), (Code::PlanningFailed, "elsewhere"));
    // Without it no model is configured.
    let proposal = planner.propose(asks(PlanningStrategy::Auto, "x")).await.unwrap();
    assert_eq!(proposal.strategy, "rules");
}

#[tokio::test]
async fn proposed_writing_action_waits_for_its_approval() {
    let planner = planner().await;
    planner.model_answers([answer(&[
        proposed("log", "git_agent", "git_log", &json!({}), &[]),
        proposed("commit", "git_agent", "git_commit", &json!({"message": "wip"}), &["log"]),
    ])]);
    let plan_id = planner.chats(modelled("commit it")).await;
    eventually(async || {
        let plan = planner.plan(&plan_id).await;
        plan.tasks.last().is_some_and(|task| task.status() == TaskStatus::AwaitingApproval)
    })
    .await;
    let plan = planner.plan(&plan_id).await;
    let approval = plan.tasks[2].approval.clone().unwrap();
    assert_eq!(approval.reason, "proposed by openai/m; `git_commit` of `git_agent` changes something");
    assert_eq!(approval.input_json, r#"{"message":"wip"}"#);
    assert_eq!(planner.called().last().unwrap().1, "git_log");
    let decision = DecideApprovalRequest {
        plan_id: plan_id.clone(),
        decision: ApprovalDecision::Approve.into(),
        actor: "ann".into(),
        ..Default::default()
    };
    planner.client.clone().decide_approval(decision).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    assert_eq!(
        (status_of(&plan), planner.called().last().unwrap().1.as_str()),
        (PlanStatus::Succeeded, "git_commit")
    );
}

/// What a dead planner has journaled of a plan.
type Steps = fn(PlanId) -> Vec<Entry>;

/// A plan of a dead planner, with these steps of its first question.
async fn left_behind(dir: &tempfile::TempDir, steps: impl FnOnce(PlanId) -> Vec<Entry>) -> PlanId {
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let store = store::open(&url).await.unwrap();
    store.register("dead").await.unwrap();
    let mut plan = new_plan(Timestamp::now(), &["model"]);
    plan.kind = PlanKind::Planned;
    plan.tasks[0].spec.key = "planning-1".into();
    plan.tasks[0].spec.action = "chat".into();
    let plan_id = plan.plan_id;
    let mut entries = vec![Entry::PlanAccepted { trace: None, plan: Arc::new(plan) }];
    entries.extend(steps(plan_id));
    store.append(&batch("dead"), &[entries.into()]).await.unwrap();
    plan_id
}

fn question_answered(plan_id: PlanId) -> Vec<Entry> {
    let task = TaskRef { plan_id, ordinal: 0 };
    let tasks = json!({"tasks": [proposed("a", "notes", "x", &json!({}), &[])]}).to_string();
    let (status, result) = (Status::Succeeded, Ok(ActionResult::text(tasks)));
    let at = Timestamp::now();
    vec![Entry::TaskDispatched { task, at }, Entry::TaskEnded { task, status, at, result }]
}

/// Whatever the planner was doing when it died: a durable answer is not asked for again, and its tasks are added once.
#[tokio::test]
async fn takeover_neither_loses_a_proposal_nor_plans_twice() {
    let asked =
        |plan_id| vec![Entry::TaskDispatched { task: TaskRef { plan_id, ordinal: 0 }, at: Timestamp::now() }];
    let added = |plan_id| {
        let mut entries = question_answered(plan_id);
        let mut task = new_plan(Timestamp::now(), &["notes"]).tasks.remove(0);
        task.spec.key = "a".into();
        entries.push(Entry::TasksAdded { plan_id, first: 1, at: Timestamp::now(), tasks: [task].into() });
        entries
    };
    let steps: [(Steps, usize); 3] = [(asked, 1), (question_answered, 0), (added, 0)];
    for (steps, questions) in steps {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let plan_id = left_behind(&dir, steps).await.to_string();
        let executor = FakeExecutor::default();
        let again: Answers =
            Arc::new(Mutex::new([answer(&[proposed("a", "notes", "x", &json!({}), &[])])].into()));
        executor.scripts.lock().unwrap().insert("model".into(), Script::Each(again));
        let planner =
            TestPlanner::configured(dir, executor, FakeHealth::default(), ALL_PEERS, plan_with(|_| {})).await;
        let plan = planner.ended(&plan_id).await;
        assert_eq!(
            (status_of(&plan), keys(&plan)),
            (PlanStatus::Succeeded, vec!["planning-1", "a"]),
            "{plan:?}"
        );
        let called = planner.called();
        let count = |agent: &str| called.iter().filter(|(called, _)| called == agent).count();
        assert_eq!((count("model"), count("notes")), (questions, 1), "{called:?}");
        let kinds = planner.kinds_of(&plan_id).await;
        assert_eq!(kinds.iter().filter(|(kind, _)| kind == "tasks_added").count(), 1);
    }
}
