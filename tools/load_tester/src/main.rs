//! `load_tester`: the library describes it, `--help` its use.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use phoenix_load_tester::{Gateway, USAGE, args::Args, run};

/// One thread, because the servers it measures want the others.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(Args { url, token, ca, run: args }) => {
            let gateway = Gateway { url: &url, token: token.as_deref(), ca: ca.as_deref() };
            run("load_tester", gateway, args).await
        }
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
