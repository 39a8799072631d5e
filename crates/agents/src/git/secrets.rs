//! Files that hold secrets by convention: `.env` and its variants. Docker Compose and most frameworks read tokens from
//! them, so the git agent neither shows nor stages them.

/// Suffixes of files that have the form of a `.env` and contain no secret.
const TEMPLATES: &[&str] = &["default", "defaults", "dist", "example", "sample", "schema", "template"];

/// Whether the last component of `path` names a file with secrets.
pub(super) fn holds_secrets(path: &str) -> bool {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
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
        for path in [".env", "a/b/.env", ".ENV", ".env.local", ".env.production", "a/.env/"] {
            assert!(holds_secrets(path), "{path}");
        }
        for path in ["env", "a.env", ".env/x", ".environment", ".env.example", ".env.prod.sample", ""] {
            assert!(!holds_secrets(path), "{path}");
        }
    }
}
