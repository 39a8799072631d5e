//! Keeps a key out of what its provider says about it.

use std::ops::Range;

const REDACTED: &str = "[redacted]";

/// The shortest piece of a key that is taken for it when a provider quotes the key in part.
const SHORTEST_PIECE: usize = 8;

/// Shorter keys are placeholders such as `lm-studio`, which a local server is given because it must be given something.
const SHORTEST_KEY: usize = 16;

/// How providers' keys begin. That alone tells nothing of a key.
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

/// `text` without `key` and without pieces of it.
pub(super) fn redact(text: &str, key: &str) -> String {
    if key.len() < SHORTEST_KEY {
        return text.into();
    }
    let public =
        PUBLIC_PREFIXES.iter().find(|prefix| key.starts_with(**prefix)).map_or(0, |prefix| prefix.len());
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let piece = longest_piece(text.as_bytes(), at, key.as_bytes());
        // A piece that ends inside of a character is one of another text.
        let is_telling =
            piece.len() >= SHORTEST_PIECE && piece.end > public && text.is_char_boundary(at + piece.len());
        if is_telling {
            clean.push_str(REDACTED);
            at += piece.len();
        } else {
            let next = text[at..].chars().next().map_or(text.len() - at, char::len_utf8);
            clean.push_str(&text[at..at + next]);
            at += next;
        }
    }
    clean
}

/// Where in `key` the longest piece of it stands that `text` has at `at`; of several, the last.
fn longest_piece(text: &[u8], at: usize, key: &[u8]) -> Range<usize> {
    let text = &text[at..];
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
    fn public_prefix_of_a_key_is_no_piece_of_it() {
        for said in ["keys that begin with sk-proj- are project keys", "sk-proj-****", "äsk-proj-ä"] {
            assert_eq!(redact(said, KEY), said);
        }
        let other = "sk-ant-api03-Zq81mXw0Lr7Tn5Vb3Kc9Hd2Fs";
        assert_eq!(redact("use an sk-ant-api03-... key", other), "use an sk-ant-api03-... key");
        assert_eq!(
            redact("the model lm-studio", "lm-studio"),
            "the model lm-studio",
            "a placeholder is no key"
        );
    }

    #[test]
    fn no_long_piece_of_a_key_is_left_wherever_it_stands() {
        for start in 0..KEY.len() - SHORTEST_PIECE {
            for end in start + SHORTEST_PIECE..=KEY.len() {
                let piece = &KEY[start..end];
                let clean = redact(&format!("é{piece}é and {piece}"), KEY);
                assert_eq!(clean.contains(piece), end <= "sk-proj-".len(), "{piece}: {clean}");
            }
        }
    }
}
