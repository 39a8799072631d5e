//! The file of contexts.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use phoenix_platform::privacy;
use serde::{Deserialize, Serialize};

use super::entry::Context;
use crate::client::{error::ClientError, output::plain};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;

/// What the file contains.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Contexts {
    /// The context of commands that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    pub(super) contexts: BTreeMap<String, Context>,
}

/// The context of the name, or else the current one, if there is one.
///
/// # Errors
/// When there is no context of the name, or the file is not valid.
pub(in crate::client) fn selected(name: Option<&str>) -> Result<Option<Context>, ClientError> {
    let Some(path) = path() else {
        return name.map_or(Ok(None), |name| Err(Contexts::default().unknown(name)));
    };
    let contexts = Contexts::read(&path)?;
    let Some(name) = name.or(contexts.current.as_deref()) else { return Ok(None) };
    contexts.get(name).cloned().map(Some)
}

/// `contexts.toml` in the folder of this user's settings.
pub(super) fn path() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // A relative XDG_CONFIG_HOME is invalid, and to be ignored, says its specification.
    let config = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")))?;
    Some(config.join("phoenix").join("contexts.toml"))
}

/// Changes the file, and returns its new content. Changes of other processes wait.
///
/// # Errors
/// When the file cannot be read or written, or as of `change`.
pub(super) fn locked(
    path: &Path,
    change: impl FnOnce(&mut Contexts) -> Result<(), ClientError>,
) -> Result<Contexts, ClientError> {
    let failed = |error: io::Error| {
        ClientError::Usage(format!("the contexts cannot be written to `{}`: {error}", path.display()))
    };
    let folder = path.parent().unwrap_or(path);
    privacy::create_folder(folder).map_err(failed)?;
    // Held until the end of this function.
    let lock = File::open(folder).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut contexts = Contexts::read(path)?;
    change(&mut contexts)?;
    contexts.write(path).map_err(failed)?;
    Ok(contexts)
}

impl Contexts {
    /// # Errors
    /// When there is no context of that name.
    pub(super) fn get(&self, name: &str) -> Result<&Context, ClientError> {
        let context = self.contexts.get(name).ok_or_else(|| self.unknown(name))?;
        context.validate()?;
        Ok(context)
    }

    pub(super) fn unknown(&self, name: &str) -> ClientError {
        let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "none is set".into() } else { format!("known: {}", known.join(", ")) };
        let hint = if Path::new(name).is_file() {
            "--context-file gives a message a file as context"
        } else {
            "`phoenix context set` adds one"
        };
        ClientError::Usage(format!("there is no context `{}` ({known}); {hint}", plain(name)))
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or is not valid, or holds a token that other users can read.
    pub(super) fn read(path: &Path) -> Result<Self, ClientError> {
        let invalid = |problem: &str| {
            ClientError::Usage(format!("the file of contexts `{}` {problem}", path.display()))
        };
        let unreadable = |error| ClientError::File { path: path.into(), error };
        let facts = match path.metadata() {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unreadable(error)),
        };
        if !facts.is_file() || facts.len() > MAX_BYTES {
            return Err(invalid(&format!("is not a file of at most {MAX_BYTES} bytes")));
        }
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(unreadable)?;
        let contexts: Self = toml::from_str(&text).map_err(|error| {
            // The message of the error may quote a token.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let number = before.matches('\n').count() + 1;
            invalid(&format!(
                "is not valid in line {number}; [contexts.NAME] has url, and may have token_file or token, and ca"
            ))
        })?;
        let has_token = contexts.contexts.values().any(|context| context.token.is_some());
        if has_token && facts.mode() & 0o077 != 0 {
            return Err(invalid("holds a token that other users can read; run chmod 600 on it"));
        }
        Ok(contexts)
    }

    /// Replaces the file as a whole.
    fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        // A link stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let partial = path.with_extension(format!("toml.{}", std::process::id()));
        // Left by a process of the same number that was killed.
        let _ = fs::remove_file(&partial);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&partial);
        let written = file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        });
        if written.is_err() {
            // It may not exist.
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn no_error_quotes_a_token() {
        for text in [
            "[contexts.a]\nurl = \"http://h\"\ntokn = \"s3cret\"",
            "[contexts.a]\nurl = \"s3cret\"",
            "[contexts]\na = \"s3cret\"",
            "[contexts.a]\ntoken = s3cret",
            "s3cret",
            "[contexts.a]\nurl = \"http://h\"\ntoken = [\"s3cret\"]",
        ] {
            let (_dir, path) = file(text, 0o600);
            let error = Contexts::read(&path).unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("is not valid in line "), "{error}");
        }
    }

    #[test]
    fn token_that_others_can_read_is_refused() {
        let text = "[contexts.a]\nurl = \"http://h\"\ntoken = \"s3cret\"";
        let (_dir, path) = file(text, 0o640);
        let error = Contexts::read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(format!("{:?}", Contexts::read(&path).unwrap()).contains("[redacted]"));
        // Without a token, it is no secret.
        let (_dir, path) = file("[contexts.a]\nurl = \"http://h\"", 0o644);
        Contexts::read(&path).unwrap();
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("phoenix/contexts.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let context = toml::from_str("url = \"http://h\"").unwrap();
                    let added = |contexts: &mut Contexts| {
                        contexts.contexts.insert(format!("c{number}"), context);
                        Ok(())
                    };
                    locked(path, added).unwrap();
                });
            }
        });
        assert_eq!(Contexts::read(&path).unwrap().contexts.len(), 8);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1, "no partial file is left");
    }
}
