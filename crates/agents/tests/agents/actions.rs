//! The schemas of the built-in agents match their validation: a planner that applies them rejects exactly the inputs that the
//! agents reject.

use std::{fs, process::Command};

use phoenix_agents::{Agent, echo::EchoAgent, git::GitAgent, llm::LlmRouter, obsidian::ObsidianAgent};
use phoenix_domain::{
    AgentSpec,
    agent::ANY_ACTION,
    builtin::BUILTINS,
    llm::{DefaultProvider, LlmSettings},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{call, request};

/// Specification of a built-in agent.
fn declared(name: &str) -> AgentSpec {
    let builtin = BUILTINS.iter().find(|builtin| builtin.name == name).unwrap();
    let base = AgentSpec::new("base".parse().unwrap(), Vec::new());
    builtin.spec(&base, "phoenix").unwrap()
}

/// Sends every input to `agent`, and compares the result with that of its schema.
fn compare(name: &str, mut agent: impl Agent, cases: &[(&str, &[Value], &[Value])]) {
    let spec = declared(name);
    for (action, good, bad) in cases {
        let schema = spec.actions[*action].input_schema.as_ref().unwrap();
        for (inputs, accepted) in [(good, true), (bad, false)] {
            for input in *inputs {
                let by_schema = schema.check(&request(action, input.clone()).payload).is_ok();
                // Other codes than 400 are about the repository or the vault.
                let answer = call(&mut agent, action, input.clone());
                let by_agent = answer.as_ref().err().is_none_or(|error| error.code != 400);
                assert_eq!((by_schema, by_agent), (accepted, accepted), "{action} {input}: {answer:?}");
            }
        }
    }
    let covered: Vec<_> = cases.iter().map(|(action, ..)| *action).collect();
    assert!(spec.actions.keys().all(|action| covered.contains(&action.as_str())), "every action of {name}");
    if spec.actions.contains_key(ANY_ACTION) {
        return;
    }
    let refusal = call(&mut agent, "no_such_action", json!({})).unwrap_err();
    let known = refusal.message.rsplit_once(": ").unwrap().1;
    let mut known: Vec<_> = known.split(", ").collect();
    known.sort_unstable();
    assert_eq!(spec.actions.keys().collect::<Vec<_>>(), known, "{name}");
    assert!(spec.action("no_such_action").is_err() && refusal.code == 501);
}

#[test]
fn git_schema_matches_its_validation() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a"), "1\n").unwrap();
    let environment = [("PATH", std::env::var_os("PATH").unwrap()), ("HOME", dir.path().into())];
    let mut init = Command::new("git");
    init.args(["init", "--quiet"]).current_dir(dir.path()).env_clear().envs(environment.clone());
    assert!(init.status().unwrap().success());
    let environment = environment.map(|(name, value)| (name.into(), value));
    let who = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
    let who = who.map(|name| (name.into(), "ann@example.com".into()));
    let agent = GitAgent::new(dir.path(), environment.into_iter().chain(who));
    compare(
        "git_agent",
        agent,
        &[
            (
                "chat",
                &[json!({"message": "git status"}), json!({"message": "git log", "more": 1})],
                &[json!({}), json!({"message": 1})],
            ),
            (
                "git_status",
                &[json!({}), json!({"repo": "."}), json!({"repo": null})],
                &[json!({"repo": 1}), json!({"path": "a"})],
            ),
            (
                "git_diff",
                &[json!({}), json!({"path": "a", "staged": true}), json!({"path": null, "staged": null})],
                &[json!({"staged": "yes"}), json!({"path": ["a"]}), json!({"paths": ["a"]})],
            ),
            (
                "git_log",
                &[
                    json!({"limit": 1}),
                    json!({"limit": 1000}),
                    json!({"limit": 5.0}),
                    json!({"limit": null, "path": "a"}),
                ],
                &[
                    json!({"limit": 0}),
                    json!({"limit": 1001}),
                    json!({"limit": 1.5}),
                    json!({"limit": "5"}),
                    json!({"limit": -1}),
                    json!({"limit": 1e300}),
                ],
            ),
            (
                "git_add",
                &[json!({"paths": ["a"]}), json!({"paths": ["nowhere"], "repo": "."})],
                &[
                    json!({}),
                    json!({"paths": null}),
                    json!({"paths": []}),
                    json!({"paths": "a"}),
                    json!({"paths": [1]}),
                    json!({"paths": [""]}),
                    json!({"paths": ["a"], "force": true}),
                ],
            ),
            (
                "git_commit",
                &[json!({"message": "Größe"}), json!({"message": "  x  "})],
                &[
                    json!({}),
                    json!({"message": ""}),
                    json!({"message": " \n "}),
                    json!({"message": ["x"]}),
                    json!({"message": "x", "amend": true}),
                    json!({"message": "x".repeat(64 * 1024 + 1)}),
                ],
            ),
        ],
    );
}

#[test]
fn obsidian_schema_matches_its_validation() {
    let vault = TempDir::new().unwrap();
    compare(
        "obsidian_agent",
        ObsidianAgent::new(Some(vault.path().into())),
        &[
            ("chat", &[json!({"message": "list notes"})], &[json!({}), json!({"message": ["list notes"]})]),
            (
                "create_note",
                &[
                    json!({"path": "a", "content": "x"}),
                    json!({"title": "b", "content": ""}),
                    json!({"path": null, "title": "c", "content": "x"}),
                    json!({"path": "d", "title": null, "content": "x"}),
                ],
                &[
                    json!({"content": "x"}),
                    json!({"path": "a", "title": "a", "content": "x"}),
                    json!({"path": null, "title": null, "content": "x"}),
                    json!({"path": "a"}),
                    json!({"path": "a", "content": null}),
                    json!({"path": 1, "content": "x"}),
                    json!({"path": "a", "content": "x", "mode": "replace"}),
                ],
            ),
            (
                "read_note",
                &[json!({"path": "a"}), json!({"path": "nowhere"})],
                &[json!({}), json!({"path": null}), json!({"path": ""}), json!({"title": "a"})],
            ),
            (
                "update_note",
                &[
                    json!({"path": "a", "content": "y"}),
                    json!({"path": "a", "content": "y", "mode": "append"}),
                    json!({"path": "a", "content": "y", "mode": null}),
                ],
                &[
                    json!({"path": "a"}),
                    json!({"content": "y"}),
                    json!({"path": "a", "content": "y", "mode": "prepend"}),
                    json!({"path": "a", "content": "y", "mode": 1}),
                    json!({"path": "a", "content": "y", "title": "a"}),
                ],
            ),
            (
                "list_notes",
                &[json!({}), json!({"folder": null}), json!({"folder": "x", "limit": 5000})],
                &[json!({"folder": 1}), json!({"limit": 5001}), json!({"limit": 0}), json!({"path": "x"})],
            ),
            (
                "search_notes",
                &[
                    json!({"query": "x"}),
                    json!({"query": "x", "limit": 500}),
                    json!({"query": "\n two words\r\n"}),
                ],
                &[
                    json!({}),
                    json!({"query": " "}),
                    json!({"query": "two\nlines"}),
                    json!({"query": "x", "limit": 501}),
                    json!({"query": "x", "folder": "a"}),
                ],
            ),
        ],
    );
}

#[test]
fn echo_and_llm_schemas_match_their_validation() {
    let chat: (&str, &[Value], &[Value]) = (
        "chat",
        &[json!({"message": "hi"}), json!({"message": "", "more": 1})],
        &[json!({}), json!({"message": {}})],
    );
    compare("echo_agent", EchoAgent, &[chat, (ANY_ACTION, &[json!({}), json!({"message": 1})], &[])]);
    let offline = LlmSettings { default_provider: DefaultProvider::Offline, ..LlmSettings::default() };
    compare("llm_router_agent", LlmRouter::new(offline), &[chat]);
}
