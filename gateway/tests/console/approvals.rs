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
async fn waiting_tasks_are_listed_with_the_oldest_age_and_decided_by_name() {
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
