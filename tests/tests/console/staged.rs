//! Ten failures, staged in one stack.

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, stack::Stack, wait::until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Identifiers of the plans.
pub(crate) struct Failures {
    pub(crate) crash: String,
    pub(crate) hang: String,
    pub(crate) slow: String,
    pub(crate) garbage: String,
    pub(crate) breaker: String,
    pub(crate) executor: String,
    pub(crate) planner: String,
    pub(crate) provider: String,
    pub(crate) budget: String,
    pub(crate) approval: String,
}

/// A stack whose agents fail, each in its way.
pub(crate) async fn start() -> Stack {
    let builder = Stack::builder();
    let held = builder.dir().join("held");
    std::fs::write(&held, "").unwrap();
    let crash = "read line; echo 'cannot open the index: disk quota exceeded' >&2; exit 3";
    let agent = |name: &str, command: Value, more: &str| {
        format!("[agents.{name}]\ncommand = {command}\nmode = \"oneshot\"\n{more}\n")
    };
    let once = |name: &str| format!("[agents.{name}.retry]\nmax_attempts = 1\n");
    let config = [
        "[llm]\ndefault_provider = \"openai\"\n".to_owned(),
        agent("indexer", json!(["sh", "-c", crash]), "[agents.indexer.retry]\ninitial_backoff_ms = 200\n"),
        agent("hanging", json!([SCRIPTED, "hang"]), &format!("timeout_secs = 1\n{}", once("hanging"))),
        agent("slow", json!([SCRIPTED, "slow"]), &once("slow")),
        agent("garbled", json!(["sh", "-c", "read line; echo 'Here is your answer!'"]), &once("garbled")),
        agent("broken", json!([SCRIPTED, "fail"]), &once("broken")),
        "[agents.broken.circuit_breaker]\nfailure_threshold = 2\n".to_owned(),
        agent("held", json!([SCRIPTED, "gate", "", held]), ""),
        once("llm_router_agent"),
    ]
    .concat();
    let stack = builder.config(&config).env("OPENAI_API_KEY", "sk-of-the-test");
    stack.env("OPENAI_BASE_URL", provider().await).start().await
}

/// A provider of models that answers every request with 429.
async fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = connection.read_buf(&mut Vec::new()).await;
                let body = json!({"error": {"message": "slow down: 500 requests per minute"}}).to_string();
                let head = "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 30";
                let response = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = connection.write_all(response.as_bytes()).await;
            });
        }
    });
    url
}

fn task(key: &str, agent: &str, more: Value) -> Value {
    let mut task = json!({"key": key, "agent": agent, "action": "chat", "input": {"message": key}});
    task.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    task
}

/// Stages them, one after the other where they would disturb each other.
pub(crate) async fn all(stack: &Stack, rest: &Rest) -> Failures {
    let submit = async |tasks: Value, more: Value| {
        let mut plan = json!({ "tasks": tasks });
        plan.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        rest.submit("/api/v1/plans", plan).await
    };
    let crash = submit(
        json!([
            task("collect", "echo_agent", Value::Null),
            task("index", "indexer", json!({"depends_on": ["collect"]})),
            task("test", "slow", json!({"depends_on": ["collect"], "on_failure": "continue"})),
            task("publish", "echo_agent", json!({"depends_on": ["index", "test"]})),
        ]),
        Value::Null,
    )
    .await;
    let one = async |key: &str, agent: &str, more: Value| {
        submit(json!([task(key, agent, Value::Null)]), more).await
    };
    let hang = one("wait", "hanging", Value::Null).await;
    let slow = one("report", "slow", json!({"deadline_ms": 900})).await;
    let garbage = one("answer", "garbled", Value::Null).await;
    for _ in 0..2 {
        let failing = one("call", "broken", Value::Null).await;
        rest.wait_for_end(&failing).await;
    }
    until("the circuit is open", async || {
        rest.agent("broken").await.is_some_and(|agent| agent["health"] == "unhealthy")
    })
    .await;
    let breaker = one("call", "broken", Value::Null).await;
    let provider = one("ask", "llm_router_agent", Value::Null).await;
    let limited = json!([
        task("first", "echo_agent", Value::Null),
        task("second", "echo_agent", json!({"depends_on": ["first"]}))
    ]);
    let budget = submit(limited, json!({"budget": {"max_calls": 1}})).await;
    let asks = json!({"approval": {"reason": "publishes the release", "timeout_ms": 500}});
    let approval = submit(json!([task("publish", "echo_agent", asks)]), Value::Null).await;
    for plan in [&crash, &hang, &slow, &garbage, &breaker, &provider, &budget, &approval] {
        let ended = rest.wait_for_end(plan).await;
        assert_eq!(ended["status"], "failed", "{ended}");
    }
    let executor = killed(stack, rest, Role::Executor).await;
    let planner = killed(stack, rest, Role::Planner).await;
    Failures { crash, hang, slow, garbage, breaker, executor, planner, provider, budget, approval }
}

/// A plan during whose attempt a service is killed.
async fn killed(stack: &Stack, rest: &Rest, role: Role) -> String {
    let plan = json!({"tasks": [task("deploy", "held", Value::Null)]});
    let plan_id = rest.submit("/api/v1/plans", plan).await;
    let attempts = async || {
        let path = format!("/api/v1/plans/{plan_id}");
        let plan = rest.try_send("GET".parse().unwrap(), &path, None).await?;
        plan.json["tasks"][0]["attempts"].as_array().map(Vec::len)
    };
    until("an attempt runs", async || attempts().await == Some(1)).await;
    stack.signal_role(role, Signal::SIGKILL);
    until("another attempt runs", async || attempts().await == Some(2)).await;
    plan_id
}
