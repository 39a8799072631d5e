//! The settings of one process.

use crate::{
    config::{
        env::Lookup,
        file::PhoenixConfig,
        flags::RoleFlags,
        role::Role,
        sections::{DatabaseSection, ExecutorSection, GatewaySection, PlannerSection},
        settings::RoleSettings,
        values::{MASKED, Origin, SettingValue, UNSET, list, masked, masked_url, seconds},
    },
    postgres::Pooler,
    service_token,
    telemetry::{
        LogExport, MetricExport, OtlpExports, OtlpProtocol, OtlpTarget, TelemetryConfig, TraceExport,
    },
};

impl RoleSettings {
    /// The settings of this process with their origin, without those that all roles share. `flags` and `env` are those that the
    /// settings were resolved from; `is_of_up` tells whether `phoenix up` set the flag of that name.
    #[must_use]
    pub fn inventory(
        &self,
        flags: &RoleFlags,
        env: Lookup<'_>,
        is_of_up: &dyn Fn(&str) -> bool,
    ) -> Vec<SettingValue> {
        let mut rows = Rows { role: self.role, config: &self.config, env, is_of_up, rows: Vec::new() };
        rows.addresses(self, flags);
        rows.secrets(self, flags);
        match self.role {
            Role::Gateway => rows.gateway(&self.config.gateway),
            Role::Planner => rows.planner(&self.config.planner),
            Role::Executor => rows.executor(&self.config.executor),
            Role::Health => {}
        }
        rows.telemetry(&self.telemetry, flags);
        rows.rows
    }
}

/// The sources of a setting, each with the name that the setting has there.
#[derive(Default)]
struct Names {
    /// The flag, when it is set.
    flag: Option<&'static str>,
    variables: &'static [&'static str],
    key: Option<&'static str>,
}

struct Rows<'a> {
    role: Role,
    config: &'a PhoenixConfig,
    env: Lookup<'a>,
    is_of_up: &'a dyn Fn(&str) -> bool,
    rows: Vec<SettingValue>,
}

fn flag<T>(value: &Option<T>, name: &'static str) -> Option<&'static str> {
    value.as_ref().map(|_| name)
}

impl Rows<'_> {
    fn add(&mut self, name: &str, value: impl Into<String>, names: Names) {
        let Names { flag, variables, key } = names;
        let role = self.role;
        let origin = flag
            .map(|name| if (self.is_of_up)(name) { Origin::Up } else { Origin::Flag(name) })
            .or_else(|| {
                let variable = variables.iter().find(|name| (self.env)(name).is_some())?;
                Some(Origin::Environment((*variable).to_owned()))
            })
            .or_else(|| {
                let key = key?;
                let key = if key.contains('.') { key.to_owned() } else { format!("{role}.{key}") };
                self.config.file.origin(&key)
            });
        self.rows.push(SettingValue {
            name: format!("{role}.{name}"),
            value: value.into(),
            origin: origin.unwrap_or(Origin::Default),
        });
    }

    fn addresses(&mut self, settings: &RoleSettings, flags: &RoleFlags) {
        let role = self.role;
        let (name, variables): (_, &[&str]) = match role {
            Role::Gateway => ("http_addr", &["HTTP_ADDR"]),
            Role::Planner | Role::Executor | Role::Health => ("grpc_addr", &["GRPC_ADDR"]),
        };
        let addr = Names { flag: flag(&flags.addr, "--addr"), variables, key: Some(name) };
        self.add(name, settings.addr.to_string(), addr);
        let metrics = Names {
            flag: flag(&flags.metrics_addr, "--metrics-addr"),
            variables: &["METRICS_ADDR"],
            key: Some("metrics_addr"),
        };
        self.add("metrics_addr", settings.metrics_addr.to_string(), metrics);
        let peers: [(&str, &str, _, &'static [&'static str], Role); 3] = [
            (
                "planner_url",
                &settings.planner_url,
                flag(&flags.planner_url, "--planner-url"),
                &["PLANNER_URL"],
                Role::Planner,
            ),
            (
                "executor_url",
                &settings.executor_url,
                flag(&flags.executor_url, "--executor-url"),
                &["EXECUTOR_URL"],
                Role::Executor,
            ),
            (
                "health_url",
                &settings.health_url,
                flag(&flags.health_url, "--health-url"),
                &["HEALTH_URL"],
                Role::Health,
            ),
        ];
        for (name, url, flag, variables, _) in peers.into_iter().filter(|(.., peer)| *peer != role) {
            self.add(name, masked_url(url), Names { flag, variables, key: None });
        }
        if role == Role::Planner {
            let names = Names {
                flag: flag(&flags.advertise_url, "--advertise-url"),
                variables: &["PLANNER_ADVERTISE_URL"],
                key: None,
            };
            let url = settings.advertise_url.as_deref().map_or_else(|| "its address".into(), masked_url);
            self.add("advertise_url", url, names);
        }
        if role.has_database() {
            self.database(settings, flags);
        }
    }

    fn database(&mut self, settings: &RoleSettings, flags: &RoleFlags) {
        let is_named = flags.database_url.is_some()
            || (self.env)("DATABASE_URL").is_some()
            || self.config.file.origin(&format!("{}.database_url", self.role)).is_some();
        let names = if is_named {
            Names {
                flag: flag(&flags.database_url, "--database-url"),
                variables: &["DATABASE_URL"],
                key: Some("database_url"),
            }
        } else {
            Names { flag: flag(&flags.data_dir, "--data-dir"), variables: &["PHOENIX_DATA_DIR"], key: None }
        };
        self.add("database_url", format!("{:?}", settings.database_url), names);
        if settings.database_url.is_postgres() {
            let pooler = match settings.database_pooler {
                Pooler::Session => "session",
                Pooler::Transaction => "transaction",
            };
            // Of all roles with a database; the destructuring makes a new setting of the section a compile error here.
            let DatabaseSection { pooler: _ } = self.config.database;
            let names =
                Names { variables: &["DATABASE_POOLER"], key: Some("database.pooler"), ..Names::default() };
            self.add("database_pooler", pooler, names);
        }
    }

    fn secrets(&mut self, settings: &RoleSettings, flags: &RoleFlags) {
        let of = |variables| Names { variables, ..Names::default() };
        let is_set = (self.env)("PHOENIX_SERVICE_TOKEN").is_some()
            || (self.env)(service_token::FILE_VARIABLE).is_some()
            || flags.service_token_file.is_some();
        let names = Names {
            flag: flag(&flags.service_token_file, "--service-token-file"),
            variables: &[service_token::FILE_VARIABLE, service_token::VARIABLE],
            key: None,
        };
        // `phoenix up` makes one that the services share.
        let generated = if (self.is_of_up)("--service-token-file") { "[in the data folder]" } else { UNSET };
        self.add("service_token", if is_set { MASKED } else { generated }, names);
        self.add("metrics_token", masked(settings.metrics_token.is_some()), of(&["METRICS_TOKEN"]));
        if self.role == Role::Gateway {
            self.add("api_token", masked(settings.api_token.is_some()), of(&["ORCH_API_TOKEN"]));
            let tls = settings.gateway_tls.is_some();
            self.add("tls", on(tls), of(&["GATEWAY_TLS_CERT"]));
        }
        let names = Names { flag: flag(&flags.tls_cert, "--tls-cert"), variables: &["TLS_CERT"], key: None };
        self.add("tls_between_services", on(settings.identity.tls.is_some()), names);
        let names = Names {
            flag: flags.insecure.then_some("--insecure"),
            variables: &["PHOENIX_INSECURE"],
            key: None,
        };
        let insecure = flags.insecure || (self.env)("PHOENIX_INSECURE").is_some_and(|text| is_true(&text));
        self.add("insecure", on(insecure), names);
    }

    fn gateway(&mut self, section: &GatewaySection) {
        let GatewaySection { cors_allowed_origins, mcp_actions, request_timeout } = section;
        let file = |key| Names { key: Some(key), ..Names::default() };
        self.add("cors_allowed_origins", list(cors_allowed_origins), file("cors_allowed_origins"));
        self.add("mcp_actions", list(mcp_actions), file("mcp_actions"));
        self.add("request_timeout_secs", seconds(*request_timeout), file("request_timeout_secs"));
    }

    fn planner(&mut self, section: &PlannerSection) {
        let PlannerSection {
            default_agent,
            agent_grace,
            max_plans_in_flight,
            retention,
            idempotency_key_ttl,
            takeover_grace,
        } = section;
        let file = |key| Names { key: Some(key), ..Names::default() };
        let agent =
            default_agent.as_ref().map_or_else(|| "the language-model agent".into(), ToString::to_string);
        let days = |age: &std::time::Duration| format!("{} days", age.as_secs_f64() / 86_400.0);
        self.add("default_agent", agent, file("default_agent"));
        self.add("agent_grace_secs", seconds(*agent_grace), file("agent_grace_secs"));
        self.add("max_plans_in_flight", max_plans_in_flight.to_string(), file("max_plans_in_flight"));
        let retention = retention.as_ref().map_or_else(|| "for ever".into(), days);
        self.add("retention_days", retention, file("retention_days"));
        self.add("idempotency_key_ttl_secs", seconds(*idempotency_key_ttl), file("idempotency_key_ttl_secs"));
        self.add("takeover_grace_secs", seconds(*takeover_grace), file("takeover_grace_secs"));
    }

    fn executor(&mut self, section: &ExecutorSection) {
        let ExecutorSection { labels, agent_nice } = section;
        let labels = list(labels.iter().map(|(name, value)| format!("{name}={value}")));
        self.add("labels", labels, Names { key: Some("labels"), ..Names::default() });
        let names = Names { key: Some("agent_nice"), ..Names::default() };
        self.add("agent_nice", agent_nice.to_string(), names);
    }

    fn telemetry(&mut self, telemetry: &TelemetryConfig, flags: &RoleFlags) {
        let TelemetryConfig { service: _, format, colour: _, prefix: _, filter, log_folder: _, otlp } =
            telemetry;
        let names =
            Names { flag: flag(&flags.log_format, "--log-format"), variables: &["LOG_FORMAT"], key: None };
        self.add("log_format", format.as_str(), names);
        let filter = if filter.is_empty() { "info" } else { filter };
        let of = |variables| Names { variables, ..Names::default() };
        self.add("log_filter", filter, of(&["RUST_LOG"]));
        let OtlpExports { resource: _, traces, metrics, logs } = otlp;
        match traces {
            None => self.add("traces", "not exported", of(&["OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"])),
            Some(TraceExport { target, sampling, .. }) => {
                self.target("traces", target, &TRACES);
                let share = format!("{} %", sampling.share * 100.0);
                self.add("traces_sampled", share, of(&["OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"]));
            }
        }
        match metrics {
            None => self.add("metrics", "not exported", of(&["OTEL_SDK_DISABLED", "OTEL_METRICS_EXPORTER"])),
            Some(MetricExport { target, interval }) => {
                self.target("metrics", target, &METRICS);
                self.add("metrics_interval", seconds(*interval), of(&["OTEL_METRIC_EXPORT_INTERVAL"]));
            }
        }
        match logs {
            None => self.add("logs", "not exported", of(&["OTEL_SDK_DISABLED", "OTEL_LOGS_EXPORTER"])),
            Some(LogExport { target, .. }) => self.target("logs", target, &LOGS),
        }
    }

    /// The collector of a signal, whose variables are those of `variables`: of the endpoint, the protocol and the time limit.
    fn target(&mut self, signal: &str, target: &OtlpTarget, variables: &'static [[&'static str; 2]; 3]) {
        let OtlpTarget { protocol, endpoint, timeout, .. } = target;
        let [of_endpoint, of_protocol, of_timeout] = variables;
        let of = |variables| Names { variables, ..Names::default() };
        self.add(signal, masked_url(endpoint), of(of_endpoint));
        let protocol = match protocol {
            OtlpProtocol::Grpc => "grpc",
            OtlpProtocol::HttpProtobuf => "http/protobuf",
        };
        self.add(&format!("{signal}_protocol"), protocol, of(of_protocol));
        self.add(&format!("{signal}_timeout"), seconds(*timeout), of(of_timeout));
    }
}

/// Variables of the endpoint, the protocol and the time limit of a signal, the first wins.
macro_rules! target_variables {
    ($signal:literal) => {
        [
            [concat!("OTEL_EXPORTER_OTLP_", $signal, "_ENDPOINT"), "OTEL_EXPORTER_OTLP_ENDPOINT"],
            [concat!("OTEL_EXPORTER_OTLP_", $signal, "_PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL"],
            [concat!("OTEL_EXPORTER_OTLP_", $signal, "_TIMEOUT"), "OTEL_EXPORTER_OTLP_TIMEOUT"],
        ]
    };
}

const TRACES: [[&str; 2]; 3] = target_variables!("TRACES");
const METRICS: [[&str; 2]; 3] = target_variables!("METRICS");
const LOGS: [[&str; 2]; 3] = target_variables!("LOGS");

fn on(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn is_true(text: &str) -> bool {
    matches!(text.trim(), "true" | "1")
}
