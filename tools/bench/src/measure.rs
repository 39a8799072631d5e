//! The parts of a benchmark, in the order in which they are measured.

mod chats;
mod disk;
mod fill;
mod inflight;
mod mcp;
mod million;
mod models;
mod postgres;
mod sample;
mod start;
mod watchers;

use std::path::PathBuf;

use clap::ValueEnum;

use self::sample::{FULL, QUICK};
pub(crate) use self::{
    chats::{CEILING_CONCURRENCY, Chats},
    inflight::InFlight,
    mcp::{Mcp, PARALLEL, WAIT},
    million::{Lookup, Million},
    models::{CALLERS, Crowd, Models, RATE},
    postgres::{Measured, Postgres},
    sample::{MESSAGE, Sample},
    start::Start,
    watchers::Watchers,
};
use crate::{
    failure::{Failure, Result},
    report::Report,
    stack,
};

/// Part of the benchmark that can be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Readiness and idle memory
    Start,
    /// Chats to warm workers, next to the bare chain
    Warm,
    /// A process per chat, next to bare spawning
    Spawn,
    /// A journal of a million plans, next to an empty one
    Million,
    /// Ten thousand plans at once
    Inflight,
    /// A thousand watchers of plans without events
    Watchers,
    /// Chats with a model that answers at once, streamed and not
    Models,
    /// Calls of an MCP server's tool, next to the server itself
    Mcp,
    /// Chats on PostgreSQL, next to those on SQLite
    Postgres,
}

/// Selection of parts, and thoroughness.
pub(crate) struct Wanted {
    /// The executable.
    pub(crate) phoenix: PathBuf,
    pub(crate) parts: Vec<Part>,
    /// Whether the parts were named, as opposed to all of them.
    pub(crate) is_chosen: bool,
    pub(crate) quick: bool,
}

impl Wanted {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// Measures the selected parts one after the other.
pub(crate) async fn measure(wanted: &Wanted) -> Result<Report> {
    let scale = if wanted.quick { QUICK } else { FULL };
    let phoenix = &wanted.phoenix;
    let mut report = Report::new(wanted.quick, stack::homes_are_in_memory());
    if wanted.has(Part::Start) {
        report.start = Some(start::measure(phoenix, &scale).await?);
    }
    if wanted.has(Part::Warm) || wanted.has(Part::Spawn) {
        let (warm, spawn) = (wanted.has(Part::Warm), wanted.has(Part::Spawn));
        report.chats = chats::measure(phoenix, warm, spawn, &scale).await?;
    }
    if wanted.has(Part::Million) {
        report.million = Some(million::measure(phoenix, &scale).await?);
    }
    if wanted.has(Part::Inflight) {
        report.in_flight = Some(inflight::measure(phoenix, &scale).await?);
    }
    if wanted.has(Part::Watchers) {
        report.watchers = Some(watchers::measure(phoenix, &scale).await?);
    }
    if wanted.has(Part::Models) {
        report.models = Some(models::measure(phoenix, &scale).await?);
    }
    if wanted.has(Part::Mcp) {
        report.mcp = Some(mcp::measure(phoenix, &scale).await?);
    }
    if wanted.has(Part::Postgres) {
        report.postgres = postgres::measure(phoenix, &scale).await?;
        if report.postgres.is_none() && wanted.is_chosen {
            return Err(Failure::new(
                "the part `postgres` needs PostgreSQL: install the Debian package postgresql",
            ));
        }
    }
    Ok(report)
}
