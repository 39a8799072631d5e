//! The Helm chart `deploy/helm/phoenix`.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use phoenix_platform::{
    config::{PhoenixConfig, Role},
    shutdown::DRAIN,
};
use serde_json::{Value, json};

use crate::{exported, files, promql::series_in, read, root, yaml};

const CHART: &str = "deploy/helm/phoenix";

/// Kinds of other projects, whose schemas Kubernetes does not have.
const FOREIGN_KINDS: &[&str] = &["Certificate", "PrometheusRule", "ServiceMonitor"];

/// A program that `cargo xtask test` installs, if it is there. CI requires it.
fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{variable} must be set in CI; cargo xtask test sets it");
        eprintln!("skipped: {variable} is not set");
    }
    program
}

/// Runs helm in the chart's folder. Returns standard output, or standard error when it fails.
fn helm(arguments: &[&str]) -> Option<Result<String, String>> {
    let mut helm = Command::new(program("HELM_BIN")?);
    let output = helm.args(arguments).current_dir(root().join(CHART)).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

/// The manifests of the values file `ci/NAME.yaml` with further `--set` arguments.
fn template(name: &str, set: &[&str]) -> Option<Result<String, String>> {
    let values = format!("ci/{name}.yaml");
    let mut arguments = vec!["template", "release", ".", "--namespace", "prod", "--values", &values];
    arguments.extend(set.iter().flat_map(|setting| ["--set", *setting]));
    helm(&arguments)
}

struct Manifests(Vec<Value>);

impl Manifests {
    fn of(name: &str, set: &[&str]) -> Option<Self> {
        let text = template(name, set)?.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let documents = text.split("---\n").map(|document| yaml_serde::from_str(document).unwrap());
        Some(Self(documents.filter(|document: &Value| !document.is_null()).collect()))
    }

    fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |manifest| manifest["kind"] == kind)
    }

    fn names<'a>(&'a self, kind: &'a str) -> BTreeSet<&'a str> {
        self.kind(kind).map(|manifest| manifest["metadata"]["name"].as_str().unwrap()).collect()
    }

    fn get<'a>(&'a self, kind: &'a str, name: &str) -> &'a Value {
        let found = self.kind(kind).find(|manifest| manifest["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    fn pod(&self, role: Role) -> &Value {
        &self.get("Deployment", &full_name(role))["spec"]["template"]["spec"]
    }

    fn container(&self, role: Role) -> &Value {
        &self.pod(role)["containers"][0]
    }

    /// The environment variable `name` of a role.
    fn variable(&self, role: Role, name: &str) -> Option<&Value> {
        let variables = self.container(role)["env"].as_array().unwrap();
        variables.iter().find(|variable| variable["name"] == name)
    }
}

fn full_name(role: Role) -> String {
    format!("release-phoenix-{role}")
}

const VALUES: [&str; 3] = ["sqlite", "postgresql", "everything"];

#[test]
fn chart_passes_lint_and_the_schemas_of_kubernetes() {
    let described: BTreeSet<_> = VALUES.iter().map(|name| format!("{CHART}/ci/{name}.yaml")).collect();
    assert_eq!(files(&format!("{CHART}/ci")).into_iter().collect::<BTreeSet<_>>(), described);
    let folder = tempfile::tempdir().unwrap();
    let mut rendered = Vec::new();
    for name in VALUES {
        let Some(linted) = helm(&["lint", "--strict", ".", "--values", &format!("ci/{name}.yaml")]) else {
            return;
        };
        linted.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let path = folder.path().join(name).with_extension("yaml");
        std::fs::write(&path, template(name, &[]).unwrap().unwrap()).unwrap();
        rendered.push(path);
    }
    let Some(validate) = program("KUBERNETES_VALIDATE_BIN") else { return };
    let output = Command::new(validate).args(["--strict", "--quiet"]).args(&rendered).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    for line in text.lines() {
        assert!(FOREIGN_KINDS.iter().any(|kind| line.contains(&format!("for kind {kind} "))), "{line}");
    }
}

#[test]
fn chart_starts_the_four_roles_on_their_ports() {
    for name in VALUES {
        let Some(manifests) = Manifests::of(name, &[]) else { return };
        let scheme = if name == "sqlite" { "http" } else { "https" };
        for role in Role::ALL.iter().copied() {
            let container = manifests.container(role);
            assert_eq!(container["args"], json!([role.as_str()]));
            let ports = container["ports"].as_array().unwrap();
            let ports: Vec<_> = ports.iter().map(|port| port["containerPort"].as_u64().unwrap()).collect();
            assert_eq!(ports, [role.default_port(), role.default_metrics_port()].map(u64::from));
            let value = |name: &str| manifests.variable(role, name).map(|variable| &variable["value"]);
            assert_eq!(value(role.addr_variable()).unwrap(), &format!("0.0.0.0:{}", role.default_port()));
            assert_eq!(value("METRICS_ADDR").unwrap(), &format!("0.0.0.0:{}", role.default_metrics_port()));
            for peer in [Role::Planner, Role::Executor, Role::Health] {
                let variable = format!("{peer}_URL").to_uppercase();
                let url = format!("{scheme}://{}.prod.svc:{}", full_name(peer), peer.default_port());
                assert_eq!(value(&variable).unwrap(), &url);
                assert_eq!(manifests.get("Service", &full_name(peer))["spec"]["clusterIP"], "None");
            }
            assert_eq!(value("DATABASE_URL").is_some(), role.has_database(), "{name}: {role}");
            let own = json!(format!("{scheme}://$(POD_IP):{}", role.default_port()));
            assert_eq!(value("PLANNER_ADVERTISE_URL"), (role == Role::Planner).then_some(&own));
            let address =
                manifests.variable(role, "POD_IP").map(|own| &own["valueFrom"]["fieldRef"]["fieldPath"]);
            assert_eq!(address, (role == Role::Planner).then_some(&json!("status.podIP")));
        }
    }
}

#[test]
fn chart_gives_each_role_only_its_secrets() {
    for name in VALUES {
        let Some(manifests) = Manifests::of(name, &["executor.existingSecret=models"]) else { return };
        assert!(manifests.names("Secret").is_empty(), "secrets are referenced, never created");
        for role in Role::ALL.iter().copied() {
            let has = |variable| manifests.variable(role, variable).is_some();
            assert!(has("PHOENIX_SERVICE_TOKEN"));
            assert_eq!(has("ORCH_API_TOKEN"), role == Role::Gateway);
            assert_eq!(manifests.container(role)["envFrom"].is_array(), role == Role::Executor);
        }
    }
}

#[test]
fn chart_confines_every_container() {
    for name in VALUES {
        let Some(manifests) = Manifests::of(name, &[]) else { return };
        let pods = Role::ALL.iter().map(|role| manifests.pod(*role));
        for pod in pods.chain(manifests.kind("Pod").map(|pod| &pod["spec"])) {
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["enableServiceLinks"], false);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            let confinement = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(pod["containers"][0]["securityContext"], confinement);
            assert!(pod["containers"][0]["resources"]["limits"]["memory"].is_string());
        }
    }
}

#[test]
fn chart_probes_and_grace_fit_the_services() {
    for name in VALUES {
        let Some(manifests) = Manifests::of(name, &[]) else { return };
        for role in Role::ALL.iter().copied() {
            let (pod, container) = (manifests.pod(role), manifests.container(role));
            let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
            let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(grace > sleep + DRAIN.as_secs(), "{grace}");
            for probe in ["startupProbe", "livenessProbe"] {
                assert_eq!(
                    container[probe]["httpGet"]["path"], "/livez",
                    "a restart repairs no other service"
                );
            }
            let readiness = &container["readinessProbe"];
            match role {
                Role::Gateway => assert_eq!(readiness["httpGet"]["path"], "/readyz"),
                _ if name == "sqlite" => assert_eq!(readiness["grpc"]["port"], role.default_port()),
                // A kubelet has no client certificate.
                _ => assert_eq!(
                    readiness["httpGet"],
                    json!({"path": "/readyz", "port": "metrics", "scheme": "HTTP"})
                ),
            }
        }
    }
}

#[test]
fn chart_replicates_roles_on_postgresql_only() {
    let Some(sqlite) = Manifests::of("sqlite", &[]) else { return };
    let postgresql = Manifests::of("postgresql", &[]).unwrap();
    for role in [Role::Planner, Role::Health] {
        let spec = |manifests: &Manifests| manifests.get("Deployment", &full_name(role))["spec"].clone();
        assert_eq!(spec(&sqlite)["strategy"], json!({"type": "Recreate"}), "one writer of a SQLite file");
        assert_eq!(spec(&sqlite)["replicas"], 1);
        assert_eq!(spec(&postgresql)["replicas"], 2);
        assert_eq!(
            sqlite.variable(role, "DATABASE_URL").unwrap()["value"],
            format!("sqlite:///data/{role}.db")
        );
        let secret = &postgresql.variable(role, "DATABASE_URL").unwrap()["valueFrom"]["secretKeyRef"];
        assert_eq!(secret, &json!({"name": "phoenix-database", "key": "DATABASE_URL"}));
    }
    let claims = [full_name(Role::Health), full_name(Role::Planner)];
    assert_eq!(sqlite.names("PersistentVolumeClaim"), claims.iter().map(String::as_str).collect());
    assert!(postgresql.names("PersistentVolumeClaim").is_empty());
    let all: Vec<_> = Role::ALL.iter().map(|role| full_name(*role)).collect();
    assert_eq!(postgresql.names("PodDisruptionBudget"), all.iter().map(String::as_str).collect());
    let everything = Manifests::of("everything", &[]).unwrap();
    for name in everything.names("HorizontalPodAutoscaler") {
        let spec = &everything.get("Deployment", name)["spec"];
        assert!(spec.get("replicas").is_none(), "{name}: an upgrade would undo the scaling");
    }
    for role in Role::ALL.iter().copied() {
        let spread = postgresql.pod(role)["topologySpreadConstraints"].as_array().unwrap();
        let keys: Vec<_> =
            spread.iter().map(|constraint| constraint["topologyKey"].as_str().unwrap()).collect();
        assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], "{role}");
        // A replica is left while a node is drained.
        assert_eq!(postgresql.get("PodDisruptionBudget", &full_name(role))["spec"]["maxUnavailable"], 1);
        let service = postgresql.get("Service", &full_name(role));
        assert_eq!(service["spec"]["selector"]["app.kubernetes.io/component"], role.as_str());
    }
}

#[test]
fn chart_scales_executors_by_the_length_of_their_queue() {
    let Some(manifests) = Manifests::of("everything", &[]) else { return };
    let scaler = manifests.get("HorizontalPodAutoscaler", &full_name(Role::Executor));
    let metrics = scaler["spec"]["metrics"].as_array().unwrap();
    let external = metrics.iter().find(|metric| metric["type"] == "External").unwrap();
    let name = external["external"]["metric"]["name"].as_str().unwrap();
    // The rule that makes it of what planners export.
    let readme = read(&format!("{CHART}/README.md"));
    assert!(readme.contains(&format!("as: {name}")), "{name}");
    for key in ["- seriesQuery: ", "metricsQuery: "] {
        let query = readme.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
        let series = series_in(query);
        assert!(!series.is_empty() && series.is_subset(&exported()), "{series:?}");
    }
}

#[test]
fn chart_certificates_name_their_role_and_service() {
    let Some(manifests) = Manifests::of("everything", &[]) else { return };
    for role in Role::ALL.iter().copied() {
        let certificate = &manifests.get("Certificate", &full_name(role))["spec"];
        let service = format!("{}.prod.svc", full_name(role));
        let names = json!([format!("{role}.release-phoenix.prod.svc"), service]);
        assert_eq!(certificate["dnsNames"], names);
        // Each service is a server for some and a client of others.
        assert_eq!(certificate["usages"], json!(["digital signature", "server auth", "client auth"]));
        let mounted = &manifests.pod(role)["volumes"].as_array().unwrap()[2]["secret"]["secretName"];
        assert_eq!(certificate["secretName"], *mounted);
        let value = |name: &str| manifests.variable(role, name).unwrap()["value"].clone();
        let files = ["TLS_CERT", "TLS_KEY", "TLS_CA"].map(value);
        assert_eq!(
            files,
            ["tls.crt", "tls.key", "ca.crt"].map(|file| json!(format!("/etc/phoenix-tls/{file}")))
        );
    }
}

/// The roles whose pods match one of the peers of a rule.
fn peers(rule: &Value, side: &str) -> BTreeSet<String> {
    let peers = rule[side].as_array().into_iter().flatten();
    let labels =
        peers.filter_map(|peer| peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"].as_str());
    labels.map(str::to_owned).collect()
}

#[test]
fn chart_policies_allow_the_calls_between_services_only() {
    // Who is called, and by which roles.
    let calls = [
        (Role::Planner, vec!["gateway", "planner"]),
        (Role::Executor, vec!["gateway", "health", "planner"]),
        (Role::Health, vec!["executor", "gateway", "planner"]),
    ];
    let Some(manifests) = Manifests::of("postgresql", &[]) else { return };
    let policy = |role: &str| &manifests.get("NetworkPolicy", &format!("release-phoenix-{role}"))["spec"];
    for (role, callers) in calls {
        let ingress = policy(role.as_str())["ingress"].as_array().unwrap();
        assert_eq!(ingress[0]["ports"], json!([{"protocol": "TCP", "port": "grpc"}]));
        assert_eq!(peers(&ingress[0], "from").into_iter().collect::<Vec<_>>(), callers);
        for caller in Role::ALL.iter().map(|role| role.as_str()) {
            let egress = policy(caller)["egress"].as_array().unwrap();
            let may_call = egress.iter().any(|rule| {
                rule["ports"][0]["port"] == role.default_port() && peers(rule, "to").contains(role.as_str())
            });
            assert_eq!(may_call, callers.contains(&caller), "{caller} → {role}");
        }
    }
    for role in Role::ALL.iter().copied() {
        let egress = policy(role.as_str())["egress"].as_array().unwrap();
        let reaches_database = egress.iter().any(|rule| rule["ports"][0]["port"] == 5432);
        assert_eq!(reaches_database, role.has_database(), "{role}");
        assert_eq!(policy(role.as_str())["policyTypes"], json!(["Ingress", "Egress"]));
    }
    let closed = Manifests::of("sqlite", &["networkPolicy.metricsFrom=null"]).unwrap();
    let ingress = &closed.get("NetworkPolicy", &full_name(Role::Health))["spec"]["ingress"];
    assert_eq!(ingress.as_array().unwrap().len(), 1, "an empty list of peers would mean all of them");
}

#[test]
fn chart_refuses_values_that_contradict_each_other() {
    for (values, set, problem) in [
        ("sqlite", "planner.replicas=2", "planner: a SQLite file has one planner"),
        ("sqlite", "health.autoscaling.enabled=true", "health: a SQLite file has one health"),
        ("sqlite", "insecure=false", "the services would not be encrypted"),
        ("sqlite", "tls.enabled=true", "tls.enabled and insecure are both true"),
        ("sqlite", "auth.existingSecret=", "auth.existingSecret is empty"),
        ("sqlite", "database.kind=postgresql", "database.postgresql.existingSecret is empty"),
        ("sqlite", "preStopSeconds=20", "terminationGracePeriodSeconds=60 would interrupt calls"),
        ("sqlite", "planner.replcas=1", "additional properties 'replcas' not allowed"),
        ("sqlite", "database.kind=mysql", "/database/kind"),
        ("postgresql", "gateway.plaintext=false", "the gateway would not be encrypted"),
        ("postgresql", "tls.existingSecrets.health=", "tls.existingSecrets.health is empty"),
        ("postgresql", "gateway.tls.enabled=true", "gateway.tls.existingSecret is empty"),
        ("everything", "tls.certManager.issuerRef.name=", "tls.certManager.issuerRef.name is empty"),
    ] {
        let Some(rendered) = template(values, &[set]) else { return };
        let found = rendered.err().unwrap_or_else(|| panic!("{values} with {set} is accepted"));
        assert!(found.contains(problem), "{values} with {set}: {found}");
    }
}

#[test]
fn chart_alerts_are_the_rules_of_prometheus() {
    let Some(manifests) = Manifests::of("everything", &[]) else { return };
    let [rules] = &files("deploy/prometheus/rules")[..] else { panic!("the chart has one file of rules") };
    assert_eq!(manifests.get("PrometheusRule", "release-phoenix")["spec"], yaml(rules));
    // The labels that the rules select by.
    let monitor = &manifests.get("ServiceMonitor", "release-phoenix")["spec"]["endpoints"][0];
    let job = &monitor["relabelings"][0];
    assert_eq!(job, &json!({"targetLabel": "job", "replacement": "phoenix-orchestrator"}));
    assert_eq!(monitor["relabelings"][1]["targetLabel"], "service");
    let service = &manifests.get("Service", "release-phoenix-metrics")["spec"];
    assert_eq!(service["ports"][0]["targetPort"], "metrics");
    assert!(service["selector"].get("app.kubernetes.io/component").is_none(), "pods of every role");
}

#[test]
fn chart_has_the_version_and_settings_of_the_product() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["version"].as_str().unwrap();
    let chart = yaml(&format!("{CHART}/Chart.yaml"));
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(version), Some(version)));
    let config = yaml(&format!("{CHART}/values.yaml"))["config"].as_str().unwrap().to_owned();
    PhoenixConfig::parse(&config, "phoenix", &|_| None).unwrap();
    // Each change of the settings starts new pods.
    let checksum = |set: &[&str]| {
        let manifests = Manifests::of("sqlite", set)?;
        let template = &manifests.get("Deployment", &full_name(Role::Planner))["spec"]["template"];
        Some(template["metadata"]["annotations"]["checksum/config"].clone())
    };
    let Some(first) = checksum(&[]) else { return };
    assert_ne!(first, checksum(&["config=other"]).unwrap());
}
