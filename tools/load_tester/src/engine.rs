//! Drives the connections through one run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connection, live::Live, load::Load, metrics, outcome::Outcome, schedule::Schedule,
    tally::Tally, target::Target,
};

/// How long a connection of a closed loop waits after it could not be made: a server that is down is not worth a busy
/// loop. In an open loop the pace does that.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Connections to one target, kept from run to run: a warm-up warms those that are measured afterwards.
#[derive(Debug)]
pub struct Engine {
    connections: Vec<Connection>,
    target: Arc<Target>,
}

impl Engine {
    /// An engine without connections; they are made on first use.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { connections: Vec::new(), target: Arc::new(target) }
    }

    /// Sends `load` and waits for its answers. `stop` ends it early: requests in flight are dropped and not counted.
    ///
    /// # Errors
    /// When the machine has no thread left for the clock of an open loop.
    pub async fn run(
        &mut self,
        load: &Load,
        live: &Arc<Live>,
        stop: &CancellationToken,
    ) -> std::io::Result<Tally> {
        let wanted = load.connections.get();
        self.connections.resize_with(wanted, || Connection::new(Arc::clone(&self.target)));
        let schedule = Schedule::start(load)?;
        let mut workers = JoinSet::new();
        for connection in self.connections.drain(..) {
            let worker = Worker {
                connection,
                schedule: Arc::clone(&schedule),
                live: Arc::clone(live),
                timeout: load.timeout,
                tally: Tally::default(),
            };
            workers.spawn(worker.run(stop.clone()));
        }
        let mut total = Tally::default();
        // A worker ends early only by panicking, and then join_all passes the panic on.
        for (connection, tally) in workers.join_all().await {
            self.connections.push(connection);
            total.add(&tally);
        }
        total.elapsed = schedule.elapsed();
        Ok(total)
    }
}

struct Worker {
    connection: Connection,
    schedule: Arc<Schedule>,
    live: Arc<Live>,
    timeout: Duration,
    tally: Tally,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) -> (Connection, Tally) {
        stop.run_until_cancelled(self.drive()).await;
        (self.connection, self.tally)
    }

    async fn drive(&mut self) {
        while let Some(due) = self.schedule.next().await {
            let outcome = self.request(due).await;
            let took = due.elapsed();
            self.tally.record(outcome, took);
            metrics::record(took);
            self.live.sent.fetch_add(1, Ordering::Relaxed);
            if !outcome.is_success() {
                self.live.failed.fetch_add(1, Ordering::Relaxed);
            }
            if outcome == Outcome::CONNECT_FAILED && !self.schedule.is_open() {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }

    async fn request(&mut self, due: Instant) -> Outcome {
        let deadline = due + self.timeout;
        if Instant::now() >= deadline {
            // It waited so long for a free connection that its caller would be gone.
            return Outcome::TIMEOUT;
        }
        let exchange = self.connection.exchange(&self.live);
        timeout_at(deadline.into(), exchange).await.unwrap_or(Outcome::TIMEOUT)
    }
}
