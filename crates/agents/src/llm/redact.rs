//! Removes a key from its provider's message.

use std::ops::Range;

const REDACTED: &str = "[redacted]";

/// Shortest part of a key that is redacted when a provider quotes the key in part.
const SHORTEST_PIECE: usize = 8;

/// Shorter keys are placeholders such as `lm-studio`, for local servers that require any value.
const SHORTEST_KEY: usize = 16;

/// Prefixes of providers' keys, which reveal nothing of a key.
const PUBLIC_PREFIXES: &[&str] = &[
    "sk-ant-admin01-",
    "sk-ant-api03-",
    "sk-ant-",
    "sk-admin-",
    "sk-litellm-",
    "sk-or-v1-",
    "sk-proj-",
    "sk-svcacct-",
    "sk-",
    "tgp_v1_",
    "AIzaSy",
    "nvapi-",
    "pplx-",
    "gsk_",
    "xai-",
    "hf_",
];

/// `text` without `key` and without parts of it.
pub(super) fn redact(text: &str, key: &str) -> String {
    if key.len() < SHORTEST_KEY {
        return text.into();
    }
    let public =
        PUBLIC_PREFIXES.iter().find(|prefix| key.starts_with(**prefix)).map_or(0, |prefix| prefix.len());
    let mut clean = String::with_capacity(text.len());
    let mut index = 0;
    while index < text.len() {
        let piece = longest_piece(text.as_bytes(), index, key.as_bytes());
        // A part that ends inside a character belongs to other text.
        let is_telling =
            piece.len() >= SHORTEST_PIECE && piece.end > public && text.is_char_boundary(index + piece.len());
        if is_telling {
            clean.push_str(REDACTED);
            index += piece.len();
        } else {
            let next = text[index..].chars().next().map_or(text.len() - index, char::len_utf8);
            clean.push_str(&text[index..index + next]);
            index += next;
        }
    }
    clean
}

/// The range in `key` of the longest part that `text` contains at `index`; the last of several.
fn longest_piece(text: &[u8], index: usize, key: &[u8]) -> Range<usize> {
    let text = &text[index..];
    let common = |start: usize| text.iter().zip(&key[start..]).take_while(|(a, b)| a == b).count();
    let pieces = (0..key.len()).map(|start| start..start + common(start));
    pieces.max_by_key(Range::len).unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-proj-Zq81mXw0Lr7Tn5Vb3Kc9Hd2Fs";

    #[test]
    fn only_the_matching_piece_of_a_key_is_replaced() {
        for (said, clean) in [
            (format!("wrong: {KEY}."), "wrong: [redacted].".to_owned()),
            (
                format!("wrong: {}***, or …{}", &KEY[..12], &KEY[20..]),
                "wrong: [redacted]***, or …[redacted]".into(),
            ),
            (format!("x{}ö", &KEY[10..18]), "x[redacted]ö".into()),
            (format!("url=/v1?key={KEY}&model=a-model"), "url=/v1?key=[redacted]&model=a-model".into()),
            (format!("{KEY}{KEY}"), "[redacted][redacted]".into()),
            (KEY[10..17].into(), KEY[10..17].into()),
        ] {
            assert_eq!(redact(&said, KEY), clean);
        }
    }

    #[test]
    fn public_prefix_of_a_key_is_not_redacted() {
        for said in ["keys that begin with sk-proj- are project keys", "sk-proj-****", "äsk-proj-ä"] {
            assert_eq!(redact(said, KEY), said);
        }
        let other = "sk-ant-api03-Zq81mXw0Lr7Tn5Vb3Kc9Hd2Fs";
        assert_eq!(redact("use an sk-ant-api03-... key", other), "use an sk-ant-api03-... key");
        assert_eq!(
            redact("the model lm-studio", "lm-studio"),
            "the model lm-studio",
            "a placeholder is not redacted"
        );
    }

    #[test]
    fn no_long_part_of_a_key_remains_anywhere() {
        for start in 0..KEY.len() - SHORTEST_PIECE {
            for end in start + SHORTEST_PIECE..=KEY.len() {
                let piece = &KEY[start..end];
                let clean = redact(&format!("é{piece}é and {piece}"), KEY);
                assert_eq!(clean.contains(piece), end <= "sk-proj-".len(), "{piece}: {clean}");
            }
        }
    }
}
