//! The URL of a database, which may contain a password.

use std::fmt;

use crate::{postgres, sqlite};

/// The URL of a database. `Debug` writes no password, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL itself. Every caller must keep the password secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it names a PostgreSQL database; else it names a file of SQLite.
    #[must_use]
    pub fn is_postgres(&self) -> bool {
        postgres::is_postgres_url(&self.0)
    }

    /// Checks the URL, without a look at the database.
    ///
    /// # Errors
    /// What is wrong with it, as a predicate of `DATABASE_URL`.
    pub fn check(&self) -> Result<(), String> {
        const BOTH: &str =
            "must look like sqlite://path/to/file.db or postgres://user:password@host:5432/database";
        let problem = if self.is_postgres() {
            postgres::check_url(&self.0).err().map(|problem| problem.to_string())
        } else if self.0.starts_with("sqlite:") {
            sqlite::file_from_url(&self.0).err().map(|problem| problem.to_string())
        } else {
            Some(BOTH.to_owned())
        };
        match problem {
            Some(problem) => Err(problem.trim_start_matches("DATABASE_URL ").to_owned()),
            None => Ok(()),
        }
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_postgres() { "postgres://[redacted]" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        text.to_owned().into()
    }

    #[test]
    fn url_names_a_file_or_a_server() {
        for valid in ["sqlite://data/planner.db", "postgres://u:pw@h/db", "postgresql://u@h:5433/db"] {
            assert_eq!(url(valid).check(), Ok(()), "{valid}");
        }
        for (wrong, expected) in [
            ("planner.db", "must look like sqlite://path/to/file.db or postgres://"),
            ("mysql://u:pw@h/db", "must look like sqlite://path/to/file.db or postgres://"),
            ("sqlite::memory:", "must look like sqlite://path/to/file.db: "),
            ("postgres://u:pw@h:x/db", "must look like postgres://user:password@host:5432/database: "),
        ] {
            let problem = url(wrong).check().unwrap_err();
            assert!(problem.starts_with(expected) && !problem.contains("pw"), "{wrong}: {problem}");
        }
    }

    #[test]
    fn debug_text_contains_no_password() {
        assert_eq!(format!("{:?}", url("postgres://u:pw@h/db")), "postgres://[redacted]");
        assert_eq!(format!("{:?}", url("sqlite://data/planner.db")), "sqlite://data/planner.db");
    }
}
