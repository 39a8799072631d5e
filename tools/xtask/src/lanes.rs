//! Runs the test executables of the workspace in two lanes.
//!
//! Most tests wait for processes that start, stop and restart, so two executables at a time need hardly longer than one. Within a
//! lane, one executable runs after the other, as under `cargo test`; a lane that has none left takes the last one of the other. The
//! soak, which restarts services all the time, and the faults of PostgreSQL, which have limits of time, are never run at once: they
//! are the first ones of the second lane.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::Deserialize;
use tokio::process::Command;

use crate::{
    binaries::Binaries,
    failure::{Context, Failure, Result},
    phases::{cargo, execute, workspace},
};

/// Executables with which the second lane begins, in this order.
const BESIDE: [&str; 8] = [
    "tests (test soak)",
    "tests (test postgres)",
    "services/planner (test service)",
    "services/health (test service)",
    "gateway (test console)",
    "crates/agents (test agents)",
    "services/planner (test store)",
    "services/executor (test suite)",
];

/// A test executable, as cargo's message of kind `compiler-artifact` describes it.
/// <https://doc.rust-lang.org/cargo/reference/external-tools.html#artifact-messages>
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Artifact {
    /// Package and target, as `phoenix-planner (test store)`.
    fn label(&self) -> String {
        let package = self.folder().strip_prefix(workspace()).unwrap_or(self.folder());
        format!("{} ({} {})", package.display(), self.target.kind.join(" "), self.target.name)
    }

    /// Folder of the package, in which cargo runs its tests.
    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// Position in the second lane, if it belongs there.
    fn beside(&self) -> Option<usize> {
        let label = self.label();
        BESIDE.iter().position(|other| *other == label)
    }
}

/// Builds the tests of the workspace without the packages `excluded`, and runs them all, documentation tests last.
///
/// # Errors
///
/// When a test fails; the message names the executables, after all of them ran.
pub(crate) async fn run(excluded: &[&str], binaries: &Binaries, settings: &[(&str, &str)]) -> Result<()> {
    let selected: Vec<_> =
        ["--workspace"].into_iter().chain(excluded.iter().flat_map(|name| ["--exclude", *name])).collect();
    let (mut beside, others): (Vec<_>, Vec<_>) =
        build(&selected).await?.into_iter().partition(|artifact| artifact.beside().is_some());
    beside.sort_by_key(Artifact::beside);
    let environment = Environment { binaries, settings };
    let queues = Queues(Mutex::new([others.into(), beside.into()]));
    let (mut failed, failed_beside) =
        tokio::try_join!(run_visibly(&queues, &environment), run_beside(&queues, &environment))?;
    failed.extend(failed_beside);
    if let Err(failure) = execute(cargo().args(["test", "--doc"]).args(&selected)).await {
        failed.push(failure.to_string());
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::new(format_args!("tests failed:\n    {}", failed.join("\n    ")))),
    }
}

/// What is left to run in each lane.
struct Queues(Mutex<[VecDeque<Artifact>; 2]>);

impl Queues {
    /// The next executable for `lane`: its own first one, or the last one of the other lane.
    fn next(&self, lane: usize) -> Option<Artifact> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues[lane].pop_front().or_else(|| queues[1 - lane].pop_back())
    }
}

/// Environment of the tests.
struct Environment<'a> {
    binaries: &'a Binaries,
    settings: &'a [(&'a str, &'a str)],
}

impl Environment<'_> {
    fn command(&self, artifact: &Artifact) -> Command {
        let mut command = Command::new(artifact.executable.as_deref().unwrap_or(Path::new("")));
        command
            .current_dir(artifact.folder())
            .env("CARGO_MANIFEST_DIR", artifact.folder())
            .kill_on_drop(true);
        self.binaries.set_env(&mut command);
        command.envs(self.settings.iter().copied());
        command
    }
}

/// Runs the first lane, whose output appears as it is written. Returns the labels of those that failed.
async fn run_visibly(queues: &Queues, environment: &Environment<'_>) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    while let Some(artifact) = queues.next(0) {
        eprintln!("\n     Running {}", artifact.label());
        if !environment.command(&artifact).status().await.context(artifact.label())?.success() {
            failed.push(artifact.label());
        }
    }
    Ok(failed)
}

/// Runs the second lane, and prints the output of each executable in one piece. Returns the labels of those that failed.
async fn run_beside(queues: &Queues, environment: &Environment<'_>) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    while let Some(artifact) = queues.next(1) {
        let started = Instant::now();
        let mut command = environment.command(&artifact);
        let output = command.stdin(Stdio::null()).output().await.context(artifact.label())?;
        show(&artifact, started, &output);
        if !output.status.success() {
            failed.push(artifact.label());
        }
    }
    Ok(failed)
}

/// Prints what `artifact` of the second lane wrote, in one piece.
fn show(artifact: &Artifact, started: Instant, output: &Output) {
    eprintln!("\n     Ran beside these, in {:.1} s: {}", started.elapsed().as_secs_f64(), artifact.label());
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
}

/// Builds the tests of the packages `selected`.
async fn build(selected: &[&str]) -> Result<Vec<Artifact>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]).args(selected);
    let output = command.stderr(Stdio::inherit()).output().await.context("cannot run cargo test")?;
    if !output.status.success() {
        return Err(Failure::new(format_args!("the tests could not be built: {}", output.status)));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    Ok(artifacts.filter(|artifact| artifact.profile.test && artifact.executable.is_some()).collect())
}
