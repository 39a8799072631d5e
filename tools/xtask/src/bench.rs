//! `cargo xtask bench`: builds what is measured, and what measures it (`tools/bench`), in release.

use std::{path::PathBuf, process::Stdio};

use clap::Args;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{
    deps,
    failure::Result,
    phases::{cargo, execute},
};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Fewer and shorter rounds: a look, not a result
    #[arg(long)]
    quick: bool,
    /// Write the result here as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) async fn run(args: &BenchArgs) -> Result<()> {
    execute(cargo().args(["build", "--release", "--package", "phoenix-cli", "--package", "phoenix-bench"]))
        .await?;
    let release = deps::target_directory().await?.join("release");
    let mut bench = Command::new(release.join("phoenix-bench"));
    bench.arg("--phoenix").arg(release.join("phoenix"));
    if args.quick {
        bench.arg("--quick");
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(file);
    }
    // Ctrl-C reaches the child as well, which has servers to stop; this process waits until it has.
    let _interrupts = signal(SignalKind::interrupt())?;
    execute(bench.stdin(Stdio::null())).await
}
