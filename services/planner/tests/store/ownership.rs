//! Who may write, and who takes over.

use phoenix_planner::store::{Heartbeat, JournalError, Store};

use crate::{accepted, new_plan, plan_ended, stores, write};

async fn heartbeat(store: &dyn Store, planner: &str) -> Heartbeat {
    store.planners().await.unwrap().into_iter().find(|known| known.planner == planner).unwrap()
}

#[tokio::test]
async fn only_an_owner_writes() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        let refused = write(store, "nobody", &[accepted(&plan)]).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
        assert_eq!(store.plan(plan.plan_id).await.unwrap(), None);
        store.release("me").await.unwrap();
        let refused = write(store, "me", &[accepted(&plan)]).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
    }
}

#[tokio::test]
async fn a_heartbeat_can_be_seen() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let before = heartbeat(store, "me").await;
        store.beat("me").await.unwrap();
        let after = heartbeat(store, "me").await;
        assert!(after.beat > before.beat);
        let refused = store.beat("nobody").await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
    }
}

#[tokio::test]
async fn plans_of_the_dead_and_of_those_who_left_are_taken_over() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("heir").await.unwrap();
        let (open, ended) = (new_plan(&["a"]), new_plan(&["a"]));
        write(store, "me", &[accepted(&open), accepted(&ended), plan_ended(&ended, 1)]).await.unwrap();
        assert_eq!(store.claim("heir", &[]).await.unwrap().plans, [], "its owner lives");

        let seen = heartbeat(store, "me").await;
        store.beat("me").await.unwrap();
        assert_eq!(store.claim("heir", &[seen]).await.unwrap().plans, [], "it has been heard of since");

        let seen = heartbeat(store, "me").await;
        assert_eq!(
            store.claim("nobody", std::slice::from_ref(&seen)).await.unwrap().plans,
            [],
            "who owns nothing takes nothing"
        );
        assert_eq!(store.claim("heir", &[seen]).await.unwrap().plans, [open.plan_id]);
        let late = write(store, "me", &[plan_ended(&open, 2)]).await;
        assert!(matches!(late, Err(JournalError::Fenced)), "{late:?}");

        store.register("third").await.unwrap();
        store.release("heir").await.unwrap();
        assert_eq!(store.claim("third", &[]).await.unwrap().plans, [open.plan_id]);
        write(store, "third", &[plan_ended(&open, 3)]).await.unwrap();
        assert_eq!(store.claim("third", &[]).await.unwrap().plans, []);
    }
}
