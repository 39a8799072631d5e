//! Callers whose plans wait for an approval: some are approved, some rejected, and some expire.

use phoenix_testkit::http::Rest;
use serde_json::{Value, json};

use crate::{
    callers::{Fact, Observation, is_retryable, poll, retry, submit},
    random::Random,
};

/// First characters of the messages of tasks that wait. The ledger of the agents keeps them.
const SIGNED: &str = "signed ";

/// What becomes of an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Approve,
    Reject,
    Expire,
}

impl Decision {
    /// Each in turn.
    pub(crate) fn of_round(round: u64) -> Self {
        [Self::Approve, Self::Reject, Self::Expire][usize::try_from(round % 3).unwrap()]
    }

    /// The state of the approval, and that of the plan if its task does not run.
    const fn ends(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Approve => ("approved", None),
            Self::Reject => ("rejected", Some("cancelled")),
            Self::Expire => ("expired", Some("failed")),
        }
    }
}

/// Submits a plan whose second task waits for an approval, and decides about it, or lets it expire.
pub(crate) async fn plan(rest: Rest, mut random: Random, decision: Decision) -> Observation {
    let correlation_id = random.uuid();
    let word = random.uuid();
    let message = format!("{SIGNED}{word}");
    let timeout = if decision == Decision::Expire { 200 + random.below(1500) } else { 600_000 };
    let tasks = json!([
        {"key": "first", "agent": "quick", "input": {"message": word}},
        {"key": "signed", "agent": "once", "input": {"message": format!("{SIGNED}{{{{tasks.first.output}}}}")},
         "approval": {"reason": "soak", "timeout_ms": timeout}},
    ]);
    let plan_id = submit(&rest, &mut random, &correlation_id, &json!({ "tasks": tasks })).await;
    let mut facts = vec![Fact::Accepted(plan_id.clone())];
    let is_asked = retry("an approval is asked for", &plan_id, async || {
        let plan = read(&rest, &plan_id).await?;
        let is_asked = plan["tasks"][1]["approval"].is_object();
        (is_asked || plan["ended_at"].is_string()).then_some(is_asked)
    })
    .await;
    if is_asked && decision != Decision::Expire {
        decide(&rest, &plan_id, decision).await;
    }
    poll(&rest, &plan_id).await;
    let plan = retry("a plan is read", &plan_id, async || read(&rest, &plan_id).await).await;
    if is_asked {
        let task = &plan["tasks"][1];
        let (state, status) = decision.ends();
        assert_eq!(task["approval"]["state"], state, "{plan:#}");
        match status {
            Some(status) => {
                assert_eq!((&plan["status"], &task["attempts"]), (&json!(status), &json!([])), "{plan:#}");
                facts.push(Fact::NeverRan(message));
            }
            None => {
                assert_ne!(plan["status"], "cancelled", "{plan:#}");
                if plan["status"] == "succeeded" {
                    facts.extend([Fact::Ended("succeeded", Some(message.clone())), Fact::Ran(message)]);
                }
            }
        }
    }
    Observation { correlation_id, facts }
}

async fn decide(rest: &Rest, plan_id: &str, decision: Decision) {
    let action = if decision == Decision::Approve { "approve" } else { "reject" };
    let path = format!("/api/v1/plans/{plan_id}:{action}");
    // A repetition, whose first response was lost, gets the same one.
    retry("a decision is answered", plan_id, async || {
        let body = json!({"actor": "soak", "task": "signed"});
        let answer = rest.try_send("POST".parse().unwrap(), &path, Some(body)).await?;
        assert!(answer.status == 200 || is_retryable(&answer), "{}: {}", answer.status, answer.text);
        (answer.status == 200).then_some(())
    })
    .await;
}

async fn read(rest: &Rest, plan_id: &str) -> Option<Value> {
    let answer = rest.try_send("GET".parse().unwrap(), &format!("/api/v1/plans/{plan_id}"), None).await?;
    assert!(answer.status == 200 || is_retryable(&answer), "{}: {}", answer.status, answer.text);
    (answer.status == 200).then_some(answer.json)
}
