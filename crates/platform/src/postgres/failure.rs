//! Failures that a retry may end.

use std::io;

use sqlx::postgres::PgDatabaseError;

/// A failure that a retry may end, by what has to change before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transient {
    /// The transaction lost against another one, or waited too long for it. Nothing has to change.
    Conflict,
    /// The connection broke, or the server is down, stops or starts.
    Unreachable,
    /// The server accepts no writes: it is a standby, or a primary that was demoted. Other connections may reach the new primary.
    ReadOnly,
    /// The server has no connection, memory or disk space left.
    Exhausted,
}

impl Transient {
    /// Whether connections that were made before the failure are useless.
    pub(super) const fn spoils_connections(self) -> bool {
        matches!(self, Self::Unreachable | Self::ReadOnly)
    }
}

/// The kind of `error`, if a retry may succeed. After a failed `COMMIT` the transaction may have been committed.
#[must_use]
pub fn transient(error: &sqlx::Error) -> Option<Transient> {
    match error {
        sqlx::Error::Database(error) => {
            let error = error.try_downcast_ref::<PgDatabaseError>()?;
            of_code(error.code(), error.routine())
        }
        // A file that does not exist is one of the certificates.
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => None,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Some(Transient::Unreachable),
        _ => None,
    }
}

/// The kind of a code of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn of_code(code: &str, routine: Option<&str>) -> Option<Transient> {
    match code {
        // Serialization failure, deadlock, lock timeout, cancelled statement.
        "40001" | "40P01" | "55P03" | "57014" => Some(Transient::Conflict),
        // Shutdown, crash of another connection, start, timeouts that end the session.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Some(Transient::Unreachable),
        "25006" => Some(Transient::ReadOnly),
        // Another version has altered a table since this connection prepared the statement.
        "0A000" if routine == Some("RevalidateCachedQuery") => Some(Transient::Unreachable),
        // Too many connections, disk full, out of memory; an error of the server's disk.
        _ if code.starts_with("53") || code == "58030" => Some(Transient::Exhausted),
        // Connection exceptions, among them those of poolers.
        _ if code.starts_with("08") => Some(Transient::Unreachable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_has_the_kind_of_its_remedy() {
        for (code, expected) in [
            ("40001", Some(Transient::Conflict)),
            ("40P01", Some(Transient::Conflict)),
            ("57P01", Some(Transient::Unreachable)),
            ("57P03", Some(Transient::Unreachable)),
            ("08006", Some(Transient::Unreachable)),
            ("25006", Some(Transient::ReadOnly)),
            ("53300", Some(Transient::Exhausted)),
            ("53100", Some(Transient::Exhausted)),
            ("0A000", None),
            ("23505", None),
            ("42P01", None),
            ("28P01", None),
        ] {
            assert_eq!(of_code(code, None), expected, "{code}");
        }
        assert_eq!(of_code("0A000", Some("RevalidateCachedQuery")), Some(Transient::Unreachable));
    }

    #[test]
    fn broken_connection_is_transient_and_closed_pool_is_not() {
        let reset = sqlx::Error::Io(io::ErrorKind::ConnectionReset.into());
        assert_eq!(transient(&reset), Some(Transient::Unreachable));
        assert_eq!(transient(&sqlx::Error::PoolTimedOut), Some(Transient::Unreachable));
        assert_eq!(transient(&sqlx::Error::PoolClosed), None);
        assert_eq!(transient(&sqlx::Error::RowNotFound), None);
    }
}
