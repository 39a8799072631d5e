//! Panics as log lines.
//!
//! The standard hook writes to standard error in a format of its own, and blocks when the reader of standard error does.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
};

/// Installs a panic hook that logs panics.
pub(super) fn install_hook() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    // Captured only when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let error = panic.payload_as_str();
    tracing::error!(location, thread = thread.name(), error, backtrace, "panicked");
}
