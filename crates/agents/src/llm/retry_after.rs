//! The wait that a provider asks for before the next request.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// Upper bound of every wait.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Headers in milliseconds, the most precise first.
const MILLIS: &[&str] = &["retry-after-ms", "x-ms-retry-after-ms"];

/// The wait that the headers of a response ask for.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(millis) = MILLIS.iter().find_map(|name| number(text(name)?)) {
        return seconds(millis / 1000.0);
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Some(wait) = of_text(value) {
        return Some(wait);
    }
    // The provider's own clock, if it sends its time: the local one may differ.
    let date = |text: &str| httpdate::parse_http_date(text.trim()).ok();
    let now = text(DATE.as_str()).and_then(date).unwrap_or_else(SystemTime::now);
    let wait = date(value)?.duration_since(now).unwrap_or_default();
    Some(wait.min(LONGEST))
}

/// A wait in seconds as headers and bodies write it: `30`, `1.5`, `34.07s`.
pub(super) fn of_text(text: &str) -> Option<Duration> {
    let text = text.trim();
    seconds(number(text.strip_suffix('s').unwrap_or(text))?)
}

/// A wait of so many seconds.
pub(super) fn seconds(seconds: f64) -> Option<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        return None;
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST))
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn wait(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        of_headers(&headers)
    }

    #[test]
    fn retry_after_is_read_in_every_format() {
        let date = ("date", "Wed, 21 Oct 2015 07:28:00 GMT");
        for (headers, millis) in [
            (&[("retry-after", "30")][..], Some(30_000)),
            (&[("retry-after", " 1.5 ")], Some(1500)),
            (&[("retry-after", "0")], Some(0)),
            (&[("retry-after", "20s")], Some(20_000)),
            (&[("retry-after-ms", "1250"), ("retry-after", "30")], Some(1250)),
            (&[("x-ms-retry-after-ms", "700.5")], Some(700)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"), date], Some(30_000)),
            (&[("retry-after", "Wednesday, 21-Oct-15 07:28:30 GMT"), date], Some(30_000)),
            (&[("retry-after", "Wed Oct 21 07:28:30 2015"), date], Some(30_000)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"), date], Some(0)),
            (&[("retry-after", "1e300")], Some(86_400_000)),
            (&[("retry-after", "-3")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "soon")], None),
            (&[], None),
        ] {
            assert_eq!(wait(headers).map(|wait| wait.as_millis()), millis, "{headers:?}");
        }
        let past = wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")]);
        assert_eq!(past, Some(Duration::ZERO), "without a date header, the local clock applies");
    }
}
