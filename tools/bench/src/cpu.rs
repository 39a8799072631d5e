//! Processor time of processes.

use std::{fs, io, time::Duration};

use crate::{failure::Result, memory};

/// Ticks per second of the times in `/proc/PID/stat`: fixed by the kernel's interface.
const TICKS: u64 = 100;

/// Processor time of all live threads of these processes.
pub(crate) fn time_of(pids: &[u32]) -> io::Result<Duration> {
    let mut nanos = 0;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile.
            let stat = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += running_time(&stat).unwrap_or_default();
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Processor time of a process, of its children, and of children that have ended.
pub(crate) fn time_of_tree(pid: u32) -> Result<Duration> {
    let mut ticks = 0;
    for (pid, with_ended) in
        std::iter::once((pid, true)).chain(memory::children(pid)?.into_iter().map(|pid| (pid, false)))
    {
        // A process may end meanwhile; its parent counts it then.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ticks += ticks_in(&stat, with_ended).unwrap_or_default();
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// User and system time in a line of `/proc/PID/stat`, in ticks, and those of children that have ended.
fn ticks_in(stat: &str, with_ended: bool) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let times = after_name.split_whitespace().skip(11).take(if with_ended { 4 } else { 2 });
    times.map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The first number in a line of `/proc/PID/task/TID/schedstat`: nanoseconds on a processor.
fn running_time(stat: &str) -> Option<u64> {
    stat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn ticks_are_the_fields_after_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3000 400 20 0 1 0 5";
        assert_eq!((ticks_in(stat, false), ticks_in(stat, true)), (Some(120), Some(3520)));
        assert_eq!(ticks_in("nonsense", true), None);
    }

    #[test]
    fn time_of_a_busy_process_grows() {
        assert_eq!(running_time("123 45 6\n"), Some(123));
        assert_eq!(running_time(""), None);
        let own = [std::process::id()];
        let (since, before) = (Instant::now(), time_of(&own).unwrap());
        let mut n = 0_u64;
        // Threads of other tests end meanwhile, and their time with them.
        while time_of(&own).unwrap().saturating_sub(before) < Duration::from_millis(20) {
            assert!(since.elapsed() < Duration::from_secs(30), "it does not grow");
            n = std::hint::black_box(n + 1);
        }
    }
}
