//! The layers of the workspace: which member may depend on which. Dev-dependencies are free.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use toml::Value;

use crate::failure::{Context, Result};

/// Members and the members that they may depend on. A service never depends on another service.
const LAYERS: &[(&str, &[&str])] = &[
    ("crates/domain", &[]),
    ("crates/agents", &["phoenix-domain"]),
    ("proto", &["phoenix-domain"]),
    ("crates/platform", &["phoenix-domain", "phoenix-proto"]),
    ("gateway", &["phoenix-domain", "phoenix-platform", "phoenix-proto"]),
    ("services/executor", &["phoenix-domain", "phoenix-platform", "phoenix-proto"]),
    ("services/health", &["phoenix-domain", "phoenix-platform", "phoenix-proto"]),
    ("services/planner", &["phoenix-domain", "phoenix-platform", "phoenix-proto"]),
];

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    dependencies: BTreeMap<String, Value>,
}

/// A sentence for each dependency between members that is not allowed.
///
/// # Errors
/// When a manifest cannot be read.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for (member, allowed) in LAYERS {
        let path = root.join(member).join("Cargo.toml");
        let text = fs::read_to_string(&path).context(path.display())?;
        broken.extend(check_manifest(member, allowed, &text)?);
    }
    Ok(broken)
}

fn check_manifest(member: &str, allowed: &[&str], text: &str) -> Result<Vec<String>> {
    let manifest: Manifest = toml::from_str(text).context(member)?;
    let members = manifest.dependencies.keys().filter(|name| name.starts_with("phoenix-"));
    let unexpected = members.filter(|name| !allowed.contains(&name.as_str()));
    Ok(unexpected.map(|name| format!("{member} depends on {name}, which its layer does not allow")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_of_a_service_on_a_service_is_reported() {
        let text = "[dependencies]\nphoenix-domain.workspace = true\nphoenix-health = { path = \"x\" }\nserde = \"1\"\n\
                    [dev-dependencies]\nphoenix-planner.workspace = true\n";
        let broken = check_manifest("services/executor", &["phoenix-domain"], text).unwrap();
        assert_eq!(broken, ["services/executor depends on phoenix-health, which its layer does not allow"]);
    }
}
