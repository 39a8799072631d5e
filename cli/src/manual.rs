//! Completions of shells, and manual pages.

use std::{io::stdout, path::Path, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Cli, terminal::print_error};

/// Prints the completions of `shell`.
pub(crate) fn completions(shell: Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "phoenix", &mut text);
    // A reader that has left needs no completions.
    let _ = std::io::Write::write_all(&mut stdout().lock(), &text);
    ExitCode::SUCCESS
}

/// Writes a page for each command into `folder`.
pub(crate) fn pages(folder: &Path) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(format_args!("cannot write manual pages to `{}`: {error}", folder.display()));
            ExitCode::FAILURE
        }
    }
}
