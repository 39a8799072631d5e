//! Commands that talk to a running gateway: chats, plans, agents, approvals, dead letters, statistics, the story of a correlation
//! id, and MCP over pipes. `phoenix context` names the gateways.
//!
//! Results go to standard output, everything else to standard error. With `--json` a result is JSON as the gateway sends it, one
//! document per line.
//!
//! | exit code | meaning |
//! |--:|---|
//! | 0 | done; for a chat or a plan that was awaited: it succeeded |
//! | 1 | the request was refused, or the chat or plan did not succeed |
//! | 64 | the command line or a file is not valid |
//! | 69 | the gateway cannot be reached, or its answer is not one of Phoenix |
//! | 75 | not now: overloaded, unavailable or too late; the same command may succeed later |
//! | 77 | the token is missing or not accepted |

mod agents;
mod approvals;
pub(crate) mod args;
mod chat;
mod context;
mod dead_letters;
pub(crate) mod endpoint;
pub(crate) mod error;
mod gateway;
mod mcp;
pub(crate) mod output;
mod plans;
mod propose;
mod stats;
mod text_file;
mod top;
mod trace;
mod watch;

use std::process::ExitCode;

use args::{
    AgentsArgs, ApprovalsArgs, ChatArgs, ContextArgs, DeadLettersArgs, McpArgs, PlansArgs, StatsArgs,
    TopArgs, TraceArgs,
};
use error::ClientError;

use crate::terminal::print_error;

/// One of the commands.
pub(crate) enum Request {
    Chat(ChatArgs),
    Plans(PlansArgs),
    Agents(AgentsArgs),
    Approvals(ApprovalsArgs),
    DeadLetters(DeadLettersArgs),
    Stats(StatsArgs),
    Top(TopArgs),
    Trace(TraceArgs),
    Mcp(McpArgs),
    Context(ContextArgs),
}

/// Runs a command, prints its result or its error, and returns the exit code.
pub(crate) fn run(request: Request) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match request {
            Request::Chat(args) => chat::run(args).await,
            Request::Plans(args) => plans::run(args).await,
            Request::Agents(args) => agents::run(args).await,
            Request::Approvals(args) => approvals::run(args).await,
            Request::DeadLetters(args) => dead_letters::run(args).await,
            Request::Stats(args) => stats::run(args).await,
            Request::Top(args) => top::run(args).await,
            Request::Trace(args) => trace::run(args).await,
            Request::Mcp(args) => mcp::run(args).await,
            Request::Context(args) => context::run(args),
        }
    });
    match result {
        // The reader of the output has left, as `head` does.
        Ok(()) | Err(ClientError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
