//! The programs of the agents.

use std::{
    env,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};
use phoenix_domain::{
    AgentSpec,
    builtin::{BASE_ENV, BUILTINS},
};
use phoenix_platform::config::Role;

use super::finding::Finding;
use crate::settings::Resolved;

/// Extensions of files that an interpreter runs.
const SCRIPTS: [&str; 8] = ["cjs", "js", "mjs", "pl", "py", "rb", "sh", "ts"];

/// Whether the program of each agent is there, with its script and its variables.
pub(super) fn programs(resolved: &Resolved) -> Vec<Finding> {
    let Some(executor) = resolved.service(Role::Executor) else { return Vec::new() };
    let agents = &executor.settings.config.agents;
    let mut findings: Vec<_> = agents.iter().flat_map(problems).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            "agents",
            format!("the programs of {} agents are there", agents.iter().count()),
        ));
    }
    findings
}

fn problems(spec: &AgentSpec) -> Vec<Finding> {
    let name = &spec.name;
    let is_builtin = BUILTINS.iter().any(|builtin| name.as_str() == builtin.name);
    let mut findings = Vec::new();
    if name.as_str() == "git_agent" && find("git").is_none() {
        findings.push(Finding::error("agents", "`git_agent` needs git, which is not in PATH", "install git"));
    }
    // The program of a built-in agent is this one, and a remote server has none.
    let Some(program) = spec.command.first().filter(|_| !is_builtin) else { return findings };
    let Some(path) = find(program) else {
        let problem = format!("`{name}` has the program `{program}`, which is not there or cannot be run");
        let action = format!("install it, or correct agents.{name}.command");
        findings.push(Finding::error("agents", problem, action));
        return findings;
    };
    // Only what is plainly a script: another argument may be anything, and even a secret.
    let script = spec.command.iter().skip(1).find(|word| !word.starts_with('-'));
    if let Some(script) = script.filter(|word| is_script(word) && !Path::new(word).exists()) {
        let problem = format!("`{name}` runs `{script}` with {}, which does not exist", path.display());
        findings.push(Finding::error("agents", problem, format!("correct agents.{name}.command")));
    }
    let unset =
        spec.env.iter().filter(|name| !BASE_ENV.contains(&name.as_str()) && env::var_os(name).is_none());
    let unset: Vec<_> = unset.map(String::as_str).collect();
    if !unset.is_empty() {
        let problem = format!("`{name}` gets variables that are not set: {}", unset.join(", "));
        let action = format!("set them, or remove them from agents.{name}.env");
        findings.push(Finding::warning("agents", problem, action));
    }
    findings
}

fn is_script(word: &str) -> bool {
    let extension = Path::new(word).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| SCRIPTS.contains(&extension))
}

/// The file of a program. A name without a slash is looked up in `PATH`, as the executor does.
fn find(program: &str) -> Option<PathBuf> {
    let is_program = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| is_program(path));
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| is_program(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn found(command: &[&str], env: &[&str]) -> Vec<Finding> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let mut spec = AgentSpec::new("reviewer".parse().unwrap(), command);
        spec.env = env.iter().map(|name| (*name).to_owned()).collect();
        problems(&spec)
    }

    #[test]
    fn missing_program_script_and_variable_are_found() {
        assert_eq!(found(&["sh", "-c", "exit.sh"], &["PATH"]), found(&["sh", "-c", "exit.sh"], &[]));
        assert_eq!(found(&["sh", "--flag"], &["PATH", "HOME"]), []);
        assert_eq!(found(&["/bin/sh"], &[]), []);
        for (command, env, expected, severity) in [
            (
                &["no-such-program-anywhere", "hunter2"][..],
                &[][..],
                "`no-such-program-anywhere`",
                Severity::Error,
            ),
            (&["/etc/passwd"], &[], "cannot be run", Severity::Error),
            (&["sh", "missing.py"], &[], "`missing.py`", Severity::Error),
            (&["sh"], &["NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE", Severity::Warning),
        ] {
            let findings = found(command, env);
            assert_eq!((findings.len(), findings[0].severity), (1, severity), "{findings:?}");
            assert!(findings[0].message.contains(expected), "{findings:?}");
            assert!(!format!("{findings:?}").contains("hunter2"), "{findings:?}");
        }
    }
}
