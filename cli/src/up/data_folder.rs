//! The data folder: used by one stack at a time, closed to other users, ignored by git.

use std::{
    ffi::OsStr,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use phoenix_platform::{config::Role, logging::file::FOLDER as LOGS, privacy, service_token, sqlite};

use super::error::StartError;
use crate::backup::VAULT;

/// File that is locked by the stack that uses the folder. The kernel releases the lock with the process.
const LOCK_FILE: &str = "up.lock";

/// File of the token by which services authenticate each other.
const TOKEN_FILE: &str = service_token::FILE_NAME;

const GITIGNORE: &str = ".gitignore";

/// A data folder that is locked by this process.
pub(crate) struct DataFolder {
    path: PathBuf,
    /// Not inherited by the services: the handle is closed on exec.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder if it does not exist, and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StartError> {
        let fail = |error: io::Error| {
            StartError::System(format!(
                "nothing was started; the data folder {} cannot be written: {error}. Choose another with --data-dir",
                dir.display()
            ))
        };
        privacy::create_folder(dir).map_err(fail)?;
        let path = dir.canonicalize().map_err(fail)?;
        let is_exclusive = is_exclusive(&path).map_err(fail)?;
        let lock = privacy::create_file(&path.join(LOCK_FILE)).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&path)),
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        prepare(&path, is_exclusive).map_err(fail)?;
        Ok(Self { path, _lock: lock })
    }

    /// Absolute path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// File of the service token, which is created if it does not exist.
    pub(crate) fn service_token(&self) -> Result<PathBuf, StartError> {
        service_token::load_or_create(&self.path).map_err(|error| {
            let path = self.path.join(TOKEN_FILE);
            StartError::System(format!(
                "nothing was started; the service token in {} cannot be used: {error}",
                path.display()
            ))
        })
    }

    /// Folder of the log files.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join(LOGS)
    }

    /// Folder of the notes.
    pub(crate) fn vault(&self) -> PathBuf {
        self.path.join(VAULT)
    }
}

fn in_use(path: &Path) -> StartError {
    StartError::System(format!(
        "nothing was started; another `phoenix up` uses the data folder {}. Stop it, or start this stack with another \
             --data-dir and another --port-offset",
        path.display()
    ))
}

fn prepare(path: &Path, is_exclusive: bool) -> io::Result<()> {
    let probe = path.join(format!(".writable-{}", std::process::id()));
    privacy::create_file(&probe)?;
    std::fs::remove_file(&probe)?;
    let vault = path.join(VAULT);
    privacy::create_folder(&vault)?;
    let pattern = if is_exclusive { "*".to_owned() } else { patterns() };
    privacy::keep_out_of_git(path, &pattern)?;
    // Older versions and installers may have left it open to others. A shared folder keeps its mode.
    if is_exclusive {
        privacy::tighten(path)?;
    }
    let files = [LOCK_FILE, TOKEN_FILE, GITIGNORE].map(|name| path.join(name));
    let companions = databases().flat_map(|name| {
        let file = path.join(name);
        let beside = sqlite::WAL_SUFFIXES.map(|suffix| sqlite::companion(&file, suffix));
        [file].into_iter().chain(beside)
    });
    companions.chain(files).chain([vault, path.join(LOGS)]).try_for_each(|path| privacy::tighten(&path))
}

/// Whether a running stack uses the data folder. A folder that does not exist is not used.
pub(crate) fn is_in_use(dir: &Path) -> bool {
    let lock = File::open(dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Whether the folder contains nothing but files of Phoenix.
fn is_exclusive(path: &Path) -> io::Result<bool> {
    for entry in path.read_dir()? {
        if !is_own(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_own(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    [LOCK_FILE, TOKEN_FILE, GITIGNORE, VAULT, LOGS].contains(&name)
        || name.starts_with(".writable-")
        // Including companion files, and files renamed by a restore.
        || databases().any(|database| name.starts_with(&database))
}

/// Patterns for the `.gitignore` of a folder that contains other files.
fn patterns() -> String {
    let files = [LOCK_FILE, TOKEN_FILE, GITIGNORE].map(|name| format!("/{name}"));
    let databases = databases().map(|name| format!("/{name}*"));
    databases
        .chain(files)
        .chain([VAULT, LOGS].map(|folder| format!("/{folder}/")))
        .collect::<Vec<_>>()
        .join("\n")
}

fn databases() -> impl Iterator<Item = String> {
    Role::ALL.iter().filter(|role| role.has_database()).map(|role| role.database_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    fn start_error(dir: &Path) -> String {
        match DataFolder::open(dir) {
            Err(StartError::System(problem)) => problem,
            Err(StartError::Settings(problems)) => problems.to_string(),
            Ok(_) => panic!("the folder was opened twice"),
        }
    }

    #[test]
    fn data_folder_is_locked_under_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let held = DataFolder::open(&data).unwrap();
        std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
        for name in [&data, &dir.path().join("link"), &dir.path().join("data/../data")] {
            let problem = start_error(name);
            assert!(
                problem.contains(&data.display().to_string()) && problem.contains("--data-dir"),
                "{problem}"
            );
        }
        drop(held);
        DataFolder::open(&data).unwrap();
    }

    #[test]
    fn data_folder_of_an_older_version_is_closed_and_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("vault")).unwrap();
        for name in ["planner.db", "planner.db-wal", "health.db"] {
            std::fs::write(data.join(name), "").unwrap();
            std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(0o644)).unwrap();
        }
        for folder in [&data, &data.join("vault")] {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
        }
        DataFolder::open(&data).unwrap();
        assert_eq!((mode(&data), mode(&data.join("vault"))), (0o700, 0o700));
        for name in ["planner.db", "planner.db-wal", "health.db", "up.lock", ".gitignore"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
        assert_eq!(std::fs::read_to_string(data.join(".gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn shared_data_folder_ignores_only_files_of_phoenix() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.rs"), "").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        DataFolder::open(dir.path()).unwrap();
        let ignored = std::fs::read_to_string(dir.path().join(".gitignore")).unwrap();
        assert!(ignored.contains("/planner.db*\n") && ignored.contains("/vault/"), "{ignored}");
        assert!(!ignored.lines().any(|line| line == "*"), "{ignored}");
        assert_eq!(mode(dir.path()), 0o755, "a shared folder keeps its mode");
    }
}
