//! Programs of Debian packages.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{failure::Result, phases::execute};

pub(super) fn is_installed(name: &str) -> bool {
    folders_of(name).iter().any(|dir| is_executable(&dir.join(name)))
}

/// Folders in which a program is looked for, as the tests do.
fn folders_of(name: &str) -> Vec<PathBuf> {
    if name == "postgres" {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        return versions.map(|version| version.path().join("bin")).collect();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into()]).collect()
}

pub(super) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

pub(super) fn is_debian_root() -> bool {
    Path::new("/etc/debian_version").exists() && nix::unistd::geteuid().is_root() && is_installed("apt-get")
}

pub(super) async fn install(packages: &[&str]) -> Result<()> {
    // Ctrl-C ends apt-get; this process continues to its cleanup.
    let _interrupts = signal(SignalKind::interrupt())?;
    restore_policy()?;
    let _policy = NoServices::begin()?;
    execute(apt_get().arg("update")).await?;
    execute(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages)).await
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--option", "DPkg::Lock::Timeout=120"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null());
    command
}

/// Debian's policy for starting services of installed packages: the programs are needed, daemons are not.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Written by `cargo xtask test` while it installs programs; removed afterwards.\nexit 101\n";

/// Backup of an existing policy, which most container images have.
const SAVED_POLICY: &str = "/usr/sbin/policy-rc.d.before-xtask";

/// Guard during which an installed package starts no service.
struct NoServices;

impl NoServices {
    fn begin() -> io::Result<Self> {
        match fs::rename(POLICY, SAVED_POLICY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let policy = Self;
        fs::write(POLICY, POLICY_TEXT)?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Err(error) = restore_policy() {
            eprintln!("could not restore {POLICY}: {error}");
        }
    }
}

/// Restores the policy, also after a killed run.
fn restore_policy() -> io::Result<()> {
    if Path::new(SAVED_POLICY).exists() {
        return fs::rename(SAVED_POLICY, POLICY);
    }
    match fs::read(POLICY) {
        Ok(text) if text == POLICY_TEXT.as_bytes() => fs::remove_file(POLICY),
        _ => Ok(()),
    }
}
