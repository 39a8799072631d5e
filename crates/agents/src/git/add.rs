//! `git_add`: stages exactly the named files, or none.
//!
//! Git skips several kinds of files without a message: ignored files, files of another repository, files marked as
//! unchanged. A named file that cannot be staged is rejected before anything is staged; other files in a named folder are
//! reported.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use phoenix_domain::action::ActionResult;

use super::{
    command::Output,
    failure::GitFailure,
    paths::FilePath,
    repository::{Repository, excluded, is_secret, shown, text},
    secrets::holds_secrets,
    settings::quoted,
};
use crate::protocol::ActionError;

/// Most bytes of all paths of one request, which become arguments of a process.
const MAX_PATHS_BYTES: usize = 64 * 1024;
/// Most names in a report.
const MAX_REPORTED: usize = 20;

/// Index entries that git does not stage as ordinary files. Names are relative to the top of the work tree.
#[derive(Default)]
struct Special {
    submodules: Vec<OsString>,
    /// Files that are assumed to be unchanged, or not in the work tree.
    marked: Vec<OsString>,
}

/// Files that a successful `git_add` reports in addition to those it staged.
#[derive(Default)]
struct Skipped {
    unknown: Vec<String>,
    ignored: Vec<OsString>,
}

impl Repository<'_> {
    pub(super) fn add(&self, paths: &[&str]) -> Result<ActionResult, ActionError> {
        let length: usize = paths.iter().map(|path| path.len() + 1).sum();
        if length > MAX_PATHS_BYTES {
            let problem = format!(
                "`payload.paths` is {length} bytes long; at most {MAX_PATHS_BYTES} can be added at once"
            );
            return Err(ActionError::invalid(problem));
        }
        let files: Vec<FilePath> = paths.iter().map(|path| self.path(path)).collect::<Result<_, _>>()?;
        if let Some((path, _)) =
            paths.iter().zip(&files).find(|(path, file)| holds_secrets(path) && file.exists())
        {
            return Err(refused_secret(&quoted(path)));
        }
        let _lock = self.lock_writes()?;
        self.add_files(&files).map_err(GitFailure::into_error)
    }

    fn add_files(&self, files: &[FilePath]) -> Result<ActionResult, GitFailure> {
        let named: Vec<OsString> = files.iter().map(|file| file.pathspec().into()).collect();
        let special = self.special(&named)?;
        self.check_ignored(files)?;
        self.check_secrets(&named)?;
        self.check_marked(files, &special.marked)?;
        let leave_out = special.submodules.iter().map(|name| excluded(name));
        let mut output = self
            .git
            .write(&arguments(&["add", "--verbose", "--"], named.iter().cloned().chain(leave_out)))?;
        output.text.push_str(&self.add_submodules(&named, &special.submodules)?);
        let skipped = Skipped { unknown: self.not_staged(files)?, ignored: self.ignored(files)? };
        report(output, skipped).map_err(GitFailure::Error)
    }

    fn check_marked(&self, files: &[FilePath], marked: &[OsString]) -> Result<(), GitFailure> {
        let is_named = |name: &OsString| files.iter().any(|file| file.absolute == self.top.join(name));
        let Some(name) = marked.iter().find(|name| is_named(name)) else { return Ok(()) };
        Err(GitFailure::Error(ActionError::new(
            409,
            format!(
                "{} is marked as unchanged or left out of the work tree (git update-index, git sparse-checkout), so git \
                 does not stage it",
                shown(name)
            ),
        )))
    }

    fn special(&self, named: &[OsString]) -> Result<Special, GitFailure> {
        let entries = self
            .git
            .list(&arguments(&["ls-files", "--stage", "-v", "-z", "--full-name", "--"], named.to_vec()))?;
        let mut special = Special::default();
        for entry in entries {
            // Each entry is a tag, a mode, a hash and a stage; a tab; a name.
            let bytes = entry.as_bytes();
            let Some(tab) = bytes.iter().position(|byte| *byte == b'\t') else { continue };
            let name = OsString::from_vec(bytes[tab + 1..].to_vec());
            match bytes {
                [_, b' ', b'1', b'6', ..] => special.submodules.push(name),
                [tag, ..] if tag.is_ascii_lowercase() || *tag == b'S' => special.marked.push(name),
                _ => {}
            }
        }
        Ok(special)
    }

    /// Stages the commits of submodules. `git add` would read their work trees, under their configuration.
    fn add_submodules(&self, named: &[OsString], submodules: &[OsString]) -> Result<String, GitFailure> {
        if submodules.is_empty() {
            return Ok(String::new());
        }
        let changed = ["diff-files", "--name-only", "--ignore-submodules=dirty", "-z", "--"];
        let mut changed = self.git.list(&arguments(&changed, named.to_vec()))?;
        changed.retain(|name| submodules.contains(name));
        if changed.is_empty() {
            return Ok(String::new());
        }
        let top = self.git.in_directory(self.top.clone());
        let update = ["update-index", "--add", "--remove", "--verbose", "--"];
        Ok(top.write(&arguments(&update, changed))?.text)
    }

    fn check_ignored(&self, files: &[FilePath]) -> Result<(), GitFailure> {
        // A pathspec that begins like this has no magic.
        let names = files.iter().map(|file| format!("./{}", file.relative).into());
        let output = match self.git.run(&arguments(&["check-ignore", "--"], names)) {
            Err(GitFailure::Silent) => return Ok(()),
            output => output?,
        };
        let names: Vec<String> = output
            .text
            .lines()
            .take(MAX_REPORTED)
            .map(|line| quoted(line.trim_start_matches("./")))
            .collect();
        let problem = format!("{} is ignored by the repository's .gitignore", names.join(", "));
        Err(GitFailure::Error(ActionError::invalid(problem)))
    }

    fn check_secrets(&self, named: &[OsString]) -> Result<(), GitFailure> {
        let listed = ["ls-files", "--others", "--modified", "--exclude-standard", "-z", "--"];
        let listed = self.git.list(&arguments(&listed, named.to_vec()))?;
        let secret = listed
            .iter()
            .find(|name| is_secret(name) && self.git.directory.join(name).symlink_metadata().is_ok());
        secret.map_or(Ok(()), |name| Err(GitFailure::Error(refused_secret(&shown(name)))))
    }

    /// Named files that exist and that git skipped.
    fn not_staged(&self, files: &[FilePath]) -> Result<Vec<String>, GitFailure> {
        let there: Vec<&FilePath> = files.iter().filter(|file| file.exists() && !file.is_folder()).collect();
        if there.is_empty() {
            return Ok(Vec::new());
        }
        let known = ["ls-files", "-z", "--"];
        let known = self.git.list(&arguments(&known, there.iter().map(|file| file.pathspec().into())))?;
        let is_known =
            |file: &FilePath| known.iter().any(|name| self.git.directory.join(name) == file.absolute);
        Ok(there.into_iter().filter(|file| !is_known(file)).map(|file| file.relative.clone()).collect())
    }

    /// Ignored entries of the folders among `files`.
    fn ignored(&self, files: &[FilePath]) -> Result<Vec<OsString>, GitFailure> {
        let folders: Vec<OsString> =
            files.iter().filter(|file| file.is_folder()).map(|file| file.pathspec().into()).collect();
        if folders.is_empty() {
            return Ok(folders);
        }
        let ignored = ["ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z", "--"];
        self.git.list(&arguments(&ignored, folders))
    }
}

fn arguments(command: &[&str], paths: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    command.iter().map(Into::into).chain(paths).collect()
}

fn refused_secret(name: &str) -> ActionError {
    ActionError::new(403, format!("{name} may contain secrets; the git agent does not stage it"))
}

fn report(output: Output, skipped: Skipped) -> Result<ActionResult, ActionError> {
    if let Some(name) = skipped.unknown.first().filter(|_| output.text.trim().is_empty()) {
        return Err(ActionError::invalid(format!(
            "git cannot add {}: it is not a file that git tracks",
            quoted(name)
        )));
    }
    let mut lines = output.warnings.clone();
    lines.extend(skipped.unknown.iter().map(|name| format!("skipped: {}", quoted(name))));
    if !skipped.ignored.is_empty() {
        let mut names: Vec<String> =
            skipped.ignored.iter().take(MAX_REPORTED).map(|name| shown(name)).collect();
        if skipped.ignored.len() > MAX_REPORTED {
            names.push(format!("and {} more", skipped.ignored.len() - MAX_REPORTED));
        }
        lines.push(format!("ignored by .gitignore: {}", names.join(", ")));
    }
    let mut result = text(output, "Nothing to add: the index is up to date.");
    if !lines.is_empty() {
        result.data = format!("{}\n{}", result.to_text(), lines.join("\n")).into();
    }
    Ok(result)
}
