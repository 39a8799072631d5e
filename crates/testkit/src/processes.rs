//! Processes of this system, as `/proc` shows them.

use std::path::Path;

/// Whether a process is running; a zombie is not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.0 != "Z" && stat.0 != "X")
}

/// The running children of a process.
#[must_use]
pub fn children_of(parent: i32) -> Vec<i32> {
    all_pids().filter(|pid| stat(*pid).is_some_and(|(state, ppid)| ppid == parent && state != "Z")).collect()
}

/// Running processes whose environment contains `text`.
#[must_use]
pub fn pids_with_environment(text: &str) -> Vec<i32> {
    let contains = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    all_pids().filter(contains).filter(|pid| is_alive(*pid)).collect()
}

/// Running processes of the stack in `dir`, including agents with the variable `MARK`. The environment of services is
/// readable for root only; their command line, which contains their data folder, is readable for every user.
#[must_use]
pub fn pids_of_stack(dir: &Path) -> Vec<i32> {
    let dir = dir.to_string_lossy();
    let mut pids = pids_with_environment(&format!("MARK={dir}"));
    let named = all_pids().filter(|pid| command_line(*pid).iter().any(|word| word.contains(&*dir)));
    pids.extend(named.filter(|pid| is_alive(*pid)));
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The words of a process's command line.
#[must_use]
pub fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Resident memory of a process in bytes, shared memory included.
///
/// # Panics
/// When the process has exited.
#[must_use]
pub fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the status contains its memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent of a process.
fn stat(pid: i32) -> Option<(String, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may contain any character.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.into(), fields.next()?.parse().ok()?))
}
