//! Command-line flags of every role.

use std::path::PathBuf;

use clap::Args;

/// Flags of every role. The help of each names the environment variable of the same setting.
#[derive(Debug, Clone, Default, Args)]
pub struct RoleFlags {
    /// Address to serve on [env: HTTP_ADDR for the gateway, GRPC_ADDR for the others]
    #[arg(long, value_name = "HOST:PORT", visible_aliases = ["http-addr", "grpc-addr"])]
    pub addr: Option<String>,
    /// Address to serve /metrics on [env: METRICS_ADDR]
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_addr: Option<String>,
    /// URL of the planner; several are separated by commas [env: PLANNER_URL]
    #[arg(long, value_name = "URLS")]
    pub planner_url: Option<String>,
    /// URL of the executor; several are separated by commas [env: EXECUTOR_URL]
    #[arg(long, value_name = "URLS")]
    pub executor_url: Option<String>,
    /// URL of the health service; several are separated by commas [env: HEALTH_URL]
    #[arg(long, value_name = "URLS")]
    pub health_url: Option<String>,
    /// URL at which other planners reach this one, for a planner [env: PLANNER_ADVERTISE_URL; default: the address it
    /// serves on, unless that is 0.0.0.0]
    #[arg(long, value_name = "URL")]
    pub advertise_url: Option<String>,
    /// Database of the planner or the health service, such as sqlite://data/planner.db. A URL with a password belongs into
    /// the variable, which other users cannot read [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Folder of the databases, unless DATABASE_URL names one [env: PHOENIX_DATA_DIR; default: data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// File with the token that the services of a stack present to one another [env: PHOENIX_SERVICE_TOKEN_FILE, or
    /// PHOENIX_SERVICE_TOKEN for the token itself]
    #[arg(long, value_name = "FILE")]
    pub service_token_file: Option<PathBuf>,
    /// Certificate for TLS between services, in PEM, with its intermediates [env: TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate [env: TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CA of the certificates of all services [env: TLS_CA]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Allow an address that other machines can reach without TLS [env: PHOENIX_INSECURE=true]
    #[arg(long)]
    pub insecure: bool,
    /// Configuration file [env: PHOENIX_CONFIG; default: phoenix.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// pretty or json [env: LOG_FORMAT; default: pretty on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}
