//! A journal full of finished plans, written by plain SQL without a planner, in one transaction per progress message.
//!
//! The rows are those of chats as the planner would have written them: a plan, its task, its attempt, six events; a few
//! failed, fewer were cancelled. Times and ids run up to the present, so that no plan is old enough to be
//! deleted, and rows are in the order in which a planner writes them.

use std::{path::Path, time::Instant};

use jiff::Timestamp;
use sqlx::{
    ConnectOptions, Connection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::failure::{Doing, Result};

/// Plans per statement.
const CHUNK: u32 = 20_000;

/// Plans between two progress messages.
const PLANS_PER_MESSAGE: u32 = 100_000;

/// Time from one plan to the next in microseconds.
const APART: i64 = 70_000;

/// The plans that are to be written next: number, id, time, how it ended.
const NUMBERS: &str = "
    CREATE TEMP TABLE chunk (n INTEGER PRIMARY KEY, plan_id TEXT, at INTEGER, status TEXT)";

/// Ids of version 7, whose first 48 bits are the milliseconds.
const CHOOSE: &str = "
    INSERT INTO chunk (n, plan_id, at, status)
    WITH RECURSIVE numbers (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?2)
    SELECT n,
           printf('%08x-%04x-7%03x-8%03x-%012x', (at / 1000) >> 16, (at / 1000) & 65535, n & 4095,
                  abs(random()) & 4095, abs(random()) & 281474976710655),
           at, iif(n % 100 = 0, 'cancelled', iif(n % 25 = 1, 'failed', 'succeeded'))
    FROM (SELECT n, ?3 + n * ?4 AS at FROM numbers)";

const ERROR: &str = "
    CASE status
        WHEN 'failed' THEN json_object(
            'code', 'execution_failed', 'message', 'agent `echo_agent` failed 1 times; the last time it exited with code 3',
            'details', json_object('agent', 'echo_agent', 'attempts', '1', 'error_class', 'backend_failure',
                                   'exit_code', '3', 'stderr', 'cannot open the index'))
        WHEN 'cancelled' THEN json_object('code', 'cancelled', 'message', 'the caller went away before the plan ended',
                                          'details', json_object())
    END";

const PLANS: &str = "
    INSERT INTO plans (plan_id, correlation_id, kind, status, owner, created_at, ended_at, context, output, error)
    SELECT plan_id,
           lower(printf('%s-%s-4%s-8%s-%s', hex(randomblob(4)), hex(randomblob(2)), substr(hex(randomblob(2)), 2),
                        substr(hex(randomblob(2)), 2), hex(randomblob(6)))),
           'chat', status, '5d0e8f4e-6f9c-4d0b-8a53-1f6e0f0c9b7a', at, at + 9000, '',
           iif(status = 'succeeded', 'hello from the benchmark', NULL), {error}
    FROM chunk ORDER BY n";

const TASKS: &str = "
    INSERT INTO tasks (plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure, status, queued_at,
                       dispatched_at, ended_at, output, error)
    SELECT plan_id, 0, printf('%s%012x', substr(plan_id, 1, 24), abs(random()) & 281474976710655), 'chat', 'echo_agent',
           'chat', json_object('message', 'hello from the benchmark'), '[]', 'fail',
           iif(status = 'failed', 'dead_lettered', status), at, at + 2000, at + 8000,
           iif(status = 'succeeded', json_object('output_type', 'text', 'data', 'hello from the benchmark',
                                                 'metadata', json_object()), NULL), {error}
    FROM chunk ORDER BY n";

const ATTEMPTS: &str = "
    INSERT INTO attempts (plan_id, ordinal, number, started_at, ended_at, outcome, error_class, message, stderr_tail,
                          worker)
    SELECT plan_id, 0, 1, at + 3000, at + 8000, status, iif(status = 'failed', 'backend_failure', NULL),
           iif(status = 'failed', 'exited with code 3', NULL), iif(status = 'failed', 'cannot open the index', NULL),
           'pid 4711'
    FROM chunk ORDER BY n";

/// The six events of a plan that ended a moment after it was accepted.
const SIX_EVENTS: &str = "
    json_array(
        json_array(NULL, 'plan_accepted', at, json_object('correlation_id', plan_id, 'tasks', 1)),
        json_array(0, 'task_dispatched', at + 1500, json_object()),
        json_array(0, 'attempt_started', at + 3000, json_object('attempt', 1, 'worker', 'pid 4711')),
        json_array(0, 'attempt_ended', at + 4500,
                   json_object('attempt', 1, 'outcome', status, 'error_class', NULL, 'retried', json('false'))),
        json_array(0, 'task_ended', at + 6000, json_object('status', status)),
        json_array(NULL, 'plan_ended', at + 7500, json_object('status', status)))";

const EVENTS: &str = "
    INSERT INTO events (plan_id, position, events)
    SELECT plan_id, 6 * n + 1, {events} FROM chunk ORDER BY n";

/// Dead letters of failed plans.
const DEAD_LETTERS: &str = "
    INSERT INTO dead_letters (plan_id, ordinal, at, agent, code, error_class)
    SELECT plan_id, 0, at + 8000, 'echo_agent', 'execution_failed', 'backend_failure'
    FROM chunk WHERE status = 'failed' ORDER BY n";

/// What two planners would have counted in periods of so many minutes: half each, and durations over forty buckets.
const STATISTICS: &str = "
    WITH RECURSIVE buckets (bucket) AS (SELECT 24 UNION ALL SELECT bucket + 1 FROM buckets WHERE bucket < 63),
    counted AS (
        SELECT created_at / 60000000 / ?1 AS period, count(*) AS accepted, sum(status = 'succeeded') AS succeeded,
               sum(status = 'failed') AS failed, sum(status = 'cancelled') AS cancelled
        FROM plans GROUP BY 1
    )
    INSERT INTO {table}
    SELECT {length}period, planner, json_object(
        'accepted', accepted / 2, 'succeeded', succeeded / 2, 'failed', failed / 2, 'cancelled', cancelled / 2,
        'latency', (SELECT json_group_object(bucket, accepted / 80 + 1) FROM buckets),
        'wait', (SELECT json_group_object(bucket - 24, accepted / 80 + 1) FROM buckets),
        'cost_nanos', accepted * 1000, 'input_tokens', accepted * 10, 'output_tokens', accepted * 5)
    FROM counted, (SELECT 'first' AS planner UNION ALL SELECT 'second')";

/// Where the next event goes.
const POSITION: &str = "UPDATE journal SET position = 6 * ?1";

/// Writes `plans` finished plans into the journal in `file`, which no planner has open, and has it all on disk.
pub(super) async fn fill(file: &Path, plans: u32) -> Result<()> {
    let started = Instant::now();
    let connect = SqliteConnectOptions::new()
        .filename(file)
        // The benchmark is the only reader, and a file lost in a power failure is written again.
        .journal_mode(SqliteJournalMode::Off)
        .synchronous(SqliteSynchronous::Off)
        .foreign_keys(false)
        .pragma("cache_size", "-262144")
        .pragma("temp_store", "memory");
    let mut journal = connect.connect().await.doing("journal")?;
    sqlx::query(NUMBERS).execute(&mut journal).await.doing("journal")?;
    let filled = |statement: &str| {
        sqlx::AssertSqlSafe(statement.replace("{error}", ERROR).replace("{events}", SIX_EVENTS))
    };
    let base = Timestamp::now().as_microsecond() - i64::from(plans) * APART;
    for from in (0..plans).step_by(CHUNK as usize) {
        let to = plans.min(from + CHUNK);
        let mut chunk = journal.begin().await.doing("journal")?;
        let chosen = sqlx::query(CHOOSE).bind(from).bind(to).bind(base).bind(APART);
        chosen.execute(&mut *chunk).await.doing("journal")?;
        for statement in [PLANS, TASKS, ATTEMPTS, EVENTS, DEAD_LETTERS, "DELETE FROM chunk"] {
            sqlx::query(filled(statement)).execute(&mut *chunk).await.doing("journal")?;
        }
        sqlx::query(POSITION).bind(to).execute(&mut *chunk).await.doing("journal")?;
        chunk.commit().await.doing("journal")?;
        if to.is_multiple_of(PLANS_PER_MESSAGE) || to == plans {
            eprintln!("journal: {to} of {plans} plans, {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    for length in [1, 5, 10] {
        let (table, column) = if length == 1 { ("statistics", "") } else { ("statistics_rollups", "?1, ") };
        let statement = STATISTICS.replace("{table}", table).replace("{length}", column);
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(length)
            .execute(&mut journal)
            .await
            .doing("journal")?;
    }
    journal.close().await.doing("journal")?;
    // As a planner leaves it.
    let as_usual = SqliteConnectOptions::new().filename(file).journal_mode(SqliteJournalMode::Wal);
    as_usual.connect().await.doing("journal")?.close().await.doing("journal")?;
    // Or the system would write it while something is measured.
    tokio::fs::File::open(file).await?.sync_all().await?;
    let bytes = tokio::fs::metadata(file).await?.len();
    eprintln!("journal: {:.1} GB on disk, {:.0} s", bytes as f64 / 1e9, started.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use phoenix_domain::plan::{AttemptOutcome, PlanStatus, TaskStatus};
    use phoenix_planner::store::{self, PlanFilter};

    use super::*;

    const KINDS: [&str; 6] =
        ["plan_accepted", "task_dispatched", "attempt_started", "attempt_ended", "task_ended", "plan_ended"];

    #[tokio::test]
    async fn the_planner_reads_these_plans_as_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("planner.db");
        let url = format!("sqlite://{}", file.display());
        // In order, so that the write-ahead log is folded into the file.
        store::open(&url).await.unwrap().close().await;
        fill(&file, 200).await.unwrap();

        let store = store::open(&url).await.unwrap();
        let plans = store.plans(&PlanFilter { limit: 500, ..PlanFilter::default() }).await.unwrap().items;
        assert!(plans.is_sorted_by(|newer, older| newer.created_at > older.created_at), "newest first");
        let mut ends = BTreeMap::new();
        for summary in &plans {
            let plan = store.plan(summary.plan_id).await.unwrap().unwrap();
            *ends.entry(plan.status.as_str()).or_insert(0) += 1;
            let [task] = &plan.tasks[..] else { panic!("a chat has one task: {plan:?}") };
            let [attempt] = &task.attempts[..] else { panic!("it was attempted once: {plan:?}") };
            let agrees = match (plan.status, task.status, &attempt.outcome) {
                (PlanStatus::Succeeded, TaskStatus::Succeeded, Some(AttemptOutcome::Succeeded)) => {
                    plan.output.is_some() && task.output.is_some() && plan.error.is_none()
                }
                (PlanStatus::Failed, TaskStatus::DeadLettered, Some(AttemptOutcome::Failed { .. }))
                | (PlanStatus::Cancelled, TaskStatus::Cancelled, Some(AttemptOutcome::Cancelled { .. })) => {
                    plan.error.is_some() && task.error.is_some() && plan.output.is_none()
                }
                _ => false,
            };
            assert!(agrees, "{plan:?}");
            let events = store.events(plan.plan_id, 0, 10).await.unwrap();
            assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), KINDS);
        }
        assert_eq!(store.open_dead_letters().await.unwrap().count, 8);
        assert_eq!(ends, BTreeMap::from([("cancelled", 2), ("failed", 8), ("succeeded", 190)]));
        for length in store::LENGTHS {
            let counted = store.statistics(store::Period { length, number: 0 }).await.unwrap();
            let accepted: u64 = counted.iter().map(|row| row.counts.accepted).sum();
            assert!((198..=200).contains(&accepted), "{length}: {accepted}");
        }
        let newest = store.events(plans[0].plan_id, 0, 10).await.unwrap();
        assert_eq!(newest.last().map(|event| event.position), Some(1200), "no position is given twice");
    }
}
