//! `cargo xtask test`: every check and test in one command.

use clap::Args;

use crate::{
    binaries::{self, Binaries},
    deps,
    failure::{Failure, Result},
    lanes, modules,
    phases::{Phases, cargo, execute, is_ci},
    programs,
};

/// Package of the tests that start real processes and browsers.
pub(crate) const SYSTEM_TESTS: &str = "phoenix-tests";

/// Environment variable of the number of services that the soak test kills, one per round.
pub(crate) const SOAK_ROUNDS: &str = "PHOENIX_SOAK_ROUNDS";

/// The same for the soak test on PostgreSQL.
pub(crate) const SOAK_POSTGRES_ROUNDS: &str = "PHOENIX_SOAK_POSTGRES_ROUNDS";

/// Rounds of the soak tests before a merge.
const SOAK_ROUNDS_BEFORE_MERGE: [(&str, &str); 2] = [(SOAK_ROUNDS, "200"), (SOAK_POSTGRES_ROUNDS, "100")];

#[derive(Args, Default)]
pub(crate) struct TestArgs {
    /// Leave out the tests over real processes, and install nothing
    #[arg(long)]
    fast: bool,
    /// Run the soaks for as many rounds as before a merge: about five minutes instead of forty seconds
    #[arg(long, conflicts_with = "fast")]
    soak: bool,
    /// Passed on to `cargo test`, such as `-p phoenix-planner`
    #[arg(last = true)]
    cargo_test: Vec<String>,
}

impl TestArgs {
    /// Everything, with the long soak.
    pub(crate) fn before_merge() -> Self {
        Self { soak: true, ..Self::default() }
    }
}

pub(crate) async fn run(args: &TestArgs) -> Result<()> {
    run_in(&mut Phases::default(), args).await
}

pub(crate) async fn run_in(phases: &mut Phases, args: &TestArgs) -> Result<()> {
    let mut skipped = Vec::new();
    if args.fast {
        if is_ci() {
            return Err(Failure::new("--fast skips tests, which is not allowed where CI is set"));
        }
        skipped.push(format!("the tests over real processes ({SYSTEM_TESTS}), because of --fast"));
    } else {
        skipped.extend(phases.run("test programs", provide_programs()).await?);
    }
    phases.run("dependency rules", async { deps::run() }).await?;
    phases.run("module cycles", async { modules::run() }).await?;
    // One build for executables and tests, which share every library.
    let binaries = phases.run("build", binaries::build(&["--workspace", "--all-targets"])).await?;
    let tested = phases.run("tests", test(args, &binaries)).await;
    for what in &skipped {
        eprintln!("SKIPPED: {what}");
    }
    tested
}

/// Installs the programs that tests need in addition to Rust. Returns what has to be skipped.
pub(crate) async fn provide_programs() -> Result<Vec<String>> {
    let skipped = programs::provide(is_ci()).await?;
    skipped.iter().for_each(|what| eprintln!("will be skipped: {what}"));
    Ok(skipped)
}

async fn test(args: &TestArgs, binaries: &Binaries) -> Result<()> {
    let settings: &[_] = if args.soak { &SOAK_ROUNDS_BEFORE_MERGE } else { &[] };
    if args.cargo_test.is_empty() {
        let excluded: &[_] = if args.fast { &[SYSTEM_TESTS] } else { &[] };
        return lanes::run(excluded, binaries, settings).await;
    }
    let mut command = cargo();
    command.arg("test");
    // Cargo refuses the flag when it is given twice.
    if !args.cargo_test.iter().any(|word| word == "--no-fail-fast") {
        command.arg("--no-fail-fast");
    }
    // With --workspace, cargo ignores --package silently.
    let selected = args.cargo_test.iter().any(|word| word.starts_with("-p") || word.starts_with("--package"));
    if !selected {
        command.arg("--workspace");
    }
    if args.fast && !selected {
        command.args(["--exclude", SYSTEM_TESTS]);
    }
    command.args(&args.cargo_test);
    binaries.set_env(&mut command);
    command.envs(settings.iter().copied());
    execute(&mut command).await
}
