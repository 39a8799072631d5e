//! The agents that come with the product: one table, read by whoever registers, routes or runs them.

use crate::{
    agent::{AgentMode, AgentName, AgentSpec, InvalidAgentName},
    llm::SETTINGS_VARIABLE,
};

/// One agent that is a subcommand of the `phoenix` executable.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// Its name in requests and configuration.
    pub name: &'static str,
    /// `phoenix agent <subcommand>` runs it.
    pub subcommand: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Phrases that route a message to it.
    pub route: &'static [&'static str],
    /// Processes kept alive at the most: so many requests at once.
    pub workers: u32,
    /// Variables it needs beside [`BASE_ENV`].
    pub env: &'static [&'static str],
}

/// What every agent gets of the executor's environment unless its own `env` says otherwise.
pub const BASE_ENV: &[&str] = &["PATH", "HOME", "LANG", "TMPDIR"];

/// What the git agent needs beside it, and all that git itself gets to see: where the repositories are, who commits, and
/// where the operator keeps git's configuration. None of these points git elsewhere or names a program to run.
pub const GIT_ENV: &[&str] = &[
    "GIT_AGENT_REPO_ROOT",
    "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL",
    "GIT_COMMITTER_NAME",
    "GIT_COMMITTER_EMAIL",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "TZ",
    "XDG_CONFIG_HOME",
];

/// Takes a message to a model. Where no other agent is meant, messages go here.
pub const LLM_ROUTER: &str = "llm_router_agent";

/// Every agent that comes with the product.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: LLM_ROUTER,
        subcommand: "llm-router",
        description: "Answers with one completion of the configured language model",
        route: &[],
        workers: 16,
        env: &[SETTINGS_VARIABLE, "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"],
    },
    Builtin {
        name: "git_agent",
        subcommand: "git",
        description: "Shows and changes a git repository: status, diff, log, add, commit",
        route: &["git status", "git diff", "git log", "git add", "git commit"],
        workers: 4,
        env: GIT_ENV,
    },
    Builtin {
        name: "obsidian_agent",
        subcommand: "obsidian",
        description: "Creates, reads, updates, lists and searches Markdown notes in a vault",
        route: &[
            "create note",
            "read note",
            "update note",
            "list notes",
            "search notes",
            "my notes",
            "vault",
            "obsidian",
        ],
        workers: 4,
        env: &["OBSIDIAN_AGENT_VAULT_ROOT"],
    },
    Builtin {
        name: "echo_agent",
        subcommand: "echo",
        description: "Answers with its input; for smoke tests and load",
        route: &[],
        workers: 4,
        env: &[],
    },
];

impl Builtin {
    /// Its specification on top of `base`, as processes that are kept alive, to be run by the executable at `exe`.
    ///
    /// # Errors
    /// Never for a name of [`BUILTINS`]; a test checks each.
    pub fn spec(&self, base: &AgentSpec, exe: &str) -> Result<AgentSpec, InvalidAgentName> {
        let env = BASE_ENV.iter().chain(self.env).map(|name| (*name).to_owned()).collect();
        Ok(AgentSpec {
            name: self.name.parse::<AgentName>()?,
            description: self.description.into(),
            command: vec![exe.into(), "agent".into(), self.subcommand.into()],
            env,
            route: self.route.iter().map(|phrase| (*phrase).to_owned()).collect(),
            mode: AgentMode::Workers,
            workers: self.workers,
            ..base.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_has_a_valid_name() {
        for builtin in BUILTINS {
            assert!(builtin.name.parse::<AgentName>().is_ok(), "{}", builtin.name);
        }
    }
}
