//! Chats at several concurrencies: Phoenix next to the bare chain, and its process per chat next to bare spawning, in
//! alternating rounds.

use std::{num::NonZeroUsize, path::Path};

use phoenix_load_tester::Engine;
use serde::Serialize;

use super::{
    disk,
    sample::{Sample, Scale, engine, sample},
};
use crate::{
    bare::BareChain,
    ceiling,
    failure::Result,
    stack::{Home, Stack},
};

const CONCURRENCIES: [NonZeroUsize; 3] =
    [NonZeroUsize::MIN, NonZeroUsize::new(16).unwrap(), NonZeroUsize::new(64).unwrap()];

/// Concurrency at which the goal of the spawn ceiling applies.
pub(crate) const CEILING_CONCURRENCY: NonZeroUsize = CONCURRENCIES[1];

/// One process per chat, as in bare spawning.
const ONESHOT: &str = "[agents.echo_agent]\nmode = \"oneshot\"\n";

/// The result.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Chats {
    pub(crate) comparisons: Vec<Comparison>,
    /// Durable appends to a file, one at a time, by the benchmark itself.
    pub(crate) disk: Option<Sample>,
    pub(crate) spawning: Option<Spawning>,
}

/// One concurrency.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) concurrency: usize,
    /// The bare chain.
    pub(crate) bare: Sample,
    /// Phoenix with its defaults: warm workers.
    pub(crate) phoenix: Sample,
}

/// A process per chat, at the concurrency of [`CEILING_CONCURRENCY`].
#[derive(Debug, Serialize)]
pub(crate) struct Spawning {
    /// Agent processes, run alone.
    pub(crate) ceiling: Sample,
    /// Phoenix with the agent in mode `oneshot`.
    pub(crate) oneshot: Sample,
}

impl Comparison {
    /// Phoenix's throughput as a share of the bare chain's.
    pub(crate) fn share(&self) -> f64 {
        self.phoenix.req_per_sec / self.bare.req_per_sec
    }
}

impl Spawning {
    /// Phoenix's throughput as a share of what spawning alone reaches.
    pub(crate) fn share(&self) -> f64 {
        self.oneshot.req_per_sec / self.ceiling.req_per_sec
    }
}

pub(super) async fn measure(phoenix: &Path, warm: bool, spawn: bool, scale: &Scale) -> Result<Chats> {
    let (warm_home, oneshot_home) = (Home::new("")?, Home::new(ONESHOT)?);
    let mut pair = if warm { Some(Pair::start(phoenix, &warm_home).await?) } else { None };
    let mut oneshot = if spawn { Some(Driven::start(phoenix, &oneshot_home).await?) } else { None };
    let mut compared = CONCURRENCIES.map(|_| (Vec::new(), Vec::new()));
    let mut spawned = (Vec::new(), Vec::new());
    let mut appended = Vec::new();
    for round in 1..=scale.rounds {
        if warm {
            let alone = disk::sample(warm_home.path(), scale.warmup)?;
            appended.push(alone.logged(&format!("round {round} of {}", scale.rounds), "the disk alone"));
        }
        for (concurrency, compared) in CONCURRENCIES.into_iter().zip(&mut compared) {
            let label = format!("round {round} of {}, concurrency {concurrency}", scale.rounds);
            if let Some(pair) = &mut pair {
                compared
                    .0
                    .push(sample(&mut pair.to_bare, concurrency, scale).await?.logged(&label, "bare chain"));
                compared.1.push(pair.warm.sample(concurrency, scale).await?.logged(&label, "Phoenix"));
            }
            if let Some(oneshot) = oneshot.as_mut().filter(|_| concurrency == CEILING_CONCURRENCY) {
                let alone = ceiling::sample(phoenix, concurrency, scale.duration).await?;
                spawned.0.push(alone.logged(&label, "processes alone"));
                spawned
                    .1
                    .push(oneshot.sample(concurrency, scale).await?.logged(&label, "a process per chat"));
            }
        }
    }
    let mut result = Chats::default();
    if let Some(Pair { bare, warm, .. }) = pair {
        let medians = CONCURRENCIES.iter().zip(&compared).map(|(concurrency, (bare, phoenix))| Comparison {
            concurrency: concurrency.get(),
            bare: Sample::median(bare),
            phoenix: Sample::median(phoenix),
        });
        result.comparisons = medians.collect();
        result.disk = Some(Sample::median(&appended));
        warm.stop().await?;
        bare.stop().await?;
    }
    if let Some(oneshot) = oneshot {
        let (ceiling, medians) = (Sample::median(&spawned.0), Sample::median(&spawned.1));
        result.spawning = Some(Spawning { ceiling, oneshot: medians });
        oneshot.stop().await?;
    }
    Ok(result)
}

/// The bare chain and a stack with its defaults.
struct Pair<'home> {
    bare: BareChain,
    to_bare: Engine,
    warm: Driven<'home>,
}

impl<'home> Pair<'home> {
    async fn start(phoenix: &Path, home: &'home Home) -> Result<Self> {
        let bare = BareChain::start().await?;
        Ok(Self { to_bare: engine(&bare.url)?, bare, warm: Driven::start(phoenix, home).await? })
    }
}

/// A stack, and what sends chats to it.
pub(super) struct Driven<'home> {
    stack: Stack<'home>,
    engine: Engine,
}

impl<'home> Driven<'home> {
    pub(super) async fn start(phoenix: &Path, home: &'home Home) -> Result<Self> {
        let stack = Stack::start(phoenix, home).await?;
        Ok(Self { engine: engine(&stack.url)?, stack })
    }

    /// A sample, and when a chat fails the stack's side of the story.
    pub(super) async fn sample(&mut self, concurrency: NonZeroUsize, scale: &Scale) -> Result<Sample> {
        let sampled = sample(&mut self.engine, concurrency, scale).await;
        sampled.map_err(|failure| self.stack.blamed(failure))
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.stack.stop().await
    }
}
