//! The OpenAPI document against the server: schemathesis sends valid and invalid requests, and compares every response with
//! the document.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a skipped test says so; helpers of tests")]

use std::path::{Path, PathBuf};

use phoenix_testkit::stack::Stack;
use tokio::process::Command;

const TOKEN: &str = "schemathesis-token-0123456789";

/// The program, as `cargo xtask test` installs it.
fn schemathesis() -> Option<PathBuf> {
    let program = std::env::var_os("SCHEMATHESIS_BIN").map(PathBuf::from);
    if program.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "SCHEMATHESIS_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: the OpenAPI document against the server, because SCHEMATHESIS_BIN is not set");
    }
    program
}

/// Creates a repository for the git agent, on which the examples of the document succeed.
async fn repository(folder: &Path) {
    let author = ["-c", "user.name=t", "-c", "user.email=t@t.example"];
    for words in
        [&["init", "--quiet", "."][..], &["commit", "--quiet", "--allow-empty", "--message", "first"]]
    {
        let done = Command::new("git").args(author).args(words).current_dir(folder).status().await.unwrap();
        assert!(done.success(), "git {words:?}");
    }
}

#[tokio::test]
async fn server_matches_the_openapi_document() {
    let Some(program) = schemathesis() else { return };
    let builder = Stack::builder();
    let folder = builder.dir().join("repository");
    std::fs::create_dir(&folder).unwrap();
    repository(&folder).await;
    let stack = builder
        .env("ORCH_API_TOKEN", TOKEN)
        .env("GIT_AGENT_REPO_ROOT", folder.display().to_string())
        .start()
        .await;
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let run = Command::new(program)
        .arg("--config-file")
        .arg(own.join("schemathesis.toml"))
        .args(["run", &format!("{}/api/v1/openapi.json", stack.base_url())])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure", "--no-color"])
        // A fixed seed, so that failures are reproducible.
        .args(["--max-examples", "20", "--seed", "1"])
        .current_dir(stack.dir())
        .env("SCHEMATHESIS_HOOKS", "checks")
        .env("PYTHONPATH", &own)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{report}\n{}", String::from_utf8_lossy(&run.stderr));
}
