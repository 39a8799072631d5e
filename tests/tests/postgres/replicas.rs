//! Two processes of every role, of which each is frozen and killed in turn.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    cluster::{Cluster, Replicas, Settings},
    wait::until,
};
use phoenix_testkit_postgres::Server;
use tokio::time::Instant;

use crate::{faults, load::Load, log_of};

/// Duration of a freeze: longer than the lease of a planner, and than the silence of a peer that is noticed.
const FREEZE: Duration = Duration::from_secs(6);

/// Most chats that are on their way to a process in the moment in which it begins to stop. Nothing is known about them.
const IN_TRANSIT: usize = 2;

const DEPOSED: &str = "another planner took this one for dead";

/// Instances under load.
struct Replicated {
    cluster: Cluster,
    load: Load,
    _server: Server,
}

impl Replicated {
    async fn start(test: &str, program: Option<&Path>) -> Option<Self> {
        let server = Server::start().await?;
        let url = server.database().await;
        let (config, paths, log) = ("", &[], &*log_of(test));
        let settings = Settings { database: Some(&url), config, paths, log, program };
        let cluster = Cluster::start(Replicas::TWO, settings).await;
        let load = Load::start(&cluster.rest());
        load.until_more().await;
        Some(Self { cluster, load, _server: server })
    }

    /// Waits until a chat succeeds that began after the fault's end, for no longer than the promised time.
    async fn recovered(&self, fault: &str) {
        let ended_at = Instant::now();
        self.load.until_more().await;
        let took = ended_at.elapsed();
        eprintln!("{fault}: the service was back after {took:.1?}");
        assert!(took < faults::RECOVERY_LIMIT, "{fault}: {took:?}");
    }

    async fn check(mut self) {
        self.load.check(&self.cluster.rest()).await;
        self.cluster.stop().await;
    }
}

#[tokio::test]
async fn every_replica_may_be_killed() {
    let Some(mut replicated) = Replicated::start("killed-replicas", None).await else { return };
    for index in 0..replicated.cluster.size() {
        let role = replicated.cluster.role(index);
        let ended = replicated.cluster.kill(index).await;
        assert!(ended.is_none(), "the {role} had ended with {ended:?}");
        // The callers of a gateway that is down have to find the other one: half of their requests fail.
        replicated.recovered(&format!("the {role} {index} killed")).await;
        replicated.cluster.start_one(index);
        replicated.cluster.until_ready().await;
    }
    replicated.check().await;
}

#[tokio::test]
async fn every_replica_may_be_frozen() {
    let Some(mut replicated) = Replicated::start("frozen-replicas", None).await else { return };
    for index in 0..replicated.cluster.size() {
        let role = replicated.cluster.role(index);
        replicated.cluster.signal(index, Signal::SIGSTOP);
        let frozen_at = Instant::now();
        if role != Role::Gateway {
            // Its callers notice the silence and choose the other one. The callers of a gateway are those of the test.
            replicated.load.until_more().await;
        }
        tokio::time::sleep_until(frozen_at + FREEZE).await;
        replicated.cluster.signal(index, Signal::SIGCONT);
        if role == Role::Planner {
            let status = replicated.cluster.ended(index).await;
            assert_eq!(status.code(), Some(1), "so that a supervisor restarts it");
            replicated.cluster.start_one(index);
        }
        replicated.recovered(&format!("the {role} {index} frozen")).await;
        replicated.cluster.until_ready().await;
    }
    let log = log_of("frozen-replicas");
    until("each planner says in one line what happened", async || {
        std::fs::read_to_string(&log).unwrap().matches(DEPOSED).count() == 2
    })
    .await;
    replicated.check().await;
}

/// Replaces one process after the other, as docs/operations.md says: who is called comes before its callers. With
/// `PHOENIX_PREVIOUS_BIN`, the path of an executable of an earlier version, two versions run side by side; without it, the same
/// version is restarted.
#[tokio::test]
async fn rolling_upgrade_interrupts_nothing() {
    let previous = std::env::var_os("PHOENIX_PREVIOUS_BIN").map(PathBuf::from);
    let Some(mut replicated) = Replicated::start("rolling-upgrade", previous.as_deref()).await else {
        return;
    };
    replicated.cluster.upgrade();
    for role in [Role::Executor, Role::Health, Role::Planner, Role::Gateway] {
        for index in 0..replicated.cluster.size() {
            if replicated.cluster.role(index) != role {
                continue;
            }
            let refused = replicated.load.refused();
            replicated.cluster.signal(index, Signal::SIGTERM);
            let status = replicated.cluster.ended(index).await;
            assert!(status.success(), "the {role} ended with {status}");
            replicated.recovered(&format!("the {role} {index} stopped")).await;
            replicated.cluster.start_one(index);
            replicated.cluster.until_ready().await;
            replicated.recovered(&format!("the {role} {index} replaced")).await;
            // The callers of a gateway choose the other one, which those of the test do not.
            if role != Role::Gateway {
                let refused = replicated.load.refused() - refused;
                assert!(refused <= IN_TRANSIT, "{role}: {refused}");
            }
        }
    }
    replicated.check().await;
}
