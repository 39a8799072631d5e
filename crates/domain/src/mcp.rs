//! Agents that are servers of the [Model Context Protocol](https://modelcontextprotocol.io).

use std::collections::BTreeMap;

use crate::llm::Secret;

/// Parts of the names of variables whose values are secret.
const SECRET_WORDS: [&str; 6] = ["key", "token", "secret", "passw", "credential", "auth"];

/// An MCP server that is reached over streamable HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteServer {
    /// Its address: `http` or `https`.
    pub url: String,
    /// Headers of every request, by name.
    pub headers: BTreeMap<String, Secret>,
}

/// Settings of an agent that is an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct McpSettings {
    /// Where the server is; absent for a server that is started as a process.
    pub remote: Option<RemoteServer>,
    /// Environment variables of the server with their values, in addition to those that the agent inherits by name.
    pub variables: BTreeMap<String, Secret>,
    /// Patterns of the names of the tools that become actions, in which `*` stands for any text. Every tool when empty.
    pub tools: Vec<String>,
}

impl McpSettings {
    /// Whether the tool `name` becomes an action.
    #[must_use]
    pub fn offers(&self, name: &str) -> bool {
        self.tools.is_empty() || self.tools.iter().any(|pattern| matches_pattern(pattern, name))
    }

    /// The values of variables whose names say that they are secret, and of headers.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let is_secret = |name: &str| {
            let name = name.to_ascii_lowercase();
            SECRET_WORDS.iter().any(|word| name.contains(word))
        };
        let variables =
            self.variables.iter().filter(move |(name, _)| is_secret(name)).map(|(_, value)| value);
        variables.chain(self.remote.iter().flat_map(|remote| remote.headers.values()))
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(found) = name.find(part) else { return false };
        name = &name[found + part.len()..];
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_in_a_pattern_stands_for_any_text() {
        for (pattern, matching, other) in [
            ("read_*", &["read_", "read_file"][..], &["write_file", "read", "xread_file"][..]),
            ("*_file", &["read_file", "_file"], &["read_files", "file"]),
            ("*", &["", "x"], &[]),
            ("a*b*c", &["abc", "axbxc", "abbc"], &["ab", "ac", "abcd", "acb"]),
            ("*a*", &["a", "xax"], &["x"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("exact", &["exact"], &["exactly", ""]),
        ] {
            assert!(matching.iter().all(|name| matches_pattern(pattern, name)), "{pattern}");
            assert!(!other.iter().any(|name| matches_pattern(pattern, name)), "{pattern}");
        }
        assert!(McpSettings::default().offers("anything"));
    }

    #[test]
    fn variable_is_secret_by_its_name() {
        let variables = [("GITHUB_TOKEN", "a"), ("ApiKey", "b"), ("FOLDER", "c")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned().into()));
        let settings = McpSettings { variables: variables.into(), ..McpSettings::default() };
        let secrets: Vec<_> = settings.secrets().map(Secret::expose).collect();
        assert_eq!(secrets, ["b", "a"]);
    }
}
