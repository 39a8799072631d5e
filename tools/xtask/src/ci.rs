//! `cargo xtask ci`: what has to pass before a change is merged.

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
    test::run_in(&mut phases, &TestArgs::default()).await
}
