//! Bulk operations on dead letters.

use phoenix_domain::{OrchestratorErrorCode as Code, dead_letter::DeadLetterState as State};
use phoenix_planner::store::{BulkAction, BulkOperation, DeadLetterFilter, Entry};

use crate::{
    at,
    dead_letters::{bulk, failed, failure, listed, open, plans, redrive},
    new_plan, stores, take_over, write,
};

#[tokio::test]
async fn bulk_discard_takes_the_oldest_and_adds_events() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut known = Vec::new();
        for second in 0..6 {
            known.push(failed(store, if second == 5 { "b" } else { "a" }, second).await);
        }
        write(store, "me", &redrive(&known[0], None).1).await.unwrap();
        let filter = DeadLetterFilter { agent: "a".parse().ok(), ..DeadLetterFilter::default() };
        let (discard, started) = bulk(BulkAction::Discard, filter.clone(), 3);
        write(store, "me", &[started]).await.unwrap();
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
        assert!(positions.is_sorted() && positions[2] < next, "positions grow: {positions:?} {next}");

        let (rest, started) = bulk(BulkAction::Discard, filter.clone(), 100);
        write(store, "me", &[started]).await.unwrap();
        assert_eq!(
            store.bulk_operation(rest.sweep_id).await.unwrap().unwrap().1,
            2,
            "a resolved dead letter stays resolved"
        );
        assert_eq!(plans(store, State::Open).await, [known[5].plan_id]);
        assert_eq!(take_over(store, "me", &[]).await.bulk, [], "it is finished");
    }
}

#[tokio::test]
async fn bulk_redrive_marks_dead_letters_exclusively() {
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
        let (first, started) = bulk(action, of_a, 100);
        write(store, "me", &[started]).await.unwrap();
        assert_eq!(store.bulk_operation(first.sweep_id).await.unwrap(), Some((first.clone(), 2)));
        let todo = async |operation: &BulkOperation| store.bulk_plans(operation.sweep_id).await.unwrap();
        assert_eq!(todo(&first).await, [older.plan_id, newer.plan_id], "not of the plan that still runs");
        assert_eq!(open(store).await, (4, Some(0)), "they are open until they are redriven");
        let (second, started) = bulk(action, all.clone(), 100);
        write(store, "me", &[started]).await.unwrap();
        assert_eq!(todo(&second).await, [third.plan_id]);

        write(store, "me", &redrive(&older, Some(first.sweep_id)).1).await.unwrap();
        let (discard, started) =
            bulk(BulkAction::Discard, DeadLetterFilter { plan_id: Some(newer.plan_id), ..all.clone() }, 9);
        write(store, "me", &[started]).await.unwrap();
        assert_eq!(
            store.bulk_operation(discard.sweep_id).await.unwrap().unwrap().1,
            1,
            "a marked dead letter can be discarded"
        );
        assert_eq!(todo(&first).await, []);
        let (_, late) = redrive(&newer, Some(first.sweep_id));
        assert_eq!(
            crate::append(store, "me", &[late.into()]).await.unwrap(),
            [0],
            "a bulk redrive skips discarded dead letters"
        );
        let (_, wanted) = redrive(&newer, None);
        write(store, "me", &wanted).await.expect("a single redrive may");

        let ended = |operation: &BulkOperation| Entry::BulkEnded { sweep_id: operation.sweep_id, at: at(70) };
        write(store, "me", &[ended(&second)]).await.unwrap();
        let (again, started) = bulk(action, all, 100);
        write(store, "me", &[started]).await.unwrap();
        assert_eq!(todo(&again).await, [third.plan_id], "its remaining dead letters are free after its end");
    }
}

#[tokio::test]
async fn unfinished_bulk_redrive_is_taken_over() {
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
        assert_eq!(take_over(store, "unknown", &[]).await.bulk, [], "an unknown planner takes nothing over");
        assert_eq!(take_over(store, "heir", &[]).await.bulk, [open]);
        assert_eq!(take_over(store, "heir", &[]).await.bulk, []);
    }
}
