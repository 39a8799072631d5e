//! Requests and answers of any size and depth: accepted ones stay readable, others are rejected with field, limit and value.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use phoenix_domain::limits::{MAX_DEPTH, MAX_FILLED_INPUT_BYTES, MAX_PREVIEW_BYTES};
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, sandbox::Sandbox};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

const MIB: usize = 1024 * 1024;

fn config() -> String {
    let agent = |mode: &str, attempts: u32| {
        format!(
            "[agents.{mode}]\ncommand = {}\n[agents.{mode}.retry]\nmax_attempts = {attempts}\ninitial_backoff_ms = 1\n\
             [agents.{mode}.circuit_breaker]\nfailure_threshold = 1000\n",
            json!([SCRIPTED, mode])
        )
    };
    ["large", "deep", "fail"].map(|mode| agent(mode, 1)).concat() + &agent("loud", 3)
}

fn task(key: &str, agent: &str, message: impl ToString) -> Value {
    json!({"key": key, "agent": agent, "input": {"message": message.to_string()}})
}

/// A plan with one echo task whose input is this text.
fn echo(input: &str) -> String {
    format!(r#"{{"tasks":[{{"key":"a","agent":"echo_agent","action":"echo","input":{input}}}]}}"#)
}

fn nested(levels: usize) -> String {
    format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

async fn read(rest: &Rest, plan_id: &str) -> String {
    let answer = rest.get(&format!("/api/v1/plans/{plan_id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.text
}

#[tokio::test]
async fn accepted_depth_is_readable_and_more_is_rejected() {
    let mut sandbox = Sandbox::start(&config()).await;
    let rest = sandbox.rest();
    let later = rest.clone().with_header("prefer", "respond-async");
    let mut accepted = Vec::new();
    for levels in [1, 62, 63, 64, 100, 119, 120, 123, 124, 125, 10_000] {
        let input = nested(levels);
        for (n, client) in [&rest, &later].into_iter().enumerate() {
            let client = client.clone().with_header("idempotency-key", format!("{levels}-{n}"));
            for _ in 0..2 {
                let answer = client.post_text("/api/v1/plans", echo(&input)).await;
                if levels < MAX_DEPTH {
                    assert_eq!(
                        answer.status.as_u16(),
                        if n == 0 { 200 } else { 202 },
                        "{levels}: {}",
                        answer.text
                    );
                    accepted.push((answer.str("plan_id").to_owned(), input.clone()));
                } else {
                    assert_eq!(answer.status, 400, "{levels}: {}", answer.text);
                    let expected = format!(
                        "`tasks[0].input` is nested {} levels deep; at most {MAX_DEPTH} are allowed",
                        levels + 1
                    );
                    assert_eq!(answer.str("detail"), expected);
                }
            }
        }
    }
    sandbox.stop(Role::Planner).await;
    sandbox.restart(Role::Planner).await;
    let rest = sandbox.rest();
    for (plan_id, input) in accepted {
        rest.wait_for_end(&plan_id).await;
        assert!(read(&rest, &plan_id).await.contains(&input), "{input}");
    }
}

#[tokio::test]
async fn numbers_and_member_names_arrive_as_sent() {
    let sandbox = Sandbox::start("").await;
    let rest = sandbox.rest();
    for input in [
        r#"{"n":12345678901234567890123,"m":-98765432109876543210,"z":[0,-0,1e400,1.50]}"#,
        r#"{"$serde_json::private::RawValue":"[1,2]"}"#,
        r#"{"a":{"$serde_json::private::RawValue":"[1,2]"},"$serde_json::private::Number":"7"}"#,
        r#"{"z":1,"a":2,"":{"ümläut\u0000":"\u2028"}}"#,
    ] {
        let answer = rest.post_text("/api/v1/plans", echo(input)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.text.contains(r#""status":"succeeded""#), "{}", answer.text);
        let input: &str = &phoenix_domain::json::Json::parse(input).unwrap().to_string();
        assert!(answer.text.contains(&format!(r#""input":{input}"#)), "{}", answer.text);
        assert!(answer.text.contains(&format!(r#""data":{input}"#)), "{}", answer.text);
        // The test's JSON parser cannot represent such numbers.
        let plan_id = answer.text.split('"').nth(3).unwrap();
        let whole = rest.get(&format!("/api/v1/plans/{plan_id}/tasks/a/output")).await;
        assert_eq!((whole.text.as_str(), whole.header("content-type")), (input, "application/json"));
    }
    let plan = r#"{"tasks":[{"key":"a","agent":"echo_agent","action":"echo","input":{"n":12345678901234567890123}},
        {"key":"b","agent":"echo_agent","action":"echo","input":{"m":"{{tasks.a.output.n}}"}}]}"#;
    let answer = rest.post_text("/api/v1/plans", plan.into()).await;
    assert!(answer.text.contains(r#""data":{"m":12345678901234567890123}"#), "{}", answer.text);
}

#[tokio::test]
async fn plan_with_large_outputs_has_every_view() {
    let sandbox = Sandbox::start(&config()).await;
    let rest = sandbox.rest();
    let tasks: Vec<_> = (0..3).map(|n| task(&format!("t{n}"), "large", 7 * MIB)).collect();
    let plan = rest.post("/api/v1/plans", json!({"tasks": tasks})).await;
    assert_eq!((plan.status.as_u16(), plan.str("status")), (200, "succeeded"), "{:.300}", plan.text);
    assert!(plan.text.len() < 5 * MIB);
    for n in 0..3 {
        let output = &plan.json["tasks"][n]["output"];
        assert_eq!((&output["truncated"], &output["size"]), (&json!(true), &json!(7 * MIB)));
        assert_eq!(output["data"].as_str().unwrap().len(), MAX_PREVIEW_BYTES);
        let whole = rest.get(output["link"].as_str().unwrap()).await;
        assert_eq!((whole.status.as_u16(), whole.text.len()), (200, 7 * MIB));
        assert_eq!(whole.header("content-type"), "text/plain; charset=utf-8");
    }
    assert_eq!((&plan.json["truncated"], &plan.json["size"]), (&json!(true), &json!(7 * MIB)));
    let events = rest.get(&format!("/api/v1/plans/{}/events", plan.str("plan_id"))).await;
    assert!(events.text.contains("plan_ended"), "{:.300}", events.text);
    let listed = rest.get("/api/v1/plans").await;
    assert_eq!((listed.status.as_u16(), &listed.json["plans"][0]["output"]), (200, &json!(null)));

    let chat = rest.chat_with("large", &(7 * MIB).to_string()).await;
    assert_eq!((chat.status.as_u16(), chat.str("output").len()), (200, 7 * MIB));
}

#[tokio::test]
async fn plan_with_large_stderr_has_every_view() {
    let sandbox = Sandbox::start(&config()).await;
    let rest = sandbox.rest();
    let tasks: Vec<_> = (0..85)
        .map(|n| {
            let mut task = task(&format!("t{n}"), "loud", "x");
            task["on_failure"] = "continue".into();
            task
        })
        .collect();
    let plan = rest.post("/api/v1/plans", json!({"tasks": tasks})).await;
    assert_eq!((plan.status.as_u16(), plan.str("status")), (200, "succeeded"), "{:.300}", plan.text);
    assert_eq!(plan.json["output"], json!(null), "its last task failed");
    let attempts: Vec<&Value> = plan.json["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|task| task["attempts"].as_array().unwrap())
        .collect();
    assert_eq!(attempts.len(), 255);
    let cut = attempts.iter().find(|attempt| attempt["truncated"] == true).unwrap();
    let whole = rest.get(cut["link"].as_str().unwrap()).await;
    assert_eq!((whole.status.as_u16(), whole.text.len()), (200, MAX_PREVIEW_BYTES));
    let (mut letters, mut token) = (0, String::new());
    loop {
        let page = rest.get(&format!("/api/v1/dead-letters?page_size=400&page_token={token}")).await;
        assert_eq!(page.status, 200, "{:.300}", page.text);
        letters += page.json["dead_letters"].as_array().unwrap().len();
        match page.json["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(letters, 85);
}

#[tokio::test]
async fn filled_input_over_the_limit_fails_before_any_process() {
    let sandbox = Sandbox::start(&config()).await;
    let rest = sandbox.rest();
    for references in [3, 20, 150] {
        let next = task("b", "echo_agent", "{{tasks.a.output}}".repeat(references));
        let plan = rest.post("/api/v1/plans", json!({"tasks": [task("a", "large", 7 * MIB), next]})).await;
        let failed = &plan.json["tasks"][1];
        assert_eq!((plan.str("status"), &failed["attempts"]), ("failed", &json!([])), "{:.300}", plan.text);
        assert_eq!(failed["error"]["code"], "validation_failed");
        assert_eq!(failed["error"]["details"]["field"], "tasks[1].input");
        let found = 14 + references * 7 * MIB;
        let expected = format!(
            "`tasks[1].input` is {found} bytes long once its references are filled; at most {MAX_FILLED_INPUT_BYTES} are allowed"
        );
        assert_eq!(failed["error"]["message"], expected);
    }
    let next =
        json!({"key": "b", "agent": "echo_agent", "action": "echo", "input": {"x": "{{tasks.a.output}}"}});
    let fits = json!({"tasks": [task("a", "large", 7 * MIB), next]});
    let plan = rest.post("/api/v1/plans", fits).await;
    assert_eq!(plan.str("status"), "succeeded", "{:.300}", plan.text);
}

#[tokio::test]
async fn deep_answer_is_within_the_limit_or_a_failure() {
    let sandbox = Sandbox::start(&config()).await;
    let rest = sandbox.rest();
    let next =
        json!({"key": "b", "agent": "echo_agent", "action": "echo", "input": {"x": "{{tasks.a.output}}"}});
    for levels in [1, 63, 64, 65, 123, 124, 125, 400] {
        let plan = rest.post("/api/v1/plans", json!({"tasks": [task("a", "deep", levels), next]})).await;
        let [a, b] = [0, 1].map(|n| &plan.json["tasks"][n]);
        match levels {
            _ if levels < MAX_DEPTH => assert_eq!(plan.str("status"), "succeeded", "{}", plan.text),
            MAX_DEPTH => {
                assert_eq!(
                    (&a["status"], &b["attempts"]),
                    (&json!("succeeded"), &json!([])),
                    "{}",
                    plan.text
                );
                assert_eq!(b["error"]["details"]["field"], "tasks[1].input");
                assert!(b["error"]["message"].as_str().unwrap().contains("nested 65 levels deep"));
            }
            _ => {
                assert_eq!(a["attempts"][0]["error_class"], "backend_failure", "{levels}: {}", plan.text);
                let message = a["attempts"][0]["message"].as_str().unwrap();
                assert!(message.contains(&format!("nested {levels} levels deep; at most 64")), "{message}");
            }
        }
        assert!(read(&rest, plan.str("plan_id")).await.contains("tasks"));
    }
}

#[tokio::test]
async fn free_text_over_its_limit_is_rejected_by_field() {
    let sandbox = Sandbox::start(&config()).await;
    let rest = sandbox.rest();
    let reason = "x".repeat(900_000);
    let plan = rest.submit("/api/v1/plans", json!({"tasks": [task("a", "echo_agent", "x")]})).await;
    let cancel = rest.post(&format!("/api/v1/plans/{plan}:cancel"), json!({"reason": reason})).await;
    let expected = "`reason` is 900000 bytes long; at most 1024 are allowed";
    assert_eq!((cancel.status.as_u16(), cancel.str("detail")), (400, expected));
    let mut long = task("a", "echo_agent", "x");
    long["action"] = "y".repeat(300_000).into();
    let refused = rest.post("/api/v1/plans", json!({"tasks": [long]})).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.str("detail").contains("tasks[0].action"), "{}", refused.text);
}
