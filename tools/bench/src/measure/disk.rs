//! The disk alone: the cost of making a few kilobytes durable. A chat waits for two commits, one after the other.

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use super::sample::{Sample, quantile_ms};
use crate::failure::Result;

/// Bytes of one append: a page of the journal's write-ahead log.
const APPEND_BYTES: usize = 4096;

/// Appends to a file in `folder` and makes each append durable, for `duration`.
pub(super) fn sample(folder: &Path, duration: Duration) -> Result<Sample> {
    let mut file = tempfile::tempfile_in(folder)?;
    let page = [0x5a; APPEND_BYTES];
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < duration {
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    let req_per_sec = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    Ok(Sample { req_per_sec, p50_ms: quantile_ms(&times, 0.5), p99_ms: quantile_ms(&times, 0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_of_a_moment_have_a_rate_and_ordered_times() {
        let folder = tempfile::tempdir().unwrap();
        let sample = sample(folder.path(), Duration::from_millis(20)).unwrap();
        assert!(sample.req_per_sec > 0.0 && sample.p50_ms <= sample.p99_ms, "{sample:?}");
    }
}
