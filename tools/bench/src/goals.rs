//! Goals of the product, and whether a measurement meets them.

use std::fmt;

use serde::Serialize;

use crate::measure::{
    CALLERS, CEILING_CONCURRENCY, Chats, InFlight, Mcp, Measured, Million, Models, PARALLEL, Postgres, RATE,
    Start, WAIT, Watchers,
};

/// One goal. Its JSON keys are stable, as those of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    what: String,
    measured: f64,
    bound: Bound,
    wanted: f64,
    unit: Unit,
    pub(crate) met: bool,
}

/// On which side of the wanted number is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    AtLeast,
    AtMost,
    Below,
}

/// Unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Share,
    Percent,
    Times,
    Seconds,
    Milliseconds,
    Megabytes,
    Kibibytes,
    Count,
}

impl Bound {
    fn is_kept(self, measured: f64, wanted: f64) -> bool {
        match self {
            Self::AtLeast => measured >= wanted,
            Self::AtMost => measured <= wanted,
            Self::Below => measured < wanted,
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::AtLeast => "≥",
            Self::AtMost => "≤",
            Self::Below => "<",
        }
    }
}

impl Unit {
    /// A measured number with its unit.
    fn measured(self, number: f64) -> String {
        match self {
            Self::Share => format!("{number:.2}"),
            Self::Percent => format!("{number:.2} %"),
            Self::Times => format!("{number:.1} ×"),
            Self::Seconds => format!("{number:.2} s"),
            Self::Milliseconds => format!("{number:.1} ms"),
            Self::Megabytes => format!("{number:.1} MB"),
            Self::Kibibytes => format!("{number:.0} KiB"),
            Self::Count => format!("{number:.0}"),
        }
    }

    /// A wanted number with its unit.
    fn wanted(self, number: f64) -> String {
        match self {
            Self::Share => format!("{number:.2}"),
            Self::Percent => format!("{number:.0} %"),
            Self::Times => format!("{number:.0} ×"),
            Self::Seconds => format!("{number:.0} s"),
            Self::Milliseconds => format!("{number} ms"),
            Self::Megabytes => format!("{number:.0} MB"),
            Self::Kibibytes => format!("{number:.0} KiB"),
            Self::Count => format!("{number:.0}"),
        }
    }
}

impl Goal {
    fn new(what: impl Into<String>, measured: f64, bound: Bound, wanted: f64, unit: Unit) -> Self {
        Self { what: what.into(), measured, bound, wanted, unit, met: bound.is_kept(measured, wanted) }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, bound, wanted, unit, met } = self;
        let met = if *met { "met" } else { "**missed**" };
        let (measured, wanted) = (unit.measured(*measured), unit.wanted(*wanted));
        write!(f, "| {what} | {measured} | {} {wanted} | {met} |", bound.sign())
    }
}

/// The goals for chats.
pub(crate) fn of_chats(chats: &Chats) -> Vec<Goal> {
    let mut goals = Vec::new();
    for row in &chats.comparisons {
        let at = row.concurrency;
        let share = |wanted| {
            let what = format!("throughput at {at}, as a share of the bare chain's");
            Goal::new(what, row.share(), Bound::AtLeast, wanted, Unit::Share)
        };
        match at {
            1 => {
                let times = row.phoenix.p50_ms / row.bare.p50_ms;
                let what = "p50 at 1, next to the bare chain's";
                goals.push(Goal::new(what, times, Bound::AtMost, 3.0, Unit::Times));
            }
            16 => goals.push(share(0.35)),
            64 => {
                goals.push(share(0.40));
                let times = row.phoenix.p99_ms / row.phoenix.p50_ms;
                let what = "p99 at 64, next to its own p50";
                goals.push(Goal::new(what, times, Bound::AtMost, 4.0, Unit::Times));
            }
            _ => {}
        }
    }
    goals.extend(chats.spawning.as_ref().map(|spawning| {
        let what =
            format!("a process per chat at {CEILING_CONCURRENCY}, as a share of what spawning alone reaches");
        Goal::new(what, spawning.share(), Bound::AtLeast, 0.80, Unit::Share)
    }));
    goals
}

/// The goals for a full journal.
pub(crate) fn of_million(million: &Million) -> [Goal; 3] {
    let plans = million.plans;
    [
        Goal::new(
            format!("throughput at 64 with {plans} finished plans, as a share of that with none"),
            million.share(),
            Bound::AtLeast,
            0.90,
            Unit::Share,
        ),
        Goal::new(
            format!("`GET /api/v1/plans?status=…` with {plans} finished plans, p99"),
            million.listing_p99_ms(),
            Bound::Below,
            20.0,
            Unit::Milliseconds,
        ),
        Goal::new(
            format!("`GET /api/v1/stats?window=24h` with {plans} finished plans, p99"),
            million.statistics.p99_ms,
            Bound::Below,
            50.0,
            Unit::Milliseconds,
        ),
    ]
}

/// The goals for plans in flight.
pub(crate) fn of_in_flight(in_flight: &InFlight) -> [Goal; 3] {
    let plans = in_flight.plans;
    let all = plans as f64;
    [
        Goal::new(
            format!("{plans} plans in flight at once: the planner's resident memory at its peak"),
            megabytes(in_flight.planner_peak_bytes),
            Bound::Below,
            500.0,
            Unit::Megabytes,
        ),
        Goal::new("… of which ended well", in_flight.succeeded as f64, Bound::AtLeast, all, Unit::Count),
        Goal::new(
            "… the most places that one lost to later ones",
            in_flight.places_lost as f64,
            Bound::AtMost,
            all / 10.0,
            Unit::Count,
        ),
    ]
}

/// The goals for watchers of plans without events.
pub(crate) fn of_watchers(watched: &Watchers) -> [Goal; 3] {
    let Watchers { watchers, plans, .. } = *watched;
    [
        Goal::new(
            format!(
                "{watchers} idle watchers of {plans} running plans: what they cost all services, of one core"
            ),
            watched.cost() * 100.0,
            Bound::Below,
            2.0,
            Unit::Percent,
        ),
        Goal::new(
            "… while 50 chats a second of others commit, which must not wake them",
            watched.busy_cost() * 100.0,
            Bound::Below,
            4.0,
            Unit::Percent,
        ),
        Goal::new(
            "… of which heard of their plan's end",
            watched.notified as f64,
            Bound::AtLeast,
            watchers as f64,
            Unit::Count,
        ),
    ]
}

/// The goals for chats with a model.
pub(crate) fn of_models(models: &Models) -> Vec<Goal> {
    let at_most =
        |what: String, measured, wanted| Goal::new(what, measured, Bound::AtMost, wanted, Unit::Milliseconds);
    let streams = &models.streams;
    let all = streams.streams as f64;
    let whole =
        |what: &str, measured: usize| Goal::new(what, measured as f64, Bound::AtLeast, all, Unit::Count);
    let mut goals = vec![
        at_most(
            format!("`/v1/chat/completions` at {RATE} a second: added to the p50"),
            models.added_p50_ms,
            1.5,
        ),
        at_most("… added to the p99".into(), models.added_p99_ms, 6.0),
    ];
    goals.extend(models.times_litellm().map(|times| {
        let what = format!("… throughput of {CALLERS} callers, next to LiteLLM's proxy");
        Goal::new(what, times, Bound::AtLeast, 10.0, Unit::Times)
    }));
    goals.extend([
        at_most("a stream's first token: added to the p50".into(), streams.first_token_added_ms, 5.0),
        whole(&format!("{all} streams of 50 chunks a second: of which came whole"), streams.crowd.whole),
        at_most("… p99 of a chunk's delay in the last second".into(), streams.crowd.last_p99_ms, 250.0),
        Goal::new(
            "… memory of all services for each",
            streams.service_bytes as f64 / 1024.0,
            Bound::Below,
            100.0,
            Unit::Kibibytes,
        ),
        whole(
            "… with one more whose reader does not read: of which came whole",
            streams.with_slow_reader.whole,
        ),
        Goal::new(
            "… p50 of a chunk's delay, next to that without it",
            streams.with_slow_reader.p50_ms / streams.crowd.p50_ms,
            Bound::AtMost,
            2.0,
            Unit::Times,
        ),
    ]);
    goals
}

/// The goals for calls of an MCP server.
pub(crate) fn of_mcp(mcp: &Mcp) -> [Goal; 2] {
    let wait = WAIT.as_secs_f64() * 1000.0;
    [
        Goal::new(
            "a tool of an MCP server through a durable plan: added to the p50",
            mcp.added_p50_ms,
            Bound::AtMost,
            1.5,
            Unit::Milliseconds,
        ),
        Goal::new(
            format!("… {PARALLEL} calls at once, of which each takes {wait} ms: all of them"),
            mcp.parallel_ms,
            Bound::Below,
            3.0 * wait,
            Unit::Milliseconds,
        ),
    ]
}

/// The goals for PostgreSQL, and for SQLite in the same run.
pub(crate) fn of_postgres(measured: &Postgres) -> Vec<Goal> {
    let Postgres { sqlite, postgres, near, far, added_ms, replicas } = measured;
    let at = |rows: &[Measured], concurrency| {
        let row = rows.iter().find(|row| row.concurrency == concurrency);
        row.map_or([f64::NAN; 2], |row| [row.sample.req_per_sec, row.sample.p50_ms])
    };
    let ([_, sqlite_p50], [sqlite_rate, _]) = (at(sqlite, 1), at(sqlite, 64));
    let ([_, p50], [rate, _]) = (at(postgres, 1), at(postgres, 64));
    let share = |what, measured, wanted| Goal::new(what, measured, Bound::AtLeast, wanted, Unit::Share);
    let mut goals = vec![
        share("PostgreSQL: throughput at 64, as a share of SQLite's".to_owned(), rate / sqlite_rate, 0.30),
        Goal::new("… p50 at 1, next to SQLite's", p50 / sqlite_p50, Bound::AtMost, 3.0, Unit::Times),
        share(
            format!(
                "… throughput at {} with {added_ms:.1} ms more per round trip, as a share of that without",
                far.concurrency
            ),
            far.sample.req_per_sec / near.sample.req_per_sec,
            0.70,
        ),
        share(
            "… throughput at 64 of two planners and two executors, as a share of one of each".to_owned(),
            replicas.sample.req_per_sec / rate,
            0.85,
        ),
    ];
    goals.extend(sqlite.iter().map(|Measured { concurrency, sample, .. }| {
        let what = format!("SQLite: p99 at {concurrency}, next to its own p50");
        Goal::new(what, sample.p99_ms / sample.p50_ms, Bound::AtMost, 4.0, Unit::Times)
    }));
    goals
}

/// The goals for a fresh stack.
pub(crate) fn of_start(start: &Start) -> [Goal; 2] {
    let memory = &start.idle_memory;
    let proportional = megabytes(memory.pss_bytes);
    [
        Goal::new(
            "`phoenix up`: from start to ready line",
            start.ready_secs,
            Bound::Below,
            1.0,
            Unit::Seconds,
        ),
        Goal::new(
            format!("{} idle processes, resident (proportional: {proportional:.1} MB)", memory.processes),
            megabytes(memory.rss_bytes),
            Bound::Below,
            80.0,
            Unit::Megabytes,
        ),
    ]
}

pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goal_without_a_measured_figure_is_missed() {
        let goal = |measured, bound| Goal::new("x", measured, bound, 0.4, Unit::Share);
        for (measured, bound, met) in [
            (0.4, Bound::AtLeast, true),
            (0.39, Bound::AtLeast, false),
            (0.4, Bound::AtMost, true),
            (0.41, Bound::AtMost, false),
            (0.4, Bound::Below, false),
            (f64::NAN, Bound::AtLeast, false),
            (f64::NAN, Bound::AtMost, false),
            (f64::NAN, Bound::Below, false),
        ] {
            assert_eq!(goal(measured, bound).met, met, "{measured} {bound:?}");
        }
        assert_eq!(goal(0.5, Bound::AtLeast).to_string(), "| x | 0.50 | ≥ 0.40 | met |");
        assert_eq!(goal(0.5, Bound::AtMost).to_string(), "| x | 0.50 | ≤ 0.40 | **missed** |");
    }
}
