//! The data folder: one stack at a time, closed to other users, kept out of git.

use std::{
    ffi::OsStr,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use phoenix_platform::{config::Role, privacy, service_token, sqlite};

use super::plan::Refusal;
use crate::backup::VAULT;

/// Locked by the stack that uses the folder. The lock ends with its process, however that ends.
const LOCK_FILE: &str = "up.lock";

/// The token by which services know each other.
const TOKEN_FILE: &str = service_token::FILE_NAME;

const GITIGNORE: &str = ".gitignore";

/// A data folder that this process has for itself.
pub(crate) struct DataFolder {
    path: PathBuf,
    /// Not inherited by the services: the handle is closed when they are started.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder when there is none, and takes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, Refusal> {
        let refuse = |error: io::Error| {
            Refusal::Machine(format!(
                "nothing was started; the data folder {} cannot be written: {error}. Choose another with --data-dir",
                dir.display()
            ))
        };
        privacy::create_folder(dir).map_err(refuse)?;
        let path = dir.canonicalize().map_err(refuse)?;
        let is_ours = holds_nothing_else(&path).map_err(refuse)?;
        let lock = privacy::create_file(&path.join(LOCK_FILE)).map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&path)),
            Err(TryLockError::Error(error)) => return Err(refuse(error)),
        }
        prepare(&path, is_ours).map_err(refuse)?;
        Ok(Self { path, _lock: lock })
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the service token, which is made when there is none.
    pub(crate) fn service_token(&self) -> Result<PathBuf, Refusal> {
        service_token::load_or_create(&self.path).map_err(|error| {
            let path = self.path.join(TOKEN_FILE);
            Refusal::Machine(format!(
                "nothing was started; the service token in {} cannot be used: {error}",
                path.display()
            ))
        })
    }

    /// The notes in it.
    pub(crate) fn vault(&self) -> PathBuf {
        self.path.join(VAULT)
    }
}

fn in_use(path: &Path) -> Refusal {
    Refusal::Machine(format!(
        "nothing was started; another `phoenix up` uses the data folder {}. Stop it, or start this stack on a folder of its \
         own with --data-dir (and on ports of its own with --port-offset)",
        path.display()
    ))
}

fn prepare(path: &Path, is_ours: bool) -> io::Result<()> {
    let probe = path.join(format!(".writable-{}", std::process::id()));
    privacy::create_file(&probe)?;
    std::fs::remove_file(&probe)?;
    let vault = path.join(VAULT);
    privacy::create_folder(&vault)?;
    let pattern = if is_ours { "*".to_owned() } else { patterns() };
    privacy::keep_out_of_git(path, &pattern)?;
    // What an older version, or an installer, left open. A folder that is used for other things too stays as it is.
    if is_ours {
        privacy::tighten(path)?;
    }
    let files = [LOCK_FILE, TOKEN_FILE, GITIGNORE].map(|name| path.join(name));
    let companions = databases().flat_map(|name| {
        let file = path.join(name);
        let beside = sqlite::WAL_SUFFIXES.map(|suffix| sqlite::companion(&file, suffix));
        [file].into_iter().chain(beside)
    });
    companions.chain(files).chain([vault]).try_for_each(|path| privacy::tighten(&path))
}

/// Whether a folder holds nothing but what Phoenix puts there.
fn holds_nothing_else(path: &Path) -> io::Result<bool> {
    for entry in path.read_dir()? {
        if !is_ours(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_ours(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    [LOCK_FILE, TOKEN_FILE, GITIGNORE, VAULT].contains(&name)
        || name.starts_with(".writable-")
        // With what is beside it, and what a restore has set aside.
        || databases().any(|database| name.starts_with(&database))
}

/// For the `.gitignore` of a folder that holds other things.
fn patterns() -> String {
    let files = [LOCK_FILE, TOKEN_FILE, GITIGNORE].map(|name| format!("/{name}"));
    let databases = databases().map(|name| format!("/{name}*"));
    databases.chain(files).chain([format!("/{VAULT}/")]).collect::<Vec<_>>().join("\n")
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

    fn refusal(dir: &Path) -> String {
        match DataFolder::open(dir) {
            Err(Refusal::Machine(problem)) => problem,
            Err(Refusal::Settings(problems)) => problems.to_string(),
            Ok(_) => panic!("the folder could be taken"),
        }
    }

    #[test]
    fn data_folder_is_taken_once_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let held = DataFolder::open(&data).unwrap();
        std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
        for name in [&data, &dir.path().join("link"), &dir.path().join("data/../data")] {
            let problem = refusal(name);
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
    fn data_folder_with_other_files_ignores_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.rs"), "").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        DataFolder::open(dir.path()).unwrap();
        let ignored = std::fs::read_to_string(dir.path().join(".gitignore")).unwrap();
        assert!(ignored.contains("/planner.db*\n") && ignored.contains("/vault/"), "{ignored}");
        assert!(!ignored.lines().any(|line| line == "*"), "{ignored}");
        assert_eq!(mode(dir.path()), 0o755, "a folder with other files stays as it is");
    }
}
