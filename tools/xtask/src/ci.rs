//! `cargo xtask ci`: the checks that must pass before a merge. `.ci/run` is this command.

use crate::{
    failure::Result,
    phases::{Phases, cargo, execute},
    test::{self, TestArgs},
};

pub(crate) async fn run() -> Result<()> {
    let mut phases = Phases::default();
    phases.run("formatting", async { execute(cargo().args(["fmt", "--all", "--check"])).await }).await?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    phases.run("lints", async { execute(cargo().args(clippy)).await }).await?;
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "--deny warnings");
    phases.run("documentation", async { execute(&mut doc).await }).await?;
    test::run_in(&mut phases, &TestArgs::before_merge()).await
}
