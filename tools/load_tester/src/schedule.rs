//! When requests are due, and when there are no more of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    load::{Load, Pace},
    pacer::{Pacer, due},
};

/// Hands out the turns of one run to its connections.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    taken: AtomicU64,
    /// Number of turns.
    turns: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A turn is due as soon as a connection is free, until `end`.
    Closed { end: Option<Instant> },
    /// Turn `n` is due at `start + n · gap`.
    Open { gap: Duration, pacer: Pacer },
}

impl Schedule {
    pub(crate) fn start(load: &Load) -> std::io::Result<Arc<Self>> {
        let start = Instant::now();
        let requests = load.requests.unwrap_or(u64::MAX);
        let (turns, kind) = match load.pace {
            Pace::Closed => {
                let end = load.duration.and_then(|duration| start.checked_add(duration));
                (requests, Kind::Closed { end })
            }
            Pace::Open { per_second } => {
                let gap = Duration::from_secs_f64(1.0 / per_second);
                let turns = requests.min(turns_within(load.duration, per_second));
                (turns, Kind::Open { gap, pacer: Pacer::start(start, gap, turns, load.connections.get())? })
            }
        };
        Ok(Arc::new(Self { start, taken: AtomicU64::new(0), turns, kind }))
    }

    /// Waits for the next turn and returns when it was due; `None` when there are no more. A turn of an open loop may be
    /// long overdue: no connection was free to take it.
    pub(crate) async fn next(&self) -> Option<Instant> {
        if let Kind::Open { pacer, .. } = &self.kind {
            pacer.turn().await;
        }
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        if turn >= self.turns {
            return None;
        }
        match &self.kind {
            Kind::Closed { end } => {
                let now = Instant::now();
                end.is_none_or(|end| now < end).then_some(now)
            }
            Kind::Open { gap, .. } => Some(due(self.start, *gap, turn)),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.kind, Kind::Open { .. })
    }
}

/// Turns that are due before `duration` is over.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and both are positive"
)]
fn turns_within(duration: Option<Duration>, per_second: f64) -> u64 {
    duration.map_or(u64::MAX, |duration| (duration.as_secs_f64() * per_second).ceil() as u64)
}
