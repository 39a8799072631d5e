//! `${NAME}` in strings of the configuration file.

use super::{Lookup, Problems};

/// Replaces `${NAME}` by the environment variable, or by nothing when it is not set, and `${NAME:-default}` by the
/// default then. `$$` is a dollar sign.
pub(super) fn table(value: &mut toml::Value, at: &str, env: Lookup<'_>, problems: &mut Problems) {
    match value {
        toml::Value::String(text) if text.contains('$') => match string(text, env) {
            Ok(replaced) => *text = replaced,
            Err(problem) => problems.add(at, problem),
        },
        toml::Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                table(item, &format!("{at}[{index}]"), env, problems);
            }
        }
        toml::Value::Table(entries) => {
            for (key, entry) in entries.iter_mut() {
                let at = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
                table(entry, &at, env, problems);
            }
        }
        _ => {}
    }
}

fn string(text: &str, env: Lookup<'_>) -> Result<String, &'static str> {
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
    fn variables_defaults_and_plain_dollars() {
        let env = |name: &str| (name == "KEY").then(|| "secret".to_owned());
        for (text, expected) in [
            ("${KEY}", Ok("secret")),
            ("a ${KEY} b ${NONE} c", Ok("a secret b  c")),
            ("${NONE:-http://x}", Ok("http://x")),
            ("$5 and $${KEY}", Ok("$5 and ${KEY}")),
            ("${KEY", Err("`${` needs a closing `}`")),
            ("${}", Err("`${…}` must hold the name of an environment variable")),
        ] {
            assert_eq!(string(text, &env).as_deref(), expected.as_deref(), "{text}");
        }
    }
}
