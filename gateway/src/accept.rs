//! Lists in headers, and the media type that a caller prefers (RFC 9110, sections 5.6 and 12.5).

use axum::http::{HeaderMap, HeaderName, header};

const EVENTS: &str = "text/event-stream";

/// Media ranges that include JSON, the most specific first.
const JSON: [&str; 3] = ["application/json", "application/*", "*/*"];

/// One item of a header's comma-separated list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Item<'a> {
    /// The item without its parameters.
    pub(crate) name: &'a str,
    /// The weight `q`, from 0 to 1; 1 when none is given.
    quality: f32,
}

/// Whether a caller prefers a stream of events: it names their type, and does not prefer JSON.
pub(crate) fn prefers_events(headers: &HeaderMap) -> bool {
    let quality = |range: &str| {
        items(headers, &header::ACCEPT)
            .find(|item| item.name.eq_ignore_ascii_case(range))
            .map(|item| item.quality)
    };
    let json = JSON.iter().find_map(|range| quality(range)).unwrap_or(0.0);
    quality(EVENTS).is_some_and(|events| events > 0.0 && events >= json)
}

/// The items of a header that is a list, in all its lines.
pub(crate) fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Item<'a>> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| split(line, ',')).map(Item::read).filter(|item| !item.name.is_empty())
}

impl<'a> Item<'a> {
    fn read(text: &'a str) -> Self {
        let mut parts = split(text, ';').into_iter().map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
        });
        // A weight that is not a number is ignored.
        let quality = weight.and_then(|weight| weight.parse().ok()).unwrap_or(1.0_f32);
        Self { name, quality: quality.clamp(0.0, 1.0) }
    }
}

/// The parts of `text` between separators that are not inside a quoted string.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(&text[start..index]);
                start = index + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_preferred_by_name_and_weight() {
        for (accept, events) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["application/json"], false),
            (&["text/event-stream"], true),
            (&["Text/Event-Stream; charset=utf-8"], true),
            (&["application/json, text/event-stream"], true),
            (&["application/json", "text/event-stream"], true),
            (&["text/event-stream;q=0.9, */*;q=0.8"], true),
            (&["text/event-stream;q=0"], false),
            (&["text/event-stream;q=0.000"], false),
            (&["text/event-stream ; Q = 0"], false),
            (&["*/*, text/event-stream;q=0"], false),
            (&["application/json, text/event-stream;q=0.5"], false),
            (&["text/event-stream;q=0.5, application/json;q=0.1, */*"], true),
            (&["text/html;x=\"a, text/event-stream\""], false),
            (&["text/event-stream;x=\"a;q=0\""], true),
        ] {
            let headers = accept.iter().map(|value| (header::ACCEPT, value.parse().unwrap())).collect();
            assert_eq!(prefers_events(&headers), events, "{accept:?}");
        }
    }
}
