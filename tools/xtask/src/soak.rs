//! `cargo xtask soak`: the soak of `tests/tests/soak`, as long and with whatever seed is asked for, telling how far it is.

use clap::Args;

use crate::{
    failure::Result,
    phases::{cargo, execute},
    test,
};

/// The variable that says how many services the soak kills, one per round.
pub(crate) const ROUNDS: &str = "PHOENIX_SOAK_ROUNDS";

/// How many it kills before a change is merged.
pub(crate) const ROUNDS_BEFORE_MERGE: u64 = 200;

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// How many services to kill, one per round [default: as many as `cargo xtask test`]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// What callers do and who is killed: the same for the same seed, though not to the moment
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

pub(crate) async fn run(args: &SoakArgs) -> Result<()> {
    let binaries = test::build(&["--package", "phoenix-cli", "--package", "phoenix-load-tester"]).await?;
    let mut soak = cargo();
    soak.args(["test", "--package", test::SYSTEM_TESTS, "--test", "soak", "--", "--nocapture"]);
    binaries.tell(&mut soak);
    let settings = [(ROUNDS, args.rounds), ("PHOENIX_SOAK_SEED", args.seed)];
    soak.envs(settings.iter().filter_map(|(name, value)| Some((name, value.as_ref()?.to_string()))));
    execute(&mut soak).await
}
