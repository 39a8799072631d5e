//! Configured texts.

/// A configured text unless it is blank: `"${NAME}"` of an empty variable counts as unset.
pub(super) fn set(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}
