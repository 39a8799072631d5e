//! `git_add`: stages exactly what is named, or nothing.
//!
//! Git passes over a good deal without a word: ignored files, files of another repository, files marked as unchanged.
//! What is named and can't be staged is refused before anything is staged; what a named folder holds beside is reported.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use phoenix_domain::action::ActionResult;

use super::{
    command::Output,
    failure::Failed,
    paths::FilePath,
    quoted,
    repository::{Repository, excluded, is_secret, shown, text},
    secrets::holds_secrets,
};
use crate::ActionError;

/// The most that all paths of one request may take: they become arguments of a process.
const MAX_PATHS_BYTES: usize = 64 * 1024;
/// The most names in a report.
const MAX_NAMED: usize = 20;

/// Of the index, what git does not stage as an ordinary file. Names are relative to the top of the work tree.
#[derive(Default)]
struct Special {
    submodules: Vec<OsString>,
    /// Assumed to be unchanged, or not in the work tree.
    marked: Vec<OsString>,
}

/// What a successful `git_add` has to say beside what it staged.
#[derive(Default)]
struct Notes {
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
        let _writing = self.writing()?;
        self.add_files(&files).map_err(Failed::into_error)
    }

    fn add_files(&self, files: &[FilePath]) -> Result<ActionResult, Failed> {
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
        let notes = Notes { unknown: self.not_staged(files)?, ignored: self.ignored(files)? };
        report(output, notes).map_err(Failed::Otherwise)
    }

    fn check_marked(&self, files: &[FilePath], marked: &[OsString]) -> Result<(), Failed> {
        let is_named = |name: &OsString| files.iter().any(|file| file.absolute == self.top.join(name));
        let Some(name) = marked.iter().find(|name| is_named(name)) else { return Ok(()) };
        Err(Failed::Otherwise(ActionError::new(
            409,
            format!(
                "{} is marked as unchanged or left out of the work tree (git update-index, git sparse-checkout), so git \
                 does not stage it",
                shown(name)
            ),
        )))
    }

    fn special(&self, named: &[OsString]) -> Result<Special, Failed> {
        let entries = self
            .git
            .list(&arguments(&["ls-files", "--stage", "-v", "-z", "--full-name", "--"], named.to_vec()))?;
        let mut special = Special::default();
        for entry in entries {
            // A tag, a mode, a hash and a stage; a tab; a name.
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

    /// Stages the commits of submodules. `git add` would look at their work trees, under their configuration.
    fn add_submodules(&self, named: &[OsString], submodules: &[OsString]) -> Result<String, Failed> {
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

    fn check_ignored(&self, files: &[FilePath]) -> Result<(), Failed> {
        // A path that begins like this has no magic.
        let names = files.iter().map(|file| format!("./{}", file.relative).into());
        let output = match self.git.run(&arguments(&["check-ignore", "--"], names)) {
            Err(Failed::Silent) => return Ok(()),
            output => output?,
        };
        let names: Vec<String> =
            output.text.lines().take(MAX_NAMED).map(|line| quoted(line.trim_start_matches("./"))).collect();
        let problem = format!("{} is ignored by the repository's .gitignore", names.join(", "));
        Err(Failed::Otherwise(ActionError::invalid(problem)))
    }

    fn check_secrets(&self, named: &[OsString]) -> Result<(), Failed> {
        let listed = ["ls-files", "--others", "--modified", "--exclude-standard", "-z", "--"];
        let listed = self.git.list(&arguments(&listed, named.to_vec()))?;
        let secret = listed
            .iter()
            .find(|name| is_secret(name) && self.git.directory.join(name).symlink_metadata().is_ok());
        secret.map_or(Ok(()), |name| Err(Failed::Otherwise(refused_secret(&shown(name)))))
    }

    /// Files that were named, that are there, and that git passed over.
    fn not_staged(&self, files: &[FilePath]) -> Result<Vec<String>, Failed> {
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

    /// What the folders among `files` hold that is ignored.
    fn ignored(&self, files: &[FilePath]) -> Result<Vec<OsString>, Failed> {
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
    ActionError::new(403, format!("{name} may hold secrets; the git agent does not stage it"))
}

fn report(output: Output, notes: Notes) -> Result<ActionResult, ActionError> {
    if let Some(name) = notes.unknown.first().filter(|_| output.text.trim().is_empty()) {
        return Err(ActionError::invalid(format!(
            "git can't add {}: it is no file that git keeps",
            quoted(name)
        )));
    }
    let mut lines = output.warnings.clone();
    lines.extend(notes.unknown.iter().map(|name| format!("passed over: {}", quoted(name))));
    if !notes.ignored.is_empty() {
        let mut names: Vec<String> = notes.ignored.iter().take(MAX_NAMED).map(|name| shown(name)).collect();
        if notes.ignored.len() > MAX_NAMED {
            names.push(format!("and {} more", notes.ignored.len() - MAX_NAMED));
        }
        lines.push(format!("ignored by .gitignore: {}", names.join(", ")));
    }
    let mut result = text(output, "Nothing to add: the index is up to date.");
    if !lines.is_empty() {
        result.data = format!("{}\n{}", result.to_text(), lines.join("\n")).into();
    }
    Ok(result)
}
