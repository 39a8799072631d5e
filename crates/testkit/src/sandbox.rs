//! All four services in one process, each on its own port. Each can be stopped and restarted.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use phoenix_executor::ExecutorConfig;
use phoenix_gateway::GatewayConfig;
use phoenix_health::HealthConfig;
use phoenix_planner::PlannerConfig;
use phoenix_platform::{
    config::{Role, RoleFlags, RoleSettings},
    service_token::{self, ServiceToken},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    http::Rest,
    phoenix_bin,
    wait::{TIMEOUT, until},
};

/// A stack in this process. Dropping it stops its services.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    addrs: BTreeMap<Role, SocketAddr>,
    environment: BTreeMap<String, String>,
    running: BTreeMap<Role, Running>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Sandbox {
    /// Starts the four services with `config` as their `phoenix.toml`, and waits until they are ready.
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    /// Like [`Self::start`], with variables for the environment of agents.
    ///
    /// # Panics
    /// When a service cannot be started.
    pub async fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("phoenix.toml"), config).expect("the configuration can be written");
        let mut held = Vec::new();
        let mut addrs = BTreeMap::new();
        for role in Role::ALL {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            addrs.insert(*role, listener.local_addr().expect("an address"));
            held.push((*role, listener));
        }
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut sandbox = Self { dir, addrs, environment, running: BTreeMap::new() };
        for (role, listener) in held {
            sandbox.serve(role, listener);
        }
        let rest = sandbox.rest();
        until("the sandbox is ready", async || rest.get("/readyz").await.json["status"] == "ready").await;
        sandbox
    }

    /// A client of the gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(format!("http://{}", self.addrs[&Role::Gateway]))
    }

    /// The token that its services require over gRPC.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn service_token(&self) -> ServiceToken {
        ServiceToken::new(crate::SERVICE_TOKEN).expect("a valid token")
    }

    /// URL of a service.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        format!("http://{}", self.addrs[&role])
    }

    /// A folder that is removed with the sandbox.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops one service and waits until it has drained.
    ///
    /// # Panics
    /// When it does not stop, or stopped with an error.
    pub async fn stop(&mut self, role: Role) {
        let mut running = self.running.remove(&role).expect("the service runs");
        running.stop.cancel();
        tokio::time::timeout(TIMEOUT * 2, &mut running.served)
            .await
            .expect("stops in time")
            .expect("stops without an error");
    }

    /// Restarts a stopped service on the same port.
    ///
    /// # Panics
    /// When another process has taken the port.
    pub async fn restart(&mut self, role: Role) {
        let listener = TcpListener::bind(self.addrs[&role]).await.expect("the port is free again");
        self.serve(role, listener);
    }

    fn serve(&mut self, role: Role, listener: TcpListener) {
        let stop = CancellationToken::new();
        let settings = self.settings(role);
        let environment = self.environment.clone();
        let token = stop.clone();
        let served = tokio::spawn(async move {
            match role {
                Role::Gateway => {
                    phoenix_gateway::serve(GatewayConfig::from(&settings), listener, token)
                        .await
                        .expect("gateway");
                }
                Role::Planner => {
                    phoenix_planner::serve(PlannerConfig::from(&settings), listener, token)
                        .await
                        .expect("planner");
                }
                Role::Executor => {
                    let mut config = ExecutorConfig::from(&settings);
                    config.environment.extend(environment);
                    phoenix_executor::serve(config, listener, token).await.expect("executor");
                }
                Role::Health => {
                    phoenix_health::serve(HealthConfig::from(&settings), listener, token)
                        .await
                        .expect("health");
                }
            }
        });
        self.running.insert(role, Running { stop, served });
    }

    fn settings(&self, role: Role) -> RoleSettings {
        let flags = RoleFlags {
            addr: Some(self.addrs[&role].to_string()),
            metrics_addr: Some("127.0.0.1:0".into()),
            planner_url: Some(self.url(Role::Planner)),
            executor_url: Some(self.url(Role::Executor)),
            health_url: Some(self.url(Role::Health)),
            data_dir: Some(self.dir.path().into()),
            config: Some(self.dir.path().join("phoenix.toml")),
            ..RoleFlags::default()
        };
        let exe = phoenix_bin().to_string_lossy().into_owned();
        let env = |name: &str| (name == service_token::VARIABLE).then(|| crate::SERVICE_TOKEN.to_owned());
        RoleSettings::resolve(role, &flags, &exe, &env).expect("the sandbox's settings are valid")
    }
}
