//! A built-in agent as a process.

use std::{os::unix::process::parent_id, process::ExitCode, time::Duration};

use phoenix_agents::BuiltinAgent;
use phoenix_platform::privacy;

use crate::terminal::complain;

/// How often the language model's agent looks whether its executor lives.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs the agent until its input ends.
pub(crate) fn run(agent: BuiltinAgent) -> ExitCode {
    match agent {
        // It holds the providers' keys.
        BuiltinAgent::LlmRouter => {
            if let Err(error) = privacy::conceal_process() {
                complain(format_args!("the agent cannot keep its keys from other processes: {error}"));
                return ExitCode::FAILURE;
            }
            end_with_parent();
        }
        // Its notes are private.
        BuiltinAgent::Obsidian => privacy::restrict_new_files(),
        // git writes with the umask that the repository's owner chose.
        BuiltinAgent::Git | BuiltinAgent::Echo => {}
    }
    phoenix_agents::run(agent)
}

/// Ends this process when its executor has died. The orphan guard knows agents by their environment, which a concealed
/// process does not show.
fn end_with_parent() {
    let parent = parent_id();
    std::thread::spawn(move || {
        while parent_id() == parent {
            #[expect(
                clippy::disallowed_methods,
                reason = "a thread of its own, in a process without a runtime"
            )]
            std::thread::sleep(LOOK_EVERY);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "as a guard would end it: there is nobody left to answer"
        )]
        std::process::exit(1);
    });
}
