//! Names of tools that are actions of agents: `agent.action`.

use sha2::{Digest, Sha256};

/// Longest name that common clients and providers of models accept.
const MAX_NAME_BYTES: usize = 64;

/// Hexadecimal digits of the hash that makes a shortened name unique.
const HASH_DIGITS: usize = 8;

/// The name of an action as it is; `None` when it is too long, or has other characters than letters, digits, `_`, `-` and `.`.
pub(crate) fn plain(agent: &str, action: &str) -> Option<String> {
    let name = format!("{agent}.{action}");
    let is_plain = name.bytes().all(is_plain) && name.len() <= MAX_NAME_BYTES && !action.is_empty();
    is_plain.then_some(name)
}

/// The beginning of the name of an action, with a hash of all of it. Two names that differ keep a difference.
pub(crate) fn hashed(agent: &str, action: &str) -> String {
    let mut digest = Sha256::new();
    for part in [agent, action] {
        digest.update(part);
        digest.update([0]);
    }
    let hash = format!("{:x}", digest.finalize());
    let plain = |c: char| if c.is_ascii() && is_plain(c as u8) { c } else { '_' };
    let full = format!("{agent}.{action}");
    let kept: String = full.chars().map(plain).take(MAX_NAME_BYTES - 1 - HASH_DIGITS).collect();
    format!("{kept}_{}", &hash[..HASH_DIGITS])
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn name_is_plain_where_it_can_be() {
        assert_eq!(plain("git_agent", "git_status").as_deref(), Some("git_agent.git_status"));
        assert_eq!(plain("a", ""), None);
        assert_eq!(plain("a", "ä"), None);
        assert_eq!(plain("a", &"x".repeat(63)), None);
        assert!(hashed("files", "read file").starts_with("files.read_file_"));
    }

    proptest! {
        #[test]
        fn shortened_names_are_valid_and_differ(actions in prop::collection::hash_set("\\PC{1,80}", 2..8)) {
            let names: std::collections::HashSet<_> = actions.iter().map(|action| hashed("an.agent", action)).collect();
            prop_assert_eq!(names.len(), actions.len());
            for name in names {
                prop_assert!(name.len() <= MAX_NAME_BYTES && name.bytes().all(is_plain), "{}", name);
            }
        }
    }
}
