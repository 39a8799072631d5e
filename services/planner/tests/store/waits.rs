//! Tasks that wait for a time.

use phoenix_domain::{
    plan::{Plan, StartConditions, TaskStatus},
    wait::{Wait, WaitKind, waits},
};
use phoenix_planner::store::Entry;

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
    plan.tasks[0].spec.start = StartConditions { approval: None, not_before: Some(at(50)) };
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
            result: Err(phoenix_domain::OrchestratorError::internal("no")),
        };
        write(store, "me", &[ended, wait(&plan, 1, 53)]).await.unwrap();
        store.flush().await.unwrap();
        let dead = store.planners().await.unwrap();
        store.register("you").await.unwrap();
        let taken = take_over(store, "you", &dead).await;
        assert_eq!((plan_ids(&taken), taken.plans[0].crashes), (vec![plan.plan_id], 0));
    }
}
