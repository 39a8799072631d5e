//! Chats with a model through `/v1/chat/completions`, next to the same chats with the model itself.
//!
//! The upstream answers at once, so that what is measured is the way there and back.

mod litellm;
mod reader;
mod streams;

use std::{num::NonZeroUsize, path::Path};

use phoenix_load_tester::{Engine, Pace, Target};
use serde::Serialize;

use self::litellm::LiteLlm;
pub(crate) use self::streams::{Crowd, Streams};
use super::sample::{MESSAGE, Sample, Scale, median, send_all_paced, send_paced};
use crate::{
    failure::{Doing, Result},
    stack::{Home, Stack},
    upstream::Upstream,
};

/// Chats per second of the latency.
pub(crate) const RATE: f64 = 200.0;

/// Callers of the throughput.
pub(crate) const CALLERS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Models {
    /// The upstream, asked directly and through Phoenix, at [`RATE`] chats per second.
    pub(crate) direct: Sample,
    pub(crate) phoenix: Sample,
    /// What Phoenix adds: the medians of the differences of each round.
    pub(crate) added_p50_ms: f64,
    pub(crate) added_p99_ms: f64,
    /// [`CALLERS`] that each send the next chat when the last one is answered.
    pub(crate) direct_closed: Sample,
    pub(crate) phoenix_closed: Sample,
    /// LiteLLM's proxy in front of the same upstream, where it is installed.
    pub(crate) litellm_closed: Option<Sample>,
    pub(crate) streams: Streams,
}

impl Models {
    /// Phoenix's throughput next to that of LiteLLM's proxy.
    pub(crate) fn times_litellm(&self) -> Option<f64> {
        Some(self.phoenix_closed.req_per_sec / self.litellm_closed?.req_per_sec)
    }
}

pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<Models> {
    let upstream = Upstream::start().await?;
    let home = Home::new(&upstream.settings(""))?;
    let stack = Stack::start(phoenix, &home).await?;
    let litellm = LiteLlm::start(&upstream).await?;
    let chats = chats(&upstream, &stack, litellm.as_ref(), scale).await;
    let chats = chats.map_err(|failure| stack.blamed(failure))?;
    stack.stop().await?;
    drop(litellm);
    let streams = streams::measure(phoenix, &upstream, scale).await?;
    upstream.stop().await?;
    Ok(chats.with(streams))
}

/// What is measured before the streams.
struct Chats {
    rounds: Vec<[Sample; 2]>,
    closed: [Vec<Sample>; 3],
}

/// Chats in alternating rounds.
async fn chats(
    upstream: &Upstream,
    stack: &Stack<'_>,
    litellm: Option<&LiteLlm>,
    scale: &Scale,
) -> Result<Chats> {
    let engine = |url: &str, model: &str| {
        Ok::<_, crate::failure::Failure>(Engine::new(
            Target::completions(url, model, MESSAGE).doing("benchmark")?,
        ))
    };
    let mut direct = engine(&upstream.url, "m")?;
    let mut phoenix = engine(&stack.url, "phoenix")?;
    let mut litellm = litellm.map(|litellm| engine(&litellm.url, "m")).transpose()?;
    let mut measured = Chats { rounds: Vec::new(), closed: Default::default() };
    for round in 1..=scale.rounds {
        let label = format!("round {round} of {}, {RATE} chats/s", scale.rounds);
        let open = Pace::Open { per_second: RATE };
        let alone = sample(&mut direct, open, scale).await?.logged(&label, "the upstream");
        let through = sample(&mut phoenix, open, scale).await?.logged(&label, "Phoenix");
        measured.rounds.push([alone, through]);
        let label = format!("round {round} of {}, {CALLERS} callers", scale.rounds);
        let [directs, phoenixes, litellms] = &mut measured.closed;
        directs.push(sample(&mut direct, Pace::Closed, scale).await?.logged(&label, "the upstream"));
        phoenixes.push(sample(&mut phoenix, Pace::Closed, scale).await?.logged(&label, "Phoenix"));
        if let Some(litellm) = &mut litellm {
            litellms.push(sample(litellm, Pace::Closed, scale).await?.logged(&label, "LiteLLM's proxy"));
        }
    }
    Ok(measured)
}

async fn sample(engine: &mut Engine, pace: Pace, scale: &Scale) -> Result<Sample> {
    send_paced(engine, pace, CALLERS, scale.warmup).await?;
    Sample::of(&send_all_paced(engine, pace, CALLERS, scale.duration).await?)
}

impl Chats {
    fn with(self, streams: Streams) -> Models {
        let added = |of: fn(&Sample) -> f64| {
            median(self.rounds.iter().map(|[alone, through]| of(through) - of(alone)).collect())
        };
        let column =
            |index: usize| Sample::median(&self.rounds.iter().map(|round| round[index]).collect::<Vec<_>>());
        let [direct_closed, phoenix_closed, litellm] = &self.closed;
        Models {
            direct: column(0),
            phoenix: column(1),
            added_p50_ms: added(|sample| sample.p50_ms),
            added_p99_ms: added(|sample| sample.p99_ms),
            direct_closed: Sample::median(direct_closed),
            phoenix_closed: Sample::median(phoenix_closed),
            litellm_closed: (!litellm.is_empty()).then(|| Sample::median(litellm)),
            streams,
        }
    }
}
