//! The environment of each service: the variables that its settings and the system's libraries read, and no other. A secret
//! reaches only the service that uses it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use phoenix_domain::llm::ProviderKind;
use phoenix_platform::{
    config::{Role, RoleSettings, process_env},
    postgres::is_postgres_url,
};

/// Placeholder for a secret in the environment of a service that only checks whether it is set.
const WITHHELD: &str = "withheld";

/// Variables that the system and the libraries of Phoenix read.
const SYSTEM: &[&str] = &[
    "HOME",
    "HOSTNAME",
    "LANG",
    "LOGNAME",
    "NO_COLOR",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
];

/// Prefixes of such variables.
const SYSTEM_PREFIXES: &[&str] =
    &["LC_", "LD_", "LLVM_PROFILE_", "MALLOC_", "OTEL_", "RUST_", "SQLITE_", "TOKIO_"];

/// Variable that sets the number of worker threads of a service's runtime.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Prefix of the variables of libpq, such as `PGPASSWORD`, which only the services with a PostgreSQL database get.
const POSTGRES_PREFIX: &str = "PG";

/// Variables that `phoenix up` manages itself, and what to use instead. A `DATABASE_URL` of PostgreSQL is not managed: the
/// services that it is for may share the database.
const MANAGED: &[(&str, &str)] = &[
    ("DATABASE_URL", "--data-dir"),
    ("GRPC_ADDR", "--port-offset"),
    ("METRICS_ADDR", "--port-offset"),
    ("PLANNER_URL", "--port-offset"),
    ("PLANNER_ADVERTISE_URL", "--port-offset"),
    ("EXECUTOR_URL", "--port-offset"),
    ("HEALTH_URL", "--port-offset"),
    ("TLS_CERT", "GATEWAY_TLS_CERT for the gateway; the services stay on loopback"),
    ("TLS_KEY", "GATEWAY_TLS_KEY for the gateway; the services stay on loopback"),
    ("TLS_CA", "GATEWAY_TLS_CERT for the gateway; the services stay on loopback"),
];

/// The variables that one service has read while its settings were resolved.
#[derive(Default)]
pub(crate) struct RecordedReads(RefCell<BTreeMap<String, String>>);

impl RecordedReads {
    /// Reads and records a variable, unless `phoenix up` manages it.
    pub(crate) fn read(&self, name: &str) -> Option<String> {
        let value = read(name)?;
        self.0.borrow_mut().insert(name.to_owned(), value.clone());
        Some(value)
    }

    /// The environment of the service with `settings`.
    pub(crate) fn environment(self, settings: &RoleSettings) -> Vec<(OsString, OsString)> {
        let executor_only = executor_only(settings);
        let uses_postgres = settings.role.has_database() && settings.database_url.is_postgres();
        let is_system = |name: &str| {
            SYSTEM.contains(&name)
                || SYSTEM_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || uses_postgres && name.starts_with(POSTGRES_PREFIX)
        };
        let system = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_system));
        let mut environment: BTreeMap<OsString, OsString> = system.collect();
        for (name, value) in self.0.into_inner() {
            let is_withheld = settings.role != Role::Executor && executor_only.contains(&name)
                || settings.role != Role::Gateway && name == "ORCH_API_TOKEN";
            environment.insert(name.into(), if is_withheld { WITHHELD.into() } else { value.into() });
        }
        if settings.role == Role::Executor {
            // The operator names each variable that agents get.
            for name in settings.config.agents.iter().flat_map(|agent| &agent.env) {
                environment.extend(std::env::var_os(name).map(|value| (name.into(), value)));
            }
        }
        environment.entry(WORKER_THREADS.into()).or_insert_with(|| worker_threads().to_string().into());
        environment.into_iter().collect()
    }
}

/// The value of a variable, unless `phoenix up` manages it.
pub(crate) fn read(name: &str) -> Option<String> {
    process_env(name).filter(|value| !is_managed(name, value))
}

/// Worker threads of one service: half of the cores, at least one. The four services and the agents share the machine, and a
/// thread that is woken without work costs more than a second thread gains.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Variables whose values only the executor needs. The other services read the same file and need only know that they are set.
fn executor_only(settings: &RoleSettings) -> BTreeSet<String> {
    let keys = ProviderKind::ALL.iter().flat_map(|kind| kind.key_variables());
    let keys = keys.map(|name| (*name).to_owned());
    keys.chain(settings.config.executor_variables().iter().cloned()).collect()
}

fn is_managed(name: &str, value: &str) -> bool {
    let is_shared_database = name == "DATABASE_URL" && is_postgres_url(value);
    MANAGED.iter().any(|(managed, _)| *managed == name) && !is_shared_database
}

/// The variables that are set and have no effect on a stack, each with its replacement; `None` if there are none.
pub(crate) fn ignored(port_offset: u16) -> Option<String> {
    let with_offset = (port_offset != 0).then_some(("HTTP_ADDR", "HTTP_ADDR without --port-offset"));
    let managed = MANAGED
        .iter()
        .copied()
        .filter(|(name, _)| process_env(name).is_some_and(|value| is_managed(name, &value)));
    let with_offset = with_offset.into_iter().filter(|(name, _)| process_env(name).is_some());
    let named: Vec<_> =
        managed.chain(with_offset).map(|(name, instead)| format!("{name} (use {instead})")).collect();
    (!named.is_empty()).then(|| named.join(", "))
}
