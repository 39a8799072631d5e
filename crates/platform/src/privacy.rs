//! Protection of files and processes from other users and from agents.
//!
//! Files that Phoenix creates have mode 0600, folders 0700. A process that starts no agents narrows its umask
//! ([`restrict_new_files`]); one that does (the executor, `phoenix up`) sets the mode of each file, because agents inherit the
//! umask and need the operator's own.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use nix::{
    sys::stat::{Mode, umask},
    unistd::geteuid,
};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Mode bits of group and others.
const SHARED: u32 = 0o077;

/// Sticky bit of folders such as `/tmp`, which belong to every user.
const STICKY: u32 = 0o1000;

/// Makes this process not dumpable: processes of the same user cannot read its environment or memory through `/proc`, and it
/// leaves no core dump. A program that it starts is dumpable again. Does nothing on other systems than Linux.
///
/// # Errors
/// When the system call fails.
pub fn conceal_process() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Narrows the umask: files that this process and its children create are for their user only.
pub fn restrict_new_files() {
    umask(Mode::from_bits_truncate(SHARED));
}

/// Creates `folder` and its missing parents, for this user only. Existing folders are unchanged.
///
/// # Errors
/// When a folder cannot be created.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

/// Opens `file` for writing, and creates it for this user only if it does not exist. Does not truncate.
///
/// # Errors
/// When the file cannot be opened or created.
pub fn create_file(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(file)
}

/// Removes the permissions of group and others from a file or folder of this user. Missing files, links, files of other users
/// and shared folders such as `/tmp` are unchanged.
///
/// # Errors
/// When the mode cannot be read or changed.
pub fn tighten(path: &Path) -> io::Result<()> {
    let facts = match std::fs::symlink_metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mode = facts.mode();
    let is_ours = facts.uid() == geteuid().as_raw() && !facts.is_symlink() && mode & STICKY == 0;
    if !is_ours || mode & SHARED == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !SHARED))
}

/// Creates a `.gitignore` with `pattern` in `folder`, unless there is one: a data folder often lies in a repository that an
/// agent commits to.
///
/// # Errors
/// When the file cannot be written.
pub fn keep_out_of_git(folder: &Path, pattern: &str) -> io::Result<()> {
    let created =
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(folder.join(".gitignore"));
    match created {
        Ok(mut file) => io::Write::write_all(&mut file, format!("{pattern}\n").as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn new_files_and_folders_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        assert_eq!((mode(&dir.path().join("a")), mode(&folder)), (0o700, 0o700));
        let file = folder.join("file");
        create_file(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        std::fs::write(&file, "kept").unwrap();
        create_file(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn tighten_removes_permissions_of_group_and_others_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, before, after) in [("a", 0o644, 0o600), ("b", 0o755, 0o700), ("c", 0o400, 0o400)] {
            std::fs::write(at(name), "").unwrap();
            std::fs::set_permissions(at(name), Permissions::from_mode(before)).unwrap();
            tighten(&at(name)).unwrap();
            assert_eq!(mode(&at(name)), after, "{name}");
        }
        std::fs::create_dir(at("shared")).unwrap();
        std::fs::set_permissions(at("shared"), Permissions::from_mode(0o1777)).unwrap();
        tighten(&at("shared")).unwrap();
        assert_eq!(mode(&at("shared")), 0o1777, "a shared folder stays shared");
        std::fs::write(at("elsewhere"), "").unwrap();
        std::fs::set_permissions(at("elsewhere"), Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
        tighten(&at("link")).unwrap();
        assert_eq!(mode(&at("elsewhere")), 0o644, "a link is not followed");
        tighten(&at("missing")).unwrap();
    }

    #[test]
    fn existing_gitignore_is_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        keep_out_of_git(dir.path(), "*").unwrap();
        keep_out_of_git(dir.path(), "else").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(".gitignore")).unwrap(), "*\n");
    }
}
