//! What an executor knows about the processes of an agent, beside its metrics.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use jiff::Timestamp;
use metrics::{Counter, CounterFn, Gauge, GaugeFn};
use parking_lot::Mutex;

/// Longest standard error that is kept, in bytes: its end.
const MAX_STDERR_BYTES: usize = 4096;

/// A gauge of whole numbers that can be read.
#[derive(Debug)]
pub(crate) struct ReadableGauge {
    gauge: Gauge,
    value: AtomicI64,
}

/// A counter that can be read.
#[derive(Debug)]
pub(crate) struct ReadableCounter {
    counter: Counter,
    value: AtomicU64,
}

/// The end of the standard error of the last failed attempt that wrote any.
#[derive(Debug, Default)]
pub(crate) struct LastStderr(Mutex<Option<(Timestamp, String)>>);

impl ReadableGauge {
    pub(crate) fn new(gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { gauge, value: AtomicI64::new(0) })
    }

    pub(crate) fn get(&self) -> u32 {
        u32::try_from(self.value.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the metrics of an agent's processes are small whole numbers"
)]
impl GaugeFn for ReadableGauge {
    fn increment(&self, value: f64) {
        self.gauge.increment(value);
        self.value.fetch_add(value as i64, Ordering::Relaxed);
    }

    fn decrement(&self, value: f64) {
        self.gauge.decrement(value);
        self.value.fetch_sub(value as i64, Ordering::Relaxed);
    }

    fn set(&self, value: f64) {
        self.gauge.set(value);
        self.value.store(value as i64, Ordering::Relaxed);
    }
}

impl ReadableCounter {
    pub(crate) fn new(counter: Counter) -> Arc<Self> {
        Arc::new(Self { counter, value: AtomicU64::new(0) })
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl CounterFn for ReadableCounter {
    fn increment(&self, value: u64) {
        self.counter.increment(value);
        self.value.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.counter.absolute(value);
        self.value.fetch_max(value, Ordering::Relaxed);
    }
}

impl LastStderr {
    /// Keeps the end of `text`, unless it is empty.
    pub(crate) fn record(&self, text: &str, at: Timestamp) {
        if text.is_empty() {
            return;
        }
        let start = text.ceil_char_boundary(text.len().saturating_sub(MAX_STDERR_BYTES));
        *self.0.lock() = Some((at, text[start..].to_owned()));
    }

    pub(crate) fn get(&self) -> Option<(Timestamp, String)> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_can_be_read_and_stderr_is_bounded() {
        let (processes, restarts) =
            (ReadableGauge::new(Gauge::noop()), ReadableCounter::new(Counter::noop()));
        let (gauge, counter) =
            (Gauge::from_arc(Arc::clone(&processes)), Counter::from_arc(Arc::clone(&restarts)));
        gauge.increment(3.0);
        gauge.decrement(1.0);
        counter.increment(4);
        assert_eq!((processes.get(), restarts.get()), (2, 4));
        gauge.set(0.0);
        assert_eq!(processes.get(), 0);

        let last = LastStderr::default();
        last.record(&"ä".repeat(MAX_STDERR_BYTES), Timestamp::UNIX_EPOCH);
        last.record("", Timestamp::MAX);
        let (at, text) = last.get().unwrap();
        assert_eq!((at, text.len()), (Timestamp::UNIX_EPOCH, MAX_STDERR_BYTES));
    }
}
