//! Built-in agents: one table for registration, routing and execution.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use crate::{
    action::CHAT_ACTION,
    agent::{ActionSpec, AgentMode, AgentSpec},
    agent_name::{AgentName, InvalidAgentName},
    json::Json,
    llm::SETTINGS_VARIABLE,
    schema::InputSchema,
};

/// An agent that is a subcommand of the `phoenix` executable.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// Name in requests and configuration.
    pub name: &'static str,
    /// Subcommand: `phoenix agent <subcommand>` runs the agent.
    pub subcommand: &'static str,
    /// Purpose in one line.
    pub description: &'static str,
    /// Phrases that route a message to the agent.
    pub route: &'static [&'static str],
    /// Actions as JSON: an object with a description and an input schema per action.
    actions: &'static str,
    /// Actions that change something outside of Phoenix.
    pub writes: &'static [&'static str],
    /// Number of processes, and so the limit of concurrent requests.
    pub workers: u32,
    /// Environment variables in addition to [`BASE_ENV`].
    pub env: &'static [&'static str],
    /// Time limit of an attempt, if it differs from the default.
    pub timeout: Option<Duration>,
}

/// Environment variables of the executor that agents get by default.
pub const BASE_ENV: &[&str] = &["PATH", "HOME", "LANG", "TMPDIR"];

/// Additional variables of the git agent, and the only ones that git gets: the folder of repositories, the identity of the
/// committer, and the location of git's configuration. None of these redirects git or names a program to run.
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

/// Additional variables of the language-model agent: its settings, root certificates, and proxies in both common spellings.
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

/// The language-model agent, which handles messages without a route.
pub const LLM_ROUTER: &str = "llm_router_agent";

/// Name of the language-model agent.
#[must_use]
pub fn llm_router() -> AgentName {
    AgentName::trusted(LLM_ROUTER)
}

/// Every built-in agent.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: LLM_ROUTER,
        subcommand: "llm-router",
        description: "Answers with one completion of the configured language model",
        route: &[],
        actions: include_str!("builtin/llm_router.json"),
        writes: &[],
        workers: 16,
        env: LLM_ENV,
        // A local model may need a minute, a reasoning model more.
        timeout: Some(Duration::from_secs(120)),
    },
    Builtin {
        name: "git_agent",
        subcommand: "git",
        description: "Shows and changes a git repository: status, diff, log, add, commit",
        route: &["git status", "git diff", "git log", "git add", "git commit"],
        actions: include_str!("builtin/git.json"),
        writes: &["git_add", "git_commit"],
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
        // A chat can create a note.
        writes: &["create_note", "update_note", CHAT_ACTION],
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
        writes: &[],
        workers: 4,
        env: &[],
        timeout: None,
    },
];

/// Whether an action of a built-in agent changes something outside of Phoenix. False for other agents.
#[must_use]
pub fn writes(agent: &AgentName, action: &str) -> bool {
    let builtin = BUILTINS.iter().find(|builtin| builtin.name == agent.as_str());
    builtin.is_some_and(|builtin| builtin.writes.contains(&action))
}

impl Builtin {
    /// The specification on top of `base`, in mode `workers`, for the executable at `exe`.
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

    /// The actions. A test checks that the files are valid.
    fn actions(&self) -> BTreeMap<String, ActionSpec> {
        let actions: BTreeMap<String, Action> = serde_json::from_str(self.actions).unwrap_or_default();
        let spec = |Action { description, input_schema }| ActionSpec {
            description,
            input_schema: Some(InputSchema::trusted(input_schema)),
            ..ActionSpec::default()
        };
        actions.into_iter().map(|(name, action)| (name, spec(action))).collect()
    }
}

/// Action in a file of `builtin/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    description: String,
    input_schema: Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_names_are_valid() {
        for builtin in BUILTINS {
            assert!(builtin.name.parse::<AgentName>().is_ok(), "{}", builtin.name);
        }
    }

    #[test]
    fn writing_actions_are_those_of_built_in_agents() {
        let writes = |agent: &str, action: &str| writes(&agent.parse().unwrap(), action);
        assert!(writes("git_agent", "git_commit") && writes("obsidian_agent", "chat"));
        assert!(
            !writes("git_agent", "git_log") && !writes("git_agent", "chat") && !writes("own", "git_commit")
        );
    }

    #[test]
    fn builtin_actions_have_valid_described_schemas() {
        for builtin in BUILTINS {
            serde_json::from_str::<BTreeMap<String, Action>>(builtin.actions).unwrap();
            let actions = builtin.actions();
            assert!(actions.contains_key(CHAT_ACTION), "{}", builtin.name);
            assert!(builtin.writes.iter().all(|action| actions.contains_key(*action)), "{}", builtin.name);
            for (name, ActionSpec { description, input_schema, .. }) in actions {
                assert!(!description.is_empty(), "{name}");
                let schema = input_schema.unwrap();
                InputSchema::new(schema.source().clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
                let fields = schema.source()["properties"].as_object().cloned().unwrap_or_default();
                for (field, about) in fields.iter().filter(|_| name != CHAT_ACTION) {
                    assert!(about["description"].as_str().is_some(), "{name}: {field}");
                }
            }
        }
    }
}
