//! `phoenix backup` and `phoenix restore`: backups of a data folder.
//!
//! A backup of a data folder is a data folder: its databases under their names, and the notes. Databases may be in use while
//! they are copied ([`phoenix_platform::sqlite::backup`]). Every file is written under a temporary name and renamed when it
//! is complete and durable, so a backup is complete or absent.

mod copies;
mod error;
mod location;
mod progress_bar;
mod restore;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use phoenix_platform::{config::EXIT_CONFIG, privacy, sqlite::backup::Check};

pub(crate) use self::location::VAULT;
use self::{
    copies::{Copies, PartialCopy, is_occupied, publish},
    error::BackupError,
    location::Location,
};
use crate::{
    args::{BackupArgs, RestoreArgs},
    terminal::{print_error, print_line},
};

/// Exit code after Ctrl-C or SIGTERM.
const EXIT_INTERRUPTED: u8 = 130;

/// Backs up a data folder, or one database.
pub(crate) fn backup(args: BackupArgs) -> ExitCode {
    let started_at = Instant::now();
    run("nothing was backed up", write_backup(args), |(to, copies, warning)| {
        if let Some(warning) = warning {
            print_error(warning);
        }
        let seconds = started_at.elapsed().as_secs_f64();
        print_line(format_args!("wrote {}: {copies} in {seconds:.1} s", to.display()));
    })
}

/// Restores a backup.
pub(crate) fn restore(args: RestoreArgs) -> ExitCode {
    let started_at = Instant::now();
    run("nothing was restored", restore::run(args), |restored| {
        print_line(format_args!("{restored} in {:.1} s", started_at.elapsed().as_secs_f64()));
    })
}

/// Runs `work` until it ends or is interrupted, and prints the result.
fn run<T>(
    failed: &str,
    work: impl Future<Output = Result<T, BackupError>>,
    succeeded: impl FnOnce(T),
) -> ExitCode {
    privacy::restrict_new_files();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            () = interrupted() => Err(BackupError::Interrupted),
        }
    });
    // Without waiting for a copy that was interrupted.
    runtime.shutdown_background();
    match result {
        Ok(value) => {
            succeeded(value);
            ExitCode::SUCCESS
        }
        Err(BackupError::Usage(problem)) => {
            print_error(format_args!("{failed}; {problem}"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(BackupError::Failed(problem)) => {
            print_error(format_args!("{failed}; {problem}"));
            ExitCode::FAILURE
        }
        Err(BackupError::Interrupted) => {
            print_error(format_args!("{failed}; it was interrupted"));
            ExitCode::from(EXIT_INTERRUPTED)
        }
    }
}

/// Resolves on Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn write_backup(args: BackupArgs) -> Result<(PathBuf, Copies, Option<String>), BackupError> {
    let BackupArgs { source, to, force } = args;
    let source = Location::resolve(source)?;
    let contents = source.contents()?;
    check_target(&source, &to, force)?;
    let partial = PartialCopy::beside(&to)?;
    let copies = match &source {
        Location::Database { .. } => {
            copies::copy(&contents, |_| partial.path().to_owned(), Check::Quick).await?
        }
        Location::Folder(_) => {
            let folder = partial.path();
            std::fs::create_dir(folder).map_err(|error| BackupError::file(folder, error))?;
            copies::copy(&contents, |name| folder.join(name), Check::Quick).await?
        }
    };
    // Another process may have written to the target meanwhile.
    check_target(&source, &to, force)?;
    publish(partial, &to)?;
    Ok((to, copies, source.omitted()))
}

/// Checks that a backup of `source` may be written to `to`.
fn check_target(source: &Location, to: &Path, force: bool) -> Result<(), BackupError> {
    let shown = to.display();
    if to.file_name().is_none() {
        return Err(BackupError::Usage(format!("--to {shown} must be the name of a new file or folder")));
    }
    match source {
        Location::Database { .. } if to.is_dir() => Err(BackupError::failed(format_args!(
            "{shown} is a folder, and the copy of one database is a file"
        ))),
        Location::Folder(_) if to.is_file() => Err(BackupError::failed(format_args!(
            "{shown} is a file, and the copy of a data folder is a folder"
        ))),
        _ if is_same(source.path(), to) => Err(BackupError::failed(format_args!(
            "{shown} is the source of the backup; choose another target"
        ))),
        _ if !is_occupied(to) => Ok(()),
        _ if !force => Err(BackupError::failed(format_args!(
            "{shown} exists already; choose another target, or replace it with --force"
        ))),
        // Protects a folder whose name was typed by mistake.
        Location::Folder(_) => match location::foreign_entry(to) {
            Some(name) => Err(BackupError::failed(format_args!(
                "{shown} is not an earlier backup and is not replaced: it contains {}",
                name.display()
            ))),
            None => Ok(()),
        },
        Location::Database { .. } => Ok(()),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
