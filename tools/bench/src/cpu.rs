//! Processor time of processes.

use std::{fs, io, time::Duration};

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

/// The first number in a line of `/proc/PID/task/TID/schedstat`: nanoseconds on a processor.
fn running_time(stat: &str) -> Option<u64> {
    stat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn time_of_a_busy_process_grows() {
        assert_eq!(running_time("123 45 6\n"), Some(123));
        assert_eq!(running_time(""), None);
        let own = [std::process::id()];
        let (since, before) = (Instant::now(), time_of(&own).unwrap());
        let mut n = 0_u64;
        while time_of(&own).unwrap() - before < Duration::from_millis(20) {
            assert!(since.elapsed() < Duration::from_secs(30), "it does not grow");
            n = std::hint::black_box(n + 1);
        }
    }
}
