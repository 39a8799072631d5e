//! Plans whose language model gets the outputs of its tasks, and proposes further ones or answers.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code, PlanId,
    action::ActionResult,
    json::{Json, Object},
    plan::{PlanKind, TaskStatus as Status},
};
use phoenix_planner::store::{self, Entry, TaskRef};
use phoenix_proto::{
    common::Budget,
    executor::ExecuteTaskResponse,
    planner::{
        ApprovalDecision, CancelPlanRequest, DecideApprovalRequest, Plan, PlanAndExecuteRequest, PlanStatus,
        RedrivePlanRequest, TaskStatus,
    },
};
use serde_json::{Value, json};

use crate::{
    planning::{Answers, configured, keys, modelled, plan_with, proposed},
    support::{
        ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, batch, error_of, eventually,
        new_plan, started, status_of, succeeded,
    },
};

/// A planner that lets its model continue so often.
async fn continuing(times: u32) -> TestPlanner {
    configured(move |config| config.planning.max_continuations = times).await
}

/// What the model says, with the cost of a quarter of a dollar.
fn model_says(said: &Value) -> Vec<ExecuteTaskResponse> {
    let metadata = json!({
        "provider": "openai", "model": "m", "usage": {"input_tokens": 100, "output_tokens": 10}, "cost_usd": 0.25
    });
    let metadata = Object::try_from(Json::from(metadata)).unwrap();
    vec![started(1), succeeded(1, &ActionResult { metadata, ..ActionResult::text(said.to_string()) })]
}

fn one(key: &str, input: &Value) -> Value {
    proposed(key, "notes", "write", input, &[])
}

/// A proposal of one task, after which the model wants to continue.
fn goes_on(key: &str, input: &Value) -> Value {
    json!({"tasks": [one(key, input)], "continue": true})
}

fn says(text: &str) -> Value {
    json!({"answer": text, "tasks": []})
}

/// The text of the last message of a question.
fn asked(question: &Value) -> String {
    question["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned()
}

/// The members of an answer that a question demands.
fn members(question: &Value) -> &Value {
    &question["options"]["response_format"]["json_schema"]["schema"]["required"]
}

impl TestPlanner {
    fn model_continues<'a>(&self, said: impl IntoIterator<Item = &'a Value>) {
        self.model_answers(said.into_iter().map(model_says));
    }

    async fn reaches(&self, plan_id: &str, key: &str, status: TaskStatus) {
        eventually(async || {
            let plan = self.plan(plan_id).await;
            plan.tasks.iter().any(|task| task.key == key && task.status() == status)
        })
        .await;
    }

    async fn redriven(&self, plan_id: &str) -> Plan {
        let redrive = RedrivePlanRequest { plan_id: plan_id.into(), ..Default::default() };
        let again = self.client.clone().redrive_plan(redrive).await.unwrap().into_inner();
        self.ended(&again.plan_id).await
    }
}

#[tokio::test]
async fn model_gets_the_outputs_and_answers() {
    let planner = continuing(2).await;
    planner.script("git_agent", Script::Says(answers(r#"{"files": ["a.rs"]}"#)));
    let first =
        json!({"tasks": [proposed("status", "git_agent", "git_status", &json!({}), &[])], "continue": true});
    let second = goes_on("note", &json!({"text": "Changed: {{tasks.status.output.files.0}}"}));
    planner.model_continues([&first, &second, &says("a.rs has changed; see the note.")]);
    let answer =
        planner.client.clone().plan_and_execute(modelled("what changed?")).await.unwrap().into_inner();
    assert_eq!(answer.output, "a.rs has changed; see the note.");
    let plan = planner.plan(&answer.plan_id).await;
    assert_eq!(plan.output.as_deref(), Some("a.rs has changed; see the note."), "also from the journal");
    assert_eq!(keys(&plan), ["planning-1", "status", "planning-2", "note", "planning-3"]);
    assert_eq!(planner.inputs_of("notes"), [json!({"text": "Changed: a.rs"})]);
    assert_eq!(plan.usage.unwrap().cost_nanos, Some(750_000_000), "of all questions together");

    let questions = planner.inputs_of("model");
    let system = questions[0]["messages"][0]["content"].as_str().unwrap();
    assert!(system.starts_with("Phoenix planning prompt, version 2.") && system.contains("continue 2 times"));
    let required =
        [json!(["tasks", "continue"]), json!(["answer", "tasks", "continue"]), json!(["answer", "tasks"])];
    assert_eq!(questions.iter().map(members).collect::<Vec<_>>(), required.iter().collect::<Vec<_>>());
    let results = asked(&questions[1]);
    assert!(
        results.contains(r#"{"task":"status","status":"succeeded","output":"{\"files\": [\"a.rs\"]}"}"#),
        "{results}"
    );
    assert!(
        results.contains("At most 15 more tasks, of which at most 7 depend")
            && results.contains("1 more times")
    );
    assert!(asked(&questions[2]).contains("This is the last round"), "{}", asked(&questions[2]));
    let roles: Vec<_> =
        questions[2]["messages"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant", "user"]);

    let kinds = planner.kinds_of(&answer.plan_id).await;
    let ended = kinds.iter().position(|(kind, key)| kind == "task_ended" && key == "status").unwrap();
    assert_eq!(kinds[ended + 1].0, "tasks_added");
    assert_eq!(kinds[ended + 2], ("task_dispatched".into(), "planning-2".into()));
    assert_eq!(kinds.iter().filter(|(kind, _)| kind == "tasks_added").count(), 4);
}

#[tokio::test]
async fn plan_that_does_not_continue_asks_once() {
    let planner = continuing(2).await;
    for flag in [json!(false), Value::Null] {
        planner.model_continues([&json!({"tasks": [one("a", &json!({}))], "continue": flag})]);
        let plan = planner.run(modelled("go")).await;
        assert_eq!((status_of(&plan), keys(&plan)), (PlanStatus::Succeeded, vec!["planning-1", "a"]));
        assert_eq!(plan.output.as_deref(), Some("ok"));
    }
    // A proposal runs nothing: it has nothing to continue with.
    planner.model_continues([&json!({"tasks": [one("a", &json!({}))]})]);
    let proposal = planner.propose(modelled("go")).await.unwrap();
    assert_eq!(proposal.prompt_version, "1");
    assert_eq!(members(planner.inputs_of("model").last().unwrap()), &json!(["tasks"]));
}

#[tokio::test]
async fn model_that_never_stops_is_stopped() {
    // By the number of continuations: the last round may not continue.
    let planner = continuing(2).await;
    let said = ["a", "b", "c", "c"].map(|key| goes_on(key, &json!({})));
    planner.model_continues(&said);
    let plan = planner.run(modelled("go")).await;
    let error = error_of(&plan);
    assert_eq!((status_of(&plan), error.code.as_str()), (PlanStatus::Failed, "planning_failed"));
    assert!(error.message.contains("`continue` must not be true"), "{error:?}");
    let expected = ["planning-1", "a", "planning-2", "b", "planning-3", "planning-4"];
    assert_eq!(keys(&plan), expected);

    // A redrive keeps what has run, and asks the last question again.
    planner.model_continues([&json!({"tasks": [one("c", &json!({"all": "{{tasks.a.output}}"}))]})]);
    let again = planner.redriven(&plan.plan_id).await;
    assert_eq!(
        (status_of(&again), keys(&again).join(" ")),
        (PlanStatus::Succeeded, "planning-1 a planning-2 b planning-3 c".into())
    );
    assert_eq!(planner.inputs_of("notes").last().unwrap(), &json!({"all": "ok"}));
    assert_eq!(planner.inputs_of("notes").len(), 3, "a, b and c once each");

    // By the number of tasks, and of tasks in a row.
    for (tasks, depth) in [(2, 8), (16, 2)] {
        let planner = configured(move |config| {
            (config.planning.max_continuations, config.planning.max_tasks, config.planning.max_depth) =
                (9, tasks, depth);
        })
        .await;
        let said = ["a", "b", "c"].map(|key| goes_on(key, &json!({})));
        planner.model_continues(said.iter().chain([&says("enough")]));
        let plan = planner.run(modelled("go")).await;
        assert_eq!(
            (status_of(&plan), plan.output.as_deref()),
            (PlanStatus::Succeeded, Some("enough")),
            "{plan:?}"
        );
        assert_eq!(keys(&plan), ["planning-1", "a", "planning-2", "b", "planning-3", "planning-4"]);
        let last = &planner.inputs_of("model")[2];
        assert_eq!(members(last), &json!(["answer"]));
        assert!(asked(last).contains("No further tasks are allowed."), "{}", asked(last));
    }
}

#[tokio::test]
async fn bad_round_goes_back_to_the_model() {
    const ROW: [&str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    let prose = json!("Nothing is left to do.");
    let both = json!({"answer": "done", "tasks": [one("b", &json!({}))]});
    let nothing = json!({"answer": " ", "tasks": []});
    let cycle = json!({"tasks": [proposed("b", "notes", "x", &json!({}), &["c"]), proposed("c", "notes", "x", &json!({}), &["b"])]});
    let unknown = json!({"tasks": [proposed("b", "missing", "x", &json!({}), &[])]});
    let deep = ROW
        .iter()
        .enumerate()
        .map(|(at, key)| proposed(key, "notes", "x", &json!({}), &ROW[at.saturating_sub(1)..at]));
    let deep: Vec<_> = deep.collect();
    for (bad, problem) in [
        (&prose, "the answer is not an object with text in `answer`, or an array `tasks`"),
        (&both, "has both `answer` and `tasks`"),
        (&nothing, "or `answer` must be the answer to the message"),
        (&goes_on("a", &json!({})), "`tasks[0].key` is that of a task that has run; choose another one"),
        (
            &goes_on("b", &json!({"text": "{{tasks.planning-1.output}}"})),
            "names `planning-1`, which is no task",
        ),
        (&cycle, "in a cycle and can never start: b -> c -> b"),
        (&unknown, "unknown agent `missing`"),
        (&json!({ "tasks": deep }), "8 tasks depend on each other in a row; at most 7 are allowed"),
        (&json!({"tasks": vec![one("b", &json!({})); 16]}), "`tasks` holds 16 tasks; at most 15 are allowed"),
        (&json!({"tasks": [one("b", &json!({}))], "continue": "yes"}), "`continue` must be true or false"),
    ] {
        let planner = continuing(3).await;
        planner.model_continues([&goes_on("a", &json!({})), bad, &says("done")]);
        let plan = planner.run(modelled("go")).await;
        assert_eq!(
            (status_of(&plan), plan.output.as_deref()),
            (PlanStatus::Succeeded, Some("done")),
            "{plan:?}"
        );
        assert_eq!(keys(&plan), ["planning-1", "a", "planning-2", "planning-3"]);
        let questions = planner.inputs_of("model");
        assert!(asked(&questions[2]).contains(problem), "{problem}: {}", asked(&questions[2]));
        assert_eq!(planner.inputs_of("notes").len(), 1, "nothing of the bad round ran");
    }
}

#[tokio::test]
async fn failure_that_the_model_tolerates_is_shown_to_it() {
    let planner = continuing(1).await;
    planner
        .script("git_agent", Script::Fails(OrchestratorError::new(Code::ExecutionFailed, "no such branch")));
    let mut status = proposed("status", "git_agent", "git_status", &json!({}), &[]);
    status["on_failure"] = json!("continue");
    planner
        .model_continues([&json!({"tasks": [status], "continue": true}), &says("there is no such branch")]);
    let plan = planner.run(modelled("go")).await;
    assert_eq!(
        (status_of(&plan), plan.output.as_deref()),
        (PlanStatus::Succeeded, Some("there is no such branch"))
    );
    let results = asked(&planner.inputs_of("model")[1]);
    assert!(
        results.contains(r#""status":"dead_lettered","error":"execution_failed: no such branch"#),
        "{results}"
    );

    // A redrive runs the task again, and the model decides anew.
    planner.script("git_agent", Script::Says(answers("clean")));
    planner.model_continues([&says("it is clean")]);
    let again = planner.redriven(&plan.plan_id).await;
    assert_eq!((again.output.as_deref(), keys(&again).len()), (Some("it is clean"), 3), "{again:?}");
    assert!(asked(planner.inputs_of("model").last().unwrap()).contains(r#""output":"clean""#));
}

#[tokio::test]
async fn outputs_of_any_size_leave_a_bounded_question() {
    let planner = configured(|config| {
        (config.planning.max_continuations, config.planning.max_tasks, config.planning.max_depth) =
            (16, 64, 64);
    })
    .await;
    // As JSON, the first character takes six bytes.
    planner.script("notes", Script::Says(answers(&"\u{1}ä".repeat(5_000))));
    let rounds: Vec<_> = (0..16).map(|round| goes_on(&format!("t{round}"), &json!({}))).collect();
    planner.model_continues(rounds.iter().chain([&says("long")]));
    let plan = planner.run(modelled("go")).await;
    assert_eq!((plan.output.as_deref(), keys(&plan).len()), (Some("long"), 33), "{plan:?}");
    let questions = planner.inputs_of("model");
    let last = questions.last().unwrap();
    assert!(asked(last).contains("\"output_bytes\":15000"), "{}", asked(last));
    let size = |question: &Value| -> usize {
        let messages = question["messages"].as_array().unwrap().iter();
        messages.map(|message| message["content"].as_str().unwrap().len()).sum()
    };
    // One output of 8 KiB, and 15 of 1 KiB, with what is around them.
    assert!((24 * 1024..32 * 1024).contains(&(size(last) - size(&questions[0]))), "{}", size(last));
}

#[tokio::test]
async fn plan_is_cancelled_while_its_model_decides() {
    let planner = continuing(2).await;
    planner.model_continues([&goes_on("a", &json!({}))]);
    let plan_id = planner.chats(modelled("go")).await;
    planner.reaches(&plan_id, "planning-2", TaskStatus::InProgress).await;
    let cancel = CancelPlanRequest { plan_id: plan_id.clone(), ..Default::default() };
    planner.client.clone().cancel_plan(cancel).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    assert_eq!(
        (status_of(&plan), keys(&plan)),
        (PlanStatus::Cancelled, vec!["planning-1", "a", "planning-2"])
    );
    assert_eq!(plan.tasks[2].status(), TaskStatus::Cancelled);
    planner.model_continues([&says("done")]);
    let again = planner.redriven(&plan_id).await;
    assert_eq!((again.output.as_deref(), planner.inputs_of("notes").len()), (Some("done"), 1));
}

#[tokio::test]
async fn budget_counts_all_rounds() {
    let budget = |limit: u64, on_budget: &str| PlanAndExecuteRequest {
        budget: Some(Budget { max_cost_nanos: Some(limit), ..Default::default() }),
        on_budget: on_budget.into(),
        ..modelled("go")
    };
    let planner = continuing(5).await;
    let said: Vec<_> = ["a", "b", "c", "d"].map(|key| goes_on(key, &json!({}))).into();
    planner.model_continues(&said);
    let plan = planner.run(budget(500_000_000, "fail")).await;
    assert_eq!(
        (status_of(&plan), error_of(&plan).code.as_str()),
        (PlanStatus::Failed, "budget_exhausted"),
        "{plan:?}"
    );
    assert_eq!(keys(&plan), ["planning-1", "a", "planning-2", "b"]);

    planner.model_continues(said[..2].iter().chain([&says("done")]));
    let plan_id = planner.chats(budget(500_000_000, "pause")).await;
    planner.reaches(&plan_id, "b", TaskStatus::AwaitingBudget).await;
    let decision = DecideApprovalRequest {
        plan_id: plan_id.clone(),
        decision: ApprovalDecision::Approve.into(),
        actor: "ann".into(),
        budget: Some(Budget { max_cost_nanos: Some(2_000_000_000), ..Default::default() }),
        ..Default::default()
    };
    planner.client.clone().decide_approval(decision).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), plan.output.as_deref()), (PlanStatus::Succeeded, Some("done")), "{plan:?}");
}

#[tokio::test]
async fn writing_action_of_a_later_round_waits_for_its_approval() {
    let planner = continuing(2).await;
    let commit = json!({"tasks": [proposed("commit", "git_agent", "git_commit", &json!({"message": "{{tasks.a.output}}"}), &[])]});
    planner.model_continues([&goes_on("a", &json!({})), &commit]);
    let plan_id = planner.chats(modelled("go")).await;
    planner.reaches(&plan_id, "commit", TaskStatus::AwaitingApproval).await;
    let plan = planner.plan(&plan_id).await;
    assert_eq!(plan.tasks[3].approval.as_ref().unwrap().input_json, r#"{"message":"ok"}"#);
    assert!(planner.inputs_of("git_agent").is_empty());
}

/// Steps of a plan with two continuations, as its planner journals them: each item is durable as a whole, or not at all.
fn steps(plan_id: PlanId, said: &[Value; 3]) -> Vec<Vec<Entry>> {
    let at = Timestamp::now();
    let ends = |ordinal: usize, said: String| {
        let (task, status, result) =
            (TaskRef { plan_id, ordinal }, Status::Succeeded, Ok(ActionResult::text(said)));
        Entry::TaskEnded { task, status, at, result }
    };
    let adds = |first: usize, key: &str, agent: &str| {
        let mut task = new_plan(at, &[agent]).tasks.remove(0);
        task.spec.key = key.into();
        if agent == "model" {
            (task.spec.action, task.spec.payload) = ("chat".into(), question());
        }
        Entry::TasksAdded { plan_id, first, at, tasks: [task].into() }
    };
    let starts = |ordinal: usize| vec![Entry::TaskDispatched { task: TaskRef { plan_id, ordinal }, at }];
    vec![
        starts(0),
        vec![ends(0, said[0].to_string()), adds(1, "a", "notes")],
        starts(1),
        vec![ends(1, "ok".into())],
        vec![adds(2, "planning-2", "model")],
        starts(2),
        vec![ends(2, said[1].to_string()), adds(3, "b", "notes")],
        starts(3),
        vec![ends(3, "ok".into())],
        vec![adds(4, "planning-3", "model")],
        starts(4),
        vec![ends(4, said[2].to_string())],
    ]
}

fn question() -> Object {
    let messages = json!([
        {"role": "system", "content": "Phoenix planning prompt, version 2.\n"}, {"role": "user", "content": "go"}
    ]);
    let question = json!({"message": "go", "messages": messages});
    Object::try_from(Json::from(question)).unwrap()
}

/// A plan of which a dead planner has journaled this; the planner that takes it over, whose model says the rest.
async fn taken_over(
    said: &[&Value],
    continuations: u32,
    journaled: impl FnOnce(PlanId) -> Vec<Entry>,
) -> (TestPlanner, Plan) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let store = store::open(&url).await.unwrap();
    store.register("dead").await.unwrap();
    let mut plan = new_plan(Timestamp::now(), &["model"]);
    plan.kind = PlanKind::Planned;
    let first = &mut plan.tasks[0].spec;
    (first.key, first.action, first.payload) = ("planning-1".into(), "chat".into(), question());
    let plan_id = plan.plan_id;
    let mut entries = vec![Entry::PlanAccepted { trace: None, plan: Arc::new(plan) }];
    entries.extend(journaled(plan_id));
    store.append(&batch("dead"), &[entries.into()]).await.unwrap();
    let executor = FakeExecutor::default();
    let said: Answers = Arc::new(Mutex::new(said.iter().map(|said| model_says(said)).collect()));
    executor.scripts.lock().unwrap().insert("model".into(), Script::Each(said));
    let continuing = plan_with(|config| config.planning.max_continuations = continuations);
    let planner = TestPlanner::configured(dir, executor, FakeHealth::default(), ALL_PEERS, continuing).await;
    let plan = planner.ended(&plan_id.to_string()).await;
    (planner, plan)
}

/// Wherever the planner dies: what is durable is neither asked nor run again, and the plan ends in the same way.
#[tokio::test]
async fn takeover_continues_from_every_step() {
    let said = [goes_on("a", &json!({})), goes_on("b", &json!({})), says("done")];
    let has_ended = |entries: &[Entry], ordinal: usize| {
        let ended = |entry: &Entry| matches!(entry, Entry::TaskEnded { task, .. } if task.ordinal == ordinal);
        entries.iter().any(ended)
    };
    let count = steps(new_plan(Timestamp::now(), &["model"]).plan_id, &said).len();
    let takeovers = (0..=count).map(async |durable| {
        let journaled =
            |plan_id| -> Vec<Entry> { steps(plan_id, &said).into_iter().take(durable).flatten().collect() };
        let known = journaled(new_plan(Timestamp::now(), &["model"]).plan_id);
        let [open_questions, open_tasks] = [&[0, 2, 4][..], &[1, 3]].map(|ordinals| -> Vec<usize> {
            ordinals.iter().copied().filter(|ordinal| !has_ended(&known, *ordinal)).collect()
        });
        let left: Vec<_> = open_questions.iter().map(|ordinal| &said[ordinal / 2]).collect();
        let (planner, plan) = taken_over(&left, 2, journaled).await;
        assert_eq!(
            (status_of(&plan), plan.output.as_deref(), keys(&plan).join(" ")),
            (PlanStatus::Succeeded, Some("done"), "planning-1 a planning-2 b planning-3".into()),
            "after {durable} steps: {plan:?}"
        );
        let called = planner.called();
        let calls = |agent: &str| called.iter().filter(|(called, _)| called == agent).count();
        assert_eq!(
            (calls("model"), calls("notes")),
            (open_questions.len(), open_tasks.len()),
            "after {durable} steps"
        );
    });
    futures_util::future::join_all(takeovers).await;
}

/// What was accepted counts: a planner whose settings allow no continuation asks once more, and for the end.
#[tokio::test]
async fn takeover_by_a_stricter_planner_ends_the_plan() {
    let said = [goes_on("a", &json!({})), goes_on("b", &json!({})), says("done")];
    let accepted = |plan_id| steps(plan_id, &said).into_iter().take(2).flatten().collect();
    let (planner, plan) = taken_over(&[&said[2]], 0, accepted).await;
    assert_eq!(
        (plan.output.as_deref(), keys(&plan).join(" ")),
        (Some("done"), "planning-1 a planning-2".into())
    );
    assert_eq!(members(&planner.inputs_of("model")[0]), &json!(["answer", "tasks"]));
}
