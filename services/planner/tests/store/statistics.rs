//! Statistics of minutes.

use std::time::{Duration, Instant};

use phoenix_planner::store::{Counts, Store, StoredCounts};

use crate::stores;

fn counts(accepted: u64) -> Counts {
    let mut counts = Counts { accepted, succeeded: accepted, ..Counts::default() };
    (1..=40).for_each(|step| counts.latency.add(Duration::from_millis(step * step)));
    counts
}

async fn stored(store: &dyn Store, since: i64) -> Vec<(i64, String, u64)> {
    let rows = store.statistics(since).await.unwrap().into_iter();
    let mut rows: Vec<_> =
        rows.map(|StoredCounts { minute, planner, counts }| (minute, planner, counts.accepted)).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn later_statistics_of_a_minute_replace_earlier_ones() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.write_statistics("me", &[(7, counts(1)), (8, counts(2))], 0).await.unwrap();
        store.write_statistics("other", &[(8, counts(3))], 0).await.unwrap();
        for _ in 0..2 {
            store.write_statistics("me", &[(8, counts(5)), (9, counts(6))], 0).await.unwrap();
        }
        let row = |minute, planner: &str, accepted| (minute, planner.to_owned(), accepted);
        let expected = [row(8, "me", 5), row(8, "other", 3), row(9, "me", 6)];
        assert_eq!(stored(store, 8).await, expected);
        assert_eq!(stored(store, 7).await.len(), 4);
        let minute = store.statistics(9).await.unwrap().remove(0);
        assert_eq!(minute.counts, counts(6), "durations survive");
        store.write_statistics("me", &[(10, counts(1))], 9).await.unwrap();
        assert_eq!(stored(store, 0).await, [row(9, "me", 6), row(10, "me", 1)], "older ones are deleted");
    }
}

#[tokio::test]
async fn statistics_of_a_day_are_read_quickly() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let day: Vec<_> = (0..1_440).map(|minute| (minute, counts(694))).collect();
        store.write_statistics("me", &day, 0).await.unwrap();
        store.write_statistics("other", &day, 0).await.unwrap();
        let began = Instant::now();
        assert_eq!(store.statistics(0).await.unwrap().len(), 2_880);
        println!(
            "statistics of a day, 2 planners, 2 million plans: {:?}, {}",
            began.elapsed(),
            store.location()
        );
    }
}
