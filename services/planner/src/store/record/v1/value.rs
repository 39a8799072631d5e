//! Conversions of single values.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::record::unusable::Unusable;

/// The value of a closed set with this name. A newer version may know more values.
pub(super) fn named<T>(field: &str, name: &str, find: impl Fn(&str) -> Option<T>) -> Result<T, Unusable> {
    find(name).ok_or_else(|| Unusable::Unknown(format!("`{field}` is `{}`", name.escape_debug())))
}

/// JSON text of a value.
pub(super) fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Keys are strings and numbers are JSON numbers, so this does not fail.
    serde_json::value::to_raw_value(value).unwrap_or_default()
}
