//! LiteLLM's proxy in front of the same upstream, where its command is installed.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    failure::{Doing, Failure, Result},
    rest::Rest,
    upstream::Upstream,
};

/// Variable with the absolute path of the command.
const VARIABLE: &str = "LITELLM";

/// Its start imports hundreds of modules.
const READY_LIMIT: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The proxy. A drop kills it.
pub(super) struct LiteLlm {
    pub(super) url: String,
    process: Child,
    _folder: TempDir,
}

impl LiteLlm {
    /// Starts the command that the variable names, or `litellm` in `PATH`; `None` if there is none.
    pub(super) async fn start(upstream: &Upstream) -> Result<Option<Self>> {
        let Some(command) = command() else {
            eprintln!("litellm is not installed and {VARIABLE} names no command: not compared");
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("phoenix-bench-").tempdir()?;
        let config = folder.path().join("config.yaml");
        let base = &upstream.url;
        let model = format!("{{model: openai/m, api_base: \"{base}/v1\", api_key: unused}}");
        std::fs::write(&config, format!("model_list:\n  - model_name: m\n    litellm_params: {model}\n"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut process = Command::new(&command);
        process.arg("--config").arg(&config).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        process.current_dir(folder.path()).env("LITELLM_LOG", "ERROR");
        // Only this machine reaches it, and only for the benchmark.
        process.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = process.spawn().doing(command.display())?;
        let mut litellm = Self { url: format!("http://127.0.0.1:{port}"), process, _folder: folder };
        let (rest, since) = (Rest::new(&litellm.url), Instant::now());
        while !rest.is_ok("/health/liveliness").await {
            let has_ended = !matches!(litellm.process.try_wait(), Ok(None));
            if has_ended || since.elapsed() > READY_LIMIT {
                return Err(Failure::new(format_args!("{} did not become ready", command.display())));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(Some(litellm))
    }
}

fn command() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("litellm")).find(|command| command.is_file())
}
