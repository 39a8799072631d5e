//! Programs that tests need in addition to Rust: found, installed if possible, else reported.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{
    failure::{Failure, Result},
    phases::{execute, target_directory},
};

struct Program {
    name: &'static str,
    /// Debian package.
    package: &'static str,
    /// Tests that need the program.
    tests: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { name: "git", package: "git", tests: "the git agent" },
    Program { name: "python3", package: "python3", tests: "agents written in Python" },
    Program {
        name: "promtool",
        package: "prometheus",
        tests: "what Prometheus reads: configuration, rules, /metrics",
    },
    Program { name: "chromium", package: "chromium", tests: "the web page in a browser" },
    Program { name: "chromedriver", package: "chromium-driver", tests: "the web page in a browser" },
    Program { name: "docker", package: "docker.io", tests: "the container image" },
    Program { name: "tini", package: "tini", tests: "process 1 of the container image" },
    Program { name: "postgres", package: "postgresql", tests: "databases of PostgreSQL" },
    Program { name: "pgbouncer", package: "pgbouncer", tests: "poolers in front of PostgreSQL" },
    Program { name: "docker-compose", package: "docker-compose", tests: "docker-compose.yml" },
];

/// Tests the API against its OpenAPI document. A fixed version, because its findings change from version to version.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// Debian package for Python's virtual environments.
const VENV_PACKAGE: &str = "python3-venv";

/// Installs missing programs, as far as possible. Returns what has to be skipped.
///
/// # Errors
/// With `nothing_skipped`, when a program is missing in the end.
pub(crate) async fn provide(nothing_skipped: bool) -> Result<Vec<String>> {
    if !missing().is_empty() && is_debian_root() {
        let packages: Vec<_> = missing().iter().map(|program| program.package).collect();
        if let Err(failure) = install(&packages).await {
            eprintln!("could not install everything: {failure}");
        }
    }
    let mut skipped: Vec<_> = missing()
        .iter()
        .map(|Program { name, package, tests }| format!("{tests}: needs `{name}` (Debian package {package})"))
        .collect();
    if let Err(failure) = provide_schemathesis().await {
        eprintln!("could not install {SCHEMATHESIS}: {failure}");
        skipped.push(format!("the OpenAPI document against the server: needs {SCHEMATHESIS} from PyPI"));
    }
    if nothing_skipped && !skipped.is_empty() {
        return Err(Failure::new(format_args!(
            "CI is set, so nothing may be skipped:\n  {}",
            skipped.join("\n  ")
        )));
    }
    if skipped.is_empty() {
        eprintln!(
            "all programs are installed: {}, schemathesis",
            PROGRAMS.iter().map(|program| program.name).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(skipped)
}

/// Path of schemathesis, if it is installed: in a virtual environment in the target directory.
///
/// # Errors
/// When cargo does not report the target directory.
pub(crate) async fn schemathesis() -> Result<Option<PathBuf>> {
    let program = schemathesis_folder().await?.join("bin").join("schemathesis");
    Ok(Some(program).filter(|program| is_executable(program)))
}

async fn schemathesis_folder() -> Result<PathBuf> {
    Ok(target_directory().await?.join("tools").join(SCHEMATHESIS))
}

async fn provide_schemathesis() -> Result<()> {
    if schemathesis().await?.is_some() {
        return Ok(());
    }
    let folder = schemathesis_folder().await?;
    if make_venv(&folder).await.is_err() && is_debian_root() {
        install(&[VENV_PACKAGE]).await?;
        make_venv(&folder).await?;
    }
    let mut pip = Command::new(folder.join("bin").join("pip"));
    execute(pip.args(["install", "--quiet", "--disable-pip-version-check", SCHEMATHESIS])).await
}

async fn make_venv(folder: &Path) -> Result<()> {
    execute(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder)).await
}

fn missing() -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| !is_installed(program.name)).collect()
}

fn is_installed(name: &str) -> bool {
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

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn is_debian_root() -> bool {
    Path::new("/etc/debian_version").exists() && nix::unistd::geteuid().is_root() && is_installed("apt-get")
}

async fn install(packages: &[&str]) -> Result<()> {
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
