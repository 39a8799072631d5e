//! Deletion of old data.

use std::collections::BTreeSet;

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::Plan};
use phoenix_planner::store::{JournalError, OldPlans, PlanFilter, Purged, Store};

use crate::{accepted, accepted_as, at, new_plan, plan_ended, short_life, stores, write};

/// A plan that was accepted at `second`.
pub(crate) fn plan_of(second: i64) -> Plan {
    let millis = u64::try_from(at(second).as_millisecond()).unwrap();
    let random = uuid::Uuid::new_v4().into_bytes();
    let plan_id = uuid::Builder::from_unix_timestamp_millis(millis, random[..10].try_into().unwrap());
    Plan { plan_id: plan_id.into_uuid().into(), created_at: at(second), ..new_plan(&["a", "b"]) }
}

async fn forget(store: &dyn Store, before: Timestamp, after: Option<PlanId>, limit: u32) -> Purged {
    store.purge_plans("me", &OldPlans { ended_before: before, after, limit }).await.unwrap()
}

async fn known(store: &dyn Store) -> BTreeSet<PlanId> {
    let filter = PlanFilter { limit: 1000, ..PlanFilter::default() };
    store.plans(&filter).await.unwrap().items.into_iter().map(|plan| plan.plan_id).collect()
}

#[tokio::test]
async fn purged_plan_leaves_no_rows() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (old, young) = (plan_of(0), plan_of(100));
        let entries = [short_life(&old), short_life(&young)].concat();
        write(store, "me", &entries).await.unwrap();
        let kept = store.plan(young.plan_id).await.unwrap();
        let events = store.events(young.plan_id, 0, 100).await.unwrap();
        assert_eq!(forget(store, at(50), None, 10).await.plans, 1);
        assert_eq!(store.plan(old.plan_id).await.unwrap(), None);
        assert_eq!(store.events(old.plan_id, 0, 100).await.unwrap(), []);
        let filter = PlanFilter { agent: "a".parse().ok(), limit: 10, ..PlanFilter::default() };
        assert_eq!(store.plans(&filter).await.unwrap().items.len(), 1);
        assert_eq!(store.plan(young.plan_id).await.unwrap(), kept);
        assert_eq!(store.events(young.plan_id, 0, 100).await.unwrap(), events);
    }
}

#[tokio::test]
async fn purge_keeps_unfinished_and_recent_plans() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let [open, ended_late, ended_long_ago] = [0, 1, 2].map(plan_of);
        let entries = [accepted(&open), accepted(&ended_late), accepted(&ended_long_ago)];
        write(store, "me", &entries).await.unwrap();
        write(store, "me", &[plan_ended(&ended_late, 99), plan_ended(&ended_long_ago, 9)]).await.unwrap();
        assert_eq!(forget(store, at(50), None, 10).await.plans, 1);
        assert_eq!(known(store).await, BTreeSet::from([open.plan_id, ended_late.plan_id]));
        assert_eq!(forget(store, at(50), None, 10).await.plans, 0);
    }
}

#[tokio::test]
async fn purge_batches_cover_every_old_plan_once() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut open = BTreeSet::new();
        for second in 0..10 {
            let plan = plan_of(second);
            write(store, "me", &[accepted(&plan)]).await.unwrap();
            if second % 3 == 0 {
                open.insert(plan.plan_id);
            } else {
                write(store, "me", &[plan_ended(&plan, 20)]).await.unwrap();
            }
        }
        let (mut after, mut plans, mut batches) = (None, 0, 0);
        loop {
            let batch = forget(store, at(50), after, 3).await;
            (plans, batches) = (plans + batch.plans, batches + 1);
            match batch.last {
                Some(_) => after = batch.last,
                None => break,
            }
        }
        assert_eq!((plans, batches), (6, 4));
        assert_eq!(known(store).await, open);
    }
}

#[tokio::test]
async fn concurrent_purges_delete_each_plan_once() {
    for fresh in stores().await {
        let store = &fresh.store;
        store.register("other").await.unwrap();
        for second in 0..100 {
            let plan = plan_of(second);
            write(&**store, "me", &[accepted(&plan), plan_ended(&plan, second)]).await.unwrap();
        }
        let delete = async |planner: &str| {
            let (mut after, mut plans) = (None, 0);
            loop {
                let old = OldPlans { ended_before: at(1000), after, limit: 7 };
                let batch = store.purge_plans(planner, &old).await.unwrap();
                plans += batch.plans;
                match batch.last {
                    Some(_) => after = batch.last,
                    None => return plans,
                }
            }
        };
        let (mine, others) = tokio::join!(delete("me"), delete("other"));
        assert_eq!(mine + others, 100);
        assert!(known(&**store).await.is_empty());
    }
}

#[tokio::test]
async fn only_an_owner_can_purge() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = plan_of(0);
        write(store, "me", &accepted_as(&plan, "k", "d", 0, 0)).await.unwrap();
        write(store, "me", &[plan_ended(&plan, 1)]).await.unwrap();
        let old = OldPlans { ended_before: at(50), after: None, limit: 10 };
        let refused = store.purge_plans("unknown", &old).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
        let refused = store.purge_keys("unknown", at(50), 10).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
        assert_eq!(known(store).await.len(), 1);
        assert!(store.used_key("k", at(0)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn purged_key_can_name_another_plan() {
    for fresh in stores().await {
        let store = &*fresh.store;
        for second in [0, 1, 2, 60] {
            let plan = plan_of(second);
            let key = format!("k{second}");
            write(store, "me", &accepted_as(&plan, &key, "d", second, 0)).await.unwrap();
        }
        assert_eq!(store.purge_keys("me", at(50), 2).await.unwrap(), 2);
        assert_eq!(store.purge_keys("me", at(50), 2).await.unwrap(), 1);
        assert_eq!(store.purge_keys("me", at(50), 2).await.unwrap(), 0);
        assert!(store.used_key("k60", at(0)).await.unwrap().is_some());
        assert_eq!(store.used_key("k0", at(0)).await.unwrap(), None);
        let again = plan_of(70);
        write(store, "me", &accepted_as(&again, "k0", "e", 70, 0)).await.unwrap();
        let used = store.used_key("k0", at(0)).await.unwrap().unwrap();
        assert_eq!((used.subject, used.digest.as_str()), (*again.plan_id.as_uuid(), "e"));
    }
}

#[tokio::test]
async fn stats_name_the_oldest_terminal_plan() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let empty = store.stats().await.unwrap();
        assert!(empty.bytes > 0);
        assert_eq!(empty.oldest_plan, None);
        let [open, ended, later] = [0, 10, 20].map(plan_of);
        write(store, "me", &[accepted(&open), accepted(&ended), accepted(&later)]).await.unwrap();
        write(store, "me", &[plan_ended(&later, 21), plan_ended(&ended, 22)]).await.unwrap();
        assert_eq!(store.stats().await.unwrap().oldest_plan, Some(at(10)));
    }
}
