//! Texts in headers.

/// `text` as a header can carry it: as it is, or in base64 between `=?base64?` and `?=`.
pub(super) fn for_header(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if is_plain { text.to_owned() } else { format!("=?base64?{}?=", base64(text.as_bytes())) }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for index in 0..4 {
            let letter = ALPHABET.get(((bits >> (18 - 6 * index)) & 63) as usize).copied().unwrap_or(b'=');
            text.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_encoded_when_a_header_cannot_carry_it() {
        for (name, header) in [
            ("read_file", "read_file"),
            ("git über", "=?base64?Z2l0IMO8YmVy?="),
            ("a ", "=?base64?YSA=?="),
            ("ä", "=?base64?w6Q=?="),
        ] {
            assert_eq!(for_header(name), header);
        }
    }
}
