//! Tasks that failed for good, and what is decided about them.

use phoenix_domain::{
    BulkRedriveId, CorrelationId, FailureClass, OrchestratorError, OrchestratorErrorCode as Code, PlanId,
    action::ActionResult,
    dead_letter::{DeadLetter, DeadLetterState as State},
    plan::{Plan, PlanStatus, TaskStatus},
};
use phoenix_planner::store::{
    BulkAction, BulkOperation, DeadLetterFilter, DeadLetterQuery, Entry, OldPlans, OpenDeadLetters, Store,
};

use crate::{accepted, at, life, new_plan, plan_ended, stores, take_over, task_of, write};

/// The plan's only task fails for good at `second`, and the plan with it.
fn failure(plan: &Plan, second: i64, code: Code, class: &str) -> Vec<Entry> {
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

async fn failed(store: &dyn Store, agent: &str, second: i64) -> Plan {
    let plan = new_plan(&[agent]);
    write(store, "me", &failure(&plan, second, Code::ExecutionFailed, "io")).await.unwrap();
    plan
}

fn redrive(old: &Plan, bulk: Option<BulkRedriveId>) -> (Plan, Vec<Entry>) {
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

fn bulk(action: BulkAction, filter: DeadLetterFilter, limit: u32) -> (BulkOperation, Entry) {
    let (sweep_id, by) = (BulkRedriveId::generate(), CorrelationId::generate());
    let operation = BulkOperation { sweep_id, action, at: at(60), by, reason: "why".into() };
    let (boxed, filter) = (Box::new(operation.clone()), Box::new(filter));
    (operation, Entry::BulkStarted { operation: boxed, filter, limit })
}

async fn listed(store: &dyn Store, filter: DeadLetterFilter, state: State) -> Vec<DeadLetter> {
    store.dead_letters(&DeadLetterQuery { filter, state, before: None, limit: 100 }).await.unwrap().items
}

async fn plans(store: &dyn Store, state: State) -> Vec<PlanId> {
    let letters = listed(store, DeadLetterFilter::default(), state).await;
    letters.into_iter().map(|letter| letter.plan_id).collect()
}

async fn open(store: &dyn Store) -> (u64, Option<i64>) {
    // Whoever looks at what there is sees all of it; from then on it is counted, too.
    drop(plans(store, State::Open).await);
    let OpenDeadLetters { count, oldest } = store.open_dead_letters().await.unwrap();
    (count, oldest.map(|oldest| oldest.as_second() - at(0).as_second()))
}

#[tokio::test]
async fn a_task_that_fails_for_good_is_a_dead_letter_however_its_steps_were_gathered() {
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
            // Told again, it is not another one.
            write(store, "me", &life(&plan)[1..]).await.unwrap();
        }
        assert_eq!(open(store).await, (5, Some(8)));
    }
}

#[tokio::test]
async fn a_task_that_has_ended_otherwise_is_none() {
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
async fn dead_letters_are_found_by_what_they_are_filtered_by_page_by_page() {
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
        let place = |id| known.iter().position(|plan| plan.plan_id == id).unwrap();
        let found = async |filter: DeadLetterFilter| -> Vec<usize> {
            let letters = listed(store, filter, State::Open).await;
            letters.into_iter().map(|letter| place(letter.plan_id)).collect()
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
            paged.extend(page.items.into_iter().map(|letter| place(letter.plan_id)));
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
async fn a_redrive_links_two_plans_and_settles_the_dead_letters_of_the_first() {
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
async fn dead_letters_go_with_their_plan_and_sweeps_when_they_are_as_old() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let [old, young] = [failed(store, "a", 1).await, failed(store, "a", 90).await];
        let only_one = DeadLetterFilter { plan_id: Some(young.plan_id), ..DeadLetterFilter::default() };
        let (discard, begun) = bulk(BulkAction::Discard, only_one, 100);
        write(store, "me", &[begun]).await.unwrap();
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
async fn a_plan_is_redriven_once_whoever_tries() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("other").await.unwrap();
        let old = failed(store, "a", 1).await;
        let [(first, one), (second, two), (third, three)] = [(); 3].map(|()| redrive(&old, None));
        assert_eq!(
            store.append("me", &[one.into(), two.into()]).await.unwrap(),
            [1],
            "of one batch the first"
        );
        assert_eq!(store.append("other", &[three.into()]).await.unwrap(), [0], "of two planners the first");
        for lost in [second, third] {
            assert_eq!(store.plan(lost.plan_id).await.unwrap(), None);
        }
        let known = store.plan(old.plan_id).await.unwrap().unwrap();
        assert_eq!(known.redriven_as, Some(first.plan_id));
        let (_, again) = redrive(&first, None);
        write(store, "other", &again).await.expect("what took it up may be taken up in its turn");
    }
}

#[tokio::test]
async fn a_sweep_discards_the_oldest_that_are_open_and_tells_of_each() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut known = Vec::new();
        for second in 0..6 {
            known.push(failed(store, if second == 5 { "b" } else { "a" }, second).await);
        }
        write(store, "me", &redrive(&known[0], None).1).await.unwrap();
        let filter = DeadLetterFilter { agent: "a".parse().ok(), ..DeadLetterFilter::default() };
        let (discard, begun) = bulk(BulkAction::Discard, filter.clone(), 3);
        write(store, "me", &[begun]).await.unwrap();
        assert_eq!(store.bulk_operation(discard.sweep_id).await.unwrap(), Some((discard.clone(), 3)));
        let discarded = listed(store, DeadLetterFilter::default(), State::Discarded).await;
        assert_eq!(
            discarded.iter().map(|letter| letter.plan_id).collect::<Vec<_>>(),
            [known[3].plan_id, known[2].plan_id, known[1].plan_id]
        );
        let settled = discarded[0].resolution.clone().unwrap();
        assert_eq!((settled.at, settled.by, settled.redriven_as), (discard.at, discard.by, None));
        assert_eq!((settled.reason.as_str(), open(store).await), ("why", (2, Some(4))));
        let mut positions = Vec::new();
        for plan in &known[1..4] {
            let event = store.events(plan.plan_id, 0, 9).await.unwrap().pop().unwrap();
            assert_eq!((event.kind.as_str(), event.task_key.as_str()), ("dead_letter_discarded", "t0"));
            assert!(event.data.contains(&discard.by.to_string()) && event.data.contains("why"), "{event:?}");
            positions.push(event.position);
        }
        let later = failed(store, "a", 9).await;
        let next = store.events(later.plan_id, 0, 1).await.unwrap()[0].position;
        assert!(positions.is_sorted() && positions[2] < next, "positions go on: {positions:?} {next}");

        let (rest, begun) = bulk(BulkAction::Discard, filter.clone(), 100);
        write(store, "me", &[begun]).await.unwrap();
        assert_eq!(
            store.bulk_operation(rest.sweep_id).await.unwrap().unwrap().1,
            2,
            "what is settled stays settled"
        );
        assert_eq!(plans(store, State::Open).await, [known[5].plan_id]);
        assert_eq!(take_over(store, "me", &[]).await.bulk, [], "it is done");
    }
}

#[tokio::test]
async fn a_sweep_marks_what_it_will_redrive_and_nobody_else_does() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let [newer, older, third] =
            [failed(store, "a", 2).await, failed(store, "a", 1).await, failed(store, "b", 3).await];
        let running = new_plan(&["a", "a"]);
        let mut half = failure(&running, 0, Code::ExecutionFailed, "io");
        half.pop();
        write(store, "me", &half).await.unwrap();

        let all = DeadLetterFilter::default();
        let action = BulkAction::Redrive { rate: 2.5 };
        let of_a = DeadLetterFilter { agent: "a".parse().ok(), ..all.clone() };
        let (first, begun) = bulk(action, of_a, 100);
        write(store, "me", &[begun]).await.unwrap();
        assert_eq!(store.bulk_operation(first.sweep_id).await.unwrap(), Some((first.clone(), 2)));
        let todo = async |operation: &BulkOperation| store.bulk_plans(operation.sweep_id).await.unwrap();
        assert_eq!(todo(&first).await, [older.plan_id, newer.plan_id], "not of the plan that still runs");
        assert_eq!(open(store).await, (4, Some(0)), "they are open until they are redriven");
        let (second, begun) = bulk(action, all.clone(), 100);
        write(store, "me", &[begun]).await.unwrap();
        assert_eq!(todo(&second).await, [third.plan_id]);

        write(store, "me", &redrive(&older, Some(first.sweep_id)).1).await.unwrap();
        let (discard, begun) =
            bulk(BulkAction::Discard, DeadLetterFilter { plan_id: Some(newer.plan_id), ..all.clone() }, 9);
        write(store, "me", &[begun]).await.unwrap();
        assert_eq!(
            store.bulk_operation(discard.sweep_id).await.unwrap().unwrap().1,
            1,
            "what waits can be discarded"
        );
        assert_eq!(todo(&first).await, []);
        let (_, late) = redrive(&newer, Some(first.sweep_id));
        assert_eq!(
            store.append("me", &[late.into()]).await.unwrap(),
            [0],
            "a sweep does not redrive what was discarded"
        );
        let (_, wanted) = redrive(&newer, None);
        write(store, "me", &wanted).await.expect("a person may");

        let ended = |operation: &BulkOperation| Entry::BulkEnded { sweep_id: operation.sweep_id, at: at(70) };
        write(store, "me", &[ended(&second)]).await.unwrap();
        let (again, begun) = bulk(action, all, 100);
        write(store, "me", &[begun]).await.unwrap();
        assert_eq!(todo(&again).await, [third.plan_id], "what a sweep leaves is free when it ends");
    }
}

#[tokio::test]
async fn sweeps_that_are_not_worked_off_are_taken_over_with_the_plans() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("heir").await.unwrap();
        let action = BulkAction::Redrive { rate: 0.5 };
        let (done, first) = bulk(action, DeadLetterFilter::default(), 9);
        let (open, second) = bulk(action, DeadLetterFilter::default(), 9);
        let ended = Entry::BulkEnded { sweep_id: done.sweep_id, at: at(61) };
        write(store, "me", &[first, ended, second]).await.unwrap();
        assert_eq!(take_over(store, "heir", &[]).await.bulk, [], "its owner lives");
        store.release("me").await.unwrap();
        assert_eq!(take_over(store, "nobody", &[]).await.bulk, [], "who owns nothing takes nothing");
        assert_eq!(take_over(store, "heir", &[]).await.bulk, [open]);
        assert_eq!(take_over(store, "heir", &[]).await.bulk, []);
    }
}
