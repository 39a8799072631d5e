//! The agents that come with the product: one table, read by whoever registers, routes or runs them.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    agent::{ActionSpec, AgentMode, AgentName, AgentSpec, InvalidAgentName},
    llm::SETTINGS_VARIABLE,
    schema::InputSchema,
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
    /// What it can do: an object with a description and an input schema for each action.
    actions: &'static str,
    /// Processes kept alive at the most: so many requests at once.
    pub workers: u32,
    /// Variables it needs beside [`BASE_ENV`].
    pub env: &'static [&'static str],
    /// Time for one attempt, where the usual one is not enough.
    pub timeout: Option<Duration>,
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

/// What the language-model agent needs beside it: its settings, where root certificates are, and which proxies to use. Both
/// spellings of a proxy's variable are in use.
pub const LLM_ENV: &[&str] = &[
    SETTINGS_VARIABLE,
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
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
        actions: include_str!("builtin/llm_router.json"),
        workers: 16,
        env: LLM_ENV,
        // A local model may need a minute, and a reasoning one more.
        timeout: Some(Duration::from_secs(120)),
    },
    Builtin {
        name: "git_agent",
        subcommand: "git",
        description: "Shows and changes a git repository: status, diff, log, add, commit",
        route: &["git status", "git diff", "git log", "git add", "git commit"],
        actions: include_str!("builtin/git.json"),
        workers: 4,
        env: GIT_ENV,
        timeout: None,
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
        actions: include_str!("builtin/obsidian.json"),
        workers: 4,
        env: &["OBSIDIAN_AGENT_VAULT_ROOT"],
        timeout: None,
    },
    Builtin {
        name: "echo_agent",
        subcommand: "echo",
        description: "Answers with its input; for smoke tests and load",
        route: &[],
        actions: include_str!("builtin/echo.json"),
        workers: 4,
        env: &[],
        timeout: None,
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
            actions: self.actions(),
            mode: AgentMode::Workers,
            workers: self.workers,
            timeout: self.timeout.unwrap_or(base.timeout),
            ..base.clone()
        })
    }

    /// Nothing that can't be read is in the files, as a test checks.
    fn actions(&self) -> BTreeMap<String, ActionSpec> {
        let actions: BTreeMap<String, Action> = serde_json::from_str(self.actions).unwrap_or_default();
        let spec = |Action { description, input_schema }| ActionSpec {
            description,
            input_schema: Some(InputSchema::known(input_schema)),
        };
        actions.into_iter().map(|(name, action)| (name, spec(action))).collect()
    }
}

/// An action in a file of `builtin/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    description: String,
    input_schema: Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::CHAT_ACTION;

    #[test]
    fn every_builtin_has_a_valid_name() {
        for builtin in BUILTINS {
            assert!(builtin.name.parse::<AgentName>().is_ok(), "{}", builtin.name);
        }
    }

    #[test]
    fn every_builtin_declares_its_actions_with_valid_schemas_whose_fields_are_described() {
        for builtin in BUILTINS {
            serde_json::from_str::<BTreeMap<String, Action>>(builtin.actions).unwrap();
            let actions = builtin.actions();
            assert!(actions.contains_key(CHAT_ACTION), "{}", builtin.name);
            for (name, ActionSpec { description, input_schema }) in actions {
                assert!(!description.is_empty(), "{name}");
                let schema = input_schema.unwrap();
                InputSchema::new(schema.source().clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
                let fields = schema.source()["properties"].as_object().cloned().unwrap_or_default();
                for (field, about) in fields.iter().filter(|_| name != CHAT_ACTION) {
                    assert!(about["description"].is_string(), "{name}: {field}");
                }
            }
        }
    }
}
