//! URLs of databases. No message contains a password.

use std::{fs::File, net::IpAddr, str::FromStr};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Parameters of a URL that sqlx understands. It would log any other one with its value.
const PARAMETERS: [&str; 17] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Parameters that name a file.
const FILES: [&str; 7] =
    ["ssl-ca", "ssl-cert", "ssl-key", "ssl-root-cert", "sslcert", "sslkey", "sslrootcert"];

/// The URL of a database is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("DATABASE_URL must look like postgres://user:password@host:5432/database: {0}")]
pub struct InvalidUrl(String);

/// Whether `url` names a PostgreSQL database.
#[must_use]
pub fn is_postgres_url(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Checks the URL of a PostgreSQL database, and that the certificates that it names can be read.
///
/// # Errors
/// When the URL is not valid.
pub fn check_url(url: &str) -> Result<(), InvalidUrl> {
    connect_options(url).map(drop)
}

/// The options of a connection to the database at `url`.
pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, InvalidUrl> {
    let wrong = |problem: String| InvalidUrl(problem);
    if !is_postgres_url(url) {
        return Err(wrong("it does not begin with postgres:// or postgresql://".into()));
    }
    if names_several_hosts(url) {
        return Err(wrong(
            "it names several hosts; name one that leads to the primary, such as a load balancer's".into(),
        ));
    }
    let parsed = ::url::Url::parse(url).map_err(|error| {
        wrong(format!(
            "{error}; in a user name and a password, write special characters percent-encoded, such as %2F for /"
        ))
    })?;
    if parsed.fragment().is_some() {
        return Err(wrong("it contains a #, which a password writes as %23".into()));
    }
    for (name, value) in parsed.query_pairs() {
        if !PARAMETERS.contains(&&*name) && !name.starts_with("options[") {
            let known = PARAMETERS.join(", ");
            return Err(wrong(format!("unknown parameter `{name}`; there are {known}")));
        }
        if FILES.contains(&&*name) {
            File::open(&*value).map_err(|error| wrong(format!("{name}={value} cannot be read: {error}")))?;
        }
    }
    PgConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(problem) => wrong(problem.to_string()),
        other => wrong(other.to_string()),
    })
}

/// Whether the host of `url` is a list, which libpq understands and sqlx takes for one name.
fn names_several_hosts(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(','))
}

/// The database of `options` as messages show it, without a password.
pub(super) fn shown(options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    match options.get_socket() {
        Some(folder) => format!("postgres:///{database}?host={}&user={user}", folder.display()),
        None => format!("postgres://{user}@{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

/// What another machine on the way to the server could do to a connection, for a warning.
pub(super) fn exposure(options: &PgConnectOptions) -> Option<&'static str> {
    match options.get_ssl_mode() {
        _ if is_local(options) => None,
        PgSslMode::VerifyFull | PgSslMode::VerifyCa => None,
        PgSslMode::Require => Some("the database's certificate is not verified"),
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => {
            Some("the connection to the database may not be encrypted")
        }
    }
}

/// Whether connections stay on this machine.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_url_is_explained_without_its_password() {
        for (url, expected) in [
            ("mysql://u:sesame@h/db", "does not begin with postgres://"),
            ("postgres://u:ses/ame@h:5432/db", "percent-encoded"),
            ("postgres://u:sesame#1@h/db", "percent-encoded"),
            ("postgres://u:sesame@h/db#x", "%23"),
            ("postgres://u:sesame@h:port/db", "invalid port number"),
            ("postgres://u:sesame@one:5432,two:5432/db", "several hosts"),
            ("postgres://h/db?pasword=sesame", "unknown parameter `pasword`"),
            ("postgres://u:sesame@h/db?sslmode=full", "full"),
            (
                "postgres://u:sesame@h/db?sslrootcert=/nonexistent/ca.pem",
                "/nonexistent/ca.pem cannot be read",
            ),
        ] {
            let problem = connect_options(url).unwrap_err().to_string();
            assert!(problem.contains(expected), "{url}: {problem}");
            assert!(!problem.contains("sesame") && !problem.contains("ame@"), "{problem}");
        }
    }

    #[test]
    fn database_is_shown_without_its_password() {
        for (url, expected) in [
            ("postgres://u:p%2Fw@db.example:6432/phoenix", "postgres://u@db.example:6432/phoenix"),
            ("postgresql://u:pw@127.0.0.1/phoenix?sslmode=disable", "postgres://u@127.0.0.1:5432/phoenix"),
            (
                "postgres:///phoenix?host=/run/pg&user=u&password=pw",
                "postgres:///phoenix?host=/run/pg&user=u",
            ),
        ] {
            assert_eq!(shown(&connect_options(url).unwrap()), expected);
        }
    }

    #[test]
    fn exposed_connection_is_reported() {
        let exposure = |url: &str| exposure(&connect_options(url).unwrap());
        for local in ["127.0.0.1", "localhost", "[::1]", "%2Frun%2Fpostgresql"] {
            assert_eq!(exposure(&format!("postgres://u@{local}/db")), None, "{local}");
        }
        assert_eq!(exposure("postgres://u@db.example/db?sslmode=verify-full"), None);
        for (mode, expected) in [("require", "not verified"), ("prefer", "not be encrypted")] {
            let found = exposure(&format!("postgres://u@db.example/db?sslmode={mode}")).unwrap();
            assert!(found.contains(expected), "{found}");
        }
    }
}
