//! Values of the configuration file that error messages must not contain: those from `${…}`, and those of secret fields.
//!
//! Problems come from serde, the toml crate and each section's own checks, and each may quote the value it found. All pass
//! through [`Confidential::redact`] before they are reported.

use phoenix_domain::llm::Secret;

const HIDDEN: &str = "[redacted]";

/// Minimum length of a value that is redacted without quotation marks: a shorter one may be part of ordinary words.
const MIN_BARE_BYTES: usize = 4;

/// Parts of key names whose values are secret in any section, even one without such a key.
const SECRET_WORDS: [&str; 7] = ["key", "token", "secret", "passw", "credential", "auth", "database_url"];

/// Keys of `[llm]` whose values are not secret. Any other value may be a misplaced key.
const OPEN_LLM_KEYS: [&str; 5] = ["default_provider", "fallback", "model_name", "base_url", "system_prompt"];

/// Confidential values.
#[derive(Debug, Clone, Default)]
pub(super) struct Confidential(Vec<Secret>);

impl Confidential {
    /// Adds a value that replaced a `${…}`.
    pub(super) fn add(&mut self, value: &str) {
        // Also trimmed: some settings ignore surrounding white space.
        for form in [value, value.trim()] {
            if !form.is_empty() && !self.0.iter().any(|known| known.expose() == form) {
                self.0.push(Secret::from(form.to_owned()));
            }
        }
    }

    /// Adds the values of every secret field below `value`, whose path is `path`.
    pub(super) fn add_secret_fields(&mut self, value: &toml::Value, path: &mut Vec<String>) {
        match value {
            toml::Value::Table(entries) => {
                for (name, entry) in entries {
                    path.push(name.clone());
                    self.add_secret_fields(entry, path);
                    path.pop();
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| self.add_secret_fields(item, path)),
            leaf if is_secret(path, leaf) => match leaf {
                toml::Value::String(text) => self.add(text),
                other => self.add(&other.to_string()),
            },
            _ => {}
        }
    }

    /// Replaces the values in `text`.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut values: Vec<&str> = self.0.iter().map(Secret::expose).collect();
        // The longest first, so that no suffix remains of a value whose prefix is another value.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.iter().fold(text.to_owned(), |text, value| {
            let debug = format!("{value:?}");
            let text = text.replace(&debug, HIDDEN).replace(&format!("`{value}`"), HIDDEN);
            let text = text.replace(&format!("'{value}'"), HIDDEN).replace(&format!("\"{value}\""), HIDDEN);
            if value.len() < MIN_BARE_BYTES {
                return text;
            }
            let escaped = debug.trim_matches('"');
            text.replace(escaped, HIDDEN).replace(value, HIDDEN)
        })
    }
}

/// Whether the value at `path` is secret.
pub(super) fn is_secret(path: &[String], leaf: &toml::Value) -> bool {
    let Some(name) = path.last() else { return false };
    let name = name.to_ascii_lowercase();
    let is_named_so = SECRET_WORDS.iter().any(|word| name.contains(word));
    let may_be_misplaced = path[0] == "llm" && leaf.is_str() && !OPEN_LLM_KEYS.contains(&name.as_str());
    is_named_so && !matches!(leaf, toml::Value::Boolean(_)) || may_be_misplaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidential_values_are_redacted_in_every_quoting() {
        let mut confidential = Confidential::default();
        for value in ["sk-live-1", "sk-live-1-and-more", "a\"b\\c d", "4"] {
            confidential.add(value);
        }
        let text = "`sk-live-1-and-more` sk-live-1 \"a\\\"b\\\\c d\" a\"b\\c d `4` \"4\" 4096";
        assert_eq!(
            confidential.redact(text),
            "[redacted] [redacted] [redacted] [redacted] [redacted] [redacted] 4096",
        );
        assert!(!format!("{confidential:?}").contains("sk-live"));
    }
}
