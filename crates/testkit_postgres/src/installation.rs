//! The programs of PostgreSQL on this machine, and the user who runs them.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{Gid, Uid, User, geteuid};

/// Folder of Debian's packages, with a folder per version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The programs of one version.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    /// The major version.
    pub(crate) version: u32,
    bin: PathBuf,
    /// The user of the server, which refuses to run as root.
    user: Option<(Uid, Gid)>,
}

impl Installation {
    /// The newest version, if there is one.
    pub(crate) fn newest() -> Option<Self> {
        let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
        let numbered = versions.filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            let bin = version.path().join("bin");
            bin.join("postgres").is_file().then_some((number, bin))
        });
        let (version, bin) = numbered.max_by_key(|(number, _)| *number)?;
        Some(Self { version, bin, user: geteuid().is_root().then(unprivileged) })
    }

    /// A new folder of the server's user, which is not removed with its path.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = tempfile::Builder::new().prefix("phoenix-postgres-").tempdir();
        let folder = folder.expect("a folder can be created").keep();
        self.give(&folder);
        folder
    }

    /// A command that runs one of the programs.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.command_of(&self.bin.join(program))
    }

    /// A command that runs another program as the user of the server.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Without the locale, which the messages of the server would depend on, and the variables of libpq.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
        if let Some((user, group)) = self.user {
            command.uid(user.as_raw()).gid(group.as_raw());
        }
        command
    }

    /// Makes the user of the server the owner of `path`.
    pub(crate) fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            std::os::unix::fs::chown(path, Some(user.as_raw()), Some(group.as_raw()))
                .expect("root may change the owner");
        }
    }
}

/// Skips a test that needs a Debian package.
pub(crate) fn skip<T>(package: &str) -> Option<T> {
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_ci, "CI is set, and the Debian package {package} is not installed");
    eprintln!("SKIPPED: needs the Debian package {package}");
    None
}

/// The user of Debian's package.
fn unprivileged() -> (Uid, Gid) {
    let user = User::from_name("postgres").ok().flatten();
    let user = user.expect("the package of PostgreSQL has created its user");
    (user.uid, user.gid)
}
