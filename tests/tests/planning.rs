//! Plans that a language model proposes, with real processes: a planner that is killed, and the command line.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    model_provider::ModelProvider, phoenix_bin, sandbox::Sandbox, stack::Stack, wait::until,
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// The section of an agent that answers once the file `gate` is removed.
fn gated(starts: &Path, gate: &Path) -> String {
    format!(
        "[agents.gated]\ncommand = {}\ndescription = \"Waits\"\n",
        json!([SCRIPTED, "gate", starts, gate])
    )
}

fn task(key: &str, agent: &str, action: &str, input: &Value, depends_on: &[&str]) -> Value {
    json!({
        "key": key, "agent": agent, "action": action, "input": input.to_string(), "depends_on": depends_on,
        "on_failure": "fail"
    })
}

/// Kills the planner, and waits for the next one.
async fn replace_planner(stack: &Stack) {
    let killed = stack.role_pid(Role::Planner).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("another planner runs", async || stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed))
        .await;
    let rest = stack.rest();
    until("it answers", async || {
        let listed = rest.try_send("GET".parse().unwrap(), "/api/v1/plans", None).await;
        listed.is_some_and(|listed| listed.status == 200)
    })
    .await;
}

#[tokio::test]
async fn killed_planner_neither_loses_a_proposal_nor_plans_twice() {
    let tasks = json!({"tasks": [
        task("first", "gated", "chat", &json!({"message": "one"}), &[]),
        task("second", "gated", "chat", &json!({"message": "{{tasks.first.output}} two"}), &[]),
    ]});
    let provider = ModelProvider::start(move |_| tasks.to_string()).await;
    let builder = Stack::builder();
    let (starts, gate) = (builder.dir().join("gated.starts"), builder.dir().join("gate"));
    std::fs::write(&gate, "").unwrap();
    provider.hold();
    let stack = builder.config(&(provider.config() + &gated(&starts, &gate))).start().await;
    let rest = stack.rest();
    let plan_id = rest.submit("/api/v1/chat", json!({"message": "go", "strategy": "model"})).await;

    // While the model thinks: the question was not answered, so it is asked again.
    until("the model is asked", async || provider.requests().len() == 1).await;
    replace_planner(&stack).await;
    provider.release();
    until("the first proposed task runs", async || starts.exists()).await;
    let asked = provider.requests().len();
    assert!((1..=2).contains(&asked), "{asked}");

    // While a proposed task runs: nothing is asked again, and no task is added again.
    replace_planner(&stack).await;
    std::fs::remove_file(&gate).unwrap();
    let plan = rest.wait_for_end(&plan_id).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("one two")), "{plan:#}");
    let keys: Vec<_> = plan["tasks"].as_array().unwrap().iter().map(|task| task["key"].clone()).collect();
    assert_eq!(keys, ["planning-1", "first", "second"]);
    assert_eq!(provider.requests().len(), asked);
}

/// Number of rounds that a question to the model shows it.
fn rounds_before(question: &Value) -> usize {
    let messages = question["messages"].as_array().unwrap();
    messages.iter().filter(|message| message["role"] == "assistant").count()
}

#[tokio::test]
async fn killed_planner_continues_with_the_results_it_had() {
    let run = |key: &str, message: &str| json!({"tasks": [task(key, "gated", "chat", &json!({"message": message}), &[])], "continue": true});
    let rounds = [
        run("first", "one"),
        run("second", "{{tasks.first.output}} two"),
        json!({"answer": "three", "tasks": []}),
    ];
    let provider = ModelProvider::start(move |question| rounds[rounds_before(question)].to_string()).await;
    let builder = Stack::builder();
    let (starts, gate) = (builder.dir().join("gated.starts"), builder.dir().join("gate"));
    let config = provider.config() + &gated(&starts, &gate) + "[planning]\nmax_continuations = 2\n";
    let stack = builder.config(&config).start().await;
    let rest = stack.rest();
    provider.hold();
    let plan_id = rest.submit("/api/v1/chat", json!({"message": "go", "strategy": "model"})).await;
    for (round, key) in ["first", "second"].into_iter().enumerate() {
        // While the model decides.
        until("the model is asked", async || {
            provider.requests().iter().any(|question| rounds_before(question) == round)
        })
        .await;
        std::fs::write(&gate, "").unwrap();
        replace_planner(&stack).await;
        provider.release();
        until("its task runs", async || {
            let plan = rest.plan(&plan_id).await;
            let tasks = plan["tasks"].as_array().unwrap();
            tasks.iter().any(|task| task["key"] == key && task["status"] == "in_progress")
        })
        .await;
        // While the task runs.
        provider.hold();
        replace_planner(&stack).await;
        std::fs::remove_file(&gate).unwrap();
    }
    until("the model is asked for the end", async || {
        provider.requests().iter().any(|question| rounds_before(question) == 2)
    })
    .await;
    replace_planner(&stack).await;
    provider.release();
    let plan = rest.wait_for_end(&plan_id).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("three")), "{plan:#}");
    let tasks = plan["tasks"].as_array().unwrap();
    let keys: Vec<_> = tasks.iter().map(|task| task["key"].clone()).collect();
    assert_eq!(keys, ["planning-1", "first", "planning-2", "second", "planning-3"]);
    let last = provider.requests().pop().unwrap()["messages"].to_string();
    assert!(last.contains("one two"), "{last}");
}

/// Runs the client, and returns its output.
fn phoenix(stack: &Stack, args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut client = Command::new(phoenix_bin());
    client.args(args).arg("--url").arg(stack.base_url());
    let mut client =
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut client.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn proposal_on_the_command_line_is_submitted_through_a_pipe() {
    let note = json!({"title": "Commits", "content": "Today: {{tasks.echo.output}}"});
    let tasks = json!({"tasks": [
        task("echo", "echo_agent", "chat", &json!({"message": "hello"}), &[]),
        task("note", "obsidian_agent", "create_note", &note, &["echo"]),
    ]});
    let answer = Arc::new(Mutex::new(tasks.to_string()));
    let says = Arc::clone(&answer);
    let provider = ModelProvider::start(move |_| says.lock().unwrap().clone()).await;
    let stack = Stack::builder().config(&provider.config()).start().await;
    let propose = ["plans", "propose", "--strategy", "model", "write a note"];
    let (code, shown, problem) = phoenix(&stack, &propose, "");
    assert_eq!(code, Some(0), "{problem}");
    assert!(shown.starts_with("proposed by openai/gpt-test (prompt 1, rounds 1, tokens 900 + 60"), "{shown}");
    let row = |words: &[&str]| {
        shown.lines().any(|line| line.split_whitespace().take(words.len()).eq(words.iter().copied()))
    };
    assert!(
        row(&["echo", "echo_agent", "chat"])
            && row(&["note", "obsidian_agent", "create_note", "echo", "required"]),
        "{shown}"
    );

    let (_, plan, _) = phoenix(&stack, &[&propose[..], &["--json"]].concat(), "");
    let (code, plan_id, problem) = phoenix(&stack, &["plans", "submit", "-"], &plan);
    assert_eq!(code, Some(0), "{problem}");
    let (rest, plan_id) = (stack.rest(), plan_id.trim());
    until("the note waits for its approval", async || {
        rest.plan(plan_id).await["tasks"][1]["status"] == "awaiting_approval"
    })
    .await;
    let approval = rest.plan(plan_id).await["tasks"][1]["approval"].clone();
    assert_eq!(approval["input"]["content"], "Today: hello", "{approval}");
    assert_eq!(phoenix(&stack, &["plans", "approve", plan_id, "--actor", "ann"], "").0, Some(0));
    assert_eq!(rest.wait_for_end(plan_id).await["status"], "succeeded");

    // What the request said is what the model was asked.
    let request = provider.requests()[0].clone();
    assert_eq!(request["response_format"]["json_schema"]["name"], "plan", "{request:#}");
    assert_eq!(
        (&request["model"], &request["messages"][1]["content"]),
        (&json!("gpt-test"), &json!("write a note"))
    );

    "Sure! First I would look at the notes.".clone_into(&mut answer.lock().unwrap());
    let (code, shown, problem) = phoenix(&stack, &propose, "");
    assert_eq!((code, shown.as_str()), (Some(1), ""), "{problem}");
    assert!(problem.contains("proposed no valid plan: the answer is not JSON"), "{problem}");
}

#[tokio::test]
async fn auto_plans_by_words_while_no_model_is_configured() {
    let sandbox = Sandbox::start("[planning]\nstrategy = \"auto\"\n").await;
    let rest = sandbox.rest();
    for body in
        [json!({"message": "tell me a joke"}), json!({"message": "tell me a joke", "strategy": "auto"})]
    {
        let proposed = rest.post("/api/v1/plans:propose", body.clone()).await;
        assert_eq!((proposed.status.as_u16(), proposed.str("strategy")), (200, "rules"), "{}", proposed.text);
        let answered = rest.post("/api/v1/chat", body).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
        assert!(answered.str("output").starts_with("[offline]"), "{}", answered.text);
    }
    let refused = rest.post("/api/v1/plans:propose", json!({"message": "x", "strategy": "model"})).await;
    assert_eq!((refused.status.as_u16(), refused.str("code")), (422, "planning_failed"), "{}", refused.text);
}
