//! The result of a benchmark, as Markdown for people and as JSON for programs.

use std::{fmt, fs, thread};

use serde::Serialize;

use crate::{
    measure::{CEILING_CONCURRENCY, Sample},
    memory::Memory,
};

const SPAWN_GOAL: f64 = 0.80;
const READY_GOAL_SECS: f64 = 1.0;
const MEMORY_GOAL_MB: f64 = 80.0;

/// The result. Its JSON keys are stable: new ones may come, none goes or changes its meaning.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    quick: bool,
    comparisons: Vec<Comparison>,
    /// Agent processes, run alone, at the concurrency of [`CEILING_CONCURRENCY`].
    spawn_ceiling: Sample,
    /// Phoenix's share of it.
    spawn_ratio: f64,
    ready_secs: f64,
    idle_memory: Memory,
}

/// One concurrency.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) concurrency: usize,
    pub(crate) bare: Sample,
    pub(crate) phoenix: Sample,
}

impl Comparison {
    fn ratio(&self) -> f64 {
        self.phoenix.req_per_sec / self.bare.req_per_sec
    }
}

impl Report {
    pub(crate) fn new(
        quick: bool,
        ready_secs: f64,
        idle_memory: Memory,
        comparisons: Vec<Comparison>,
        spawn_ceiling: Sample,
    ) -> Self {
        let at_ceiling = comparisons.iter().find(|row| row.concurrency == CEILING_CONCURRENCY.get());
        let reached = at_ceiling.map_or(f64::NAN, |row| row.phoenix.req_per_sec);
        Self {
            machine: machine(),
            quick,
            spawn_ratio: reached / spawn_ceiling.req_per_sec,
            comparisons,
            spawn_ceiling,
            ready_secs,
            idle_memory,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.quick { " (quick: a look, not a result)" } else { "" };
        writeln!(f, "Machine: {}{extent}\n", self.machine)?;
        writeln!(f, "| | concurrency | req/s | p50 ms | p99 ms | of the bare chain |")?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|")?;
        for row in &self.comparisons {
            sample(f, "bare chain", row.concurrency, &row.bare, "")?;
            sample(f, "Phoenix", row.concurrency, &row.phoenix, &format!("{:.3}", row.ratio()))?;
        }
        sample(f, "`phoenix agent echo` alone", CEILING_CONCURRENCY.get(), &self.spawn_ceiling, "")?;
        let Memory { processes, rss_bytes, pss_bytes } = self.idle_memory;
        writeln!(f, "\n| goal | measured | wanted | |\n|---|--:|--:|---|")?;
        goal(
            f,
            &format!("Phoenix's share of what spawning alone reaches, concurrency {CEILING_CONCURRENCY}"),
            &format!("{:.2}", self.spawn_ratio),
            &format!("≥ {SPAWN_GOAL:.2}"),
            self.spawn_ratio >= SPAWN_GOAL,
        )?;
        goal(
            f,
            "`phoenix up`: from start to ready line",
            &format!("{:.2} s", self.ready_secs),
            &format!("< {READY_GOAL_SECS:.0} s"),
            self.ready_secs < READY_GOAL_SECS,
        )?;
        goal(
            f,
            &format!("{processes} idle processes, resident (proportional: {:.1} MB)", megabytes(pss_bytes)),
            &format!("{:.1} MB", megabytes(rss_bytes)),
            &format!("< {MEMORY_GOAL_MB:.0} MB"),
            megabytes(rss_bytes) < MEMORY_GOAL_MB,
        )
    }
}

fn sample(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    concurrency: usize,
    sample: &Sample,
    ratio: &str,
) -> fmt::Result {
    let Sample { req_per_sec, p50_ms, p99_ms } = sample;
    writeln!(f, "| {what} | {concurrency} | {req_per_sec:.0} | {p50_ms:.2} | {p99_ms:.2} | {ratio} |")
}

fn goal(f: &mut fmt::Formatter<'_>, what: &str, measured: &str, wanted: &str, met: bool) -> fmt::Result {
    writeln!(f, "| {what} | {measured} | {wanted} | {} |", if met { "met" } else { "**missed**" })
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Processor and cores, as far as they can be found out.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} × {}", model.map_or(std::env::consts::ARCH, |(_, model)| model.trim()))
}
