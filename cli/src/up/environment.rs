//! What each service finds in its environment: what its settings ask for, what the system's libraries read, and nothing else.
//! A secret goes to the one service that uses it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use phoenix_domain::llm::ProviderKind;
use phoenix_platform::config::{Role, RoleSettings, process_env};

/// Stands for the value of a secret in the environment of a service that asks only whether it is set.
const WITHHELD: &str = "withheld";

/// Variables that no setting of Phoenix reads, but the libraries that it is made of, or the system.
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

/// The same, by their beginning.
const SYSTEM_PREFIXES: &[&str] =
    &["LC_", "LD_", "LLVM_PROFILE_", "MALLOC_", "OTEL_", "RUST_", "SQLITE_", "TOKIO_"];

/// A variable that `phoenix up` decides itself, and what an operator uses instead.
const DECIDED: &[(&str, &str)] = &[
    ("DATABASE_URL", "--data-dir"),
    ("GRPC_ADDR", "--port-offset"),
    ("METRICS_ADDR", "--port-offset"),
    ("PLANNER_URL", "--port-offset"),
    ("EXECUTOR_URL", "--port-offset"),
    ("HEALTH_URL", "--port-offset"),
];

/// What one service has asked the environment for while its settings were read.
#[derive(Default)]
pub(crate) struct Asked(RefCell<BTreeMap<String, String>>);

impl Asked {
    /// The value of a variable, unless `phoenix up` decides about it.
    pub(crate) fn look_up(&self, name: &str) -> Option<String> {
        let value = process_env(name).filter(|_| !is_decided(name))?;
        self.0.borrow_mut().insert(name.to_owned(), value.clone());
        Some(value)
    }

    /// The whole environment of the service whose settings are `settings`.
    pub(crate) fn environment(self, settings: &RoleSettings) -> Vec<(OsString, OsString)> {
        let executor_only = executor_only(settings);
        let is_system = |name: &str| {
            SYSTEM.contains(&name) || SYSTEM_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let system = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_system));
        let mut environment: BTreeMap<OsString, OsString> = system.collect();
        for (name, value) in self.0.into_inner() {
            let is_withheld = settings.role != Role::Executor && executor_only.contains(&name)
                || settings.role != Role::Gateway && name == "ORCH_API_TOKEN";
            environment.insert(name.into(), if is_withheld { WITHHELD.into() } else { value.into() });
        }
        if settings.role == Role::Executor {
            // What agents are given is named by the operator, one by one.
            for name in settings.config.agents.iter().flat_map(|agent| &agent.env) {
                environment.extend(std::env::var_os(name).map(|value| (name.into(), value)));
            }
        }
        environment.into_iter().collect()
    }
}

/// Variables whose values only the executor needs. The others read the same file and learn that the variable is set.
fn executor_only(settings: &RoleSettings) -> BTreeSet<String> {
    let keys = ProviderKind::ALL.iter().flat_map(|kind| kind.key_variables());
    let keys = keys.map(|name| (*name).to_owned());
    keys.chain(settings.config.executor_variables().iter().cloned()).collect()
}

fn is_decided(name: &str) -> bool {
    DECIDED.iter().any(|(decided, _)| *decided == name)
}

/// The variables that are set and have no effect on a stack, each with what to use instead; `None` when there are none.
pub(crate) fn ignored(port_offset: u16) -> Option<String> {
    let beside_offset = (port_offset != 0).then_some(("HTTP_ADDR", "HTTP_ADDR without --port-offset"));
    let ignored =
        DECIDED.iter().copied().chain(beside_offset).filter(|(name, _)| process_env(name).is_some());
    let named: Vec<_> = ignored.map(|(name, instead)| format!("{name} (use {instead})")).collect();
    (!named.is_empty()).then(|| named.join(", "))
}
