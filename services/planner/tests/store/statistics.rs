//! Statistics of minutes and longer periods.

use std::time::{Duration, Instant};

use phoenix_domain::plan::PlanStatus;
use phoenix_planner::store::{Counts, LENGTHS, Period, Store, StoredCounts};
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::{Fresh, stores};

fn counts(accepted: u64) -> Counts {
    let mut counts = Counts { accepted, succeeded: accepted, cost_nanos: accepted * 7, ..Counts::default() };
    (1..=40).for_each(|step| counts.latency.add(Duration::from_millis(step * step)));
    (1..=accepted).for_each(|step| counts.wait.add(Duration::from_millis(step)));
    counts
}

const fn minute(number: i64) -> Period {
    Period::of(1, number)
}

async fn stored(store: &dyn Store, since: Period) -> Vec<(i64, String, u64)> {
    let rows = store.statistics(since).await.unwrap().into_iter();
    let mut rows: Vec<_> =
        rows.map(|StoredCounts { number, planner, counts }| (number, planner, counts.accepted)).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn later_statistics_of_a_period_replace_earlier_ones() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.write_statistics("me", &[(minute(7), counts(1)), (minute(8), counts(2))], 0).await.unwrap();
        store.write_statistics("other", &[(minute(8), counts(3))], 0).await.unwrap();
        for _ in 0..2 {
            let periods = [
                (minute(8), counts(5)),
                (minute(9), counts(6)),
                (Period::of(5, 9), counts(11)),
                (Period::of(10, 9), counts(12)),
            ];
            store.write_statistics("me", &periods, 0).await.unwrap();
        }
        let row = |number, planner: &str, accepted| (number, planner.to_owned(), accepted);
        let expected = [row(8, "me", 5), row(8, "other", 3), row(9, "me", 6)];
        assert_eq!(stored(store, minute(8)).await, expected);
        assert_eq!(stored(store, minute(7)).await.len(), 4);
        assert_eq!(stored(store, Period::of(5, 0)).await, [row(1, "me", 11)]);
        assert_eq!(stored(store, Period::of(10, 0)).await, [row(0, "me", 12)]);
        assert!(stored(store, Period::of(10, 10)).await.is_empty());
        let last = store.statistics(minute(9)).await.unwrap().remove(0);
        assert_eq!(last.counts, counts(6), "durations survive");
        store.write_statistics("me", &[(minute(10), counts(1))], 9).await.unwrap();
        let expected = [row(9, "me", 6), row(10, "me", 1)];
        assert_eq!(stored(store, minute(0)).await, expected, "older ones are deleted");
        assert_eq!(
            stored(store, Period::of(5, 0)).await.len(),
            1,
            "the last minute of a period is not older"
        );
        store.write_statistics("me", &[], 20).await.unwrap();
        for length in LENGTHS {
            assert!(stored(store, Period::of(length, 0)).await.is_empty(), "{length}");
        }
    }
}

/// Runs the statement by which the migration sums what was stored before it.
async fn migrate(fresh: &Fresh) {
    let of = |migration: &'static str| &migration[migration.find("INSERT INTO").unwrap()..];
    if fresh.url.starts_with("sqlite") {
        let statement = of(include_str!("../../migrations/sqlite/0018_statistics_rollups.sql"));
        let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
        sqlx::raw_sql("DELETE FROM statistics_rollups").execute(&mut file).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut file).await.unwrap();
    } else {
        let statement = of(include_str!("../../migrations/postgres/0009_statistics_rollups.sql"));
        let mut server = PgConnection::connect(&fresh.url).await.unwrap();
        sqlx::raw_sql("DELETE FROM phoenix_planner.statistics_rollups").execute(&mut server).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut server).await.unwrap();
    }
}

#[tokio::test]
async fn migration_sums_the_minutes_that_were_stored_before() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let minutes: Vec<_> = (28_999_993..29_000_017).collect();
        let empty = Counts { accepted: 1, ..Counts::default() };
        for planner in ["me", "other"] {
            let of = |number: &i64| {
                let counts = if number % 7 == 3 { empty.clone() } else { counts(number.unsigned_abs() % 9) };
                (minute(*number), counts)
            };
            store.write_statistics(planner, &minutes.iter().map(of).collect::<Vec<_>>(), 0).await.unwrap();
        }
        migrate(&fresh).await;
        let stored = store.statistics(minute(0)).await.unwrap();
        for length in [5, 10] {
            let sums = store.statistics(Period { length, number: 0 }).await.unwrap();
            assert!(sums.len() >= 6, "{}", sums.len());
            for StoredCounts { number, planner, counts } in sums {
                let mut expected = Counts::default();
                let same =
                    |row: &&StoredCounts| row.planner == planner && row.number.div_euclid(length) == number;
                stored.iter().filter(same).for_each(|row| expected += &row.counts);
                assert_eq!(counts, expected, "{length} {number} {planner}");
            }
        }
    }
}

#[tokio::test]
async fn statistics_of_a_day_are_read_quickly() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let day: Vec<_> = (0..144).map(|number| (Period { length: 10, number }, counts(6944))).collect();
        store.write_statistics("me", &day, 0).await.unwrap();
        store.write_statistics("other", &day, 0).await.unwrap();
        let began = Instant::now();
        assert_eq!(store.statistics(Period { length: 10, number: 0 }).await.unwrap().len(), 288);
        println!(
            "statistics of a day, 2 planners, 2 million plans: {:?}, {}",
            began.elapsed(),
            store.location()
        );
    }
}

/// What the journal has is counted from its plans, one by one, and compared with what the planner counted.
#[tokio::test]
async fn counts_of_a_journal_are_those_of_its_plans() {
    for fresh in stores().await {
        let journal = phoenix_planner::journal::Journal::open(
            &fresh.url,
            phoenix_platform::readiness::Readiness::needing(&[]),
        )
        .await
        .unwrap();
        for n in 0..60_usize {
            let mut plan = crate::new_plan(&["a"]);
            plan.created_at = plan.plan_id.created_at().unwrap();
            journal.create(vec![crate::accepted(&plan)]).await.unwrap();
            let status = [PlanStatus::Succeeded, PlanStatus::Failed, PlanStatus::Cancelled][n % 3];
            if n % 10 != 9 {
                let entry = phoenix_planner::store::Entry::PlanEnded {
                    plan_id: plan.plan_id,
                    status,
                    at: plan.created_at + Duration::from_millis(5),
                    result: Ok(()),
                };
                journal.append_durable(vec![entry]).await.unwrap();
            }
        }
        let store = &*fresh.store;
        for is_stored in [false, true] {
            if is_stored {
                journal.close().await;
            }
            let plans = store
                .plans(&phoenix_planner::store::PlanFilter { limit: 100, ..Default::default() })
                .await
                .unwrap()
                .items;
            let ended = |status| plans.iter().filter(|plan| plan.status == status).count() as u64;
            let expected = [
                plans.len() as u64,
                ended(PlanStatus::Succeeded),
                ended(PlanStatus::Failed),
                ended(PlanStatus::Cancelled),
            ];
            for length in LENGTHS {
                let since = Period { length, number: 0 };
                let mut sum = Counts::default();
                if is_stored {
                    store.statistics(since).await.unwrap().iter().for_each(|row| sum += &row.counts);
                } else {
                    journal.statistics(since).await.unwrap().values().for_each(|counts| sum += counts);
                }
                assert_eq!([sum.accepted, sum.succeeded, sum.failed, sum.cancelled], expected, "{length}");
                let five = sum.latency.percentile(0.5).unwrap();
                assert!((five / 5.0 - 1.0).abs() < 0.05, "{five}");
            }
        }
    }
}
