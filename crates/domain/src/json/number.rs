//! Conversions of numbers.

use super::Number;

impl Number {
    /// The number as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number as an integer, if it is written as one of 64 bits. `-0` is not, since its sign would be lost.
    pub(super) fn integer(&self) -> Option<i64> {
        self.0.parse().ok().filter(|integer| *integer != 0 || &*self.0 == "0")
    }

    /// The nearest number of `serde_json`.
    pub(super) fn nearest(&self) -> serde_json::Number {
        if let Some(integer) = self.integer() {
            return integer.into();
        }
        if let Ok(unsigned) = self.0.parse::<u64>() {
            return unsigned.into();
        }
        serde_json::Number::from_f64(self.to_f64()).unwrap_or_else(|| 0.into())
    }

    /// The nearest float. A number beyond its range becomes the largest float.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        self.0.parse::<f64>().unwrap_or_default().clamp(f64::MIN, f64::MAX)
    }
}
