//! The rules of `deny.toml`, checked without cargo-deny: which crates may not be used, which licences may, and where
//! crates may come from. cargo-deny, where it is installed, reads the same file and checks more (advisories).

mod license;
mod rules;

use std::{fs, path::PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{
    failure::{Doing, Failure, Result},
    phases::{cargo, workspace},
};
use rules::{Lock, Package, Rules};

pub(crate) async fn run() -> Result<()> {
    let rules: Rules = read("deny.toml")?;
    let lock: Lock = read("Cargo.lock")?;
    let packages = packages(&rules).await?;
    let broken = rules.check(&lock, &packages);
    if !broken.is_empty() {
        return Err(Failure::new(format_args!("dependencies break deny.toml:\n  {}", broken.join("\n  "))));
    }
    eprintln!("{} dependencies keep the rules of deny.toml", packages.len());
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) async fn target_directory() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata: Metadata = metadata(&["--no-deps"]).await?;
    Ok(metadata.target_directory)
}

async fn packages(rules: &Rules) -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    // The platforms we build for; crates of others are neither downloaded nor shipped.
    let platforms = rules.graph.targets.iter().flat_map(|target| ["--filter-platform", target]);
    let metadata: Metadata = metadata(&platforms.collect::<Vec<_>>()).await?;
    Ok(metadata.packages)
}

async fn metadata<T: DeserializeOwned>(args: &[&str]) -> Result<T> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--locked"]).args(args);
    let output = command.output().await.doing("cannot run cargo metadata")?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).doing("cargo metadata")
}

fn read<T: DeserializeOwned>(name: &str) -> Result<T> {
    let text = fs::read_to_string(workspace().join(name)).doing(name)?;
    toml::from_str(&text).doing(name)
}
