//! Log lines in files of bounded size and number, beside those on standard error.
//!
//! `planner.jsonl` is the file that is written; `planner.1.jsonl` is the one before it, and so on. A file that cannot be written,
//! on a full disk for instance, costs lines and nothing else. The files never take the last space of a disk ([`MIN_FREE_BYTES`]),
//! which the databases need.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::fstatvfs;

use crate::privacy;

/// Name of the folder of the files in a data folder.
pub const FOLDER: &str = "logs";

/// Extension of the files.
pub const EXTENSION: &str = "jsonl";

/// Size in bytes from which on a file is replaced. A line is never split.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Files of one process, the written one included.
const MAX_FILES: u32 = 5;

/// Free space in bytes below which no line is written.
const MIN_FREE_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes that are written between two looks at the free space.
const LOOK_EVERY_BYTES: u64 = 1024 * 1024;

/// Log file of one process, which is replaced when it is full.
#[derive(Debug)]
pub struct LogFile {
    folder: PathBuf,
    /// Name of the process, in the names of the files.
    name: &'static str,
    /// Absent after a failure, until it can be opened.
    open: Option<Open>,
    limits: Limits,
    /// Whether the last write ended inside a line, which the next one continues.
    is_inside: bool,
}

/// The file that is written.
#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// Size from which on the free space is looked at again.
    look_at: u64,
    /// Whether it ends inside a line that was never completed, so that the next one needs a line break before it.
    is_torn: bool,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    file_bytes: u64,
    free_bytes: u64,
}

impl LogFile {
    /// Opens or creates the file of the process `name` in `folder`, which is created too, for this user only.
    ///
    /// # Errors
    /// When neither can be created, or the disk has no space left for log lines.
    pub fn open(folder: &Path, name: &'static str) -> io::Result<Self> {
        Self::with_limits(folder, name, Limits { file_bytes: MAX_FILE_BYTES, free_bytes: MIN_FREE_BYTES })
    }

    fn with_limits(folder: &Path, name: &'static str, limits: Limits) -> io::Result<Self> {
        let mut file = Self { folder: folder.to_owned(), name, open: None, limits, is_inside: false };
        let open = file.reopen()?;
        open.check_space(limits.free_bytes)?;
        file.open = Some(open);
        Ok(file)
    }

    /// A file that is opened by its first line, after a failure of [`LogFile::open`] that may pass.
    #[must_use]
    pub fn later(folder: &Path, name: &'static str) -> Self {
        let limits = Limits { file_bytes: MAX_FILE_BYTES, free_bytes: MIN_FREE_BYTES };
        Self { folder: folder.to_owned(), name, open: None, limits, is_inside: false }
    }

    /// Path of the file with `number`; 0 is the one that is written.
    fn path(&self, number: u32) -> PathBuf {
        let name = self.name;
        self.folder.join(match number {
            0 => format!("{name}.{EXTENSION}"),
            number => format!("{name}.{number}.{EXTENSION}"),
        })
    }

    fn reopen(&self) -> io::Result<Open> {
        privacy::create_folder(&self.folder)?;
        let path = self.path(0);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        privacy::tighten(&path)?;
        let bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        // A process that was killed, or a full disk, may have left half a line.
        if let Some(end) = bytes.checked_sub(1) {
            file.read_exact_at(&mut last, end)?;
        }
        Ok(Open { file, bytes, look_at: bytes, is_torn: last != *b"\n" })
    }

    /// Moves each file to the next number; the last one is replaced.
    fn rotate(&self) -> io::Result<()> {
        for number in (1..MAX_FILES).rev() {
            match fs::rename(self.path(number - 1), self.path(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The file with space for the next line.
    fn next(&mut self) -> io::Result<Open> {
        let open = self.open.take();
        match open {
            Some(open) if open.bytes < self.limits.file_bytes || self.is_inside => Ok(open),
            Some(_) => {
                self.rotate()?;
                self.reopen()
            }
            None => {
                let open = self.reopen()?;
                if open.bytes < self.limits.file_bytes {
                    return Ok(open);
                }
                self.rotate()?;
                self.reopen()
            }
        }
    }
}

impl Open {
    fn check_space(&self, least: u64) -> io::Result<()> {
        let facts = fstatvfs(&self.file)?;
        let free = facts.blocks_available().saturating_mul(facts.fragment_size());
        if free < least {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the disk has {free} bytes left, and log lines leave {least} to the databases"),
            ));
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8], least_free: u64) -> io::Result<()> {
        if self.bytes >= self.look_at {
            self.check_space(least_free)?;
            self.look_at = self.bytes + LOOK_EVERY_BYTES;
        }
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.bytes += 1;
            self.is_torn = false;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

impl Write for LogFile {
    /// Accepts all of `lines`, or none of them. A long line may come in several parts.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut open = self.next()?;
        // After a failure, the next call opens the file anew and sees what was written of these lines.
        open.append(lines, self.limits.free_bytes)?;
        self.open = Some(open);
        self.is_inside = !lines.ends_with(b"\n");
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn at_most(file_bytes: u64) -> Limits {
        Limits { file_bytes, free_bytes: 0 }
    }

    fn contents(dir: &Path) -> Vec<(String, String)> {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files
            .map(|path| {
                assert_eq!(
                    path.metadata().unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{}",
                    path.display()
                );
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("logs");
        let mut log = LogFile::with_limits(&folder, "planner", at_most(20)).unwrap();
        for number in 0..40 {
            log.write_all(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        let found = contents(&folder);
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["planner.1.jsonl", "planner.2.jsonl", "planner.3.jsonl", "planner.4.jsonl", "planner.jsonl"];
        assert_eq!(names, expected);
        assert_eq!(found[4].1, "line 0038\nline 0039\n");
        assert_eq!(found[0].1, "line 0036\nline 0037\n");
        assert_eq!(found[3].1, "line 0030\nline 0031\n");
    }

    #[test]
    fn line_after_a_torn_one_begins_on_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("up.jsonl"), "{\"half").unwrap();
        let mut log = LogFile::open(dir.path(), "up").unwrap();
        log.write_all(b"{}\n").unwrap();
        log.write_all(b"{}\n").unwrap();
        assert_eq!(contents(dir.path())[0].1, "{\"half\n{}\n{}\n");
    }

    #[test]
    fn file_that_cannot_be_written_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("logs");
        let mut log = LogFile::with_limits(&folder, "up", at_most(4)).unwrap();
        log.write_all(b"one\ntwo\n").unwrap();
        // The next file cannot be created.
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        assert!(log.write_all(b"lost\n").is_err());
        assert!(log.write_all(b"lost\n").is_err());
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!(contents(&folder)[0].1, "three\n");
    }

    #[test]
    fn lines_leave_space_to_the_databases() {
        let dir = tempfile::tempdir().unwrap();
        let greedy = Limits { file_bytes: 1_000, free_bytes: u64::MAX };
        let refused = LogFile::with_limits(dir.path(), "up", greedy).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
        let mut log = LogFile::later(dir.path(), "up");
        log.limits = greedy;
        assert!(log.write_all(b"lost\n").is_err());
        log.limits.free_bytes = 0;
        log.write_all(b"kept\n").unwrap();
        assert_eq!(contents(dir.path())[0].1, "kept\n");
    }
}
