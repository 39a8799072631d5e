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
            let url = format!("http://{peer}-replicas:{}", peer.default_port());
            assert_eq!(environment[variable], url, "{role}");
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
    let every_service = ["--profile", "postgres", "--profile", "load", "config", "--quiet"];
    must_run("docker-compose", &every_service, &[]);
}

#[test]
fn profile_postgres_replicates_every_role_on_one_database() {
    let compose = yaml("docker-compose.yml");
    let services = &compose["services"];
    for role in Role::ALL {
        let (first, second) = (&services[role.as_str()], &services[format!("{role}-2")]);
        assert!(first.get("profiles").is_none(), "{role}");
        assert_eq!(second["profiles"], serde_json::json!(["postgres"]), "{role}");
        for same in ["image", "command", "volumes", "read_only", "cap_drop"] {
            assert_eq!(first[same], second[same], "{role}: {same}");
        }
        let [own, others] = [first, second].map(|service| {
            let mut environment = service["environment"].clone();
            let own = environment.as_object_mut().unwrap().remove("PLANNER_ADVERTISE_URL");
            (own, environment)
        });
        assert_eq!(own.1, others.1, "{role}");
        let advertised =
            |name: &str| (*role == Role::Planner).then(|| serde_json::json!(format!("http://{name}:50051")));
        assert_eq!((own.0, others.0), (advertised("planner"), advertised("planner-2")), "{role}");
        if *role == Role::Gateway {
            assert_ne!(first["ports"], second["ports"]);
            continue;
        }
        // Peers use a name that resolves to both.
        let alias = serde_json::json!([format!("{role}-replicas")]);
        assert_eq!(first["networks"]["services"]["aliases"], alias);
        assert_eq!(first["networks"], second["networks"], "{role}");
        if role.has_database() {
            let url = first["environment"]["DATABASE_URL"].as_str().unwrap();
            assert_eq!(url, format!("${{PHOENIX_DATABASE_URL:-sqlite:///data/{role}.db}}"));
            assert_eq!(second["depends_on"]["postgres"]["condition"], "service_healthy");
        }
    }
    assert_eq!(compose["networks"]["database"]["internal"], true);
    let database = &services["postgres"];
    assert_eq!(database["networks"], serde_json::json!(["database"]));
    assert_eq!(database["depends_on"]["database-url"]["condition"], "service_completed_successfully");
    assert!(database.get("ports").is_none());
}

#[test]
fn profile_postgres_without_settings_exits_with_a_message() {
    let compose = yaml("docker-compose.yml");
    let (password, url) =
        (("POSTGRES_PASSWORD", "p"), ("PHOENIX_DATABASE_URL", "postgres://phoenix:p@postgres/phoenix"));
    let check = |environment: &[(&str, &str)]| run_check(&compose["services"]["database-url"], environment);
    assert_eq!(check(&[password, url]), (Some(0), String::new()));
    for (environment, message) in [
        (&[url][..], "POSTGRES_PASSWORD must be set"),
        (&[password], "PHOENIX_DATABASE_URL must be set"),
        (&[password, ("PHOENIX_DATABASE_URL", "sqlite:///data/x.db")], "must begin with postgres://"),
    ] {
        let (code, stderr) = check(environment);
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

/// Runs the script of a service that checks variables. Returns its exit code and standard error.
fn run_check(service: &serde_json::Value, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let words: Vec<_> =
        service["entrypoint"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let mut command = Command::new(words[0]);
    // Compose unescapes `$$`.
    command.args([words[1], &words[2].replace("$$", "$")]);
    for name in service["environment"].as_object().unwrap().keys() {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn compose_up_without_a_token_exits_with_a_message() {
    let compose = yaml("docker-compose.yml");
    let check = &compose["services"]["token"];
    assert_eq!(
        compose["services"]["gateway"]["depends_on"]["token"]["condition"],
        "service_completed_successfully"
    );
    let names = ["ORCH_API_TOKEN", "PHOENIX_SERVICE_TOKEN"];
    for missing in names.map(Some).into_iter().chain([None]) {
        let environment = names.map(|name| (name, if missing == Some(name) { "" } else { "t" }));
        let (code, stderr) = run_check(check, &environment);
        match missing {
            Some(name) => {
                assert_eq!(code, Some(64), "{stderr}");
                assert!(stderr.contains(&format!("{name} must be set")), "{stderr}");
            }
            None => assert_eq!((code, stderr.as_str()), (Some(0), "")),
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
