//! The data folder with its disk, databases, and clocks.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use jiff::{SignedDuration, Timestamp};
use nix::sys::{
    statfs::{NFS_SUPER_MAGIC, TMPFS_MAGIC, statfs},
    statvfs::statvfs,
};
use phoenix_platform::{privacy, sqlite};

use super::{finding::Finding, server};
use crate::settings::{Resolved, Service};

/// Free space that a running stack needs, and below which it is a warning.
const MIN_FREE_BYTES: u64 = 100 * 1024 * 1024;
const LOW_FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// Free files below which it is a warning.
const MIN_FREE_FILES: u64 = 1_000;

/// Time of an fsync from which on commits are slow.
const SLOW_FSYNC: Duration = Duration::from_millis(50);

/// Difference of clocks that is tolerated, to a server whose answer names a whole second.
const SERVER_CLOCK: SignedDuration = SignedDuration::from_secs(30);

/// No machine of this version has an earlier clock.
const EARLIEST: &str = "2026-11-01T00:00:00Z";

/// The data folder: its disk, whether it can be written, and how fast.
pub(super) fn folder(resolved: &Resolved) -> Vec<Finding> {
    let uses_files = resolved
        .services
        .iter()
        .any(|service| service.role.has_database() && !service.settings.database_url.is_postgres());
    if !uses_files {
        return Vec::new();
    }
    let folder = &resolved.data_dir;
    let Some(existing) = existing(folder) else {
        return vec![Finding::error(
            "disk",
            format!("no folder above {} can be read", folder.display()),
            CHOOSE,
        )];
    };
    let mut findings = vec![space(&existing)];
    findings.extend(file_system(&existing));
    if existing == *folder {
        findings.push(fsync(folder));
    } else {
        findings.push(Finding::ok("data folder", format!("{} will be created", folder.display())));
    }
    findings
}

const CHOOSE: &str = "choose another folder with --data-dir";

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> Option<PathBuf> {
    if folder.is_dir() {
        return Some(folder.to_owned());
    }
    let absolute = std::path::absolute(folder).ok()?;
    absolute.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
}

fn space(folder: &Path) -> Finding {
    let facts = match statvfs(folder) {
        Ok(facts) => facts,
        Err(error) => {
            let problem = format!("the disk of {} cannot be examined: {error}", folder.display());
            return Finding::warning("disk", problem, CHOOSE);
        }
    };
    let free = facts.blocks_available().saturating_mul(facts.fragment_size());
    let message = format!("{} MiB free at {}", free >> 20, folder.display());
    let action = "free space, shorten planner.retention_days, or choose another folder with --data-dir";
    // Some file systems do not count files, and report none at all.
    if facts.files() > 0 && facts.files_available() < MIN_FREE_FILES {
        let message = format!("{message}, and {} files", facts.files_available());
        return Finding::warning("disk", message, action);
    }
    match free {
        0..MIN_FREE_BYTES => Finding::error("disk", message, action),
        MIN_FREE_BYTES..LOW_FREE_BYTES => Finding::warning("disk", message, action),
        _ => Finding::ok("disk", message),
    }
}

fn file_system(folder: &Path) -> Option<Finding> {
    let kind = statfs(folder).ok()?.filesystem_type();
    if kind == NFS_SUPER_MAGIC {
        let problem = format!("{} is on NFS, whose locks SQLite cannot rely on", folder.display());
        return Some(Finding::error("disk", problem, "use a local disk, or PostgreSQL (DATABASE_URL)"));
    }
    (kind == TMPFS_MAGIC).then(|| {
        let problem = format!("{} is in memory: a reboot loses the journal", folder.display());
        Finding::warning("disk", problem, CHOOSE)
    })
}

/// Writes a small file to disk, as a commit does.
fn fsync(folder: &Path) -> Finding {
    let path = folder.join(format!(".writable-doctor-{}", std::process::id()));
    let written = (|| {
        let mut file = privacy::create_file(&path)?;
        let mut slowest = Duration::ZERO;
        for _ in 0..3 {
            file.write_all(&[0; 4096])?;
            let started_at = Instant::now();
            file.sync_all()?;
            slowest = slowest.max(started_at.elapsed());
        }
        Ok::<_, std::io::Error>(slowest)
    })();
    // It does not exist when it could not be created.
    let _ = fs::remove_file(&path);
    match written {
        Err(error) => {
            Finding::error("data folder", format!("{} cannot be written: {error}", folder.display()), CHOOSE)
        }
        Ok(slowest) if slowest > SLOW_FSYNC => Finding::warning(
            "data folder",
            format!(
                "an fsync in {} takes {} ms; each commit waits for one",
                folder.display(),
                slowest.as_millis()
            ),
            "use a disk with a write cache that survives a power failure, or PostgreSQL",
        ),
        Ok(slowest) => Finding::ok(
            "data folder",
            format!(
                "{} can be written; an fsync takes {:.1} ms",
                folder.display(),
                slowest.as_secs_f64() * 1e3
            ),
        ),
    }
}

/// The databases of the services.
pub(super) async fn databases(resolved: &Resolved, is_offline: bool) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for service in resolved.services.iter().filter(|service| service.role.has_database()) {
        let found = if service.settings.database_url.is_postgres() {
            if is_offline { Vec::new() } else { server::of(service).await }
        } else {
            vec![of_file(service).await]
        };
        // Services that share a server have the same findings.
        findings.extend(found.into_iter().filter(|found| !findings.contains(found)).collect::<Vec<_>>());
    }
    findings
}

async fn of_file(service: &Service) -> Finding {
    let restore = "stop the stack, and restore a backup (docs/backup.md)";
    let path = match sqlite::file_from_url(service.settings.database_url.expose()) {
        Ok(path) => path,
        Err(error) => return Finding::error("database", error.to_string(), "correct DATABASE_URL"),
    };
    if !path.exists() {
        return Finding::ok("database", format!("{} will be created", path.display()));
    }
    let path_shown = path.display();
    match sqlite::inspect(&path).await {
        Err(error) => Finding::error("database", format!("{path_shown} cannot be read: {error}"), restore),
        Ok(found) => match (found.problem, found.schema) {
            (Some(problem), _) => {
                Finding::error("database", format!("{path_shown} is damaged: {problem}"), restore)
            }
            (None, None) if found.bytes > 0 => Finding::error(
                "database",
                format!("{path_shown} is the database of another program"),
                "choose another folder with --data-dir",
            ),
            (None, schema) => {
                let schema = schema.map_or_else(|| "empty".to_owned(), |schema| format!("schema {schema}"));
                let checked = if found.is_checked { "checked" } else { "too large to be checked here" };
                Finding::ok(
                    "database",
                    format!("{path_shown}: {} KiB, {schema}, {checked}", found.bytes >> 10),
                )
            }
        },
    }
}

/// The clock of this machine, compared with files and with `servers`, which have just answered.
pub(super) fn clock(resolved: &Resolved, servers: &[(String, Timestamp)]) -> Vec<Finding> {
    let now = Timestamp::now();
    let mut findings = Vec::new();
    if EARLIEST.parse::<Timestamp>().is_ok_and(|earliest| now < earliest) {
        let problem = format!("the clock of this machine shows {now}, before this version was made");
        findings.push(Finding::error(
            "clock",
            problem,
            "set the clock; certificates are not valid at a wrong time",
        ));
    }
    for name in ["planner.db", "planner.db-wal", "health.db", "health.db-wal"] {
        let changed = resolved.data_dir.join(name).metadata().and_then(|facts| facts.modified());
        let ahead = changed.ok().and_then(|changed| changed.duration_since(SystemTime::now()).ok());
        if let Some(ahead) = ahead.filter(|ahead| ahead.as_secs() > 60) {
            let problem =
                format!("{name} was changed {} s in the future: the clock was set back", ahead.as_secs());
            findings.push(Finding::warning(
                "clock",
                problem,
                "synchronize the clock, for instance with chrony",
            ));
            break;
        }
    }
    for (server, shown) in servers {
        let difference = now.duration_since(*shown);
        if difference.abs() > SERVER_CLOCK {
            findings.push(server::ahead(server, difference));
        }
    }
    if findings.is_empty() {
        let with = if servers.is_empty() {
            String::new()
        } else {
            format!(", compared with {} servers", servers.len())
        };
        findings.push(Finding::ok("clock", format!("{now:.0}{with}")));
    }
    findings
}
