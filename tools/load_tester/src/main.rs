//! `load_tester`: the library describes it, `--help` its use.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use phoenix_load_tester::{USAGE, args::Args, run};

/// One thread, because the servers it measures want the others.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run(args).await,
        Err(problem) => {
            // With nowhere to print to, the exit code says it.
            let _ = problem.print();
            match problem.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            }
        }
    }
}
