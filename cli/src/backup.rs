//! `phoenix backup` and `phoenix restore`: copies of what a data folder holds, and the way back.
//!
//! A copy of a data folder is a data folder: its databases under their names, and the notes. Databases may be in use while
//! they are copied ([`phoenix_platform::sqlite::backup`]). Whatever is written is written beside its place and moved there
//! when it is whole and durable, so a place holds a whole copy or none.

mod bar;
mod copies;
mod place;
mod restore;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use indicatif::DecimalBytes;
use phoenix_platform::{config::EXIT_CONFIG, privacy, sqlite::backup::Check};

pub(crate) use self::place::VAULT;
use self::{
    copies::{Copies, Partial, is_occupied, publish},
    place::Place,
};
use crate::{
    args::{BackupArgs, RestoreArgs},
    terminal::{announce, complain},
};

/// Exit code of a command that Ctrl-C or SIGTERM ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Why nothing was copied.
enum Refusal {
    /// The command line or the environment asks for what can't be.
    Usage(String),
    /// The machine says no, or what is there would be lost.
    Machine(String),
    /// Somebody ended it.
    Interrupted,
}

impl Refusal {
    fn machine(what: impl fmt::Display) -> Self {
        Self::Machine(what.to_string())
    }

    fn file(path: &Path, error: std::io::Error) -> Self {
        Self::Machine(format!("{}: {error}", path.display()))
    }
}

/// Copies a data folder, or one database.
pub(crate) fn backup(args: BackupArgs) -> ExitCode {
    let begun = Instant::now();
    end("nothing was backed up", write_backup(args), |(to, copies, left_out)| {
        if let Some(left_out) = left_out {
            complain(left_out);
        }
        announce(format_args!("wrote {}: {copies} in {:.1} s", to.display(), begun.elapsed().as_secs_f64()));
    })
}

/// Puts a copy back to where it can be started from.
pub(crate) fn restore(args: RestoreArgs) -> ExitCode {
    let begun = Instant::now();
    end("nothing was restored", restore::run(args), |restored| {
        announce(format_args!("{restored} in {:.1} s", begun.elapsed().as_secs_f64()));
    })
}

/// Runs `work` until it ends or somebody ends it, and says how it went.
fn end<T>(
    failed: &str,
    work: impl Future<Output = Result<T, Refusal>>,
    succeeded: impl FnOnce(T),
) -> ExitCode {
    privacy::restrict_new_files();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = work => ended,
            () = interrupted() => Err(Refusal::Interrupted),
        }
    });
    // Not waiting for a copy that nobody wants any more.
    runtime.shutdown_background();
    match ended {
        Ok(value) => {
            succeeded(value);
            ExitCode::SUCCESS
        }
        Err(Refusal::Usage(problem)) => {
            complain(format_args!("{failed}; {problem}"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(Refusal::Machine(problem)) => {
            complain(format_args!("{failed}; {problem}"));
            ExitCode::FAILURE
        }
        Err(Refusal::Interrupted) => {
            complain(format_args!("{failed}; it was interrupted"));
            ExitCode::from(EXIT_INTERRUPTED)
        }
    }
}

/// Ends with Ctrl-C or SIGTERM.
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

async fn write_backup(args: BackupArgs) -> Result<(PathBuf, Copies, Option<String>), Refusal> {
    let BackupArgs { source, to, force } = args;
    let source = Place::resolve(source)?;
    let contents = source.contents()?;
    check_target(&source, &to, force)?;
    let partial = Partial::beside(&to)?;
    let copies = match &source {
        Place::Database { .. } => {
            copies::copy(&contents, |_| partial.path().to_owned(), Check::Quick).await?
        }
        Place::Folder(_) => {
            let folder = partial.path();
            std::fs::create_dir(folder).map_err(|error| Refusal::file(folder, error))?;
            copies::copy(&contents, |name| folder.join(name), Check::Quick).await?
        }
    };
    // Somebody may have written there meanwhile.
    check_target(&source, &to, force)?;
    publish(partial, &to)?;
    Ok((to, copies, source.left_out()))
}

/// Whether a copy of `source` may be put at `to`.
fn check_target(source: &Place, to: &Path, force: bool) -> Result<(), Refusal> {
    let shown = to.display();
    if to.file_name().is_none() {
        return Err(Refusal::Usage(format!("--to {shown} must be the name of a new file or folder")));
    }
    match source {
        Place::Database { .. } if to.is_dir() => {
            Err(Refusal::machine(format_args!("{shown} is a folder, and the copy of one database is a file")))
        }
        Place::Folder(_) if to.is_file() => Err(Refusal::machine(format_args!(
            "{shown} is a file, and the copy of a data folder is a folder"
        ))),
        _ if is_same(source.path(), to) => {
            Err(Refusal::machine(format_args!("{shown} is what is to be backed up")))
        }
        _ if !is_occupied(to) => Ok(()),
        _ if !force => Err(Refusal::machine(format_args!(
            "{shown} exists already; name another place, or replace it with --force"
        ))),
        // Whoever mistypes the name of a folder must not lose it.
        Place::Folder(_) => match place::stranger_in(to) {
            Some(name) => Err(Refusal::machine(format_args!(
                "{shown} is no earlier backup and is not replaced: it holds {}",
                name.display()
            ))),
            None => Ok(()),
        },
        Place::Database { .. } => Ok(()),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { databases, notes } = self;
        for (n, (name, bytes)) in databases.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{name} ({})", DecimalBytes(*bytes))?;
        }
        match notes {
            None => Ok(()),
            Some(notes) => {
                let s = if notes.files == 1 { "" } else { "s" };
                write!(f, ", {VAULT} ({} file{s}, {})", notes.files, DecimalBytes(notes.bytes))
            }
        }
    }
}
