//! `${NAME}` in strings of the configuration file.

use std::collections::BTreeSet;

use super::{confidential::Confidential, env::Lookup, problems::Problems};

/// Replaces `${NAME}` by the environment variable, or by an empty text if it is unset, and `${NAME:-default}` by the default
/// then. `$$` is a dollar sign. Values from the environment are confidential.
pub(super) fn table(
    value: &mut toml::Value,
    at: &str,
    env: Lookup<'_>,
    confidential: &mut Confidential,
    problems: &mut Problems,
) {
    match value {
        toml::Value::String(text) if text.contains('$') => {
            let mut names = Vec::new();
            let lookup = |name: &str| env(name).inspect(|value| confidential.add(value));
            match string(text, lookup, &mut names) {
                Ok(replaced) => *text = replaced,
                Err(problem) => problems.add(at, problem),
            }
            if !names.is_empty() {
                confidential.add(text);
            }
        }
        toml::Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                table(item, &format!("{at}[{index}]"), env, confidential, problems);
            }
        }
        toml::Value::Table(entries) => {
            for (key, entry) in entries.iter_mut() {
                let at = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
                table(entry, &at, env, confidential, problems);
            }
        }
        _ => {}
    }
}

/// Names of the variables in the strings of `value`.
pub(super) fn names_in(value: &toml::Value) -> BTreeSet<String> {
    let mut names = Vec::new();
    match value {
        // A malformed text is reported elsewhere.
        toml::Value::String(text) => _ = string(text, |_| None, &mut names),
        toml::Value::Array(items) => names.extend(items.iter().flat_map(names_in)),
        toml::Value::Table(entries) => names.extend(entries.values().flat_map(names_in)),
        _ => {}
    }
    names.into_iter().collect()
}

fn string(
    text: &str,
    mut env: impl FnMut(&str) -> Option<String>,
    names: &mut Vec<String>,
) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or("`${` needs a closing `}`")?;
            let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err("`${…}` must hold the name of an environment variable");
            }
            names.push(name.to_owned());
            out.push_str(&env(name).unwrap_or_else(|| default.into()));
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_defaults_and_plain_dollars_are_replaced() {
        let env = |name: &str| (name == "KEY").then(|| "secret".to_owned());
        for (text, expected) in [
            ("${KEY}", Ok("secret")),
            ("a ${KEY} b ${NONE} c", Ok("a secret b  c")),
            ("${NONE:-http://x}", Ok("http://x")),
            ("$5 and $${KEY}", Ok("$5 and ${KEY}")),
            ("${KEY", Err("`${` needs a closing `}`")),
            ("${}", Err("`${…}` must hold the name of an environment variable")),
        ] {
            assert_eq!(string(text, env, &mut Vec::new()).as_deref(), expected.as_deref(), "{text}");
        }
        let value = toml::Value::Array(vec!["${A}".into(), "$$ ${B:-b}${A}".into()]);
        assert_eq!(names_in(&value).into_iter().collect::<Vec<_>>(), ["A", "B"]);
    }
}
