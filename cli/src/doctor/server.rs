//! The PostgreSQL servers of the services.

use jiff::SignedDuration;
use phoenix_platform::{
    config::Role,
    postgres::{self, Inspection, Pooler, ReadOnly, SchemaRight},
};

use super::finding::Finding;
use crate::settings::Service;

/// Difference to the clock of a database that is tolerated.
const DATABASE_CLOCK: SignedDuration = SignedDuration::from_secs(2);

const CHECK: &str = "database";

/// What a service needs of a server.
struct Need {
    schema: &'static str,
    connections: u32,
}

impl Need {
    const fn of(role: Role) -> Option<Self> {
        match role {
            Role::Planner => Some(Self {
                schema: phoenix_planner::store::POSTGRES_SCHEMA,
                connections: phoenix_planner::store::POSTGRES_CONNECTIONS,
            }),
            Role::Health => Some(Self {
                schema: phoenix_health::POSTGRES_SCHEMA,
                connections: phoenix_health::POSTGRES_CONNECTIONS,
            }),
            Role::Gateway | Role::Executor => None,
        }
    }
}

/// The server of a service: reachable, safe, writable, and with what the service needs.
pub(super) async fn of(service: &Service) -> Vec<Finding> {
    let settings = &service.settings;
    let (url, pooler) = (settings.database_url.expose(), settings.database_pooler);
    let Some(need) = Need::of(service.role) else { return Vec::new() };
    let found = match postgres::inspect(url, pooler, need.schema).await {
        Ok(found) => found,
        Err(error) => {
            let action = "start the server, or correct DATABASE_URL";
            return vec![Finding::error(CHECK, error.to_string(), action)];
        }
    };
    let mut findings = vec![reached(&found)];
    findings.extend(safety(&found));
    findings.extend(access(&found, &need));
    if pooler == Pooler::Session {
        findings.extend(connections(&found, service.role, &need));
    }
    if found.clock_ahead.abs() > DATABASE_CLOCK {
        findings.push(ahead(&found.database, found.clock_ahead));
    }
    findings
}

fn reached(found: &Inspection) -> Finding {
    let Inspection { database, version, .. } = found;
    let millis = found.round_trip.as_secs_f64() * 1e3;
    let tls = found.tls.as_deref().unwrap_or("without TLS");
    Finding::ok(CHECK, format!("{database}: PostgreSQL {version}, {millis:.1} ms, {tls}"))
}

/// What loses acknowledged work, and who else reads the connection.
fn safety(found: &Inspection) -> Vec<Finding> {
    let database = &found.database;
    let lossy = found.lossy_settings.iter().map(|setting| {
        let problem = format!("{setting} of {database} is off: a crash may lose acknowledged work");
        Finding::warning(CHECK, problem, "set it to on")
    });
    let mut findings: Vec<_> = lossy.collect();
    if found.has_asynchronous_standbys_only {
        let problem = format!(
            "the standbys of {database} are asynchronous: a promotion loses the last acknowledged plans"
        );
        findings.push(Finding::warning(CHECK, problem, "name one in synchronous_standby_names"));
    }
    if let Some(exposure) = found.exposure {
        let action = "add sslmode=verify-full and sslrootcert to DATABASE_URL, unless the network is trusted";
        findings.push(Finding::warning(CHECK, format!("{database}: {exposure}"), action));
    }
    findings
}

/// Whether the service may write, and create or change its tables.
fn access(found: &Inspection, need: &Need) -> Vec<Finding> {
    let (database, schema) = (&found.database, need.schema);
    let read_only = found.read_only.map(|why| match why {
        ReadOnly::Standby => Finding::error(
            CHECK,
            format!("{database} is a standby and accepts no writes"),
            "name the primary in DATABASE_URL, by a host name that follows it",
        ),
        ReadOnly::Setting => Finding::error(
            CHECK,
            format!("{database} accepts no writes: default_transaction_read_only is on"),
            "name the primary in DATABASE_URL, or set it to off",
        ),
    });
    let right = match found.right {
        SchemaRight::Migrate => None,
        SchemaRight::Use => Some(Finding::warning(
            CHECK,
            format!(
                "the user of {database} does not own the schema {schema}: a newer version cannot migrate it"
            ),
            format!(
                "start a newer version with its owner first, or make the user its owner ({schema} and its tables)"
            ),
        )),
        SchemaRight::None => Some(Finding::error(
            CHECK,
            format!("the user of {database} can neither create nor use the schema {schema}"),
            "give it the right CREATE on the database, or membership in the schema's owner",
        )),
    };
    read_only.into_iter().chain(right).collect()
}

/// Whether the server has the connections that the service wants.
fn connections(found: &Inspection, role: Role, need: &Need) -> Option<Finding> {
    let Inspection { database, connections, connections_in_use, .. } = found;
    if found.is_pooled {
        return Some(Finding::error(
            CHECK,
            format!("{database} is a pooler that gives the connections to the server to any client"),
            "set DATABASE_POOLER=transaction",
        ));
    }
    let wanted = need.connections;
    let pooler = "raise max_connections, or put PgBouncer in front of it (DATABASE_POOLER=transaction)";
    if wanted > *connections {
        let problem =
            format!("{database} allows {connections} connections, and the {role} uses up to {wanted}");
        return Some(Finding::error(CHECK, problem, pooler));
    }
    (connections_in_use + wanted > *connections).then(|| {
        let problem = format!(
            "{connections_in_use} of {connections} connections of {database} are in use; \
             a {role} that is started uses up to {wanted} more"
        );
        Finding::warning(CHECK, problem, pooler)
    })
}

/// A clock of this machine that differs from that `of` a server.
pub(super) fn ahead(of: &str, ahead: SignedDuration) -> Finding {
    let word = if ahead.is_negative() { "behind" } else { "ahead of" };
    let seconds = ahead.abs().as_secs_f64();
    let problem = format!("the clock of this machine is {seconds:.0} s {word} that of {of}");
    Finding::warning("clock", problem, "synchronize the clock, for instance with chrony")
}
