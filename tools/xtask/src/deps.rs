//! Rules for dependencies: banned crates and registries (`deny.toml`), and the layers of this workspace. cargo-deny reads the
//! same `deny.toml`, and also checks licences and advisories.

mod layers;
mod rules;

use std::fs;

use serde::de::DeserializeOwned;

use crate::{
    failure::{Context, Failure, Result},
    phases::workspace,
};
use rules::{Lock, Rules};

pub(crate) fn run() -> Result<()> {
    let rules: Rules = read("deny.toml")?;
    let lock: Lock = read("Cargo.lock")?;
    let mut broken = rules.check(&lock);
    broken.extend(layers::check(&workspace())?);
    if !broken.is_empty() {
        return Err(Failure::new(format_args!("dependencies break a rule:\n  {}", broken.join("\n  "))));
    }
    eprintln!("dependencies comply with deny.toml and the layers of the workspace");
    Ok(())
}

fn read<T: DeserializeOwned>(name: &str) -> Result<T> {
    let text = fs::read_to_string(workspace().join(name)).context(name)?;
    toml::from_str(&text).context(name)
}
