//! Values in the text of a `/metrics`.

/// The value of a metric; labels are part of its name.
///
/// # Panics
/// When the metric does not exist.
pub(crate) fn metric_in(text: &str, name: &str) -> f64 {
    value_in(text, name).unwrap_or_else(|| panic!("there is no {name} in:\n{text}"))
}

/// The value of a metric, if it exists.
pub(crate) fn value_in(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.parse().ok()
}
