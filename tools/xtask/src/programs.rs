//! Programs that tests need in addition to Rust: found, installed if possible, else reported.

mod debian;
pub(crate) mod npm;
mod python;

use self::debian::{install, is_debian_root, is_installed};
pub(crate) use self::python::PYTHON_PROGRAMS;
use crate::failure::{Failure, Result};

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
    Program { name: "jq", package: "jq", tests: "agents written in shell" },
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
    Program { name: "faketime", package: "faketime", tests: "services whose clocks differ" },
    Program { name: "docker-compose", package: "docker-compose", tests: "docker-compose.yml" },
];

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
    for program in PYTHON_PROGRAMS {
        skipped.extend(program.provide().await);
    }
    skipped.extend(npm::provide().await);
    if nothing_skipped && !skipped.is_empty() {
        return Err(Failure::new(format_args!(
            "CI is set, so nothing may be skipped:\n  {}",
            skipped.join("\n  ")
        )));
    }
    if skipped.is_empty() {
        let names = PROGRAMS.iter().map(|program| program.name);
        let names: Vec<_> = names.chain(PYTHON_PROGRAMS.iter().map(|program| program.name)).collect();
        eprintln!("all programs are installed: {}", names.join(", "));
    }
    Ok(skipped)
}

fn missing() -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| !is_installed(program.name)).collect()
}
