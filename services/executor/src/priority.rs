//! Priority of agent processes.
//!
//! Agents get less processor time than the executor while both want it: an executor that is starved by its own agents can
//! neither end them in time nor answer its callers, who would take it for dead.

use nix::unistd::Pid;
use rustix::process::{getpriority_process, setpriority_pgrp};

/// Highest nice value (`setpriority(2)`).
const MAX_NICE: i32 = 19;

/// The nice value of agent processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentPriority {
    /// `None` keeps that of the executor.
    nice: Option<i32>,
}

impl AgentPriority {
    /// The nice value of this process and `increment` more.
    pub(crate) fn below_this_process(increment: u8) -> Self {
        let own = getpriority_process(None).unwrap_or(0);
        Self { nice: (increment > 0).then(|| own.saturating_add(increment.into()).min(MAX_NICE)) }
    }

    /// Gives the group of `leader` this priority; what its members start inherits it. A leader that has exited needs none.
    pub(crate) fn apply(self, leader: Pid) {
        if let Some(nice) = self.nice {
            let _ = setpriority_pgrp(rustix::process::Pid::from_raw(leader.as_raw()), nice);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    use super::*;

    fn nice_of(pid: u32) -> i32 {
        getpriority_process(rustix::process::Pid::from_raw(pid.cast_signed())).unwrap()
    }

    #[test]
    fn nice_value_is_added_to_that_of_the_executor() {
        let own = getpriority_process(None).unwrap();
        for (increment, expected) in [(0, own), (3, (own + 3).min(19)), (19, 19)] {
            let mut command = Command::new("cat");
            let mut agent = command.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
            AgentPriority::below_this_process(increment).apply(Pid::from_raw(agent.id().cast_signed()));
            assert_eq!(nice_of(agent.id()), expected, "increment {increment}");
            drop(agent.stdin.take());
            agent.wait().unwrap();
        }
    }
}
