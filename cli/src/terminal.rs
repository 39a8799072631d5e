//! Output of the executable outside of logs.
//!
//! Both streams may be pipes that are not read, so writes do not block, except for a moment at the end ([`flush`]).

use std::sync::LazyLock;

use phoenix_platform::logging::{LineSink, LogWriter};
use tracing::Level;

static STDERR: LazyLock<Option<LogWriter>> = LazyLock::new(|| LogWriter::stderr().ok());
static STDOUT: LazyLock<Option<LogWriter>> = LazyLock::new(|| LogWriter::stdout().ok());

/// Prints an error of the executable on standard error.
pub(crate) fn print_error(message: impl std::fmt::Display) {
    write(&STDERR, &format!("phoenix: {}\n", message.to_string().trim_end()));
}

/// Prints a line on standard output, for users and for programs that wait for it.
pub(crate) fn print_line(message: impl std::fmt::Display) {
    write(&STDOUT, &format!("{message}\n"));
}

/// Waits until all output is written, unless it is not read. Must be called before the process exits.
pub(crate) fn flush() {
    for stream in [&STDERR, &STDOUT] {
        // A stream that was never used is not started.
        LazyLock::get(stream).into_iter().flatten().for_each(LogWriter::flush);
    }
}

fn write(stream: &Option<LogWriter>, text: &str) {
    // `None` if the thread of the stream could not be started.
    if let Some(stream) = stream {
        stream.line(Level::WARN, text.as_bytes());
    }
}
