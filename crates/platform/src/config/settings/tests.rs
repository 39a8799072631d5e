use super::*;
use crate::{service_token, tls::test_certificates::Authority};

fn resolve(role: Role, flags: &RoleFlags, env: &[(&str, &str)]) -> Result<RoleSettings, Problems> {
    let token = (service_token::VARIABLE, "of-the-test");
    let lookup = |name: &str| {
        let found = env.iter().chain([&token]).find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned()).filter(|value| !value.is_empty())
    };
    RoleSettings::resolve(role, flags, "phoenix", &lookup)
}

#[test]
fn flag_overrides_environment_which_overrides_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phoenix.toml");
    std::fs::write(&path, "[planner]\ngrpc_addr = \"127.0.0.1:1\"\nmetrics_addr = \"127.0.0.1:2\"\n")
        .unwrap();
    let mut flags = RoleFlags { config: Some(path), ..RoleFlags::default() };
    assert_eq!(resolve(Role::Planner, &flags, &[]).unwrap().addr.port(), 1);
    let env = [("GRPC_ADDR", "127.0.0.1:3")];
    assert_eq!(resolve(Role::Planner, &flags, &env).unwrap().addr.port(), 3);
    flags.addr = Some("127.0.0.1:4".into());
    let settings = resolve(Role::Planner, &flags, &env).unwrap();
    assert_eq!((settings.addr.port(), settings.metrics_addr.port()), (4, 2));
    assert_eq!(resolve(Role::Health, &RoleFlags::default(), &[]).unwrap().metrics_addr.port(), 9003);
}

#[test]
fn every_problem_is_listed_at_once() {
    let env = [
        ("HTTP_ADDR", "localhost"),
        ("METRICS_ADDR", "9000"),
        ("PLANNER_URL", "planner"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "a=b=c"),
        ("PHOENIX_CONFIG", "/nonexistent/phoenix.toml"),
    ];
    let problems = resolve(Role::Gateway, &RoleFlags::default(), &env).unwrap_err().to_string();
    for (name, _) in &env[..5] {
        assert!(problems.contains(&format!("{name}: ")), "{name} is missing from:\n{problems}");
    }
    assert!(
        problems.contains("/nonexistent/phoenix.toml: the configuration file cannot be read"),
        "{problems}"
    );
}

#[test]
fn list_of_urls_with_a_bad_item_is_a_problem_with_its_reason() {
    let env = [
        ("PLANNER_URL", "http://a:50051,http://b:50051"),
        ("EXECUTOR_URL", "http://a:50052,,http://b:50052"),
        ("HEALTH_URL", "http://a:50053,http://a:50053"),
    ];
    let problems = resolve(Role::Gateway, &RoleFlags::default(), &env).unwrap_err().to_string();
    assert!(problems.contains("2 problems"), "{problems}");
    assert!(problems.contains("EXECUTOR_URL: must be a URL"), "{problems}");
    assert!(problems.contains("URL 2 of `http://a:50052,,http://b:50052` is empty"), "{problems}");
    assert!(problems.contains("`http://a:50053` is listed twice"), "{problems}");
}

#[test]
fn host_name_is_resolved_for_every_listener() {
    for (role, variable) in
        [(Role::Gateway, "HTTP_ADDR"), (Role::Planner, "GRPC_ADDR"), (Role::Health, "METRICS_ADDR")]
    {
        let settings = resolve(role, &RoleFlags::default(), &[(variable, "localhost:18181")]).unwrap();
        let addr = if variable == "METRICS_ADDR" { settings.metrics_addr } else { settings.addr };
        assert_eq!((addr.ip().is_loopback(), addr.port()), (true, 18181), "{role}");
    }
    for wrong in
        ["localhost", ":8181", "localhost:http", "localhost:70000", "::1:8181", "no-such-host.invalid:80"]
    {
        let problems = resolve(Role::Gateway, &RoleFlags::default(), &[("HTTP_ADDR", wrong)]).unwrap_err();
        assert!(problems.to_string().contains(&format!("HTTP_ADDR: `{wrong}` must be")), "{problems}");
    }
}

#[test]
fn gateway_on_a_public_host_name_needs_a_token() {
    // A host name for the resolver, and a public address.
    let open = [("HTTP_ADDR", "0:8181")];
    let problems = resolve(Role::Gateway, &RoleFlags::default(), &open).unwrap_err().to_string();
    assert!(problems.contains("ORCH_API_TOKEN: must be set to serve on 0.0.0.0:8181"), "{problems}");
}

#[test]
fn data_folder_with_special_characters_is_a_literal_path() {
    for name in ["percent%20sign", "question?mark", "file:x", ":memory:"] {
        let flags = RoleFlags { data_dir: Some(name.into()), ..RoleFlags::default() };
        let settings = resolve(Role::Planner, &flags, &[]).unwrap();
        let expected = std::path::absolute(name).unwrap().join("planner.db");
        assert_eq!(sqlite::file_from_url(settings.database_url.expose()).unwrap(), expected);
    }
    let problems = resolve(Role::Planner, &RoleFlags::default(), &[("DATABASE_URL", "sqlite::memory:")]);
    assert!(problems.unwrap_err().to_string().contains("DATABASE_URL: must look like"));
}

#[test]
fn advertised_url_is_one_url_of_a_planner() {
    let resolved = |role, url| resolve(role, &RoleFlags::default(), &[("PLANNER_ADVERTISE_URL", url)]);
    let advertised = |role| resolved(role, "http://planner-1:50051").unwrap().advertise_url;
    assert_eq!(advertised(Role::Planner).as_deref(), Some("http://planner-1:50051"));
    assert_eq!(advertised(Role::Gateway), None);
    for (url, problem) in [
        ("planner-1:50051", "must be a URL such as"),
        ("http://a:1,http://b:1", "`http://a:1,http://b:1` must be one URL"),
        ("https://a:1", "needs a certificate"),
    ] {
        let found = resolved(Role::Planner, url).unwrap_err().to_string();
        assert!(found.contains("PLANNER_ADVERTISE_URL: ") && found.contains(problem), "{found}");
    }
}

#[test]
fn postgres_url_is_read_by_roles_with_a_database_only() {
    let env = [("DATABASE_URL", "postgres://u:sesame@h/db"), ("DATABASE_POOLER", "transaction")];
    for role in Role::ALL {
        let settings = resolve(*role, &RoleFlags::default(), &env).unwrap();
        assert_eq!(settings.database_url.is_postgres(), role.has_database(), "{role}");
        assert_eq!(settings.database_pooler == Pooler::Transaction, role.has_database(), "{role}");
        assert!(!format!("{settings:?}").contains("sesame"), "the password is not printed");
    }
}

#[test]
fn wrong_database_settings_are_listed_without_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phoenix.toml");
    let text = "[planner]\ndatabase_url = \"postgres://u:sesame@h:port/db\"\n[database]\npooler = \"x\"\n";
    std::fs::write(&path, text).unwrap();
    let flags = RoleFlags { config: Some(path), ..RoleFlags::default() };
    let problems = resolve(Role::Planner, &flags, &[]).unwrap_err().to_string();
    assert!(problems.contains("database.pooler: `x` must be transaction or session"), "{problems}");
    let env = [("DATABASE_URL", "postgres://u:sesame@h:port/db"), ("DATABASE_POOLER", "x")];
    let more = resolve(Role::Planner, &RoleFlags::default(), &env).unwrap_err().to_string();
    assert!(
        more.contains("DATABASE_URL: must look like postgres://") && more.contains("DATABASE_POOLER: `x`")
    );
    assert!(!problems.contains("sesame") && !more.contains("sesame"), "{problems}{more}");
}

#[test]
fn value_from_a_variable_of_the_file_is_never_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phoenix.toml");
    let text = "[planner]\ngrpc_addr = \"${A}\"\nmetrics_addr = \"x ${A}\"\ndatabase_url = \"${A}\"\n";
    std::fs::write(&path, text).unwrap();
    let flags = RoleFlags { config: Some(path), ..RoleFlags::default() };
    let problems = resolve(Role::Planner, &flags, &[("A", "sk-live-0123")]).unwrap_err().to_string();
    assert!(problems.contains("3 problems") && !problems.contains("sk-live"), "{problems}");
}

#[test]
fn role_without_service_token_is_rejected_on_any_address() {
    for role in Role::ALL {
        for addr in ["127.0.0.1:0", "0.0.0.0:0"] {
            let env = [(role.addr_variable(), addr), ("ORCH_API_TOKEN", "t"), (service_token::VARIABLE, "")];
            let problems = resolve(*role, &RoleFlags::default(), &env).unwrap_err().to_string();
            assert!(problems.contains("PHOENIX_SERVICE_TOKEN_FILE"), "{role}: {problems}");
        }
    }
}

#[test]
fn gateway_on_a_public_address_needs_a_token() {
    let open = [("HTTP_ADDR", "0.0.0.0:8181"), ("PHOENIX_INSECURE", "true")];
    assert!(resolve(Role::Gateway, &RoleFlags::default(), &open).is_err());
    let closed = [("HTTP_ADDR", "0.0.0.0:8181"), ("ORCH_API_TOKEN", "t"), ("PHOENIX_INSECURE", "true")];
    let settings = resolve(Role::Gateway, &RoleFlags::default(), &closed).unwrap();
    assert!(!format!("{settings:?}").contains("\"t\""), "the token is not printed");
}

#[test]
fn public_address_without_tls_needs_permission() {
    for role in Role::ALL {
        let addr = (role.addr_variable(), "10.0.0.1:7");
        let env = |insecure| [addr, ("ORCH_API_TOKEN", "t"), ("PHOENIX_INSECURE", insecure)];
        let problems = resolve(*role, &RoleFlags::default(), &env("")).unwrap_err().to_string();
        assert!(problems.contains("10.0.0.1:7 is reachable from other machines without TLS"), "{problems}");
        assert!(problems.contains("TLS_CERT") && problems.contains("--insecure"), "{problems}");
        resolve(*role, &RoleFlags::default(), &env("true")).unwrap();
        resolve(*role, &RoleFlags { insecure: true, ..RoleFlags::default() }, &env("")).unwrap();
        let problems = resolve(*role, &RoleFlags::default(), &env("maybe")).unwrap_err().to_string();
        assert!(problems.contains("PHOENIX_INSECURE: `maybe` must be true or false"), "{problems}");
    }
}

#[test]
fn tls_settings_belong_together_and_need_https_urls() {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::new().issue(dir.path(), &["planner"]);
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (path(&files.cert), path(&files.key), path(&files.ca.unwrap()));
    let all = [("TLS_CERT", &*cert), ("TLS_KEY", &*key), ("TLS_CA", &*ca), ("GRPC_ADDR", "10.0.0.1:7")];
    let settings = resolve(Role::Planner, &RoleFlags::default(), &all).unwrap();
    assert!(settings.identity.tls.is_some());
    assert_eq!(settings.executor_url, "https://127.0.0.1:50052");

    let text =
        |env: &[(&str, &str)]| resolve(Role::Planner, &RoleFlags::default(), env).unwrap_err().to_string();
    let incomplete = text(&all[..2]);
    assert!(
        incomplete.contains("TLS_CA: is not set; set TLS_CERT, TLS_KEY, TLS_CA together"),
        "{incomplete}"
    );
    let plain = text(&[&all[..], &[("HEALTH_URL", "http://h:1")]].concat());
    assert!(plain.contains("`http://h:1` must begin with https://"), "{plain}");
    let without = text(&[("HEALTH_URL", "https://h:1")]);
    assert!(without.contains("`https://h:1` needs a certificate for this service"), "{without}");
    let swapped = text(&[("TLS_CERT", &key), ("TLS_KEY", &cert), ("TLS_CA", &ca)]);
    assert!(swapped.contains("holds no certificate in PEM"), "{swapped}");
}
