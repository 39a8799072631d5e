//! `cargo xtask soak`: the soak test of `tests/tests/soak` with a chosen length, seed and system, and with progress output.

use clap::{Args, ValueEnum};

use crate::{
    binaries,
    failure::Result,
    phases::{cargo, execute},
    test,
};

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// Number of processes to kill, one per round [default: as in `cargo xtask test`]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Seed of the requests and kills
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Database of the services; the server of PostgreSQL is killed, too
    #[arg(long, default_value = "sqlite")]
    store: Store,
    /// Number of planners [default: 1 on SQLite, 2 on PostgreSQL]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=8))]
    planners: Option<u64>,
    /// Number of executors [default: as of planners]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=8))]
    executors: Option<u64>,
    /// Number of gateways [default: as of planners]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=8))]
    gateways: Option<u64>,
}

/// Database of the services.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    /// Name of its test.
    const fn test(self) -> &'static str {
        match self {
            Self::Sqlite => "every_acknowledged_plan_ends_under_random_kills",
            Self::Postgres => "every_plan_on_postgres_ends_once_under_random_kills",
        }
    }

    /// Variable of the number of its rounds.
    const fn rounds(self) -> &'static str {
        match self {
            Self::Sqlite => test::SOAK_ROUNDS,
            Self::Postgres => test::SOAK_POSTGRES_ROUNDS,
        }
    }
}

pub(crate) async fn run(args: &SoakArgs) -> Result<()> {
    let binaries = binaries::build(&["--package", "phoenix-cli", "--package", "phoenix-load-tester"]).await?;
    let mut soak = cargo();
    soak.args(["test", "--package", test::SYSTEM_TESTS, "--test", "soak", "--", "--nocapture", "--exact"]);
    soak.arg(args.store.test());
    binaries.set_env(&mut soak);
    let settings = [
        (args.store.rounds(), args.rounds),
        ("PHOENIX_SOAK_SEED", args.seed),
        ("PHOENIX_SOAK_PLANNERS", args.planners),
        ("PHOENIX_SOAK_EXECUTORS", args.executors),
        ("PHOENIX_SOAK_GATEWAYS", args.gateways),
    ];
    soak.envs(settings.iter().filter_map(|(name, value)| Some((name, value.as_ref()?.to_string()))));
    execute(&mut soak).await
}
