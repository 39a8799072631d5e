//! The name of a note as callers write it: names separated by `/`, the last of which ends in `.md`.

use std::fmt;

use crate::{ActionError, protocol::shortened};

const MAX_NAME_BYTES: usize = 255;
const MAX_DEPTH: usize = 32;

/// A note's place in the vault. Each name is a plain file name; none begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NotePath {
    /// The folders on the way, outermost first.
    pub(super) folders: Vec<String>,
    /// The file's own name, `.md` included.
    pub(super) name: String,
}

impl NotePath {
    /// The note that a caller's path names. `.md` is added when it is missing.
    pub(super) fn parse(path: &str) -> Result<Self, ActionError> {
        let mut names = names(path)?;
        let Some(name) = names.pop() else {
            return Err(ActionError::invalid("a note's path must not be empty"));
        };
        Ok(Self { folders: names, name: checked(with_extension(&name))? })
    }

    /// The note of that title, at the top of the vault. Characters that Obsidian allows in no file name become `-`.
    pub(super) fn of_title(title: &str) -> Result<Self, ActionError> {
        let forbidden = |c: char| c.is_control() || "/\\:*?\"<>|#^[]".contains(c);
        let name = title.trim().replace(forbidden, "-");
        let name = name.trim_matches(['.', ' ']);
        if name.is_empty() {
            return Err(ActionError::invalid("a note's title must not be empty"));
        }
        Ok(Self { folders: Vec::new(), name: checked(with_extension(name))? })
    }
}

impl fmt::Display for NotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for folder in &self.folders {
            write!(f, "{folder}/")?;
        }
        f.write_str(&self.name)
    }
}

/// Whether a file of this name is a note.
pub(super) fn is_note(name: &str) -> bool {
    name.len() > 3 && name.get(name.len() - 3..).is_some_and(|end| end.eq_ignore_ascii_case(".md"))
}

/// The folders that a caller's path names; none means the vault itself.
pub(super) fn folder_names(path: &str) -> Result<Vec<String>, ActionError> {
    let path = path.trim().trim_end_matches('/');
    if matches!(path, "" | ".") { Ok(Vec::new()) } else { names(path) }
}

fn names(path: &str) -> Result<Vec<String>, ActionError> {
    let names: Vec<String> = path.split('/').map(|name| checked(name.into())).collect::<Result<_, _>>()?;
    if names.len() > MAX_DEPTH {
        return Err(ActionError::invalid(format!("a path has at most {MAX_DEPTH} parts")));
    }
    Ok(names)
}

/// Empty names are those of absolute paths and of `a//b`; a leading dot those of `.`, `..` and of what Obsidian and
/// others hide in a vault, such as `.obsidian` and `.git`.
fn checked(name: String) -> Result<String, ActionError> {
    let wrong = name.is_empty()
        || name.len() > MAX_NAME_BYTES
        || name.starts_with('.')
        || name.contains(|c: char| c.is_control() || c == '\\');
    if wrong {
        let name = shortened(&name.replace(char::is_control, "?"), 64);
        return Err(ActionError::invalid(format!(
            "`{name}` can't be part of a note's path: paths are relative to the vault, and each part is a plain file \
             name without a leading dot or a backslash, at most {MAX_NAME_BYTES} bytes long"
        )));
    }
    Ok(name)
}

fn with_extension(name: &str) -> String {
    if is_note(name) { name.into() } else { format!("{name}.md") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_get_their_extension_and_keep_their_folders() {
        for (path, whole) in [
            ("a", "a.md"),
            ("a.md", "a.md"),
            ("A.MD", "A.MD"),
            ("x/y z/v1.2", "x/y z/v1.2.md"),
            ("-rf", "-rf.md"),
        ] {
            assert_eq!(NotePath::parse(path).unwrap().to_string(), whole);
        }
        assert_eq!(
            NotePath::of_title(" What/why: a [plan]? ").unwrap().to_string(),
            "What-why- a -plan--.md"
        );
    }

    #[test]
    fn paths_that_could_lead_elsewhere_are_refused() {
        let long = "x".repeat(254);
        let deep = "x/".repeat(40) + "y";
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/./x",
            "a//x",
            "a/",
            ".git/config",
            ".md",
            "a\\x",
            "a\nb",
            &long,
            &deep,
        ] {
            assert_eq!(NotePath::parse(path).unwrap_err().code, 400, "{path}");
        }
        for title in ["", " . ", "..", &long] {
            assert_eq!(NotePath::of_title(title).unwrap_err().code, 400, "{title}");
        }
        assert!(folder_names("../x").is_err());
        assert_eq!(folder_names("a/b/").unwrap(), ["a", "b"]);
    }
}
