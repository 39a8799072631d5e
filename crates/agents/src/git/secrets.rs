//! Files that hold secrets by convention: `.env` and its variants, from which Docker Compose and most frameworks read tokens, and
//! the private keys and passwords of `ssh(1)`, `curl(1)`, npm, PyPI and PostgreSQL. The git agent neither shows nor stages them.

/// Suffixes of files that have the form of a `.env` and contain no secret.
const TEMPLATES: &[&str] = &["default", "defaults", "dist", "example", "sample", "schema", "template"];

/// Names of other files with secrets.
const NAMES: &[&str] = &[
    ".git-credentials",
    ".htpasswd",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    "_netrc",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_rsa",
];

/// Whether the last component of `path` names a file with secrets.
pub(super) fn holds_secrets(path: &str) -> bool {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    if NAMES.contains(&&*name) {
        return true;
    }
    match name.strip_prefix(".env") {
        Some("") => true,
        Some(variant) => {
            let ending = variant.rsplit('.').next().unwrap_or_default();
            variant.starts_with('.') && !TEMPLATES.contains(&ending)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_files_are_recognized_by_name() {
        for path in [
            "id_rsa",
            ".ssh/ID_ED25519",
            "a/.netrc",
            ".pgpass",
            ".npmrc",
            ".env",
            "a/b/.env",
            ".ENV",
            ".env.local",
            ".env.production",
            "a/.env/",
        ] {
            assert!(holds_secrets(path), "{path}");
        }
        for path in [
            "env",
            "a.env",
            ".env/x",
            ".environment",
            ".env.example",
            ".env.prod.sample",
            "id_rsa.pub",
            "npmrc",
            "",
        ] {
            assert!(!holds_secrets(path), "{path}");
        }
    }
}
