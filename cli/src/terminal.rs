//! What the executable itself says, outside of logs.
//!
//! Both streams may be pipes that nothing reads, so neither is waited for, except for a moment at the end ([`flush`]).

use std::sync::LazyLock;

use phoenix_platform::logging::{LineSink, LogWriter};
use tracing::Level;

static STDERR: LazyLock<Option<LogWriter>> = LazyLock::new(|| LogWriter::stderr().ok());
static STDOUT: LazyLock<Option<LogWriter>> = LazyLock::new(|| LogWriter::stdout().ok());

/// Says why nothing was started, or what went wrong, to the person who started it.
pub(crate) fn complain(message: impl std::fmt::Display) {
    say(&STDERR, &format!("phoenix: {}\n", message.to_string().trim_end()));
}

/// Says what a program may wait for, on standard output.
pub(crate) fn announce(message: impl std::fmt::Display) {
    say(&STDOUT, &format!("{message}\n"));
}

/// Waits until what was said is written, unless nothing reads it. Before the process ends.
pub(crate) fn flush() {
    for stream in [&STDERR, &STDOUT] {
        // Not started for the sake of its end.
        LazyLock::get(stream).into_iter().flatten().for_each(LogWriter::flush);
    }
}

fn say(stream: &Option<LogWriter>, text: &str) {
    // Without a thread there is hardly a process.
    if let Some(stream) = stream {
        stream.line(Level::WARN, text.as_bytes());
    }
}
