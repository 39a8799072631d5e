//! Finds the processes of agents by the marker in their environment, and ends them.
//!
//! A process group is the first means of ending an agent with all it started. The marker is the second: it also finds
//! what left its group, and what an executor that was killed left behind. It is inherited like the rest of the
//! environment; only a process that wiped it on purpose gets away.
//!
//! Linux only (`/proc/<pid>/environ`). Elsewhere nothing is ever found.

use std::fmt;

use uuid::Uuid;

/// The variable that every process of an agent carries.
pub(crate) const MARKER_VARIABLE: &str = "PHOENIX_EXECUTOR";

/// The name of one executor: `<uuid>:<pid>`. The process id tells later executors whether this one still lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker(String);

impl Marker {
    /// A marker for this process.
    pub(crate) fn new() -> Self {
        Self(format!("{}:{}", Uuid::new_v4(), std::process::id()))
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{kill_marked, kill_orphans};
#[cfg(target_os = "linux")]
pub(crate) use linux::{kill_marked, kill_orphans};

#[cfg(target_os = "linux")]
mod linux {
    use std::{collections::BTreeSet, fs, time::Duration};

    use nix::{
        sys::signal::{Signal, kill, killpg},
        unistd::{Pid, getpgid, getpgrp},
    };

    use super::MARKER_VARIABLE;

    /// Between two scans. A process needs a moment to die.
    const PAUSE: Duration = Duration::from_millis(20);

    /// A process that is stuck in the kernel can't be waited for.
    const MAX_SCANS: u32 = 250;

    /// Ends every process marked with `marker`, until that many scans in a row have found none. One that is being started
    /// shows its marker only from some moment on, so one scan is not enough while that may be. Answers how many it ended.
    pub(crate) fn kill_marked(marker: &str, clean_scans: u32) -> usize {
        let (mut killed, mut clean) = (BTreeSet::new(), 0);
        for _ in 0..MAX_SCANS {
            let found = find(|found, _| found == marker);
            clean = if found.is_empty() { clean + 1 } else { 0 };
            if clean >= clean_scans {
                break;
            }
            end(&found);
            killed.extend(found);
            pause();
        }
        killed.len()
    }

    /// Ends every process of an executor that no longer lives. Answers how many it ended.
    pub(crate) fn kill_orphans() -> usize {
        let orphans = find(is_orphan);
        end(&orphans);
        orphans.len()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "runs where there is no runtime, or on a thread that may block"
    )]
    fn pause() {
        std::thread::sleep(PAUSE);
    }

    fn find(wanted: impl Fn(&str, Pid) -> bool) -> Vec<Pid> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let own = Pid::this();
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw))
            .filter(|&pid| pid != own && marker_of(pid).is_some_and(|marker| wanted(&marker, pid)))
            .collect()
    }

    fn marker_of(pid: Pid) -> Option<String> {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let value = environment
            .split(|&byte| byte == 0)
            .find_map(|variable| variable.strip_prefix(MARKER_VARIABLE.as_bytes())?.strip_prefix(b"="))?;
        String::from_utf8(value.to_vec()).ok()
    }

    fn end(processes: &[Pid]) {
        for &pid in processes {
            // What is in a group with an agent was started by it.
            if let Ok(group) = getpgid(Some(pid))
                && group != getpgrp()
            {
                let _ = killpg(group, Signal::SIGKILL);
            }
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Whether the executor that `marker` names is gone. A process that has its id but began later than `agent` did is
    /// another one.
    fn is_orphan(marker: &str, agent: Pid) -> bool {
        let Some(executor) = marker.rsplit_once(':').and_then(|(_, pid)| pid.parse().ok()) else {
            return false;
        };
        match (start_time(Pid::from_raw(executor)), start_time(agent)) {
            (Some(executor), Some(agent)) => executor > agent,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// When a living process began, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    fn start_time(pid: Pid) -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        fields.nth(18)?.parse().ok()
    }

    #[cfg(test)]
    mod tests {
        use std::{
            io::Read,
            os::unix::process::CommandExt,
            process::{Child, Command, Stdio},
        };

        use super::*;

        /// Clean scans after which nothing is about to show its marker.
        const SURE: u32 = 3;

        /// A shell with a child that left its group, both marked; ready once it has said so.
        fn marked(marker: &str) -> Child {
            let mut child = Command::new("sh")
                .args(["-c", "setsid sleep 600 & echo; exec sleep 600"])
                .env(MARKER_VARIABLE, marker)
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            child
        }

        #[test]
        fn all_that_carry_the_marker_end_and_no_other() {
            let (marker, other) =
                (super::super::Marker::new().to_string(), super::super::Marker::new().to_string());
            let (mut ours, mut others) = (marked(&marker), marked(&other));
            assert!(kill_marked(&marker, SURE) >= 2, "the one that left its group too");
            assert!(!ours.wait().unwrap().success());
            assert!(others.try_wait().unwrap().is_none());
            assert_eq!(find(|found, _| found == marker), []);
            kill_marked(&other, SURE);
            others.wait().unwrap();
        }

        #[test]
        fn an_orphan_is_one_whose_executor_is_gone_or_younger_than_itself() {
            let marker = super::super::Marker::new().to_string();
            let mut agent = marked(&marker);
            let pid = Pid::from_raw(agent.id().cast_signed());
            assert!(!is_orphan(&format!("x:{}", std::process::id()), pid), "its executor lives");
            let mut later = Command::new("sleep").arg("600").spawn().unwrap();
            // Start times are counted in ticks of 10 ms; spawned within one tick, the two are not told apart.
            let younger = start_time(Pid::from_raw(later.id().cast_signed())) > start_time(pid);
            assert_eq!(is_orphan(&format!("x:{}", later.id()), pid), younger);
            later.kill().unwrap();
            later.wait().unwrap();
            assert!(is_orphan(&format!("x:{}", later.id()), pid), "its executor is gone");
            assert!(!is_orphan("someone else's variable", pid));
            kill_marked(&marker, SURE);
            agent.wait().unwrap();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    pub(crate) const fn kill_marked(_marker: &str, _clean_scans: u32) -> usize {
        0
    }

    pub(crate) const fn kill_orphans() -> usize {
        0
    }
}
