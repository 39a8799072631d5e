use phoenix_domain::{ActionSpec, AgentSpec, CorrelationId, plan::PlanKind, schema::InputSchema};
use serde_json::{Value, json};

use super::*;
use crate::planning::build::{pending_plan, queued};

fn agents() -> AgentCatalog {
    let agent = |name: &str| AgentSpec::new(name.parse().unwrap(), Vec::new());
    let schema = json!({
        "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"], "additionalProperties": false
    });
    let write = ActionSpec {
        input_schema: Some(InputSchema::new(schema).unwrap()),
        description: "Writes".into(),
        ..ActionSpec::default()
    };
    let mut strict = agent("strict");
    strict.actions = [("write".to_owned(), write)].into();
    AgentCatalog::new(
        [agent("git_agent"), agent("llm_router_agent"), strict],
        "llm_router_agent".parse().unwrap(),
    )
}

fn settings() -> PlanningSettings {
    PlanningSettings { max_tasks: 4, max_depth: 2, ..PlanningSettings::default() }
}

fn task(key: &str, input: &Value) -> Value {
    json!({
        "key": key, "agent": "git_agent", "action": "git_status", "input": input, "depends_on": [], "on_failure": "fail"
    })
}

fn with(task: &Value, member: &str, value: Value) -> Value {
    let mut task = task.clone();
    task[member] = value;
    task
}

/// The tasks of an answer with these tasks, or its problems as one text.
fn propose(tasks: &Value) -> Result<Vec<TaskSpec>, String> {
    answered(&json!({"tasks": tasks}).to_string(), json!({}))
}

fn answered(text: &str, metadata: Value) -> Result<Vec<TaskSpec>, String> {
    match answered_in(&plan(), &settings(), text, metadata)? {
        Proposed::Tasks(tasks) => Ok(tasks),
        Proposed::Answer(text) => panic!("{text}"),
    }
}

fn answered_in(
    plan: &Plan,
    settings: &PlanningSettings,
    text: &str,
    metadata: Value,
) -> Result<Proposed, String> {
    let (data, metadata) = (Json::from(text), Object::try_from(Json::from(metadata)).unwrap());
    let answer = Answer { data: &data, metadata: &metadata };
    proposed(&answer, plan, &agents(), settings).map_err(|problems| problems.join("; "))
}

/// A plan with its first question.
fn plan() -> Plan {
    plan_of(&settings())
}

fn plan_of(settings: &PlanningSettings) -> Plan {
    let question = ask(&agents(), settings, PlanKind::Planned, "what changed?", "", &[]);
    pending_plan(CorrelationId::generate(), PlanKind::Planned, String::new(), vec![question])
}

#[test]
fn valid_answer_becomes_tasks() {
    let tasks = json!([
        task("status", &json!("{}")),
        with(&task("write", &json!(r#"{"title": "{{tasks.status.output}}"}"#)), "agent", json!("strict")),
    ]);
    let tasks = json!([tasks[0], with(&tasks[1], "action", json!("write"))]);
    let specs = propose(&tasks).unwrap();
    assert_eq!(
        (specs[0].key.as_str(), specs[0].agent.as_str(), specs[0].action.as_str()),
        ("status", "git_agent", "git_status")
    );
    assert_eq!(specs[1].payload.to_string(), r#"{"title":"{{tasks.status.output}}"}"#);
    // As models without structured output answer.
    let fenced = format!("```json\n{}\n```", json!({"tasks": tasks}));
    assert_eq!(answered(&fenced, json!({})).as_ref(), Ok(&specs));
    let free = json!([{"key": "a", "agent": "git_agent", "action": null, "input": {"message": "x"}}]);
    assert_eq!(propose(&free).unwrap()[0].action, "chat");
}

#[test]
fn problems_name_the_task_and_the_value() {
    let a = task("a", &json!("{}"));
    let after = |key: &str, before: &str| with(&task(key, &json!("{}")), "depends_on", json!([before]));
    for (tasks, problem) in [
        (json!([]), "`tasks` must hold at least one task"),
        (json!("none"), "the answer is not an object with an array `tasks`"),
        (json!([1]), "tasks[0]: is not an object"),
        (json!([a, a]), "is used by two tasks"),
        (json!(vec![a.clone(); 5]), "`tasks` holds 5 tasks; at most 4 are allowed"),
        (json!(vec![a.clone(); 10_000]), "`tasks` holds 10000 tasks; at most 4 are allowed"),
        (
            json!([after("a", "b"), after("b", "a")]),
            "tasks wait for each other in a cycle and can never start: a -> b -> a",
        ),
        (
            json!([a, after("b", "a"), after("c", "b")]),
            "3 tasks depend on each other in a row; at most 2 are allowed",
        ),
        (json!([after("a", "z")]), "names `z`, which is no task"),
        (
            json!([with(&a, "agent", json!("missing"))]),
            "tasks[0] (`a`): unknown agent `missing`; configured agents: git_agent, ",
        ),
        (json!([with(&a, "agent", json!("../sh"))]), "tasks[0]: `agent` "),
        (json!([with(&a, "agent", json!("strict"))]), "has no action `git_status`"),
        (json!([with(&with(&a, "agent", json!("strict")), "action", json!("write"))]), "title"),
        (json!([with(&a, "input", json!("[1]"))]), "`input` is not a JSON object as text"),
        (json!([with(&a, "input", json!(7))]), "`input` must be a JSON object, or one as text"),
        (json!([with(&a, "input", json!("{\"x\": \"{{tasks.z.output}}\"}"))]), "names `z`, which is no task"),
        (json!([with(&a, "on_failure", json!("ignore"))]), "`on_failure` must be `fail` or `continue`"),
        (json!([with(&a, "depends_on", json!("b"))]), "`depends_on` must be an array"),
        (json!([with(&a, "why", json!("because"))]), "has an unknown member `why`"),
        (json!([task("planning-1", &json!("{}"))]), "must not begin with `planning-`"),
        (json!([task("a b", &json!("{}"))]), "must be 1 to 64 letters"),
        (json!([with(&a, "key", json!(null))]), "tasks[0]: `key` is missing"),
    ] {
        let problems = propose(&tasks).unwrap_err();
        assert!(problems.contains(problem), "{tasks:.300}: {problems}");
        assert!(problems.len() < 16 * (MAX_PROBLEM_BYTES + 64), "{}", problems.len());
    }
    for (text, problem) in [
        ("Sure! First I would look at the status.", "the answer is not JSON: "),
        ("", "the answer is not JSON: "),
        ("{\"tasks\": [", "the answer is not JSON: "),
        ("null", "the answer is not an object"),
    ] {
        let problems = answered(text, json!({})).unwrap_err();
        assert!(problems.contains(problem), "{text}: {problems}");
    }
    // Whatever the text is: a part of a plan is not a plan.
    let whole = json!({"tasks": [a]}).to_string();
    let cut_off = answered(&whole, json!({"finish_reason": "length"})).unwrap_err();
    assert!(cut_off.contains("was cut off at 4096 tokens"), "{cut_off}");
}

#[test]
fn writing_actions_wait_for_an_approval() {
    let tasks = json!({"tasks": [
        task("status", &json!("{}")),
        with(&task("commit", &json!("{}")), "action", json!("git_commit")),
    ]});
    let by = json!({"provider": "openai", "model": "m"});
    let specs = answered(&tasks.to_string(), by).unwrap();
    assert_eq!(specs[0].start.approval, None);
    let terms = specs[1].start.approval.as_ref().unwrap();
    assert_eq!(terms.reason, "proposed by openai/m; `git_commit` of `git_agent` changes something");
    let data = Json::from(tasks);
    let answer = Answer { data: &data, metadata: &Object::new() };
    let trusting = PlanningSettings { approve_writes: false, ..settings() };
    let Proposed::Tasks(specs) = proposed(&answer, &plan(), &agents(), &trusting).unwrap() else {
        panic!("tasks")
    };
    assert_eq!(specs[1].start.approval, None);
}

#[test]
fn question_has_the_catalog_and_is_repeated_with_the_problems() {
    let mut plan = plan();
    let question = plan.tasks[0].spec.clone();
    assert_eq!((question.key.as_str(), prompt_version(&question).as_deref()), ("planning-1", Some("1")));
    let text = question.payload.to_string();
    for part in [
        "what changed?",
        "At most 4 tasks",
        "\\\"agent\\\":\\\"strict\\\"",
        "additionalProperties",
        "json_schema",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (data, none) = (Json::from("Sure!"), Object::new());
    let wrong = Answer { data: &data, metadata: &none };
    let NextStep::Ask(again) = next_step(&plan, &[wrong], &agents(), &settings()) else {
        panic!("asks again")
    };
    assert_eq!((again.key.as_str(), &again.depends_on[..]), ("planning-2", &["planning-1".to_owned()][..]));
    let messages = again.payload["messages"].as_array().unwrap();
    assert_eq!((messages.len(), &messages[2]["content"]), (4, &Json::from("Sure!")));
    assert!(messages[3]["content"].as_str().unwrap().contains("- the answer is not JSON"));
    assert_eq!(prompt_version(&again).as_deref(), Some("1"));

    plan.tasks.extend(queued([again], plan.created_at));
    let NextStep::Failed(error) = next_step(&plan, &[wrong, wrong], &agents(), &settings()) else {
        panic!("fails")
    };
    assert_eq!(error.code, OrchestratorErrorCode::PlanningFailed);
    assert!(
        error.message.starts_with(
            "the language model was asked 2 times and proposed no valid plan: the answer is not JSON"
        ),
        "{error}"
    );
    for (name, value) in [("proposal_1", "Sure!"), ("proposal_2", "Sure!")] {
        assert_eq!(error.details[name], value);
    }
    assert!(error.details["problems_2"].starts_with("the answer is not JSON"));
}

#[test]
fn answer_of_any_size_leaves_a_bounded_question_and_error() {
    let (plan, none) = (plan(), Object::new());
    let data = Json::from("ä".repeat(4 * 1024 * 1024));
    let wrong = Answer { data: &data, metadata: &none };
    let NextStep::Ask(again) = next_step(&plan, &[wrong], &agents(), &settings()) else {
        panic!("asks again")
    };
    assert!(again.size() < plan.size() + 20 * 1024, "{}", again.size());
    let NextStep::Failed(error) = next_step(&plan, &[wrong, wrong], &agents(), &settings()) else {
        panic!("fails")
    };
    let size: usize = error.details.values().map(String::len).sum();
    assert!(size < 5 * 1024 && error.message.len() < 1024, "{size}");
}

#[test]
fn offline_answer_is_not_repeated() {
    let data = Json::from("No language model is configured.");
    let metadata = Object::from_iter([("provider".to_owned(), "offline".into())]);
    let offline = Answer { data: &data, metadata: &metadata };
    let NextStep::Failed(error) = next_step(&plan(), &[offline], &agents(), &settings()) else {
        panic!("fails")
    };
    assert!(error.message.contains("has no language model to plan with"), "{error}");
}

#[test]
fn catalog_in_the_question_is_bounded() {
    let agent = |n: usize| {
        let mut agent = AgentSpec::new(format!("agent-{n:04}").parse().unwrap(), Vec::new());
        agent.description = "x".repeat(1000);
        agent
    };
    let many = AgentCatalog::new((0..500).map(agent), "agent-0000".parse().unwrap());
    let question = ask(&many, &settings(), PlanKind::Planned, "hi", "", &[]);
    let size = question.size();
    assert!((32 * 1024..100 * 1024).contains(&size), "{size}");
    assert!(question.payload.to_string().contains("more agents are left out)"));
}

#[test]
fn catalog_keeps_the_digits_of_schemas() {
    let schema = r#"{"maximum":123456789012345678901234567890,"enum":[1.10,1e400]}"#;
    let mut agent = AgentSpec::new("odd".parse().unwrap(), Vec::new());
    let schema_of = InputSchema::new(Json::parse(schema).unwrap()).unwrap();
    let action = ActionSpec { input_schema: Some(schema_of), ..ActionSpec::default() };
    agent.actions = [("a".to_owned(), action)].into();
    let agents = AgentCatalog::new([agent], "odd".parse().unwrap());
    let question = prompt::ask(&agents, &settings(), PlanKind::Planned, "m", "", &[]);
    let system = question.payload["messages"][0]["content"].as_str().unwrap();
    assert!(system.contains(schema), "{system}");
}
