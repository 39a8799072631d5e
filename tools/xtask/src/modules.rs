//! Cycles between the source files of a crate.
//!
//! A file depends on another when its code outside of tests names something that the other defines: in a `use`, in a path
//! (`crate::`, `super::`, `self::`, a child module or an import), or in the arguments of a macro. A re-export counts as a
//! dependency of the file that re-exports, and a name is traced through re-exports to the file that defines it. A `mod`
//! declaration is not a dependency, so a parent module and its child are in a cycle only when each names the other's items.

mod attributes;
mod graph;
mod imports;
mod references;
mod resolve;
mod source;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use self::{
    graph::{Cycle, Graph},
    source::Source,
};
use crate::{
    failure::{Context, Failure, Result},
    phases::workspace,
};

/// Checks every crate of the workspace.
pub(crate) fn run() -> Result<()> {
    let root = workspace();
    let roots = crate_roots(&root)?;
    let mut report = String::new();
    for crate_root in &roots {
        for cycle in cycles(crate_root)? {
            describe(&cycle, &root, &mut report);
        }
    }
    if report.is_empty() {
        eprintln!("{} crates have no cycle between their files", roots.len());
        return Ok(());
    }
    Err(Failure::new(format_args!(
        "files depend on each other in a cycle; move the shared names into a file that both can use:\n{report}"
    )))
}

/// The cycles of the crate whose root file is `crate_root`.
fn cycles(crate_root: &Path) -> Result<Vec<Cycle>> {
    let source = Source::load(crate_root)?;
    Ok(Graph::of(&source).cycles())
}

/// The root files of libraries and executables of the workspace at `root`.
fn crate_roots(root: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Manifest {
        workspace: Workspace,
    }
    #[derive(Deserialize)]
    struct Workspace {
        members: Vec<String>,
    }
    let text = fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    let manifest: Manifest = toml::from_str(&text).context("Cargo.toml")?;
    let members = manifest.workspace.members.iter();
    let roots =
        members.flat_map(|member| ["lib.rs", "main.rs"].map(|name| root.join(member).join("src").join(name)));
    Ok(roots.filter(|path| path.is_file()).collect())
}

fn describe(cycle: &Cycle, root: &Path, report: &mut String) {
    let show = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    let files: Vec<_> = cycle.files.iter().map(|path| show(path)).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(report, "  cycle of {} files: {}", files.len(), files.join(", "));
    for edge in &cycle.edges {
        let names: Vec<_> = edge.names.iter().map(String::as_str).collect();
        let _ = writeln!(report, "    {} -> {}: {}", show(&edge.from), show(&edge.to), names.join(", "));
    }
}

#[cfg(test)]
mod tests;
