//! Reservations: keys and redrives.

use phoenix_planner::store::{Entry, JournalError, Store, UsedKey};

use crate::{accepted, accepted_as, at, new_plan, stores, write};

async fn write_groups(
    store: &dyn Store,
    planner: &str,
    groups: &[Vec<Entry>],
) -> Result<Vec<usize>, JournalError> {
    crate::append(store, planner, &groups.iter().cloned().map(Into::into).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn key_names_the_subject_of_its_first_use() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("other").await.unwrap();
        let [first, late, same_batch, bystander] = [(); 4].map(|()| new_plan(&["a"]));
        write(store, "me", &accepted_as(&first, "k", "one", 0, -9)).await.unwrap();
        let groups = [
            accepted_as(&late, "k", "two", 1, -9),
            vec![accepted(&bystander)],
            accepted_as(&same_batch, "k", "one", 1, -9),
        ];
        assert_eq!(write_groups(store, "other", &groups).await.unwrap(), [0, 2], "in any planner");
        assert!(store.plan(bystander.plan_id).await.unwrap().is_some(), "the rest of the batch is written");
        for lost in [&late, &same_batch] {
            assert_eq!(store.plan(lost.plan_id).await.unwrap(), None);
            assert_eq!(store.events(lost.plan_id, 0, 9).await.unwrap(), []);
        }
        let known = store.used_key("k", at(0)).await.unwrap();
        let by = Some(first.correlation_id);
        assert_eq!(known, Some(UsedKey { subject: *first.plan_id.as_uuid(), digest: "one".into(), by }));
        assert_eq!(store.used_key("k", at(1)).await.unwrap(), None, "it is too old");
        assert_eq!(store.used_key("other", at(0)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn first_use_of_a_key_in_a_batch_counts() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let [first, second] = [(); 2].map(|()| new_plan(&["a"]));
        let groups = [accepted_as(&first, "k", "d", 0, -9), accepted_as(&second, "k", "d", 0, -9)];
        assert_eq!(write_groups(store, "me", &groups).await.unwrap(), [1]);
        let known = store.used_key("k", at(0)).await.unwrap();
        assert_eq!(known.unwrap().subject, *first.plan_id.as_uuid());
    }
}

#[tokio::test]
async fn expired_use_of_a_key_does_not_count() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let [old, new, late] = [(); 3].map(|()| new_plan(&["a"]));
        write(store, "me", &accepted_as(&old, "k", "d", 0, -9)).await.unwrap();
        write(store, "me", &accepted_as(&new, "k", "e", 10, 1)).await.unwrap();
        let known = store.used_key("k", at(1)).await.unwrap();
        let known = known.unwrap();
        assert_eq!((known.subject, known.digest.as_str()), (*new.plan_id.as_uuid(), "e"));
        let again = [accepted_as(&late, "k", "e", 11, 1)];
        assert_eq!(write_groups(store, "me", &again).await.unwrap(), [0], "it can be used again");
    }
}

#[tokio::test]
async fn unknown_planner_reserves_nothing() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        let refused = write_groups(store, "unknown", &[accepted_as(&plan, "k", "d", 0, -9)]).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
        assert_eq!(store.used_key("k", at(0)).await.unwrap(), None);
    }
}
