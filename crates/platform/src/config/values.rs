//! Values of settings with their origin. No secret is among them.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use super::{confidential, interpolate};

/// Text in place of a secret.
pub(super) const MASKED: &str = "[set]";
/// Text in place of a secret or another value that is not set.
pub(super) const UNSET: &str = "[not set]";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Phoenix itself.
    Default,
    /// The configuration file.
    File {
        /// The key in the file.
        key: String,
        /// Environment variables in its value.
        variables: Vec<String>,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// `phoenix up`, which decides on the addresses of a stack.
    Up,
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingValue {
    /// Name of the setting: its key in the configuration file, where it has one.
    pub name: String,
    /// The value as text; a secret is masked.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

/// A value of the configuration file.
#[derive(Debug, Clone, Default)]
pub(super) struct FileValue {
    pub(super) text: String,
    pub(super) variables: Vec<String>,
}

/// The values of the configuration file.
#[derive(Debug, Clone, Default)]
pub(super) struct FileValues {
    /// The file; absent when there is none.
    pub(super) path: Option<PathBuf>,
    pub(super) values: BTreeMap<String, FileValue>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { key, variables } if variables.is_empty() => write!(f, "file ({key})"),
            Self::File { key, variables } => write!(f, "file ({key} with ${{{}}})", variables.join("}, ${")),
            Self::Environment(name) => write!(f, "environment ({name})"),
            Self::Flag(name) => write!(f, "flag ({name})"),
            Self::Up => f.write_str("phoenix up"),
        }
    }
}

impl Origin {
    /// The kind of the origin in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) => "flag",
            Self::Up => "up",
        }
    }

    /// The key, variable or flag; empty for the other origins.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Default | Self::Up => "",
            Self::File { key, .. } => key,
            Self::Environment(name) => name,
            Self::Flag(name) => name,
        }
    }
}

impl FileValues {
    /// The values of `root`, in which `${NAME}` is not replaced.
    pub(super) fn of(root: &toml::Value) -> Self {
        let mut values = Self::default();
        values.collect(root, &mut Vec::new());
        values
    }

    fn collect(&mut self, value: &toml::Value, path: &mut Vec<String>) {
        if let toml::Value::Table(entries) = value {
            for (name, entry) in entries {
                path.push(name.clone());
                self.collect(entry, path);
                path.pop();
            }
            return;
        }
        let variables: Vec<_> = interpolate::names_in(value).into_iter().collect();
        let text = match value {
            // A variable may hold a secret under any name.
            _ if !variables.is_empty() || confidential::is_secret(path, value) => MASKED.to_owned(),
            // Arguments and headers may hold secrets, too.
            toml::Value::Array(items) if path.last().is_some_and(|name| name == "command") => {
                command(items.iter().filter_map(toml::Value::as_str))
            }
            _ if path.iter().any(|name| name == "headers" || name == "env" && path.len() > 3) => {
                MASKED.to_owned()
            }
            toml::Value::String(text) => masked_url(text),
            other => other.to_string(),
        };
        self.values.insert(path.join("."), FileValue { text, variables });
    }

    /// The origin of a value whose key is `key`, or of one below it; `None` when the file does not have it.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        let below = format!("{key}.");
        let mut found = self.values.iter().filter(|(name, _)| *name == key || name.starts_with(&below));
        let (_, first) = found.next()?;
        let mut variables = first.variables.clone();
        found.for_each(|(_, value)| variables.extend(value.variables.iter().cloned()));
        Some(Origin::File { key: key.to_owned(), variables })
    }
}

/// A program, and how many arguments it gets: an argument may be a secret.
pub(super) fn command<'a>(mut words: impl Iterator<Item = &'a str>) -> String {
    let Some(program) = words.next() else { return UNSET.to_owned() };
    match words.count() {
        0 => program.to_owned(),
        1 => format!("{program} and 1 argument"),
        count => format!("{program} and {count} arguments"),
    }
}

/// `text` without the parts of an address that may be secrets: user, password and query.
pub(super) fn masked_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return text.to_owned() };
    if !url.has_host() || url.username().is_empty() && url.password().is_none() && url.query().is_none() {
        return text.to_owned();
    }
    // Cannot fail for an address with a host.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.set_query(url.query().map(|_| MASKED));
    url.to_string()
}

/// A duration in seconds, as settings are written.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// Several words on a line.
pub(super) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

pub(super) fn masked(is_set: bool) -> String {
    if is_set { MASKED.to_owned() } else { UNSET.to_owned() }
}
