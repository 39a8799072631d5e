//! `docker-compose.yml`.

use std::process::Command;

use phoenix_platform::config::{PhoenixConfig, Role};

use crate::{TOKEN, must_run, read, yaml};

#[test]
fn compose_starts_the_four_roles_on_their_ports() {
    let compose = yaml("docker-compose.yml");
    for role in Role::ALL {
        let service = &compose["services"][role.as_str()];
        assert_eq!(service["command"], serde_json::json!([role.as_str()]));
        let environment = &service["environment"];
        assert_eq!(environment[role.addr_variable()], format!("0.0.0.0:{}", role.default_port()));
        for (variable, peer) in
            [("PLANNER_URL", Role::Planner), ("EXECUTOR_URL", Role::Executor), ("HEALTH_URL", Role::Health)]
        {
            assert_eq!(environment[variable], format!("http://{peer}:{}", peer.default_port()), "{role}");
        }
        assert_eq!(environment["DATABASE_URL"].is_string(), role.has_database(), "{role}");
        assert_eq!(service["ports"].is_array(), *role == Role::Gateway, "only the gateway publishes a port");
    }
    let keys = |role: Role| {
        let environment = &compose["services"][role.as_str()]["environment"];
        environment.as_object().unwrap().keys().filter(|name| name.ends_with("_API_KEY")).count()
    };
    assert_eq!(Role::ALL.iter().filter(|role| keys(**role) > 0).collect::<Vec<_>>(), [&Role::Executor]);
    let settings = |text: &str| {
        let config = PhoenixConfig::parse(text, "phoenix", &|_| None).unwrap();
        (config.agents.iter().cloned().collect::<Vec<_>>(), config.llm.describe(), config.gateway)
    };
    assert_eq!(settings(&read("deploy/phoenix/phoenix.toml")), settings(""), "the settings are the defaults");
}

#[test]
fn compose_file_is_accepted_with_and_without_a_token() {
    must_run("docker-compose", &["config", "--quiet"], &[TOKEN]);
    // `ps`, `logs` and `down` read the file like `config`.
    must_run("docker-compose", &["config", "--quiet"], &[]);
}

#[test]
fn compose_up_without_a_token_exits_with_a_message() {
    let compose = yaml("docker-compose.yml");
    let check = &compose["services"]["token"];
    assert_eq!(
        compose["services"]["gateway"]["depends_on"]["token"]["condition"],
        "service_completed_successfully"
    );
    let words: Vec<_> =
        check["entrypoint"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    // Compose unescapes `$$`.
    let script = words[2].replace("$$", "$");
    let names = ["ORCH_API_TOKEN", "PHOENIX_SERVICE_TOKEN"];
    for missing in names.map(Some).into_iter().chain([None]) {
        let mut command = Command::new(words[0]);
        command.args([words[1], &script]);
        command.envs(names.map(|name| (name, if missing == Some(name) { "" } else { "t" })));
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        match missing {
            Some(name) => {
                assert_eq!(output.status.code(), Some(64), "{stderr}");
                assert!(stderr.contains(&format!("{name} must be set")), "{stderr}");
            }
            None => assert!(output.status.success() && stderr.is_empty(), "{stderr}"),
        }
    }
}

#[test]
fn every_container_rotates_its_logs() {
    let compose = yaml("docker-compose.yml");
    for (name, service) in compose["services"].as_object().unwrap() {
        let options = &service["logging"]["options"];
        assert!(options["max-size"].is_string() && options["max-file"].is_string(), "{name}");
    }
}

#[test]
fn readme_keeps_secrets_outside_the_repository() {
    let (readme, compose) = (read("README.md"), read("docker-compose.yml"));
    assert!(!readme.contains("docker-compose up"), "Compose v2 is `docker compose`");
    for text in [readme, compose] {
        assert!(text.contains("docker compose --env-file ~/.config/phoenix.env"));
    }
}
