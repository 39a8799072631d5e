//! `cargo xtask test`: every check and test in one command.

use std::{env, path::PathBuf};

use clap::Args;
use tokio::process::Command;

use crate::{
    deps,
    failure::{Context, Failure, Result},
    modules,
    phases::{Phases, cargo, execute, target_directory},
    programs,
};

/// Package of the tests that start real processes and browsers.
pub(crate) const SYSTEM_TESTS: &str = "phoenix-tests";

/// Environment variable of the number of services that the soak test kills, one per round.
pub(crate) const SOAK_ROUNDS: &str = "PHOENIX_SOAK_ROUNDS";

/// The same for the soak test on PostgreSQL.
pub(crate) const SOAK_POSTGRES_ROUNDS: &str = "PHOENIX_SOAK_POSTGRES_ROUNDS";

/// Rounds of the soak tests before a merge.
const SOAK_ROUNDS_BEFORE_MERGE: [(&str, &str); 2] = [(SOAK_ROUNDS, "200"), (SOAK_POSTGRES_ROUNDS, "50")];

#[derive(Args, Default)]
pub(crate) struct TestArgs {
    /// Leave out the tests over real processes, and install nothing
    #[arg(long)]
    fast: bool,
    /// Run the soaks for as many rounds as before a merge: about four minutes instead of forty seconds
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
    let binaries = phases.run("build", build(&["--workspace", "--all-targets"])).await?;
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

fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Paths of the executables that the tests start.
pub(crate) struct Binaries {
    phoenix: PathBuf,
    load_tester: PathBuf,
    /// Variables of the installed programs from PyPI.
    python: Vec<(&'static str, PathBuf)>,
}

impl Binaries {
    /// Sets the environment variables of `command` for the paths.
    pub(crate) fn set_env(&self, command: &mut Command) {
        command.env("PHOENIX_BIN", &self.phoenix).env("LOAD_TESTER_BIN", &self.load_tester);
        command.envs(self.python.iter().map(|(name, path)| (name, path)));
    }
}

/// Builds the packages `what`, which include the executables.
pub(crate) async fn build(what: &[&str]) -> Result<Binaries> {
    execute(cargo().arg("build").args(what)).await?;
    let debug = target_directory().await?.join("debug");
    let binary = |name: &str| {
        let path = debug.join(name).with_extension(env::consts::EXE_EXTENSION);
        path.is_file().then_some(path).ok_or("the build made no such program").context(name)
    };
    let mut python = Vec::new();
    for program in programs::PYTHON_PROGRAMS {
        python.extend(program.path().await?.map(|path| (program.variable, path)));
    }
    Ok(Binaries { phoenix: binary("phoenix")?, load_tester: binary("load_tester")?, python })
}

async fn test(args: &TestArgs, binaries: &Binaries) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
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
    if args.soak {
        command.envs(SOAK_ROUNDS_BEFORE_MERGE);
    }
    execute(&mut command).await
}
