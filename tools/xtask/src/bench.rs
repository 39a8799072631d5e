//! `cargo xtask bench`: builds the product and the benchmark (`tools/bench`) in release, and runs it.

use std::{path::PathBuf, process::Stdio};

use clap::Args;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{
    failure::Result,
    phases::{cargo, execute, target_directory},
};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Fewer and shorter rounds, and no million and no postgres unless --only names it: not a valid result
    #[arg(long)]
    quick: bool,
    /// Measure only these parts: start, warm, spawn, million, inflight, watchers, models, mcp, postgres
    #[arg(long, value_name = "PART,…")]
    only: Option<String>,
    /// Exit with 1 when a goal is missed
    #[arg(long)]
    check: bool,
    /// Write the result here as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) async fn run(args: &BenchArgs) -> Result<()> {
    execute(cargo().args(["build", "--release", "--package", "phoenix-cli", "--package", "phoenix-bench"]))
        .await?;
    let release = target_directory().await?.join("release");
    let mut bench = Command::new(release.join("phoenix-bench"));
    bench.arg("--phoenix").arg(release.join("phoenix"));
    bench.args(
        [("--quick", args.quick), ("--check", args.check)]
            .iter()
            .filter_map(|(flag, set)| set.then_some(flag)),
    );
    if let Some(parts) = &args.only {
        bench.arg("--only").arg(parts);
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(file);
    }
    // Ctrl-C also reaches the child, which stops its servers; this process waits for it.
    let _interrupts = signal(SignalKind::interrupt())?;
    execute(bench.stdin(Stdio::null())).await
}
