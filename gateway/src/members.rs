//! Decoding of members where serde accepts more, or less, than the contract.
//!
//! An object is not the array of its members; `null` counts as absent for every optional member; a whole number may be
//! written in any way (`1000.0`), and errors name its limits.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use crate::decode_error::REQUIREMENT;

/// A JSON object with the members of `T`. serde alone also accepts an array of them, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Members<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Members<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Members)
            }
        }

        from.deserialize_map(Object(PhantomData))
    }
}

/// Decodes an optional member; `null` counts as absent.
pub(crate) fn or_absent<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Whether a member has its default value.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// `number`, if it is within the limits.
    pub(crate) const fn new(number: u64) -> Option<Self> {
        if number >= MIN && number <= MAX { Some(Self(number)) } else { None }
    }

    /// The number.
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Number<MIN, MAX> {
            type Value = Whole<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number of at least {MIN}")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                match value {
                    value if value < MIN => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
                    value if value > MAX => {
                        Err(E::custom(format_args!("{REQUIREMENT}be at most {MAX}, not {value}")))
                    }
                    value => Ok(Whole(value)),
                }
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                let positive = u64::try_from(value);
                positive
                    .map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
                    .and_then(|value| self.visit_u64(value))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                // Every whole number below this has an exact double.
                const LARGEST: f64 = 9_007_199_254_740_992.0;
                if value.fract() != 0.0 || value < 0.0 {
                    return Err(E::invalid_value(Unexpected::Float(value), &self));
                }
                if value >= LARGEST {
                    return Err(E::custom(format_args!("{REQUIREMENT}be at most {MAX}, not {value:e}")));
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole and within range"
                )]
                self.visit_u64(value as u64)
            }
        }

        from.deserialize_any(Number::<MIN, MAX>)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Limited = Whole<1, 31_536_000_000>;

    fn read(text: &str) -> Result<u64, String> {
        serde_json::from_str::<Limited>(text).map(Limited::get).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_number_outside_its_range_has_an_explicit_error() {
        for (text, words) in [
            ("-1", "integer `-1`, expected a whole number of at least 1"),
            ("0", "integer `0`, expected a whole number of at least 1"),
            ("1.5", "floating point `1.5`, expected a whole number of at least 1"),
            ("\"1\"", "string \"1\", expected a whole number of at least 1"),
            ("31536000001", "must be at most 31536000000, not 31536000001"),
            ("1e300", "must be at most 31536000000, not 1e300"),
            ("123456789012345678901234", "must be at most 31536000000"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whole_number_decodes_from_any_notation(value in 1_u64..=31_536_000_000) {
            for text in [format!("{value}"), format!("{value}.0"), format!("{value}e0"), format!("{value}.000")] {
                prop_assert_eq!(read(&text), Ok(value), "{}", text);
            }
        }

        #[test]
        fn array_does_not_decode_as_an_object(items in prop::collection::vec(any::<Option<u8>>(), 0..4)) {
            #[derive(Debug, Deserialize)]
            #[expect(dead_code, reason = "it is only read")]
            struct Pair { a: Option<u8>, b: Option<u8> }
            let text = serde_json::to_string(&items).unwrap();
            prop_assert!(serde_json::from_str::<Members<Pair>>(&text).is_err());
        }
    }
}
