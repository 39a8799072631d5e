//! Money as an integer.

use std::{fmt, str::FromStr};

use crate::json::Json;

/// Decimal places of a dollar.
const PLACES: i32 = 9;

/// Billionths of a dollar in a dollar.
const NANOS: u64 = 1_000_000_000;

/// An amount of US dollars in whole billionths, at most a billion dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u64);

/// Error of parsing an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an amount of US dollars: a decimal number from 0 to 1000000000, such as `2.50`")]
pub struct InvalidMoney;

impl Money {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// The largest amount.
    pub const MAX: Self = Self(NANOS * NANOS);

    /// An amount in billionths of a dollar; a larger one than [`Self::MAX`] becomes that.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        if nanos > Self::MAX.0 { Self::MAX } else { Self(nanos) }
    }

    /// The amount in billionths of a dollar.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The sum, at most [`Self::MAX`].
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self::from_nanos(self.0.saturating_add(other.0))
    }

    /// The amount of a JSON number; `None` for other values and for numbers below zero. A part of a billionth counts as a whole
    /// one.
    #[must_use]
    pub fn of_json(value: &Json) -> Option<Self> {
        let Json::Number(number) = value else { return None };
        fixed_point(number.as_str(), PLACES).map(Self::from_nanos)
    }

    /// The amount that a library computed as a float; `None` for one that is no amount.
    #[must_use]
    pub fn of_float(dollars: f64) -> Option<Self> {
        (dollars.is_finite() && dollars >= 0.0)
            .then(|| fixed_point(&format!("{dollars:.9}"), PLACES))
            .flatten()
            .map(Self::from_nanos)
    }

    /// The amount as a JSON number in dollars.
    #[must_use]
    pub fn to_json(self) -> Json {
        Json::parse(&self.to_string()).unwrap_or_default()
    }
}

/// Dollars with as many decimal places as needed.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, nanos) = (self.0 / NANOS, self.0 % NANOS);
        if nanos == 0 {
            return write!(f, "{dollars}");
        }
        let fraction = format!("{nanos:09}");
        write!(f, "{dollars}.{}", fraction.trim_end_matches('0'))
    }
}

/// A decimal number of dollars.
impl FromStr for Money {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, InvalidMoney> {
        let is_number = text.starts_with(|first: char| first.is_ascii_digit() || first == '-');
        let nanos = is_number.then(|| fixed_point(text, PLACES)).flatten().ok_or(InvalidMoney)?;
        if nanos > Self::MAX.0 { Err(InvalidMoney) } else { Ok(Self(nanos)) }
    }
}

/// A decimal number times 10^`places`, rounded up; at most 64 bits. `None` for text that is no number, or one below zero.
pub(super) fn fixed_point(text: &str, places: i32) -> Option<u64> {
    match text.strip_prefix('-') {
        // The negative zero of floats is zero.
        Some(text) => unsigned_fixed_point(text, places).filter(|number| *number == 0),
        None => unsigned_fixed_point(text, places),
    }
}

fn unsigned_fixed_point(text: &str, places: i32) -> Option<u64> {
    /// Digits that are looked at; a `u128` holds 38.
    const MAX_DIGITS: usize = 30;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let exponent: i64 = match exponent.parse() {
        Ok(exponent) => exponent,
        // Beyond 64 bits.
        Err(_) => match exponent.strip_prefix('-') {
            Some(digits) if !digits.is_empty() && is_digits(digits) => i32::MIN.into(),
            None if exponent.len() > 1 && is_digits(exponent.trim_start_matches('+')) => i32::MAX.into(),
            _ => return None,
        },
    };
    let digits: String = whole.chars().chain(fraction.chars()).collect();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let (kept, rest) = digits.split_at(digits.len().min(MAX_DIGITS));
    let fraction = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let shift = exponent
        .saturating_sub(fraction)
        .saturating_add(i64::try_from(rest.len()).unwrap_or(i64::MAX))
        .saturating_add(places.into());
    let mut value: u128 = kept.parse().ok()?;
    if rest.bytes().any(|byte| byte != b'0') {
        value += 1;
    }
    let factor = u32::try_from(shift.unsigned_abs()).ok().and_then(|shift| 10_u128.checked_pow(shift));
    let value = match (shift >= 0, factor) {
        (true, Some(factor)) => value.saturating_mul(factor),
        (true, None) => u128::MAX,
        (false, Some(factor)) => value.div_ceil(factor),
        (false, None) => 1,
    };
    Some(u64::try_from(value).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_exactly_and_rounded_up() {
        for (text, nanos) in [
            ("0", 0),
            ("0.0", 0),
            ("2.50", 2_500_000_000),
            ("0.000000001", 1),
            ("0.0000000011", 2),
            ("1e-9", 1),
            ("1.5E-7", 150),
            ("25e-1", 2_500_000_000),
            ("1e-400", 1),
            ("0e99999999999999999999", 0),
            ("-0", 0),
            ("-0.00e-7", 0),
            ("1000000000", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(text.parse::<Money>().map(Money::nanos), Ok(nanos), "{text}");
        }
        for text in [
            "",
            "-1",
            "-1e-400",
            "--0",
            "-",
            "+1",
            ".5",
            "1,5",
            "1.2.3",
            "0x10",
            "1e",
            "1e-",
            "NaN",
            "1000000000.1",
            "1e99999999999999999999",
        ] {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
        assert_eq!(fixed_point(&"9".repeat(500), 0), Some(u64::MAX));
        assert_eq!(Money::of_float(0.1 + 0.2), Some(Money(300_000_000)));
        assert_eq!(Money::of_float(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn amount_survives_its_text(nanos in 0..=Money::MAX.0) {
            let money = Money(nanos);
            prop_assert_eq!(money.to_string().parse(), Ok(money));
        }
    }
}
