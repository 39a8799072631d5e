//! A built-in agent as a process.

use std::{os::unix::process::parent_id, process::ExitCode, time::Duration};

use phoenix_agents::BuiltinAgent;
use phoenix_platform::privacy;

use crate::terminal::print_error;

/// Interval at which the language-model agent checks that its executor runs.
const PARENT_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the agent until its input ends.
pub(crate) fn run(agent: BuiltinAgent) -> ExitCode {
    match agent {
        // It has the providers' keys.
        BuiltinAgent::LlmRouter => {
            if let Err(error) = privacy::conceal_process() {
                print_error(format_args!("the agent cannot protect its keys from other processes: {error}"));
                return ExitCode::FAILURE;
            }
            end_with_parent();
        }
        // Its notes are private.
        BuiltinAgent::Obsidian => privacy::restrict_new_files(),
        // git uses the umask of the repository's owner.
        BuiltinAgent::Git | BuiltinAgent::Echo => {}
    }
    phoenix_agents::run(agent)
}

/// Exits when the executor has exited. The orphan guard finds agents by their environment, which is not readable for a
/// concealed process.
fn end_with_parent() {
    let parent = parent_id();
    std::thread::spawn(move || {
        while parent_id() == parent {
            #[expect(
                clippy::disallowed_methods,
                reason = "a separate thread in a process without a runtime"
            )]
            std::thread::sleep(PARENT_CHECK_INTERVAL);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "like the kill by a guard: no caller waits for an answer"
        )]
        std::process::exit(1);
    });
}
