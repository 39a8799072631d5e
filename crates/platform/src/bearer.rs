//! Bearer tokens in `Authorization` headers, compared in constant time.

use http::{HeaderMap, header};
use phoenix_domain::llm::Secret;
use subtle::{Choice, ConstantTimeEq};

/// Error of a request without the right token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// The request has no `Authorization` header.
    #[error("a token is required: send the header `Authorization: Bearer <token>`")]
    Missing,
    /// The header has another scheme, or no token.
    #[error("the header `Authorization` must be `Bearer <token>`")]
    Malformed,
    /// The token differs.
    #[error("the token is not valid")]
    Wrong,
}

/// Checks that `headers` carry `token`.
///
/// # Errors
/// When they do not.
pub fn check(headers: &HeaderMap, token: &Secret) -> Result<(), BearerError> {
    let value = headers.get(header::AUTHORIZATION).ok_or(BearerError::Missing)?;
    let presented = value
        .as_bytes()
        .split_at_checked("bearer ".len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token.trim_ascii());
    match presented {
        Some(presented) if is_equal(presented, token.expose().as_bytes()) => Ok(()),
        Some(_) => Err(BearerError::Wrong),
        None => Err(BearerError::Malformed),
    }
}

/// Whether two byte strings are equal, in a time that depends on the length of `presented` alone. An empty `expected` never
/// matches.
fn is_equal(presented: &[u8], expected: &[u8]) -> bool {
    let mut equal = Choice::from(u8::from(presented.len() == expected.len() && !expected.is_empty()));
    for (byte, expected) in presented.iter().zip(expected.iter().cycle()) {
        equal &= byte.ct_eq(expected);
    }
    equal.into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn present(value: &[u8], token: &str) -> Result<(), BearerError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        check(&headers, &Secret::from(token.to_owned()))
    }

    #[test]
    fn bearer_token_is_accepted_only_as_a_whole() {
        for right in [&b"Bearer secret"[..], b"bearer secret", b"BEARER  secret "] {
            assert_eq!(present(right, "secret"), Ok(()), "{right:?}");
        }
        for wrong in [&b"Bearer s"[..], b"Bearer secre", b"Bearer secreT", b"Bearer secretsecret", b"Bearer "]
        {
            assert_eq!(present(wrong, "secret"), Err(BearerError::Wrong), "{wrong:?}");
        }
        for malformed in [&b"secret"[..], b"Basic secret", b"", b"Bearer"] {
            assert_eq!(present(malformed, "secret"), Err(BearerError::Malformed), "{malformed:?}");
        }
        assert_eq!(check(&HeaderMap::new(), &Secret::from("secret".to_owned())), Err(BearerError::Missing));
        assert_eq!(present(b"Bearer ", ""), Err(BearerError::Wrong), "an empty token admits no request");
    }
}
