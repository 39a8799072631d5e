//! Approvals: the first decision counts, and an approval ends with its task.

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode as Code,
    approval::{Approval, ApprovalPolicy, ApprovalState as State, ApprovalTerms, OnExpiry},
    json::Object,
    plan::{Plan, TaskStatus},
};
use phoenix_planner::store::{
    self, ApprovalOutcome, ApprovalQuery, Entry, JournalError, NewDecision, OldPlans, Store, WaitingApprovals,
};

use crate::{Fresh, accepted, at, new_plan, plan_ended, stores, task_of, write};

fn terms() -> ApprovalTerms {
    ApprovalTerms {
        reason: "nul \0 and ␀".into(),
        approver: "ops".into(),
        timeout: Some(Duration::from_millis(1500)),
        on_expiry: OnExpiry::Reject,
    }
}

/// An approval that is asked for at `second` and expires 100 seconds later.
fn approval(second: i64) -> Approval {
    let policy = ApprovalPolicy { timeout: Duration::from_secs(100), ..ApprovalPolicy::default() };
    let input = Object::parse(r#"{"n":1.50,"text":"a\u0000b"}"#).unwrap();
    Approval::requested(at(second), input, None, &policy, true)
}

fn requested(plan: &Plan, ordinal: usize, second: i64) -> Entry {
    Entry::ApprovalRequested { task: task_of(plan, ordinal), approval: Arc::new(approval(second)) }
}

fn decision(state: State, second: i64) -> NewDecision {
    let (actor, reason) = ("ann".into(), "fine \0".into());
    let input = Some(Object::parse(r#"{"n":2.50}"#).unwrap());
    NewDecision {
        state,
        about: None,
        at: at(second),
        actor,
        reason,
        by: Some(CorrelationId::generate()),
        input,
    }
}

fn cancelled(plan: &Plan, ordinal: usize) -> Entry {
    let error = OrchestratorError::new(Code::Cancelled, "enough");
    let (task, status) = (task_of(plan, ordinal), TaskStatus::Cancelled);
    Entry::TaskEnded { task, status, at: at(9), result: Err(error) }
}

async fn stored(store: &dyn Store, plan: &Plan, ordinal: usize) -> (TaskStatus, Option<Approval>) {
    let mut plan = store.plan(plan.plan_id).await.unwrap().unwrap();
    let task = plan.tasks.swap_remove(ordinal);
    (task.status, task.approval.map(|approval| *approval))
}

#[tokio::test]
async fn approval_reads_as_it_was_written_and_decided() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut plan = new_plan(&["a", "b"]);
        plan.tasks[0].spec.start.approval = Some(terms());
        write(store, "me", &[accepted(&plan), requested(&plan, 0, 1)]).await.unwrap();
        let read = store.plan(plan.plan_id).await.unwrap().unwrap();
        assert_eq!(read.tasks[0].spec, plan.tasks[0].spec);
        assert_eq!(read.tasks[1].spec, plan.tasks[1].spec);
        assert_eq!(stored(store, &plan, 0).await, (TaskStatus::AwaitingApproval, Some(approval(1))));
        assert_eq!(store.decided_approvals().await.unwrap(), []);

        let approved = decision(State::Approved, 5);
        assert!(store.decide("me", task_of(&plan, 0), &approved).await.unwrap());
        assert!(!store.decide("me", task_of(&plan, 0), &decision(State::Rejected, 6)).await.unwrap());
        assert!(!store.decide("me", task_of(&plan, 1), &approved).await.unwrap(), "it does not wait");
        assert_eq!(store.decided_approvals().await.unwrap(), [plan.plan_id]);
        let (status, found) = stored(store, &plan, 0).await;
        let found = found.unwrap();
        assert_eq!((status, found.state), (TaskStatus::AwaitingApproval, State::Approved));
        let made = found.decision.as_ref().unwrap();
        assert_eq!((&made.actor, &made.reason, made.by), (&approved.actor, &approved.reason, approved.by));
        assert_eq!((made.at, &made.input), (at(5), &approved.input));
        assert_eq!(found.approved_input(), approved.input.as_ref());

        let (task, outcome) = (task_of(&plan, 0), ApprovalOutcome::of(&found));
        let noticed = Entry::ApprovalDecided { task, at: at(6), outcome };
        write(store, "me", &[noticed, Entry::TaskDispatched { task, at: at(7) }]).await.unwrap();
        assert_eq!(stored(store, &plan, 0).await, (TaskStatus::Dispatched, Some(found)));
        assert_eq!(store.decided_approvals().await.unwrap(), []);
        let events = store.events(plan.plan_id, 0, 10).await.unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["plan_accepted", "approval_requested", "approved", "task_dispatched"]);
    }
}

#[tokio::test]
async fn later_request_counts_once_the_earlier_one_is_decided() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        write(store, "me", &[accepted(&plan), requested(&plan, 0, 1)]).await.unwrap();
        store.flush().await.unwrap();
        write(store, "me", &[requested(&plan, 0, 2)]).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(stored(store, &plan, 0).await.1, Some(approval(1)), "it waits");
        assert!(store.decide("me", task_of(&plan, 0), &decision(State::Approved, 5)).await.unwrap());
        let outcome = ApprovalOutcome::of(&stored(store, &plan, 0).await.1.unwrap());
        let noticed = Entry::ApprovalDecided { task: task_of(&plan, 0), at: at(6), outcome };
        // In one batch, whose effect on the task is only that it waits.
        write(store, "me", &[noticed, requested(&plan, 0, 7)]).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(stored(store, &plan, 0).await, (TaskStatus::AwaitingApproval, Some(approval(7))));
        assert_eq!(store.decided_approvals().await.unwrap(), []);
        // What was read is not read again.
        write(store, "me", &[requested(&plan, 0, 1)]).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(stored(store, &plan, 0).await.1, Some(approval(7)));
        assert!(store.decide("me", task_of(&plan, 0), &decision(State::Rejected, 8)).await.unwrap());
        let events = store.events(plan.plan_id, 0, 10).await.unwrap();
        let approved = events.iter().filter(|event| event.kind == "approved").count();
        assert_eq!(approved, 1, "the decision about the earlier one stays in the events");
    }
}

#[tokio::test]
async fn approval_is_withdrawn_with_its_task() {
    for fresh in stores().await {
        let store = &*fresh.store;
        // In one batch, and in several.
        for batch in [1, 10] {
            let plan = new_plan(&["a"]);
            let entries =
                [accepted(&plan), requested(&plan, 0, 1), cancelled(&plan, 0), plan_ended(&plan, 9)];
            for entries in entries.chunks(batch) {
                write(store, "me", entries).await.unwrap();
                store.flush().await.unwrap();
            }
            let (status, found) = stored(store, &plan, 0).await;
            assert_eq!((status, found.unwrap().state), (TaskStatus::Cancelled, State::Withdrawn));
            assert!(!store.decide("me", task_of(&plan, 0), &decision(State::Approved, 5)).await.unwrap());
        }
        let nothing = WaitingApprovals { count: 0, oldest: None };
        assert_eq!(store.waiting_approvals().await.unwrap(), nothing);
    }
}

#[tokio::test]
async fn decision_and_expiry_exclude_each_other() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        write(store, "me", &[accepted(&plan), requested(&plan, 0, 0)]).await.unwrap();
        let task = task_of(&plan, 0);
        assert!(!store.decide("me", task, &decision(State::Expired, 99)).await.unwrap(), "not expired yet");
        assert!(!store.decide("me", task, &decision(State::Approved, 100)).await.unwrap(), "expired by then");
        assert!(store.decide("me", task, &decision(State::Expired, 100)).await.unwrap());
        let unknown = store.decide("gone", task, &decision(State::Approved, 5)).await;
        assert!(matches!(unknown, Err(JournalError::Fenced)), "{unknown:?}");
    }
}

#[tokio::test]
async fn concurrent_decisions_are_made_once() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        write(store, "me", &[accepted(&plan), requested(&plan, 0, 0)]).await.unwrap();
        let decide = |n: i64| {
            let (state, task) =
                (if n % 2 == 0 { State::Approved } else { State::Rejected }, task_of(&plan, 0));
            async move { store.decide("me", task, &decision(state, n)).await.unwrap() }
        };
        let made = futures_util::future::join_all((0..8).map(decide)).await;
        assert_eq!(made.into_iter().filter(|made| *made).count(), 1);
    }
}

/// The store as another planner of the same database sees it: with connections of its own, where there can be others.
async fn other_planner(fresh: &Fresh) -> Arc<dyn Store> {
    let store = match fresh.url.starts_with("postgres") {
        true => store::open(&fresh.url).await.unwrap(),
        false => Arc::clone(&fresh.store),
    };
    store.register("other").await.unwrap();
    store
}

#[tokio::test]
async fn decisions_of_two_planners_are_made_once() {
    for fresh in stores().await {
        let (mine, other) = (&fresh.store, other_planner(&fresh).await);
        let plans: Vec<_> = (0..16).map(|_| new_plan(&["a"])).collect();
        for plan in &plans {
            write(&**mine, "me", &[accepted(plan), requested(plan, 0, 1)]).await.unwrap();
        }
        mine.flush().await.unwrap();
        let decisions = plans.iter().flat_map(|plan| (0..6).map(move |number| (plan, number)));
        let made = decisions.map(|(plan, number)| {
            let (store, planner) = if number % 2 == 0 { (mine, "me") } else { (&other, "other") };
            let state = if number % 3 == 0 { State::Rejected } else { State::Approved };
            let made = NewDecision { actor: format!("n{number}"), about: Some(at(1)), ..decision(state, 5) };
            let task = task_of(plan, 0);
            async move { (plan.plan_id, made.clone(), store.decide(planner, task, &made).await.unwrap()) }
        });
        let made = futures_util::future::join_all(made).await;
        for plan in &plans {
            let ours: Vec<_> =
                made.iter().filter(|(id, _, is_made)| *id == plan.plan_id && *is_made).collect();
            let [(_, decision, _)] = &ours[..] else { panic!("{} decisions were made", ours.len()) };
            for store in [mine, &other] {
                let found = stored(&**store, plan, 0).await.1.unwrap();
                let kept = found.decision.unwrap();
                assert_eq!(
                    (found.state, kept.actor, kept.input),
                    (decision.state, decision.actor.clone(), decision.input.clone())
                );
            }
        }
    }
}

#[tokio::test]
async fn later_request_meets_no_decision_about_the_earlier_one() {
    for fresh in stores().await {
        let (mine, other) = (&fresh.store, other_planner(&fresh).await);
        for round in 0..12 {
            let plan = new_plan(&["a"]);
            let task = task_of(&plan, 0);
            write(&**mine, "me", &[accepted(&plan), requested(&plan, 0, 1)]).await.unwrap();
            mine.flush().await.unwrap();
            let decide = async |store: &Arc<dyn Store>, planner: &str, state| {
                let made = NewDecision { about: Some(at(1)), ..decision(state, 5) };
                store.decide(planner, task, &made).await.unwrap()
            };
            assert!(decide(mine, "me", State::Approved).await);
            // The task runs and asks again, while the other planner decides about what it was asked before.
            let outcome = ApprovalOutcome::of(&stored(&**mine, &plan, 0).await.1.unwrap());
            let again = [Entry::ApprovalDecided { task, at: at(6), outcome }, requested(&plan, 0, 7)];
            let asks = async {
                for entry in again {
                    write(&**mine, "me", &[entry]).await.unwrap();
                    mine.flush().await.unwrap();
                }
            };
            let late = async {
                let mut made = Vec::new();
                for state in [State::Rejected, State::Approved, State::Rejected, State::Approved] {
                    made.push(decide(&other, "other", state).await);
                }
                made
            };
            let ((), made) = tokio::join!(asks, late);
            assert_eq!(made, [false; 4], "round {round}");
            for store in [mine, &other] {
                let waits = (TaskStatus::AwaitingApproval, Some(approval(7)));
                assert_eq!(stored(&**store, &plan, 0).await, waits, "round {round}");
            }
            // Two planners decide about the new request, and a third request is written at the same time: one that is not due.
            let about = |state| NewDecision { about: Some(at(7)), ..decision(state, 8) };
            let (yes, no) = (about(State::Approved), about(State::Rejected));
            let (one, two, written) =
                tokio::join!(mine.decide("me", task, &yes), other.decide("other", task, &no), async {
                    write(&**mine, "me", &[requested(&plan, 0, 3)]).await
                },);
            written.unwrap();
            mine.flush().await.unwrap();
            let (one, two) = (one.unwrap(), two.unwrap());
            assert!(one != two, "round {round}: one of them counts");
            let found = stored(&*other, &plan, 0).await.1.unwrap();
            let expected = if one { State::Approved } else { State::Rejected };
            assert_eq!((found.state, found.requested_at), (expected, at(7)), "round {round}");
        }
    }
}

#[tokio::test]
async fn listing_pages_what_waits_oldest_first() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut expected = Vec::new();
        for second in [3, 1, 2] {
            let plan = new_plan(&["a", "b"]);
            write(store, "me", &[accepted(&plan), requested(&plan, 1, second)]).await.unwrap();
            expected.push((second, plan));
        }
        expected.sort_by_key(|(second, _)| *second);
        let waiting = store.waiting_approvals().await;
        store.flush().await.unwrap();
        drop(waiting);
        let now = store.waiting_approvals().await.unwrap();
        assert_eq!(now, WaitingApprovals { count: 3, oldest: Some(at(1)) });
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = store.approvals(&ApprovalQuery { after, limit: 2 }).await.unwrap();
            found.extend(page.items);
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        for (waiting, (second, plan)) in found.iter().zip(&expected) {
            assert_eq!((waiting.plan_id, waiting.correlation_id), (plan.plan_id, plan.correlation_id));
            assert_eq!((&*waiting.key, waiting.agent.as_str(), &*waiting.action), ("t1", "b", "do"));
            assert_eq!((waiting.requested_at, waiting.expires_at), (at(*second), at(second + 100)));
            assert_eq!(waiting.input_preview, r#"{"n":1.50,"text":"a\u0000b"}"#);
            assert_eq!(waiting.input_hash, approval(0).input_hash);
        }
        assert_eq!(found.len(), 3);
    }
}

#[tokio::test]
async fn retention_deletes_approvals_with_their_plan() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = crate::retention::plan_of(0);
        let ended = [accepted(&plan), requested(&plan, 0, 0), cancelled(&plan, 0), cancelled(&plan, 1)];
        write(store, "me", &ended).await.unwrap();
        write(store, "me", &[plan_ended(&plan, 1)]).await.unwrap();
        let old = OldPlans { ended_before: at(1_000_000), after: None, limit: 10 };
        assert_eq!(store.purge_plans("me", &old).await.unwrap().plans, 1);
        assert_eq!(store.plan(plan.plan_id).await.unwrap(), None);
    }
}
