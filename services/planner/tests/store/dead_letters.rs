//! Dead letters, redrives and bulk operations.

use phoenix_domain::{
    BulkRedriveId, CorrelationId, FailureClass, OrchestratorError, OrchestratorErrorCode as Code, PlanId,
    action::ActionResult,
    dead_letter::{DeadLetter, DeadLetterState as State},
    plan::{Plan, PlanStatus, TaskStatus},
};
use phoenix_planner::store::{
    BulkAction, BulkOperation, DeadLetterFilter, DeadLetterQuery, Entry, OldPlans, OpenDeadLetters, Store,
};

use crate::{accepted, at, life, new_plan, plan_ended, stores, task_of, write};

/// A plan whose only task is dead-lettered at `second`.
pub(crate) fn failure(plan: &Plan, second: i64, code: Code, class: &str) -> Vec<Entry> {
    let error = OrchestratorError::new(code, "no").with_detail("error_class", class);
    let (task, status) = (task_of(plan, 0), TaskStatus::DeadLettered);
    vec![
        accepted(plan),
        Entry::TaskEnded { task, status, at: at(second), result: Err(error.clone()) },
        Entry::PlanEnded {
            plan_id: plan.plan_id,
            status: PlanStatus::Failed,
            at: at(second),
            result: Err(error),
        },
    ]
}

pub(crate) async fn failed(store: &dyn Store, agent: &str, second: i64) -> Plan {
    let plan = new_plan(&[agent]);
    write(store, "me", &failure(&plan, second, Code::ExecutionFailed, "io")).await.unwrap();
    plan
}

pub(crate) fn redrive(old: &Plan, bulk: Option<BulkRedriveId>) -> (Plan, Vec<Entry>) {
    let mut new = new_plan(&["a", "b"]);
    new.redrive_of = Some(old.plan_id);
    let redriven = Entry::PlanRedriven {
        plan_id: old.plan_id,
        redriven_as: new.plan_id,
        at: at(50),
        by: new.correlation_id,
        reason: "fixed".into(),
        bulk,
    };
    let kept = Entry::TaskEnded {
        task: task_of(&new, 0),
        status: TaskStatus::Succeeded,
        at: at(50),
        result: Ok(ActionResult::text("kept")),
    };
    let entries = vec![accepted(&new), kept, redriven];
    (new, entries)
}

pub(crate) fn bulk(action: BulkAction, filter: DeadLetterFilter, limit: u32) -> (BulkOperation, Entry) {
    let (sweep_id, by) = (BulkRedriveId::generate(), CorrelationId::generate());
    let operation = BulkOperation { sweep_id, action, at: at(60), by, reason: "why".into() };
    let (boxed, filter) = (Box::new(operation.clone()), Box::new(filter));
    (operation, Entry::BulkStarted { operation: boxed, filter, limit })
}

pub(crate) async fn listed(store: &dyn Store, filter: DeadLetterFilter, state: State) -> Vec<DeadLetter> {
    store.dead_letters(&DeadLetterQuery { filter, state, before: None, limit: 100 }).await.unwrap().items
}

pub(crate) async fn plans(store: &dyn Store, state: State) -> Vec<PlanId> {
    let letters = listed(store, DeadLetterFilter::default(), state).await;
    letters.into_iter().map(|letter| letter.plan_id).collect()
}

pub(crate) async fn open(store: &dyn Store) -> (u64, Option<i64>) {
    // A listing applies the log; the count includes the rows from then on.
    drop(plans(store, State::Open).await);
    let OpenDeadLetters { count, oldest } = store.open_dead_letters().await.unwrap();
    (count, oldest.map(|oldest| oldest.as_second() - at(0).as_second()))
}

#[tokio::test]
async fn dead_letter_is_independent_of_batching() {
    for fresh in stores().await {
        let store = &*fresh.store;
        assert_eq!(open(store).await, (0, None));
        for batch in [1, 2, 3, 5, 100] {
            let plan = new_plan(&["a", "b"]);
            for entries in life(&plan).chunks(batch) {
                write(store, "me", entries).await.unwrap();
            }
            let filter = DeadLetterFilter { plan_id: Some(plan.plan_id), ..DeadLetterFilter::default() };
            let [letter] = &listed(store, filter, State::Open).await[..] else { panic!("one of {batch}") };
            let task = &plan.tasks[1];
            assert_eq!((letter.ordinal, letter.task_id, letter.key.as_str()), (1, task.task_id, "t1"));
            assert_eq!((letter.agent.as_str(), letter.action.as_str()), ("b", "do"));
            assert_eq!((letter.correlation_id, letter.attempts, letter.at), (plan.correlation_id, 1, at(8)));
            assert_eq!(
                (letter.error.code, letter.error.details["agent"].as_str()),
                (Code::ExecutionFailed, "b")
            );
            assert_eq!((letter.state, &letter.resolution), (State::Open, &None));
            // A repeated entry adds none.
            write(store, "me", &life(&plan)[1..]).await.unwrap();
        }
        assert_eq!(open(store).await, (5, Some(8)));
    }
}

#[tokio::test]
async fn task_that_ended_otherwise_is_no_dead_letter() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        let ended = |status, result| Entry::TaskEnded { task: task_of(&plan, 0), status, at: at(1), result };
        let succeeded = ended(TaskStatus::Succeeded, Ok(ActionResult::text("yes")));
        let late = ended(TaskStatus::DeadLettered, Err(OrchestratorError::internal("late")));
        write(store, "me", &[accepted(&plan), succeeded]).await.unwrap();
        write(store, "me", &[late, plan_ended(&plan, 2)]).await.unwrap();
        let cancelled = new_plan(&["a"]);
        let end = Entry::TaskEnded {
            task: task_of(&cancelled, 0),
            status: TaskStatus::Cancelled,
            at: at(1),
            result: Err(OrchestratorError::new(Code::Cancelled, "enough")),
        };
        write(store, "me", &[accepted(&cancelled), end]).await.unwrap();
        assert_eq!(open(store).await, (0, None));
    }
}

#[tokio::test]
async fn dead_letter_listing_is_filtered_page_by_page() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut known = Vec::new();
        for n in 0..10 {
            let plan = new_plan(&[if n % 2 == 0 { "a" } else { "b" }]);
            let (code, class) =
                if n < 4 { (Code::Timeout, "timeout") } else { (Code::ExecutionFailed, "io") };
            // Two of each second.
            write(store, "me", &failure(&plan, n / 2, code, class)).await.unwrap();
            known.push(plan);
        }
        let index = |id| known.iter().position(|plan| plan.plan_id == id).unwrap();
        let found = async |filter: DeadLetterFilter| -> Vec<usize> {
            let letters = listed(store, filter, State::Open).await;
            letters.into_iter().map(|letter| index(letter.plan_id)).collect()
        };
        let all = DeadLetterFilter::default();
        assert_eq!(found(all.clone()).await, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(found(DeadLetterFilter { agent: "b".parse().ok(), ..all.clone() }).await, [9, 7, 5, 3, 1]);
        assert_eq!(found(DeadLetterFilter { code: Some(Code::Timeout), ..all.clone() }).await, [3, 2, 1, 0]);
        let io = DeadLetterFilter { error_class: Some(FailureClass::Io), ..all.clone() };
        assert_eq!(found(io.clone()).await, [9, 8, 7, 6, 5, 4]);
        assert_eq!(found(DeadLetterFilter { since: Some(at(4)), ..io.clone() }).await, [9, 8]);
        assert_eq!(found(DeadLetterFilter { code: Some(Code::Timeout), ..io }).await, [0; 0]);
        let one = DeadLetterFilter { correlation_id: Some(known[3].correlation_id), ..all.clone() };
        assert_eq!(found(one).await, [3]);
        assert_eq!(found(DeadLetterFilter { plan_id: Some(known[5].plan_id), ..all.clone() }).await, [5]);

        let (mut before, mut paged) = (None, Vec::new());
        loop {
            let query = DeadLetterQuery { filter: all.clone(), state: State::Open, before, limit: 3 };
            let page = store.dead_letters(&query).await.unwrap();
            paged.extend(page.items.into_iter().map(|letter| index(letter.plan_id)));
            before = page.last;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(paged, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    }
}

#[tokio::test]
async fn last_page_of_dead_letters_exactly_full_has_no_next() {
    for fresh in stores().await {
        let store = &*fresh.store;
        for second in 0..4 {
            failed(store, "a", second).await;
        }
        for (limit, pages) in [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)] {
            let (mut before, mut seen, mut read) = (None, 0, 0);
            loop {
                let filter = DeadLetterFilter::default();
                let query = DeadLetterQuery { filter, state: State::Open, before, limit };
                let page = store.dead_letters(&query).await.unwrap();
                (seen, read) = (seen + page.items.len(), read + 1);
                before = page.last;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!((read, seen), (pages, 4), "{limit} at a time");
        }
    }
}

#[tokio::test]
async fn redrive_links_two_plans_and_resolves_dead_letters() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (old, other) = (failed(store, "a", 1).await, failed(store, "a", 2).await);
        let before = store.plan(old.plan_id).await.unwrap().unwrap();
        let (new, entries) = redrive(&old, None);
        write(store, "me", &entries).await.unwrap();

        let read = store.plan(new.plan_id).await.unwrap().unwrap();
        assert_eq!(
            (read.status, read.redrive_of, read.redriven_as),
            (PlanStatus::Pending, Some(old.plan_id), None)
        );
        let [kept, again] = &read.tasks[..] else { panic!("{read:?}") };
        assert_eq!(
            (kept.status, kept.dispatched_at, kept.ended_at),
            (TaskStatus::Succeeded, None, Some(at(50)))
        );
        assert_eq!(
            (kept.output.as_ref().unwrap(), again.status),
            (&ActionResult::text("kept"), TaskStatus::Queued)
        );
        let accepted = store.events(new.plan_id, 0, 1).await.unwrap().remove(0);
        assert!(accepted.data.contains(&old.plan_id.to_string()), "{accepted:?}");

        let mut after = store.plan(old.plan_id).await.unwrap().unwrap();
        assert_eq!(after.redriven_as.take(), Some(new.plan_id));
        assert_eq!(after, before, "nothing else of it changes");
        let event = store.events(old.plan_id, 0, 9).await.unwrap().pop().unwrap();
        assert_eq!((event.kind.as_str(), event.at, event.task_key.as_str()), ("plan_redriven", at(50), ""));
        for fact in [new.plan_id.to_string(), new.correlation_id.to_string(), "fixed".into()] {
            assert!(event.data.contains(&fact), "{event:?}");
        }
        let [letter] = &listed(store, DeadLetterFilter::default(), State::Redriven).await[..] else {
            panic!("one")
        };
        let settled = letter.resolution.clone().unwrap();
        assert_eq!((letter.plan_id, settled.redriven_as), (old.plan_id, Some(new.plan_id)));
        assert_eq!((settled.at, settled.by, settled.reason.as_str()), (at(50), new.correlation_id, "fixed"));
        assert_eq!(plans(store, State::Open).await, [other.plan_id]);
        assert_eq!(open(store).await, (1, Some(2)));
        let [listed, ..] = &store
            .plans(&phoenix_planner::store::PlanFilter { limit: 9, ..Default::default() })
            .await
            .unwrap()
            .items[..]
        else {
            panic!("some")
        };
        assert_eq!((listed.plan_id, listed.redrive_of), (new.plan_id, Some(old.plan_id)), "in listings too");
    }
}

#[tokio::test]
async fn retention_deletes_dead_letters_and_bulk_operations() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let [old, young] = [failed(store, "a", 1).await, failed(store, "a", 90).await];
        let only_one = DeadLetterFilter { plan_id: Some(young.plan_id), ..DeadLetterFilter::default() };
        let (discard, started) = bulk(BulkAction::Discard, only_one, 100);
        write(store, "me", &[started]).await.unwrap();
        assert_eq!(open(store).await, (1, Some(1)));
        let forget = async |second: i64| {
            let old = OldPlans { ended_before: at(second), after: None, limit: 10 };
            store.purge_plans("me", &old).await.unwrap().plans
        };
        assert_eq!(forget(50).await, 1);
        assert_eq!(store.plan(old.plan_id).await.unwrap(), None);
        assert_eq!(plans(store, State::Open).await, []);
        assert_eq!(open(store).await, (0, None));
        assert!(store.bulk_operation(discard.sweep_id).await.unwrap().is_some(), "it is younger");
        assert_eq!(forget(80).await, 0);
        assert_eq!(store.bulk_operation(discard.sweep_id).await.unwrap(), None);
        assert_eq!(plans(store, State::Discarded).await, [young.plan_id]);
    }
}

#[tokio::test]
async fn plan_is_redriven_once_across_planners() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("other").await.unwrap();
        let old = failed(store, "a", 1).await;
        let [(first, one), (second, two), (third, three)] = [(); 3].map(|()| redrive(&old, None));
        assert_eq!(
            crate::append(store, "me", &[one.into(), two.into()]).await.unwrap(),
            [1],
            "of one batch the first"
        );
        assert_eq!(
            crate::append(store, "other", &[three.into()]).await.unwrap(),
            [0],
            "of two planners the first"
        );
        for lost in [second, third] {
            assert_eq!(store.plan(lost.plan_id).await.unwrap(), None);
        }
        let known = store.plan(old.plan_id).await.unwrap().unwrap();
        assert_eq!(known.redriven_as, Some(first.plan_id));
        let (_, again) = redrive(&first, None);
        write(store, "other", &again).await.expect("the new plan can be redriven, too");
    }
}
