//! What is copied, and where from or to.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use phoenix_platform::{
    config::{Role, process_env},
    sqlite::file_from_url,
};

use super::Refusal;
use crate::args::PlaceArgs;

/// The folder of the notes, in a data folder.
pub(crate) const VAULT: &str = "vault";

/// Where Phoenix keeps something.
pub(super) enum Place {
    /// A data folder.
    Folder(PathBuf),
    /// A single database.
    Database {
        /// Its file.
        file: PathBuf,
        /// Whether DATABASE_URL chose it, and not the command line.
        from_environment: bool,
    },
}

/// What there is to copy.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Databases by their names.
    pub(super) databases: Vec<(String, PathBuf)>,
    /// The folder of the notes, if there is one.
    pub(super) vault: Option<PathBuf>,
}

impl Place {
    /// Where the flags say, else the environment, as for a service.
    pub(super) fn resolve(args: PlaceArgs) -> Result<Self, Refusal> {
        let PlaceArgs { data_dir, database_url } = args;
        let from_environment = database_url.is_none();
        let variable = || data_dir.is_none().then(|| process_env("DATABASE_URL")).flatten();
        match database_url.or_else(variable) {
            Some(url) => {
                let file = file_from_url(&url).map_err(|error| Refusal::Usage(error.to_string()))?;
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

    /// What a copy does not hold although the command line does not say so.
    pub(super) fn left_out(&self) -> Option<String> {
        let Self::Database { file, from_environment: true } = self else { return None };
        let name = file.file_name().unwrap_or_default();
        let others: Vec<_> = database_names().filter(|database| **database != *name).collect();
        Some(format!(
            "this is one database, because DATABASE_URL names it; {} and the notes are not in it. Back them up where they \
             are kept, or name a whole data folder with --data-dir",
            others.join(", ")
        ))
    }

    /// The folder or the file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Database { file: path, .. } => path,
        }
    }

    /// What it holds.
    pub(super) fn contents(&self) -> Result<Contents, Refusal> {
        match self {
            Self::Database { file, .. } => Contents::of_file(file),
            Self::Folder(folder) => Contents::of_folder(folder),
        }
    }
}

impl Contents {
    pub(super) fn of_file(file: &Path) -> Result<Self, Refusal> {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
        match name.filter(|_| file.is_file()) {
            Some(name) => Ok(Self { databases: vec![(name, file.to_owned())], vault: None }),
            None => Err(Refusal::machine(format_args!("there is no database {}", file.display()))),
        }
    }

    pub(super) fn of_folder(folder: &Path) -> Result<Self, Refusal> {
        let known = database_names().map(|name| (name.clone(), folder.join(name)));
        let databases: Vec<_> = known.filter(|(_, file)| file.is_file()).collect();
        if databases.is_empty() {
            return Err(Refusal::machine(format_args!(
                "the folder {} holds no database of phoenix",
                folder.display()
            )));
        }
        let vault = folder.join(VAULT);
        Ok(Self { databases, vault: vault.is_dir().then_some(vault) })
    }
}

/// Something in a folder that no copy of a data folder holds.
pub(super) fn stranger_in(folder: &Path) -> Option<OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_ours = |name: &OsString| *name == *VAULT || database_names().any(|database| *name == *database);
    entries.map(|entry| entry.file_name()).find(|name| !is_ours(name))
}

fn database_names() -> impl Iterator<Item = String> {
    // The journal is what people look for: it comes first.
    Role::ALL.iter().rev().filter(|role| role.has_database()).map(|role| role.database_file())
}
