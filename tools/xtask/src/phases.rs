//! Steps that take a while: announced, timed, summed up at the end.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::process::Command;

use crate::failure::{Doing, Failure, Result};

/// The phases of one task so far. Prints its summary when it goes, also when a phase failed.
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

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(workspace());
    cargo
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    // Two folders above this crate, wherever the checkout is.
    let here =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).map_or(here.clone(), Path::to_path_buf)
}

/// Runs `command` to its end, after printing it.
pub(crate) async fn execute(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().await.doing(format_args!("cannot run `{shown}`"))?;
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
