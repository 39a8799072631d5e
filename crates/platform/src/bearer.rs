//! Bearer tokens in `Authorization` headers, compared in constant time.

use http::{HeaderMap, HeaderName, header};
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

/// Header in which some clients send a token, without a scheme.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Checks that `headers` carry `token`, as a bearer token or in `x-api-key`.
///
/// # Errors
/// When neither of them does.
pub fn check_any(headers: &HeaderMap, token: &Secret) -> Result<(), BearerError> {
    let Err(error) = check(headers, token) else { return Ok(()) };
    let keys = headers.get_all(X_API_KEY).into_iter().map(|key| key.as_bytes().trim_ascii());
    let mut keys = keys.peekable();
    let has_key = keys.peek().is_some();
    match keys.all(|key| is_equal(key, token.expose().as_bytes())) {
        true if has_key => Ok(()),
        _ if has_key && error == BearerError::Missing => Err(BearerError::Wrong),
        _ => Err(error),
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

    #[test]
    fn token_is_accepted_in_either_header() {
        let with = |headers: &[(&str, &str)]| {
            let header = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
            let map: Vec<(HeaderName, HeaderValue)> = headers.iter().map(header).collect();
            let mut all = HeaderMap::new();
            map.into_iter().for_each(|(name, value)| {
                all.append(name, value);
            });
            check_any(&all, &Secret::from("secret".to_owned()))
        };
        let (bearer, key) = (("authorization", "Bearer secret"), ("x-api-key", "secret"));
        for right in
            [&[bearer][..], &[key], &[bearer, ("x-api-key", "other")], &[("authorization", "Basic x"), key]]
        {
            assert_eq!(with(right), Ok(()), "{right:?}");
        }
        for (wrong, error) in [
            (&[][..], BearerError::Missing),
            (&[("x-api-key", "")], BearerError::Wrong),
            (&[("x-api-key", "other")], BearerError::Wrong),
            (&[key, ("x-api-key", "other")], BearerError::Wrong),
            (&[("authorization", "Basic x"), ("x-api-key", "other")], BearerError::Malformed),
        ] {
            assert_eq!(with(wrong), Err(error), "{wrong:?}");
        }
    }
}
