//! What `deny.toml` says, as far as it is checked here, and what breaks it.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::license;

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Deserialize)]
pub(super) struct Rules {
    pub(super) graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    pub(super) targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// `Cargo.lock`.
#[derive(Debug, Deserialize)]
pub(super) struct Lock {
    package: Vec<Locked>,
}

#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
    /// Absent for members of the workspace.
    source: Option<String>,
}

/// A package as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

impl Rules {
    /// One sentence for each rule that is broken.
    pub(super) fn check(&self, lock: &Lock, packages: &[Package]) -> Vec<String> {
        let locked = lock.package.iter().flat_map(|locked| [self.ban(locked), self.source(locked)]);
        locked.chain(packages.iter().map(|package| self.license(package))).flatten().collect()
    }

    fn ban(&self, Locked { name, version, .. }: &Locked) -> Option<String> {
        let ban = self.bans.deny.iter().find(|ban| ban.name == *name)?;
        Some(format!("{name} {version} is banned: {}", ban.reason))
    }

    fn source(&self, Locked { name, version, source }: &Locked) -> Option<String> {
        let source = source.as_deref()?;
        let allowed = source
            .strip_prefix("registry+")
            .is_some_and(|registry| self.sources.allow_registry.iter().any(|allowed| allowed == registry));
        (!allowed).then(|| format!("{name} {version} comes from {source}"))
    }

    fn license(&self, Package { name, version, license }: &Package) -> Option<String> {
        let Some(license) = license else {
            return Some(format!("{name} {version} does not say its licence"));
        };
        match license::allows(license, &self.licenses.allow) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name} {version} has the licence {license}")),
            Err(problem) => {
                Some(format!("{name} {version}: the licence {license} cannot be read: {problem}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        toml::from_str(include_str!("../../../../deny.toml")).unwrap()
    }

    fn check(name: &str, source: &str, license: &str) -> Vec<String> {
        let locked = Locked { name: name.into(), version: "1.0.0".into(), source: Some(source.into()) };
        let package = Package { name: name.into(), version: "1.0.0".into(), license: Some(license.into()) };
        rules().check(&Lock { package: vec![locked] }, &[package])
    }

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    #[test]
    fn each_rule_of_this_repository_refuses_what_breaks_it() {
        assert_eq!(check("serde", CRATES_IO, "MIT OR Apache-2.0"), Vec::<String>::new());
        for (name, source, license, complaint) in [
            ("openssl-sys", CRATES_IO, "MIT", "openssl-sys 1.0.0 is banned"),
            ("aws-lc-sys", CRATES_IO, "ISC", "aws-lc-sys 1.0.0 is banned"),
            ("serde", "git+https://github.com/serde-rs/serde", "MIT", "serde 1.0.0 comes from git+"),
            ("serde", "registry+https://example.org/index", "MIT", "serde 1.0.0 comes from registry+"),
            ("serde", CRATES_IO, "GPL-3.0-only", "serde 1.0.0 has the licence GPL-3.0-only"),
            ("serde", CRATES_IO, "MIT AND (", "cannot be read"),
        ] {
            let broken = check(name, source, license);
            assert!(broken.len() == 1 && broken[0].contains(complaint), "{complaint}: {broken:?}");
        }
    }
}
