//! The rules of `deny.toml` that are checked here: banned crates and allowed registries.

use serde::Deserialize;

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Deserialize)]
pub(super) struct Rules {
    bans: Bans,
    sources: Sources,
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

impl Rules {
    /// A sentence for each broken rule.
    pub(super) fn check(&self, lock: &Lock) -> Vec<String> {
        lock.package.iter().flat_map(|locked| [self.ban(locked), self.source(locked)]).flatten().collect()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    fn check(name: &str, source: &str) -> Vec<String> {
        let rules: Rules = toml::from_str(include_str!("../../../../deny.toml")).unwrap();
        let locked = Locked { name: name.into(), version: "1.0.0".into(), source: Some(source.into()) };
        rules.check(&Lock { package: vec![locked] })
    }

    #[test]
    fn banned_crate_or_registry_is_reported() {
        assert_eq!(check("serde", CRATES_IO), Vec::<String>::new());
        for (name, source, problem) in [
            ("openssl-sys", CRATES_IO, "openssl-sys 1.0.0 is banned"),
            ("aws-lc-sys", CRATES_IO, "aws-lc-sys 1.0.0 is banned"),
            ("serde", "git+https://github.com/serde-rs/serde", "serde 1.0.0 comes from git+"),
            ("serde", "registry+https://example.org/index", "serde 1.0.0 comes from registry+"),
        ] {
            let broken = check(name, source);
            assert!(broken.len() == 1 && broken[0].contains(problem), "{problem}: {broken:?}");
        }
    }
}
