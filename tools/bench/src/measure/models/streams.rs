//! Streamed chats: the time to the first token, hundreds of streams at once, and a reader that does not read.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use phoenix_platform::config::Role;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    super::sample::{Scale, median, quantile_ms},
    reader::Reader,
};
use crate::{
    failure::{Failure, Result},
    memory,
    stack::{Home, Stack},
    upstream::{Pace, Upstream, micros},
};

/// Streams at once.
pub(crate) const STREAMS: usize = 200;

/// Time between two chunks of a stream: fifty each second.
const INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of a chunk for the reader that does not read: more than the buffers on the way take.
const FAT: usize = 8 * 1024;

/// Its receive buffer.
const SMALL_BUFFER: u32 = 4 * 1024;

/// A stream of one chunk, for the first token.
const SHORT: Pace = Pace { chunks: 1, interval: Duration::ZERO, padding: 0 };

/// A stream that takes so long that every one of them needs a worker of its own.
const LONG: Pace = Pace { chunks: 2, interval: Duration::from_secs(30), padding: 0 };

/// Workers that start at the same time.
const STARTS: usize = 8;

/// Time for the workers to start, and for streams to end after the time that they take.
const LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    /// Time from a request to the first text of its answer, one stream at a time: the median of each round's median.
    pub(crate) first_token_direct_ms: f64,
    pub(crate) first_token_phoenix_ms: f64,
    /// The median of the rounds' differences.
    pub(crate) first_token_added_ms: f64,
    pub(crate) streams: usize,
    pub(crate) crowd: Crowd,
    /// The same with one more stream whose reader does not read.
    pub(crate) with_slow_reader: Crowd,
    /// What all services hold more than before the streams, in bytes for each.
    pub(crate) service_bytes: u64,
    /// What a worker of the agent holds, in bytes: each stream occupies one.
    pub(crate) worker_bytes: u64,
}

/// Many streams at once.
#[derive(Debug, Serialize)]
pub(crate) struct Crowd {
    /// Streams that brought every chunk and their end.
    pub(crate) whole: usize,
    /// Time between when a chunk was due and when its reader had it.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The same in the last second: of streams that fall behind, it grows.
    pub(crate) last_p99_ms: f64,
}

pub(super) async fn measure(phoenix: &Path, upstream: &Upstream, scale: &Scale) -> Result<Streams> {
    let workers = STREAMS + 1;
    let home = Home::new(&upstream.settings(&format!("[agents.llm_router_agent]\nworkers = {workers}\n")))?;
    let stack = Stack::start(phoenix, &home).await?;
    let streams = streams(&stack, upstream, scale).await.map_err(|failure| stack.blamed(failure))?;
    stack.stop().await?;
    Ok(streams)
}

async fn streams(stack: &Stack<'_>, upstream: &Upstream, scale: &Scale) -> Result<Streams> {
    let mut firsts: Vec<[f64; 2]> = Vec::new();
    for round in 1..=scale.rounds {
        let direct = first_token_ms(&upstream.url, &SHORT.model(), scale).await?;
        let through = first_token_ms(&stack.url, &named(SHORT), scale).await?;
        eprintln!(
            "round {round} of {}, first token: {direct:.2} ms, through Phoenix {through:.2} ms",
            scale.rounds
        );
        firsts.push([direct, through]);
    }
    let services = || Ok::<_, Failure>(memory::of_children(stack.pid()?)?.rss_bytes);
    let chunks = u32::try_from(scale.stream_length.as_millis() / INTERVAL.as_millis()).unwrap_or(u32::MAX);
    let pace = Pace { chunks, interval: INTERVAL, padding: 0 };
    let before = services()?;
    start_workers(stack).await?;
    let meanwhile = async {
        tokio::time::sleep(scale.stream_length / 2).await;
        let workers = memory::of_children(stack.service(Role::Executor)?)?;
        Ok::<_, Failure>((services()?, workers.pss_bytes / workers.processes.max(1) as u64))
    };
    let (crowd, used) = tokio::join!(crowd(&stack.url, pace), meanwhile);
    let (crowd, (during, worker_bytes)) = (crowd?.logged("alone"), used?);
    let fat = Pace { padding: FAT, ..pace };
    let slow = Reader::open(&stack.url, &named(fat), Some(SMALL_BUFFER)).await?;
    let with_slow_reader = self::crowd(&stack.url, pace).await?.logged("with a slow reader");
    drop(slow);
    let column = |index: usize| median(firsts.iter().map(|first| first[index]).collect());
    Ok(Streams {
        first_token_direct_ms: column(0),
        first_token_phoenix_ms: column(1),
        first_token_added_ms: median(firsts.iter().map(|[direct, through]| through - direct).collect()),
        streams: STREAMS,
        crowd,
        with_slow_reader,
        service_bytes: during.saturating_sub(before) / STREAMS as u64,
        worker_bytes,
    })
}

/// The model behind Phoenix.
fn named(pace: Pace) -> String {
    format!("bench/{}", pace.model())
}

/// Has a worker started for every stream, a few at a time: they start when they are needed, and stay. Hundreds of processes that
/// start at once would take the processors from the services for seconds.
async fn start_workers(stack: &Stack<'_>) -> Result<()> {
    let executor = stack.service(Role::Executor)?;
    let mut streams = Vec::new();
    while streams.len() < STREAMS {
        for _ in 0..STARTS {
            streams.push(Reader::open(&stack.url, &named(LONG), None).await?);
        }
        let since = Instant::now();
        while memory::children(executor)?.len() < streams.len() {
            if since.elapsed() > LIMIT {
                let (running, wanted) = (memory::children(executor)?.len(), streams.len());
                return Err(Failure::new(format_args!("only {running} of {wanted} workers run")));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    // A reader that left would cancel its chat, and with it end its worker.
    for mut stream in streams {
        while stream.next().await?.is_some() {}
    }
    Ok(())
}

/// The median of the time to the first text of a stream, of several one after the other.
async fn first_token_ms(url: &str, model: &str, scale: &Scale) -> Result<f64> {
    let mut times = Vec::with_capacity(scale.first_tokens);
    for _ in 0..scale.first_tokens {
        let began = Instant::now();
        let mut reader = Reader::open(url, model, None).await?;
        while reader.next().await?.ok_or_else(|| Failure::new("a stream ended without text"))?.is_empty() {}
        times.push(began.elapsed().as_secs_f64() * 1e3);
        while reader.next().await?.is_some() {}
    }
    Ok(median(times))
}

/// Streams at once, of which each chunk counts.
async fn crowd(url: &str, pace: Pace) -> Result<Crowd> {
    let mut readers = JoinSet::new();
    for _ in 0..STREAMS {
        let (url, model) = (url.to_owned(), named(pace));
        readers.spawn(async move { read(&url, &model).await });
    }
    let length = pace.interval * pace.chunks;
    let all = tokio::time::timeout(LIMIT + length * 3, readers.join_all()).await;
    let all = all.map_err(|_| Failure::new("the streams do not end"))?;
    let mut delays = Vec::new();
    let mut last = Vec::new();
    let mut whole = 0;
    for stream in all {
        let stream = stream?;
        whole += usize::from(stream.len() == usize::try_from(pace.chunks).unwrap_or(usize::MAX));
        last.extend(stream.iter().rev().take(1000 / 20));
        delays.extend(stream);
    }
    delays.sort_unstable();
    last.sort_unstable();
    let ms = |sorted: &[Duration], quantile| quantile_ms(sorted, quantile);
    Ok(Crowd { whole, p50_ms: ms(&delays, 0.5), p99_ms: ms(&delays, 0.99), last_p99_ms: ms(&last, 0.99) })
}

impl Crowd {
    fn logged(self, when: &str) -> Self {
        let Self { whole, p50_ms, p99_ms, last_p99_ms } = self;
        eprintln!(
            "{STREAMS} streams {when}: {whole} whole, delay p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, in the last second {last_p99_ms:.1} ms"
        );
        self
    }
}

/// The delays of a stream's chunks, in their order.
async fn read(url: &str, model: &str) -> Result<Vec<Duration>> {
    let mut reader = Reader::open(url, model, None).await?;
    let mut delays = Vec::new();
    while let Some(text) = reader.next().await? {
        let now = micros(SystemTime::now());
        // Texts may have been joined on the way.
        let due = text.split_ascii_whitespace().filter_map(|word| word.parse::<u64>().ok());
        delays.extend(due.map(|due| Duration::from_micros(now.saturating_sub(due))));
    }
    Ok(delays)
}
