//! What the executable itself says, outside of logs.

/// Says why nothing was started, or what went wrong, to the person who started it.
#[expect(clippy::print_stderr, reason = "the one place; before or beside the log")]
pub(crate) fn complain(message: impl std::fmt::Display) {
    eprintln!("phoenix: {}", message.to_string().trim_end());
}

/// Says what a program may wait for, on standard output.
#[expect(clippy::print_stdout, reason = "the one place; the ready line is for programs to read")]
pub(crate) fn announce(message: impl std::fmt::Display) {
    println!("{message}");
}
