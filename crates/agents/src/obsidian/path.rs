//! Names of notes as callers write them: names separated by `/`, the last of which ends in `.md`.

use std::fmt;

use crate::protocol::{ActionError, shortened};

const MAX_NAME_BYTES: usize = 255;
const MAX_DEPTH: usize = 32;

/// Characters that Obsidian rejects in names of notes: links to them would break, or some systems could not store them.
const FORBIDDEN: &str = "/\\:*?\"<>|#^[]";

/// Path of a note in the vault. Each name is a plain file name; none begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NotePath {
    /// Folders on the way, outermost first.
    pub(super) folders: Vec<String>,
    /// File name, with `.md`.
    pub(super) name: String,
}

impl NotePath {
    /// The note that a caller's path names. A missing `.md` is added.
    pub(super) fn parse(path: &str) -> Result<Self, ActionError> {
        let mut names = names(path)?;
        let Some(name) = names.pop() else {
            return Err(ActionError::invalid("a note's path must not be empty"));
        };
        Ok(Self { folders: names, name: checked(with_extension(&name))? })
    }

    /// Checks that a note may be created at this path. Existing notes can be read under any name.
    pub(super) fn check_new(&self) -> Result<(), ActionError> {
        let parts = self.folders.iter().chain([&self.name]);
        let found = parts.flat_map(|part| part.chars()).find(|c| FORBIDDEN.contains(*c));
        found.map_or(Ok(()), |found| {
            Err(ActionError::invalid(format!(
                "cannot create a note at `{}`: its path contains `{found}`, which would break links to it; leave out \
                     : * ? \" < > | # ^ [ ]",
                shortened(&self.to_string(), 128)
            )))
        })
    }
}

/// The note of a title, with the name that the title leads to.
pub(super) struct Titled {
    pub(super) path: NotePath,
    /// Whether the name equals the title. Otherwise several titles lead to the same name.
    pub(super) is_exact: bool,
}

impl Titled {
    /// The note of `title`, at the top of the vault. Characters that Obsidian rejects in file names become `-`.
    pub(super) fn new(title: &str) -> Result<Self, ActionError> {
        let title = title.trim();
        let name = title.replace(|c: char| c.is_control() || FORBIDDEN.contains(c), "-");
        let name = name.trim_matches(['.', ' ']);
        if name.is_empty() {
            return Err(ActionError::invalid("a note's title must not be empty"));
        }
        let path = NotePath { folders: Vec::new(), name: checked(with_extension(name))? };
        Ok(Self { path, is_exact: name == title })
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

/// The folders that a caller's path names; none for the vault itself.
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

/// Whether a caller may use this name in a path.
pub(super) fn is_nameable(name: &str) -> bool {
    checked(name.into()).is_ok()
}

/// Checks one name of a path. Empty names occur in absolute paths and in `a//b`; a leading dot in `.`, `..` and in names
/// that Obsidian and others hide in a vault, such as `.obsidian` and `.git`.
fn checked(name: String) -> Result<String, ActionError> {
    let wrong = name.is_empty()
        || name.len() > MAX_NAME_BYTES
        || name.starts_with('.')
        || name.contains(|c: char| c.is_control() || c == '\\');
    if wrong {
        let name = shortened(&name.replace(char::is_control, "?"), 64);
        return Err(ActionError::invalid(format!(
            "`{name}` is not valid in a note's path: paths are relative to the vault, and each part is a plain file name \
                 without a leading dot or a backslash, at most {MAX_NAME_BYTES} bytes long"
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
        for (title, name, exact) in [
            (" What/why: a [plan]? ", "What-why- a -plan--.md", false),
            ("Plan", "Plan.md", true),
            ("...Plan", "Plan.md", false),
        ] {
            let titled = Titled::new(title).unwrap();
            assert_eq!((titled.path.to_string().as_str(), titled.is_exact), (name, exact));
        }
    }

    #[test]
    fn paths_out_of_the_vault_are_rejected() {
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
            assert_eq!(Titled::new(title).err().unwrap().code, 400, "{title}");
        }
        assert!(folder_names("../x").is_err());
        assert_eq!(folder_names("a/b/").unwrap(), ["a", "b"]);
    }
}
