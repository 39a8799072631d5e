//! Patterns of names, as configuration writes them.

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
    }
}
