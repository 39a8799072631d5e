//! `cargo xtask soak`: the soak test of `tests/tests/soak` with a chosen length and seed, and with progress output.

use clap::Args;

use crate::{
    failure::Result,
    phases::{cargo, execute},
    test,
};

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// Number of services to kill, one per round [default: as in `cargo xtask test`]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Seed of the requests and kills
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

pub(crate) async fn run(args: &SoakArgs) -> Result<()> {
    let binaries = test::build(&["--package", "phoenix-cli", "--package", "phoenix-load-tester"]).await?;
    let mut soak = cargo();
    soak.args(["test", "--package", test::SYSTEM_TESTS, "--test", "soak", "--", "--nocapture"]);
    binaries.set_env(&mut soak);
    let settings = [(test::SOAK_ROUNDS, args.rounds), ("PHOENIX_SOAK_SEED", args.seed)];
    soak.envs(settings.iter().filter_map(|(name, value)| Some((name, value.as_ref()?.to_string()))));
    execute(&mut soak).await
}
