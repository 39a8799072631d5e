//! Tasks that wait for a time.

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    approval::{Approval, ApprovalKind, ApprovalState},
    budget::Limits,
    budget_pause,
    plan::{Plan, StartConditions, TaskStatus},
    wait::{Wait, WaitKind, waits},
};
use phoenix_planner::store::{ApprovalOutcome, ApprovalQuery, Entry, NewDecision, WaitingApprovals};

use crate::{accepted, at, new_plan, plan_ended, plan_ids, stores, take_over, task_of, write};

fn wait(plan: &Plan, ordinal: usize, second: i64) -> Entry {
    let wait = Wait { kind: WaitKind::Timer, until: Some(at(50)) };
    Entry::TaskWaits { task: task_of(plan, ordinal), at: at(second), wait }
}

fn resumed(plan: &Plan, ordinal: usize, second: i64) -> Entry {
    Entry::TaskResumed { task: task_of(plan, ordinal), at: at(second), kind: WaitKind::Timer }
}

fn delayed() -> Plan {
    let mut plan = new_plan(&["a", "b"]);
    plan.tasks[0].spec.start = StartConditions { not_before: Some(at(50)), ..StartConditions::default() };
    plan
}

#[tokio::test]
async fn wait_for_a_time_reads_as_it_was_written() {
    for fresh in stores().await {
        let store = &*fresh.store;
        // In one batch, and in several.
        for is_flushed in [false, true] {
            let plan = delayed();
            let entries = [accepted(&plan), wait(&plan, 0, 1)];
            for entry in entries {
                write(store, "me", &[entry]).await.unwrap();
                if is_flushed {
                    store.flush().await.unwrap();
                }
            }
            let read = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!(read.tasks[0].spec, plan.tasks[0].spec);
            assert_eq!((read.tasks[0].status, read.tasks[0].dispatched_at), (TaskStatus::AwaitingTime, None));
            let expected = Wait { kind: WaitKind::Timer, until: Some(at(50)) };
            assert_eq!(waits(&read), [Some(expected), None], "the second waits for the first");
            let ends = [resumed(&plan, 0, 50), Entry::TaskDispatched { task: task_of(&plan, 0), at: at(51) }];
            write(store, "me", &ends).await.unwrap();
            let read = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!((read.tasks[0].status, waits(&read)), (TaskStatus::Dispatched, vec![None, None]));
            let events = store.events(plan.plan_id, 0, 10).await.unwrap();
            let found: Vec<_> = events.iter().map(|event| (&*event.kind, &*event.data)).collect();
            let until = format!(r#"{{"for":"timer","until":"{}"}}"#, at(50));
            assert_eq!(found[1..3], [("wait_started", &*until), ("wait_ended", r#"{"for":"timer"}"#)]);
            write(store, "me", &[plan_ended(&plan, 60)]).await.unwrap();
        }
    }
}

/// A plan that only waits makes no planner look overloaded, and is suspected of no crash.
#[tokio::test]
async fn waiting_plan_is_neither_late_nor_suspected() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = delayed();
        write(store, "me", &[accepted(&plan), wait(&plan, 0, 1)]).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(store.oldest_unfinished().await.unwrap(), None);
        write(store, "me", &[resumed(&plan, 0, 50)]).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(store.oldest_unfinished().await.unwrap(), plan.plan_id.created_at());

        // It runs, and another of its tasks waits when its planner dies.
        write(store, "me", &[Entry::TaskDispatched { task: task_of(&plan, 0), at: at(51) }]).await.unwrap();
        let ended = Entry::TaskEnded {
            task: task_of(&plan, 0),
            status: TaskStatus::Cancelled,
            at: at(52),
            result: Err(OrchestratorError::internal("no")),
        };
        write(store, "me", &[ended, wait(&plan, 1, 53)]).await.unwrap();
        store.flush().await.unwrap();
        let dead = store.planners().await.unwrap();
        store.register("you").await.unwrap();
        let taken = take_over(store, "you", &dead).await;
        assert_eq!((plan_ids(&taken), taken.plans[0].crashes), (vec![plan.plan_id], 0));
    }
}

/// A task pauses twice, with a decision about each pause.
#[tokio::test]
async fn last_pause_of_a_task_counts() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a", "b"]);
        let task = task_of(&plan, 0);
        write(store, "me", &[accepted(&plan), Entry::TaskDispatched { task, at: at(1) }]).await.unwrap();
        for (second, limit) in [(2, 7), (10, 8)] {
            let pause = pause(second);
            write(store, "me", &[Entry::BudgetReached { task, pause: pause.clone().into() }]).await.unwrap();
            let read = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!(
                (read.tasks[0].status, read.tasks[0].dispatched_at),
                (TaskStatus::AwaitingBudget, Some(at(1)))
            );
            assert_eq!((read.tasks[0].pause.as_deref(), &read.tasks[0].approval), (Some(&pause), &None));
            let wait = Wait { kind: WaitKind::Budget, until: Some(pause.expires_at) };
            assert_eq!(waits(&read)[0], Some(wait));
            store.flush().await.unwrap();
            let waiting = WaitingApprovals { count: 1, oldest: Some(at(second)) };
            assert_eq!(store.waiting_approvals().await.unwrap(), waiting);
            let listed = store.approvals(&ApprovalQuery { after: None, limit: 10 }).await.unwrap().items;
            assert_eq!((listed.len(), listed[0].kind, &*listed[0].key), (1, ApprovalKind::Budget, "t0"));

            let limits = Limits::new([None, None, Some(limit), None]);
            let granted = NewDecision {
                state: ApprovalState::Approved,
                about: Some(at(second)),
                at: at(second + 1),
                actor: "ann".into(),
                reason: String::new(),
                by: None,
                input: Some(budget_pause::limits_input(&limits)),
            };
            assert!(store.decide("me", task, &granted).await.unwrap());
            assert!(!store.decide("me", task, &granted).await.unwrap());
            assert_eq!(store.decided_approvals().await.unwrap(), [plan.plan_id]);
            let decided =
                store.plan(plan.plan_id).await.unwrap().unwrap().tasks.swap_remove(0).pause.unwrap();
            assert_eq!(budget_pause::granted(&decided), Some(limits));
            let (outcome, at) = (ApprovalOutcome::of(&decided), at(second + 2));
            write(store, "me", &[Entry::BudgetDecided { task, at, outcome, budget: Some(limits) }])
                .await
                .unwrap();
            let read = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!((read.budget, read.tasks[0].status), (limits, TaskStatus::Queued));
            assert_eq!(store.decided_approvals().await.unwrap(), []);
        }
        // It ends with its task.
        write(store, "me", &[Entry::BudgetReached { task, pause: pause(20).into() }]).await.unwrap();
        let error = OrchestratorError::internal("no");
        let (status, at) = (TaskStatus::Cancelled, at(21));
        write(store, "me", &[Entry::TaskEnded { task, status, at, result: Err(error) }]).await.unwrap();
        let read = store.plan(plan.plan_id).await.unwrap().unwrap();
        assert_eq!(read.tasks[0].pause.as_ref().unwrap().state, ApprovalState::Withdrawn);
        assert_eq!(store.waiting_approvals().await.unwrap().count, 0);
    }
}

fn pause(second: i64) -> Approval {
    let error = OrchestratorError::new(OrchestratorErrorCode::BudgetExhausted, "it is used up")
        .with_detail("budget", "plan/x")
        .with_detail("limit", "max_calls")
        .with_detail("limit_value", second);
    budget_pause::pause(at(second), &error).unwrap()
}
