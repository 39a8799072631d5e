//! What a soak kills: instances of the services, and the server of PostgreSQL.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use phoenix_testkit::cluster::{Cluster, Replicas, Settings};
use phoenix_testkit_postgres::Server;
use serde_json::json;

use crate::{mcp, random::Random};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Folder of the agents' ledger, in that of the cluster.
const LEDGER: &str = "ledger";

/// Kills of the server, relative to those of one instance.
const SERVER_WEIGHT: usize = 2;

/// The services and their database.
pub(crate) struct System {
    pub(crate) cluster: Cluster,
    /// Absent with SQLite.
    server: Option<Server>,
    /// Whether an agent is an MCP server.
    pub(crate) has_mcp: bool,
    kills: BTreeMap<&'static str, usize>,
}

/// The database of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

impl System {
    /// Starts the services; `None` when PostgreSQL is not installed.
    pub(crate) async fn start(store: Store, replicas: Replicas, log: &Path) -> Option<Self> {
        let (server, url) = match store {
            Store::Sqlite => (None, None),
            Store::Postgres => {
                let server = Server::start().await?;
                let url = server.database().await;
                (Some(server), Some(url))
            }
        };
        let units = mcp::agent();
        let config = config() + units.as_deref().unwrap_or_default();
        let paths = [("MARK", ""), ("LEDGER", LEDGER)];
        let settings =
            Settings { database: url.as_deref(), config: &config, paths: &paths, log, program: None };
        let cluster = Cluster::start(replicas, settings).await;
        std::fs::create_dir(cluster.dir().join(LEDGER)).unwrap();
        Some(Self { cluster, server, has_mcp: units.is_some(), kills: BTreeMap::new() })
    }

    /// Kills a service or the server, and starts it again after a while.
    pub(crate) async fn kill_one(&mut self, random: &mut Random) {
        let weight = if self.server.is_some() { SERVER_WEIGHT } else { 0 };
        let target = random.index(self.cluster.size() + weight);
        let pause = Duration::from_millis(*random.choose(&[0, 0, 100, 300]));
        let killed = match &self.server {
            Some(server) if target >= self.cluster.size() => {
                server.kill().await;
                // The random pauses are the faults: they decide how long it is down.
                tokio::time::sleep(pause).await;
                server.start_again().await;
                "postgres"
            }
            _ => {
                let role = self.cluster.role(target);
                let ended = self.cluster.kill(target).await;
                assert!(ended.is_none(), "the {role} had ended with {ended:?}; see its log");
                tokio::time::sleep(pause).await;
                self.cluster.start_one(target);
                role.as_str()
            }
        };
        *self.kills.entry(killed).or_default() += 1;
    }

    /// What was killed how often.
    pub(crate) fn kills(&self) -> String {
        let kills = self.kills.iter().map(|(killed, times)| format!("{killed} {times} times"));
        kills.collect::<Vec<_>>().join(", ")
    }

    /// Folder of the agents' ledger.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.cluster.dir().join(LEDGER)
    }
}

fn config() -> String {
    let agent = |name: &str, mode: &str, how: &str| {
        // The agents that misbehave do so without a file that switches them on; `talk` is held by one, and so needs its path.
        let command = match mode {
            "talk" => json!([SCRIPTED, mode, "", "/nowhere/held"]),
            _ => json!([SCRIPTED, mode]),
        };
        format!(
            "[agents.{name}]\ncommand = {command}\nmode = \"{how}\"\nenv = [\"PATH\", \"MARK\", \"LEDGER\"]\n\
             [agents.{name}.retry]\nmax_attempts = 2\ninitial_backoff_ms = 10\n\
             [agents.{name}.circuit_breaker]\nfailure_threshold = 1000000\n"
        )
    };
    agent("quick", "echo", "workers")
        + &agent("once", "echo", "oneshot")
        + &agent("bad", "fail", "workers")
        + &agent("slow", "slow", "workers")
        + &agent("talk", "talk", "workers")
        + &agent("large", "large", "oneshot")
        + &agent("deep", "deep", "oneshot")
}
