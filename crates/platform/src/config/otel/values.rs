//! Values of `OTEL_*` variables: URLs and lists of pairs.

use http::Uri;
use percent_encoding::percent_decode_str;

/// Checks the URL of a collector.
pub(super) fn checked_url(text: &str) -> Result<(), &'static str> {
    let url: Uri = text.parse().map_err(|_| "it is not a URL")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("it must begin with http:// or https://");
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("it must not hold a user or a password; send them as OTEL_EXPORTER_OTLP_HEADERS")
        }
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err("it names no host"),
    }
}

/// Parses `name=value,name=value` with percent-encoded values. The error is the index of the first invalid entry.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, usize> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let pairs = entries.enumerate().map(|(index, entry)| {
        let (name, value) = entry.split_once('=').ok_or(index)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| index)?;
        let name = name.trim();
        if name.is_empty() { Err(index) } else { Ok((name.to_owned(), value.into_owned())) }
    });
    pairs.collect()
}

/// The problem of entry `index` of a list of pairs.
pub(super) fn not_a_pair(index: usize) -> String {
    format!(
        "entry {} must be name=value; entries are separated by commas, and values are percent-encoded",
        index + 1
    )
}
