//! Settings that are numbers, within their bounds.

use std::{ops::RangeInclusive, time::Duration};

use super::problems::Problems;

/// Sets `target` to a value that must be in `range`.
pub(super) fn within(
    target: &mut u32,
    value: Option<u32>,
    range: RangeInclusive<u32>,
    at: &str,
    problems: &mut Problems,
) {
    match value {
        Some(value) if range.contains(&value) => *target = value,
        Some(value) if value < *range.start() => {
            problems.add(at, format_args!("must be at least {}", range.start()));
        }
        Some(_) => problems.add(at, format_args!("must be at most {}", range.end())),
        None => {}
    }
}

/// Sets `target` to a value, if there is one.
pub(super) fn set<T: Clone>(target: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        target.clone_from(value);
    }
}

/// Sets `target` to a number of seconds, which must be more than 0.
pub(super) fn time(target: &mut Duration, seconds: Option<f64>, at: &str, problems: &mut Problems) {
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(time)) if !time.is_zero() => *target = time,
        Some(_) => problems.add(at, "must be more than 0 seconds"),
        None => {}
    }
}

/// Sets `target` to a value that must be more than 0.
pub(super) fn positive(target: &mut u32, value: Option<u32>, at: &str, problems: &mut Problems) {
    match value {
        Some(0) => problems.add(at, "must be at least 1"),
        Some(value) => *target = value,
        None => {}
    }
}
