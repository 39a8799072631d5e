//! What waits for a decision: the list, and a task in its plan.

use phoenix_proto::planner::{
    Approval, ApprovalDecision, DecideApprovalRequest, TaskStatus, WaitingApproval,
};
use serde_json::json;

use crate::{
    looks, start,
    support::{FakePlanner, Stack, eventually, plans},
};

/// The next decision that reaches the planner.
async fn decision_of(stack: &Stack) -> DecideApprovalRequest {
    eventually("the decision arrives", || async {
        !stack.planner.asked.lock().unwrap().decisions.is_empty()
    })
    .await;
    stack.planner.asked.lock().unwrap().decisions.remove(0)
}

#[tokio::test]
async fn task_that_waits_for_an_approval_is_approved_by_name() {
    let Some((browser, stack)) = start().await else { return };
    let mut plan = plans::running();
    plan.tasks[0].set_status(TaskStatus::AwaitingApproval);
    plan.tasks[0].attempts.clear();
    let approval = Approval { state: "waiting".into(), decision: None, ..plans::approval() };
    plan.tasks[0].approval = Some(approval.clone());
    stack.planner.keep(plan);
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads(".task-panel .status", "awaiting approval").await;
    browser.reads(".legend", "waits for an approval").await;
    looks::check(&browser, "plan-approval").await;
    browser.click(".task-panel .stack .row button").await;
    browser.reads("dialog h2", "Approve chat?").await;
    browser.type_into("dialog input[name=actor]", "alice").await;
    browser.click("dialog [type=submit]").await;
    let decision = decision_of(&stack).await;
    assert_eq!((decision.task_key.as_str(), decision.actor.as_str()), ("chat", "alice"));
    assert_eq!(decision.input_hash, approval.input_hash, "about the input that was shown");
    assert_eq!(decision.decision, ApprovalDecision::Approve as i32);
    browser.quit().await;
}

#[tokio::test]
async fn waiting_tasks_are_listed_with_their_age_and_decided() {
    let Some((browser, stack)) = start().await else { return };
    let approval = WaitingApproval {
        approver: "release manager".into(),
        reason: "publishes the <b>release</b>".into(),
        ..plans::waiting()
    };
    *stack.planner.waiting.lock().unwrap() = vec![approval, plans::paused()];
    browser.open(&stack.gateway.url()).await;
    browser.click(".nav a[href='/approvals']").await;
    browser.reads(".head", "2 waiting, the oldest for ").await;
    browser.reads(".approvals li", "publishes the <b>release</b>").await;
    browser.reads(".approvals li", "release manager").await;
    browser.reads(".approvals li:nth-child(2)", "1 call").await;
    looks::check(&browser, "approvals").await;

    browser.click(".approvals li .row button:nth-child(2)").await;
    browser.reads("dialog h2", "Reject chat?").await;
    browser.type_into("dialog input[name=actor]", "alice").await;
    browser.type_into("dialog input[name=reason]", "not today").await;
    browser.click("dialog [type=submit]").await;
    let rejection = decision_of(&stack).await;
    assert_eq!(
        (rejection.actor.as_str(), rejection.reason.as_str(), rejection.decision),
        ("alice", "not today", ApprovalDecision::Reject as i32)
    );
    assert_eq!(rejection.input_hash, plans::approval().input_hash);

    browser.click(".approvals li:nth-child(2) .row button").await;
    browser.reads("dialog h2", "Raise the budget for second?").await;
    looks::check(&browser, "approvals-budget").await;
    let filled = "const field = document.querySelector('dialog input[name=limit]'); const [least, offered] = [field.min, field.value];\
                  field.value = 5; return [least, offered, document.querySelector('dialog input[name=actor]').value]";
    assert_eq!(browser.run(filled, json!([])).await, json!(["2", "2", "alice"]), "the name is remembered");
    browser.click("dialog [type=submit]").await;
    let raised = decision_of(&stack).await;
    assert_eq!((raised.task_key.as_str(), raised.decision), ("second", ApprovalDecision::Approve as i32));
    assert_eq!(raised.budget.and_then(|budget| budget.max_calls), Some(5));
    stack.planner.waiting.lock().unwrap().clear();
    browser.reads("#view", "No task waits for a decision.").await;
    let errors = browser.console().await;
    assert!(errors.is_empty(), "{errors:#?}");
    browser.quit().await;
}

#[tokio::test]
async fn task_that_waits_for_a_budget_shows_its_limit_and_is_ended() {
    let Some((browser, stack)) = start().await else { return };
    let mut plan = plans::running();
    plan.tasks[0].set_status(TaskStatus::AwaitingBudget);
    plan.tasks[0].pause = Some(plans::pause());
    stack.planner.keep(plan);
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads(".task-panel .status", "awaiting budget").await;
    browser.reads(".task-panel", "is used up").await;
    browser.reads(".legend", "waits for a budget").await;
    looks::check(&browser, "plan-pause").await;
    browser.click(".task-panel .stack .row button:nth-child(2)").await;
    browser.reads("dialog h2", "End chat?").await;
    browser.type_into("dialog input[name=actor]", "alice").await;
    browser.click("dialog [type=submit]").await;
    let decision = decision_of(&stack).await;
    assert_eq!((decision.task_key.as_str(), decision.decision), ("chat", ApprovalDecision::Reject as i32));
    browser.quit().await;
}

/// An approval whose input has questions.
fn questions() -> Approval {
    let branch = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "title": "Branch", "description": "Where to <b>push</b>", "maxLength": 20},
            "force": {"type": "boolean", "default": false},
            "depth": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
            "mode": {"type": "string", "oneOf": [{"const": "a", "title": "Fast"}, {"const": "b", "title": "Safe"}]},
            "labels": {"type": "array", "items": {"type": "string", "enum": ["x", "y", "z"]}, "default": ["x"]},
            "left_out": {"type": "string", "format": "email"},
        },
        "required": ["name", "mode"],
    });
    let sure = json!({"type": "object", "properties": {}});
    let asked = json!({
        "branch": {"message": "Which branch?", "schema": branch},
        "sure": {"message": "Really?", "schema": sure},
    });
    let input = json!({"repository": "r", "phoenix/questions": {"asked": asked, "attempts": 1}});
    Approval {
        state: "waiting".into(),
        decision: None,
        reason: "hub asks: Which branch? / Really?".into(),
        input_json: input.to_string(),
        ..plans::approval()
    }
}

#[tokio::test]
async fn questions_are_a_form_with_the_fields_of_their_schemas() {
    let Some((browser, stack)) = start().await else { return };
    let mut plan = plans::running();
    plan.tasks[0].set_status(TaskStatus::AwaitingApproval);
    plan.tasks[0].attempts.clear();
    plan.tasks[0].approval = Some(questions());
    stack.planner.keep(plan);
    // The listing has only the beginning of the input.
    let beginning = questions().input_json.chars().take(100).collect();
    *stack.planner.waiting.lock().unwrap() =
        vec![WaitingApproval { input_preview: beginning, ..plans::waiting() }];
    let plan = format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN);
    for (address, open) in [
        (plan.as_str(), ".task-panel .stack .row button"),
        (&stack.gateway.url(), ".approvals li .row button"),
    ] {
        browser.open(address).await;
        if address != plan {
            browser.click(".nav a[href='/approvals']").await;
        }
        // Only the whole input shows that there are questions.
        browser.reads(open, if address == plan { "Answer" } else { "Approve" }).await;
        browser.click(open).await;
        browser.reads("dialog h2", "Answer chat?").await;
        browser.reads("dialog .question legend", "Which branch?").await;
        browser.reads("dialog .question", "Where to <b>push</b>").await;
        if address == plan {
            looks::check(&browser, "plan-questions").await;
        }
        browser.type_into("dialog input[name=actor]", "alice").await;
        browser.click("dialog [type=submit]").await;
        let problems = "return [...document.querySelectorAll('dialog :invalid')].filter(({tagName}) => /INPUT|SELECT/.test(tagName)).length";
        assert_eq!(browser.run(problems, json!([])).await, json!(2), "what is required is missing");
        assert!(stack.planner.asked.lock().unwrap().decisions.is_empty());
        browser.type_into("dialog .question input[type=text]", "main").await;
        browser.click("dialog .question select[required] option:nth-child(3)").await;
        browser.click("dialog .question fieldset fieldset label:nth-of-type(2) input").await;
        browser.click("dialog .question:nth-of-type(2) > .check input").await;
        browser.click("dialog [type=submit]").await;
        let decision = decision_of(&stack).await;
        let input: serde_json::Value = serde_json::from_str(&decision.input_json).unwrap();
        let branch = json!({"name": "main", "force": false, "depth": 3, "mode": "b", "labels": ["x", "y"]});
        assert_eq!(input, json!({"branch": branch, "sure": null}), "{address}");
        assert_eq!(decision.input_hash, questions().input_hash);
    }
    let errors = browser.console().await;
    assert!(errors.is_empty(), "{errors:#?}");
    browser.quit().await;
}

#[tokio::test]
async fn rounds_of_a_planned_plan_have_headings() {
    let Some((browser, stack)) = start().await else { return };
    let mut plan = plans::running();
    let task = plan.tasks.remove(0);
    plan.tasks = ["planning-1", "planning-2", "first", "planning-3", "second"]
        .into_iter()
        .map(|key| phoenix_proto::planner::Task { key: key.into(), ..task.clone() })
        .collect();
    stack.planner.keep(plan);
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads(".bars .round:last-of-type, .bars", "Round 2").await;
    let order = "return [...document.querySelectorAll('.bars > *')].map((row) => row.className === 'round small' ? row.textContent : row.querySelector('.bar-key').textContent)";
    let expected = json!(["Round 1", "planning-1", "planning-2", "first", "Round 2", "planning-3", "second"]);
    assert_eq!(browser.run(order, json!([])).await, expected);
    looks::check(&browser, "plan-rounds").await;
    browser.quit().await;
}
