//! The time series that a PromQL expression names.

use std::collections::BTreeSet;

/// `text` without the parts between `open` and `close`.
fn without(text: &str, open: char, close: char) -> String {
    let mut inside = false;
    let outside = text.chars().filter(|&c| {
        let was_inside = inside;
        inside = if inside { c != close } else { c == open };
        !inside && !was_inside
    });
    outside.collect()
}

/// The time series that a PromQL expression names: its words except functions, operators and labels.
pub(crate) fn series_in(expression: &str) -> BTreeSet<String> {
    const OPERATORS: &[&str] = &["and", "or", "unless", "bool", "offset"];
    const BEFORE_LABELS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
    let outside = [('"', '"'), ('\'', '\''), ('{', '}'), ('[', ']')];
    let mut text =
        outside.iter().fold(expression.to_owned(), |text, (open, close)| without(&text, *open, *close));
    for word in BEFORE_LABELS {
        for list in [format!(" {word} ("), format!(" {word}(")] {
            // Leaves the aggregation before its parenthesis: `sum by (le) (x)` becomes `sum(x)`.
            while let Some(start) = text.find(&list) {
                let end = start + text[start..].find(')').expect("a list of labels ends") + 1;
                text = format!("{}{}", &text[..start], text[end..].trim_start());
            }
        }
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    let mut series = BTreeSet::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(is_part) {
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |length| start + length);
        let (word, after) = (&rest[start..end], &rest[end..]);
        let is_name = word.starts_with(|first: char| first.is_ascii_alphabetic());
        if is_name && !after.trim_start().starts_with('(') && !OPERATORS.contains(&word) {
            series.insert(word.to_owned());
        }
        rest = after;
    }
    series
}

#[test]
fn series_are_extracted_from_expressions() {
    let expression = r#"1 - sum by (agent, le) (rate(a_total{b!~"c_total|d", e="f"}[5m])) / on(g) up{h='i}'} > 1e3 and x:y or sum(z)"#;
    assert_eq!(series_in(expression).into_iter().collect::<Vec<_>>(), ["a_total", "up", "x:y", "z"]);
    assert_eq!(series_in("histogram_quantile(0.9, sum by (le) (rate(z_bucket[$__rate_interval])))").len(), 1);
}
