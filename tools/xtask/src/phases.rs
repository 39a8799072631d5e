//! Phases of a task: announced, timed, and summarised at the end.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::process::Command;

use crate::failure::{Context, Failure, Result};

/// Completed phases of a task. Prints their summary on drop, also after a failed phase.
#[derive(Default)]
pub(crate) struct Phases {
    done: Vec<(&'static str, Duration, &'static str)>,
}

impl Phases {
    pub(crate) async fn run<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        eprintln!("\n==> {name}");
        let started = Instant::now();
        let result = work.await;
        self.done.push((name, started.elapsed(), if result.is_ok() { "ok" } else { "FAILED" }));
        result
    }
}

impl Drop for Phases {
    fn drop(&mut self) {
        if self.done.is_empty() {
            return;
        }
        eprintln!();
        let mut total = Duration::ZERO;
        for (name, took, state) in &self.done {
            total += *took;
            eprintln!("{name:<22}{:>8.1} s  {state}", took.as_secs_f64());
        }
        eprintln!("{:<22}{:>8.1} s", "total", total.as_secs_f64());
    }
}

/// Whether this is a run of continuous integration, where nothing is skipped and nothing is built twice.
pub(crate) fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// A command for the cargo that runs this task.
///
/// A checkout that is built once needs neither the state of incremental compilation nor line tables: more than half of what the
/// build otherwise writes.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(workspace());
    if is_ci() {
        cargo.envs([("CARGO_INCREMENTAL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "none")]);
    }
    cargo
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    // Two folders above this crate.
    let here =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).map_or(here.clone(), Path::to_path_buf)
}

/// Prints `command` and runs it.
pub(crate) async fn execute(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().await.context(format_args!("cannot run `{shown}`"))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format_args!("`{shown}` failed: {status}"))) }
}

fn show(command: &Command) -> String {
    let command = command.as_std();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The target directory of cargo.
pub(crate) async fn target_directory() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--no-deps"]);
    let output = command.output().await.context("cannot run cargo metadata")?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    Ok(metadata.target_directory)
}
