//! `phoenix load`: the load tester, against the gateway of a context.

use std::process::ExitCode;

use clap::Args;
use phoenix_domain::llm::Secret;
use phoenix_load_tester::{Gateway, args::RunArgs};

use crate::{
    client::endpoint::{Endpoint, EndpointArgs},
    terminal::print_error,
};

/// Arguments of `phoenix load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Sends the chats, reports their latency, and returns the exit code of the load tester.
pub(crate) fn run(args: LoadArgs) -> ExitCode {
    let Endpoint { url, token, ca } = match args.endpoint.resolve() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            print_error(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    // One thread, because the servers that it measures need the others.
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let token = token.as_ref().map(Secret::expose);
            let gateway = Gateway { url: url.as_str(), token, ca: ca.as_deref() };
            runtime.block_on(phoenix_load_tester::run("phoenix", gateway, args.run))
        }
        Err(error) => {
            print_error(format_args!("cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}
