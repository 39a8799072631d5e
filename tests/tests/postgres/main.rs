//! All four services as real processes on PostgreSQL, under load, while the server or the way to it fails. After each fault
//! the service is back within five seconds, and every plan that was acknowledged has succeeded once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod clocks;
mod doctor;
mod failover;
mod faults;
mod load;
mod planners;
mod replicas;
mod stack;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use phoenix_testkit::{services::Services, wait::until};
use phoenix_testkit_postgres::{Loss, Proxy, Server};
use tokio::time::Instant;

use crate::load::Load;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// The services, their database, and callers that chat all the time.
struct Fixture {
    server: Server,
    /// URL of the database, without the proxy.
    database: String,
    proxy: Proxy,
    services: Services,
    load: Load,
    log: PathBuf,
}

/// What a planner logs once for an outage that its commits notice.
const OUTAGE: &str = "the journal cannot be written; no plan is accepted until it can";

/// The file that the services of `test` log to.
fn log_of(test: &str) -> PathBuf {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{test}.log"));
    eprintln!("the services log to {}", log.display());
    log
}

impl Fixture {
    /// Starts everything; `None` when PostgreSQL is not installed.
    async fn start(test: &str, settings: &'static [(&'static str, &'static str)]) -> Option<Self> {
        let server = Server::start_with(settings).await?;
        let proxy = Proxy::start(server.port()).await;
        let database = server.database().await;
        let log = log_of(test);
        let services = Services::start_on(&proxy.url(&database), "", "MARK", &log).await;
        let load = Load::start(&services.rest());
        let fixture = Self { server, database, proxy, services, load, log };
        fixture.load.until_more().await;
        Some(fixture)
    }

    /// Waits until a chat succeeds that began after the fault's end, for no longer than the promised time.
    async fn recovered(&self, fault: &str) {
        let ended_at = Instant::now();
        self.load.until_more().await;
        let took = ended_at.elapsed();
        eprintln!("{fault}: the service was back after {took:.1?}");
        assert!(took < faults::RECOVERY_LIMIT, "{fault}: {took:?}");
    }

    /// Keeps the database away from `begin` to `end`, after which the service is back in time. Returns how often the planner
    /// said so.
    async fn outage(&self, fault: &str, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) -> usize {
        let lines = || std::fs::read_to_string(&self.log).unwrap().matches(OUTAGE).count();
        let before = lines();
        begin().await;
        tokio::time::sleep(faults::outage()).await;
        end().await;
        self.recovered(fault).await;
        let said = lines() - before;
        assert!(said <= 1, "{fault}: {said} lines");
        said
    }

    /// Checks that every acknowledged plan has succeeded, and that the services run.
    async fn check(mut self) {
        self.load.check(&self.services.rest()).await;
        self.services.stop().await;
    }
}

#[tokio::test]
async fn server_that_stops_crashes_or_freezes_loses_no_plan() {
    let Some(fixture) = Fixture::start("server", &[]).await else { return };
    let server = &fixture.server;
    server.stop().await;
    server.start_again().await;
    fixture.recovered("stopped and started").await;
    server.kill().await;
    server.start_again().await;
    fixture.recovered("killed and started").await;
    let again = async || server.start_again().await;
    let said = fixture.outage("stopped for longer", async || server.stop().await, again).await;
    assert_eq!(said, 1, "one line says what happened");
    fixture.outage("frozen", async || server.freeze(), async || server.thaw()).await;
    fixture.check().await;
}

#[tokio::test]
async fn cut_refused_and_lost_connections_lose_no_plan() {
    let Some(fixture) = Fixture::start("network", &[]).await else { return };
    let proxy = &fixture.proxy;
    fixture.outage("cut", async || proxy.cut(), async || proxy.restore()).await;
    let said = fixture.outage("refused", async || proxy.refuse(), async || proxy.restore()).await;
    assert_eq!(said, 1, "one line says what happened");
    for n in 0..20 {
        let lost = proxy.lost();
        proxy.lose_next(if n % 2 == 0 { Loss::Answer } else { Loss::Request });
        until("a request is lost", async || proxy.lost() > lost).await;
    }
    fixture.recovered("20 requests lost").await;
    fixture.check().await;
}

#[tokio::test]
async fn slow_server_fails_no_chat() {
    let Some(fixture) = Fixture::start("slow", &[]).await else { return };
    fixture.proxy.delay(Duration::from_millis(50));
    let refused = fixture.load.refused();
    for _ in 0..5 {
        fixture.load.until_more().await;
    }
    assert_eq!(fixture.load.refused(), refused, "every chat of a slow server is answered");
    fixture.proxy.delay(Duration::ZERO);
    fixture.recovered("100 ms per round trip").await;
    fixture.check().await;
}

#[tokio::test]
async fn full_and_read_only_servers_lose_no_plan() {
    let Some(fixture) = Fixture::start("full", &[("max_connections", "25")]).await else { return };
    let server = &fixture.server;
    // A demoted primary is one that accepts no writes.
    let read_only = async |value| server.set("default_transaction_read_only", value).await;
    let (begin, end) = (async || read_only(Some("on")).await, async || read_only(None).await);
    assert_eq!(fixture.outage("read-only", begin, end).await, 1, "one line says what happened");
    let held = faults::fill(server).await;
    tokio::time::sleep(faults::outage()).await;
    drop(held);
    fixture.recovered("full").await;
    fixture.check().await;
}

#[tokio::test]
async fn plans_of_a_killed_planner_are_taken_over() {
    let Some(fixture) = Fixture::start("takeover", &[]).await else { return };
    let second = fixture.services.start_second_planner().await;
    let mut other = Load::start(&second.rest());
    other.until_more().await;
    second.signal(Signal::SIGKILL);
    fixture.recovered("the other planner killed").await;
    // Its plans are read at the first planner, which ends them.
    other.check(&fixture.services.rest()).await;
    fixture.check().await;
}
