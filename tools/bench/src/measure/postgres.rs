//! Durable chats on PostgreSQL next to those on SQLite, on a slow network, and with two planners and two executors, in
//! alternating rounds.

use std::{
    num::NonZeroUsize,
    path::Path,
    time::{Duration, Instant},
};

use phoenix_load_tester::Engine;
use phoenix_platform::config::Role;
use phoenix_testkit_postgres::Server;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use super::sample::{Sample, Scale, engine, median, send, send_all};
use crate::{
    cpu,
    failure::{Doing, Result},
    link::Link,
    memory,
    replicas::{Replicas, Setup},
    stack::Home,
};

const ONE: NonZeroUsize = NonZeroUsize::MIN;
const FEW: NonZeroUsize = NonZeroUsize::new(16).unwrap();
const MANY: NonZeroUsize = NonZeroUsize::new(64).unwrap();
const CROWD: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Settings of the server in addition to those of tests, which are `fsync` and `synchronous_commit`.
const SETTINGS: &[(&str, &str)] = &[("shared_buffers", "128MB")];

/// What the slow network adds to each round trip, in milliseconds.
const ADDED_MS: f64 = 2.0;

/// Round trips of which the median is taken.
const ROUND_TRIPS: usize = 100;

/// The result: medians.
#[derive(Debug, Serialize)]
pub(crate) struct Postgres {
    /// One process of each role on SQLite.
    pub(crate) sqlite: Vec<Measured>,
    /// … on PostgreSQL.
    pub(crate) postgres: Vec<Measured>,
    /// … through a proxy.
    pub(crate) near: Measured,
    /// … which adds to each round trip.
    pub(crate) far: Measured,
    /// What it adds, measured without load, in milliseconds.
    pub(crate) added_ms: f64,
    /// Two planners and two executors on PostgreSQL.
    pub(crate) replicas: Measured,
}

/// Chats at one concurrency.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Measured {
    pub(crate) concurrency: usize,
    #[serde(flatten)]
    pub(crate) sample: Sample,
    pub(crate) cpu_ms: Spent,
}

/// Processor time per chat in milliseconds, of all processes of a kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Spent {
    pub(crate) gateway: f64,
    pub(crate) planner: f64,
    pub(crate) executor: f64,
    pub(crate) agents: f64,
    pub(crate) health: f64,
    /// All processes of the server; zero on SQLite.
    pub(crate) postgres: f64,
}

/// Measures; `None` when PostgreSQL is not installed.
pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<Option<Postgres>> {
    let Some(server) = Server::start_with(SETTINGS).await else { return Ok(None) };
    let homes = [Home::new("")?, Home::new("")?, Home::new("")?, Home::new("")?];
    let link = Link::start(server.port()).await?;
    let urls = [server.database().await, server.database().await, link.url(&server.database().await)];
    let [near_url, shared_url, far_url] = urls.each_ref().map(String::as_str);
    let (delay, added_ms) = calibrate(&link, far_url).await?;
    let one = async |home, database| {
        Driven::start(phoenix, home, Setup { database, planners: 1, executors: 1 }).await
    };
    let mut sqlite = one(&homes[0], None).await?;
    let mut postgres = one(&homes[1], Some(near_url)).await?;
    let setup = Setup { database: Some(shared_url), planners: 2, executors: 2 };
    let mut replicas = Driven::start(phoenix, &homes[2], setup).await?;
    let mut distant = one(&homes[3], Some(far_url)).await?;

    let mut rows = Rows::default();
    for round in 1..=scale.rounds {
        let label = format!("round {round} of {}", scale.rounds);
        let mut run = async |row: usize, driven: &mut Driven<'_>, concurrency: NonZeroUsize| {
            let measured = driven.measure(&server, concurrency, scale).await?;
            let (at, what) = (format!("{label}, concurrency {concurrency}"), NAMES[row]);
            measured.sample.logged(&at, what);
            rows.0[row].push(measured);
            Ok::<_, crate::failure::Failure>(())
        };
        run(0, &mut sqlite, ONE).await?;
        run(1, &mut postgres, ONE).await?;
        run(2, &mut sqlite, FEW).await?;
        run(3, &mut sqlite, MANY).await?;
        run(4, &mut postgres, MANY).await?;
        run(5, &mut replicas, MANY).await?;
        run(6, &mut distant, CROWD).await?;
        link.delay(delay);
        run(7, &mut distant, CROWD).await?;
        link.delay(Duration::ZERO);
    }
    for driven in [sqlite, postgres, replicas, distant] {
        driven.replicas.stop().await?;
    }
    let row = |row: usize| Measured::median(&rows.0[row]);
    Ok(Some(Postgres {
        sqlite: vec![row(0), row(2), row(3)],
        postgres: vec![row(1), row(4)],
        replicas: row(5),
        near: row(6),
        far: row(7),
        added_ms,
    }))
}

/// Names of what is measured in a round, in this order.
const NAMES: [&str; 8] = [
    "SQLite",
    "PostgreSQL",
    "SQLite",
    "SQLite",
    "PostgreSQL",
    "two planners and executors",
    "through a proxy",
    "through a slow proxy",
];

/// What was measured in each round, by the index of its name.
#[derive(Default)]
struct Rows([Vec<Measured>; NAMES.len()]);

/// Processes, and what sends chats to them.
struct Driven<'home> {
    replicas: Replicas<'home>,
    engine: Engine,
}

impl<'home> Driven<'home> {
    async fn start(phoenix: &Path, home: &'home Home, setup: Setup<'_>) -> Result<Self> {
        let replicas = Replicas::start(phoenix, home, setup).await?;
        Ok(Self { engine: engine(&replicas.url)?, replicas })
    }

    async fn measure(
        &mut self,
        server: &Server,
        concurrency: NonZeroUsize,
        scale: &Scale,
    ) -> Result<Measured> {
        send(&mut self.engine, concurrency, scale.warmup).await?;
        let before = self.spent(server)?;
        let sent = send_all(&mut self.engine, concurrency, scale.duration).await;
        let tally = sent.map_err(|failure| self.replicas.blamed(failure))?;
        let spent = self.spent(server)?;
        let per_chat = |of: fn(&Spent) -> f64| (of(&spent) - of(&before)) / tally.ok() as f64;
        Ok(Measured {
            concurrency: concurrency.get(),
            sample: Sample::of(&tally)?,
            cpu_ms: Spent::of(per_chat, self.replicas.is_on_postgres()),
        })
    }

    /// Processor time so far.
    fn spent(&self, server: &Server) -> Result<Spent> {
        let ms = |pids: &[u32]| Ok::<_, crate::failure::Failure>(cpu::time_of(pids)?.as_secs_f64() * 1e3);
        let of = |role| ms(&self.replicas.pids(role));
        let mut agents = Vec::new();
        for executor in self.replicas.pids(Role::Executor) {
            agents.extend(memory::children(executor)?);
        }
        Ok(Spent {
            gateway: of(Role::Gateway)?,
            planner: of(Role::Planner)?,
            executor: of(Role::Executor)?,
            health: of(Role::Health)?,
            agents: ms(&agents)?,
            postgres: cpu::time_of_tree(postmaster(server)?)?.as_secs_f64() * 1e3,
        })
    }
}

impl Spent {
    /// Each number by `value`; that of the server only if it is used.
    fn of(value: impl Fn(fn(&Self) -> f64) -> f64, has_server: bool) -> Self {
        Self {
            gateway: value(|spent| spent.gateway),
            planner: value(|spent| spent.planner),
            executor: value(|spent| spent.executor),
            agents: value(|spent| spent.agents),
            health: value(|spent| spent.health),
            postgres: if has_server { value(|spent| spent.postgres) } else { 0.0 },
        }
    }
}

impl Measured {
    /// The median of each number, at the concurrency that they share.
    fn median(measured: &[Self]) -> Self {
        let samples: Vec<_> = measured.iter().map(|measured| measured.sample).collect();
        let spent = |of: fn(&Spent) -> f64| median(measured.iter().map(|row| of(&row.cpu_ms)).collect());
        Self {
            concurrency: measured.first().map_or(0, |measured| measured.concurrency),
            sample: Sample::median(&samples),
            cpu_ms: Spent::of(spent, true),
        }
    }
}

/// The main process of the server.
fn postmaster(server: &Server) -> Result<u32> {
    let file = server.folder().join("data/postmaster.pid");
    let text = std::fs::read_to_string(&file).doing(file.display())?;
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
    pid.ok_or("it names no process").doing(file.display())
}

/// The delay of each direction that adds [`ADDED_MS`] to a round trip, or a little more, and what it adds. Timers are too coarse
/// to calculate it.
async fn calibrate(link: &Link, url: &str) -> Result<(Duration, f64)> {
    let mut connection = PgConnection::connect(url).await.doing("PostgreSQL")?;
    let without = round_trip_ms(&mut connection).await?;
    let mut chosen = (Duration::ZERO, 0.0);
    for micros in (0..).map(|step| 50 + 100 * step).take_while(|micros| *micros < 2000) {
        let delay = Duration::from_micros(micros);
        link.delay(delay);
        chosen = (delay, round_trip_ms(&mut connection).await? - without);
        if chosen.1 >= ADDED_MS {
            break;
        }
    }
    link.delay(Duration::ZERO);
    connection.close().await.doing("PostgreSQL")?;
    Ok(chosen)
}

/// Median time of a statement without work.
async fn round_trip_ms(connection: &mut PgConnection) -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let sent_at = Instant::now();
        sqlx::raw_sql("SELECT 1").execute(&mut *connection).await.doing("PostgreSQL")?;
        took.push(sent_at.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(took))
}
