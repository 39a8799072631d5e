//! Validation of plans against the actions and schemas of their agents, over REST.

use phoenix_testkit::sandbox::Sandbox;
use serde_json::json;

#[tokio::test]
async fn plan_with_invalid_input_is_rejected_with_the_field() {
    let config = "[agents.rater]\ncommand = [\"false\"]\n[agents.rater.actions.rate]\n\
                  input_schema = { properties = { stars = { type = \"integer\", maximum = 5 } } }\n";
    let sandbox = Sandbox::start(config).await;
    for (agent, action, input, status, code, field) in [
        ("git_agent", "git_push", json!({}), 422, "planning_failed", "tasks[0].action"),
        ("git_agent", "git_log", json!({"limit": "5"}), 400, "validation_failed", "tasks[0].input.limit"),
        ("obsidian_agent", "read_note", json!({}), 400, "validation_failed", "tasks[0].input.path"),
        (
            "obsidian_agent",
            "create_note",
            json!({"content": "x"}),
            400,
            "validation_failed",
            "tasks[0].input",
        ),
        ("echo_agent", "chat", json!({"message": 7}), 400, "validation_failed", "tasks[0].input.message"),
        ("rater", "rate", json!({"stars": 6}), 400, "validation_failed", "tasks[0].input.stars"),
        ("rater", "judge", json!({}), 422, "planning_failed", "tasks[0].action"),
    ] {
        let plan = json!({"tasks": [{"key": "it", "agent": agent, "action": action, "input": input}]});
        for path in ["/api/v1/plans", "/api/v1/plans:dryRun"] {
            let answer = sandbox.rest().post(path, plan.clone()).await;
            assert_eq!((answer.status.as_u16(), answer.str("code")), (status, code), "{}", answer.text);
            let details = &answer.json["details"];
            assert_eq!(
                (&details["field"], &details["key"]),
                (&json!(field), &json!("it")),
                "{}",
                answer.text
            );
        }
    }
    assert_eq!(sandbox.rest().get("/api/v1/plans").await.json["plans"], json!([]), "no plan was stored");

    // An input with references is validated once they are filled.
    let plan = json!({"tasks": [
        {"key": "text", "agent": "echo_agent", "action": "say", "input": {"limit": 0}},
        {"key": "log", "agent": "git_agent", "action": "git_log", "input": {"limit": "{{tasks.text.output.limit}}"}},
    ]});
    let answer = sandbox.rest().post("/api/v1/plans", plan).await;
    assert_eq!((answer.status.as_u16(), answer.str("status")), (200, "failed"), "{}", answer.text);
    let task = &answer.json["tasks"][1];
    assert_eq!(
        (&task["status"], &task["attempts"]),
        (&json!("dead_lettered"), &json!([])),
        "{}",
        answer.text
    );
    assert_eq!(task["error"]["details"]["field"], "tasks[1].input.limit", "{}", answer.text);
}
