//! Sources and targets of copies.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use phoenix_platform::{
    config::{Role, process_env},
    postgres::is_postgres_url,
    sqlite::file_from_url,
};

use super::error::BackupError;
use crate::args::LocationArgs;

/// Name of the folder of the notes in a data folder.
pub(crate) const VAULT: &str = "vault";

/// A source or target of a copy.
pub(super) enum Location {
    /// A data folder.
    Folder(PathBuf),
    /// A single database.
    Database {
        /// File of the database.
        file: PathBuf,
        /// Whether DATABASE_URL named it instead of the command line.
        from_environment: bool,
    },
}

/// Contents of a location.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Databases by name.
    pub(super) databases: Vec<(String, PathBuf)>,
    /// Folder of the notes, if it exists.
    pub(super) vault: Option<PathBuf>,
}

impl Location {
    /// The location that the flags name, else the environment, as for a service.
    pub(super) fn resolve(args: LocationArgs) -> Result<Self, BackupError> {
        let LocationArgs { data_dir, database_url } = args;
        let from_environment = database_url.is_none();
        let variable = || data_dir.is_none().then(|| process_env("DATABASE_URL")).flatten();
        match database_url.or_else(variable) {
            Some(url) if is_postgres_url(&url) => Err(BackupError::Usage(in_postgres(from_environment))),
            Some(url) => {
                let file = file_from_url(&url).map_err(|error| BackupError::Usage(error.to_string()))?;
                Ok(Self::Database { file, from_environment })
            }
            None => {
                let folder = data_dir.or_else(|| {
                    std::env::var_os("PHOENIX_DATA_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
                });
                Ok(Self::Folder(folder.unwrap_or_else(|| "data".into())))
            }
        }
    }

    /// A warning about data that the backup does not contain although the command line does not exclude it.
    pub(super) fn omitted(&self) -> Option<String> {
        let Self::Database { file, from_environment: true } = self else { return None };
        let name = file.file_name().unwrap_or_default();
        let others: Vec<_> = database_names().filter(|database| **database != *name).collect();
        Some(format!(
            "this is a backup of one database, because DATABASE_URL names it; {} and the notes are not in it. Back them up \
                 separately, or name a whole data folder with --data-dir",
            others.join(", ")
        ))
    }

    /// Path of the folder or file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Database { file: path, .. } => path,
        }
    }

    /// The contents of the location.
    pub(super) fn contents(&self) -> Result<Contents, BackupError> {
        match self {
            Self::Database { file, .. } => Contents::of_file(file),
            Self::Folder(folder) => Contents::of_folder(folder),
        }
    }
}

/// How to copy a database of PostgreSQL, which has tools of its own.
fn in_postgres(from_environment: bool) -> String {
    let named = if from_environment { "DATABASE_URL" } else { "--database-url" };
    let notes = if from_environment { "; for the data folder, name it with --data-dir" } else { "" };
    format!(
        "{named} names a PostgreSQL database, which its own tools back up and restore: `pg_dump --format=custom \
         --schema='phoenix_*' --file=phoenix.dump \"$DATABASE_URL\"`, `pg_restore`, or base backups with archived WAL; \
         docs/backup.md has the steps{notes}"
    )
}

impl Contents {
    pub(super) fn of_file(file: &Path) -> Result<Self, BackupError> {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
        match name.filter(|_| file.is_file()) {
            Some(name) => Ok(Self { databases: vec![(name, file.to_owned())], vault: None }),
            None => Err(BackupError::failed(format_args!("there is no database {}", file.display()))),
        }
    }

    pub(super) fn of_folder(folder: &Path) -> Result<Self, BackupError> {
        let known = database_names().map(|name| (name.clone(), folder.join(name)));
        let databases: Vec<_> = known.filter(|(_, file)| file.is_file()).collect();
        if databases.is_empty() {
            return Err(BackupError::failed(format_args!(
                "the folder {} contains no database of Phoenix",
                folder.display()
            )));
        }
        let vault = folder.join(VAULT);
        Ok(Self { databases, vault: vault.is_dir().then_some(vault) })
    }
}

/// An entry of a folder that no backup of a data folder contains.
pub(super) fn foreign_entry(folder: &Path) -> Option<OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_own = |name: &OsString| *name == *VAULT || database_names().any(|database| *name == *database);
    entries.map(|entry| entry.file_name()).find(|name| !is_own(name))
}

fn database_names() -> impl Iterator<Item = String> {
    // The journal first: it is the most important.
    Role::ALL.iter().rev().filter(|role| role.has_database()).map(|role| role.database_file())
}
