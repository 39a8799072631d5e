//! The way back: a copy is read from end to end, and put where nobody works. What was there before is kept beside it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use phoenix_platform::sqlite::{
    WAL_SUFFIXES,
    backup::{self, Check},
    companion,
};

use super::{
    Refusal,
    copies::{self, Copies, Partial, folder_of, is_occupied, sync_folder},
    place::{Contents, Place, VAULT},
};
use crate::args::RestoreArgs;

/// What was restored.
pub(super) struct Restored {
    to: PathBuf,
    copies: Copies,
    /// What was there before, under its new names.
    kept: Vec<PathBuf>,
}

pub(super) async fn run(args: RestoreArgs) -> Result<Restored, Refusal> {
    let RestoreArgs { from, target, force } = args;
    let target = Place::resolve(target)?;
    let contents = match (&target, from.is_dir()) {
        (Place::Folder(_), true) => Contents::of_folder(&from)?,
        (Place::Database { .. }, false) => Contents::of_file(&from)?,
        (Place::Folder(_), false) if !from.exists() => {
            return Err(Refusal::machine(format_args!("there is no backup {}", from.display())));
        }
        (Place::Folder(_), false) => {
            return Err(Refusal::Usage(format!(
                "{} is the copy of one database: say with --database-url where it belongs",
                from.display()
            )));
        }
        (Place::Database { .. }, true) => {
            return Err(Refusal::Usage(format!(
                "{} is the copy of a data folder: say with --data-dir where it belongs",
                from.display()
            )));
        }
    };
    let place = |name: &str| match &target {
        Place::Folder(folder) => folder.join(name),
        Place::Database { file, .. } => file.clone(),
    };
    let names = contents.databases.iter().map(|(name, _)| name.as_str());
    let places: Vec<PathBuf> = names.chain(contents.vault.as_ref().map(|_| VAULT)).map(place).collect();
    check_places(&places, force).await?;

    let partials = places.iter().map(|place| Partial::beside(place)).collect::<Result<Vec<_>, _>>()?;
    let partial_of = |name: &str| {
        let at = places.iter().position(|candidate| *candidate == place(name));
        at.map(|at| partials[at].path().to_owned()).unwrap_or_default()
    };
    let copies = copies::copy(&contents, partial_of, Check::Full).await?;
    // Somebody may have been started meanwhile.
    check_places(&places, force).await?;
    let mut kept = Vec::new();
    for (place, partial) in places.iter().zip(&partials) {
        kept.extend(set_aside(place)?);
        fs::rename(partial.path(), place).map_err(|error| Refusal::file(place, error))?;
        sync_folder(&folder_of(place))?;
    }
    Ok(Restored { to: target.path().to_owned(), copies, kept })
}

/// Whether what is at `places` may be replaced: nobody must be at work there, and what is there must not be lost by mistake.
async fn check_places(places: &[PathBuf], force: bool) -> Result<(), Refusal> {
    for place in places.iter().filter(|place| place.is_file()) {
        if !backup::is_free(place).await {
            return Err(Refusal::machine(format_args!(
                "the database {} is in use; stop phoenix first",
                place.display()
            )));
        }
    }
    let occupied = places.iter().find(|place| is_occupied(place));
    match occupied.filter(|_| !force) {
        None => Ok(()),
        Some(place) => Err(Refusal::machine(format_args!(
            "{} exists already; restore into a new folder, or set aside what is there with --force",
            place.display()
        ))),
    }
}

/// Renames what is at `place`, with what belongs to it: its new name, if there was something.
fn set_aside(place: &Path) -> Result<Option<PathBuf>, Refusal> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = companion(place, &format!(".replaced-{seconds}"));
    let was_there = is_occupied(place);
    if was_there {
        fs::rename(place, &aside).map_err(|error| Refusal::file(place, error))?;
    }
    // They must never meet another database.
    for suffix in WAL_SUFFIXES {
        let left = companion(place, suffix);
        if left.exists() {
            fs::rename(&left, companion(&aside, suffix)).map_err(|error| Refusal::file(&left, error))?;
        }
    }
    Ok(was_there.then_some(aside))
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, copies, kept } = self;
        write!(f, "restored {}: {copies}", to.display())?;
        for (n, path) in kept.iter().enumerate() {
            let before = if n == 0 { "; what was there before is kept as " } else { ", " };
            write!(f, "{before}{}", path.display())?;
        }
        Ok(())
    }
}
