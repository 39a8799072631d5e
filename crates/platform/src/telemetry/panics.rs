//! Panics as log lines.
//!
//! The standard library would write them to standard error, in a format of its own, and stand still with it when nothing reads.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
};

/// Logs panics from now on.
pub(super) fn log() {
    std::panic::set_hook(Box::new(log_one));
}

fn log_one(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    // As RUST_BACKTRACE asks for.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let error = panic.payload_as_str();
    tracing::error!(location, thread = thread.name(), error, backtrace, "panicked");
}
