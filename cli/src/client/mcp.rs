//! `phoenix mcp`: a server of the Model Context Protocol over standard input and output, in front of a gateway.
//!
//! Each line of standard input is a message, which is posted to `/mcp`; each message of a response is a line of standard output.
//! Nothing else is written there. A request that is cancelled, or that runs when standard input ends, is closed, and the gateway
//! cancels its plan.

mod lines;
mod message;
mod post;

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinHandle};

use self::{
    lines::{Line, Lines, Writer},
    message::{Message, error},
    post::Poster,
};
use super::{args::McpArgs, error::ClientError, gateway::Gateway};
use crate::terminal::print_error;

/// The text is not JSON.
const PARSE_ERROR: i64 = -32700;
/// The text is not a message.
const INVALID_REQUEST: i64 = -32600;

/// # Errors
/// When an argument is not valid, or standard output cannot be written.
pub(super) async fn run(args: McpArgs) -> Result<(), ClientError> {
    let poster = Arc::new(Poster::new(Gateway::new(&args.gateway)?));
    let mut lines = Lines::read_stdin()?;
    let (writer, answers) = Writer::write_stdout()?;
    let mut calls = Calls::default();
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            // The client no longer reads.
            () = answers.closed() => break,
        };
        let Some(line) = line else { break };
        calls.forget_ended();
        match line {
            Line::Text(text) => take(text, &poster, &answers, &mut calls).await,
            Line::TooLong(limit) => {
                let message = format!("the message is longer than {limit} bytes");
                answer(&answers, error(None, INVALID_REQUEST, &message)).await;
            }
        }
    }
    calls.close();
    drop(answers);
    writer.finish().await
}

/// Takes one line.
async fn take(text: String, poster: &Arc<Poster>, answers: &mpsc::Sender<String>, calls: &mut Calls) {
    let message = match Message::read(text) {
        Ok(message) => message,
        Err(problem) => return answer(answers, error(None, PARSE_ERROR, &problem)).await,
    };
    match (message.id(), message.method()) {
        (_, Some("notifications/cancelled")) => calls.cancel(message.cancelled()),
        (Some(id), Some(_)) => {
            let (poster, answers) = (Arc::clone(poster), answers.clone());
            calls.insert(id, tokio::spawn(async move { poster.request(&message, &answers).await }));
        }
        (None, Some(_)) => {
            let poster = Arc::clone(poster);
            tokio::spawn(async move {
                if let Err(problem) = poster.notify(&message).await {
                    print_error(problem);
                }
            });
        }
        // The gateway asks for nothing, so there is nothing to respond to.
        (_, None) if message.is_response() => {}
        (id, None) => answer(answers, error(id.as_deref(), INVALID_REQUEST, "`method` is missing")).await,
    }
}

async fn answer(answers: &mpsc::Sender<String>, message: String) {
    // Fails when the client no longer reads, which ends the loop.
    let _ = answers.send(message).await;
}

/// The requests without an answer, by their identifiers as JSON.
#[derive(Default)]
struct Calls(HashMap<String, JoinHandle<()>>);

impl Calls {
    fn insert(&mut self, id: String, call: JoinHandle<()>) {
        self.0.insert(id, call);
    }

    fn forget_ended(&mut self) {
        self.0.retain(|_, call| !call.is_finished());
    }

    /// Closes the request with the identifier `id`, if it has no answer yet.
    fn cancel(&mut self, id: Option<String>) {
        if let Some(call) = id.and_then(|id| self.0.remove(&id)) {
            call.abort();
        }
    }

    fn close(&mut self) {
        self.0.drain().for_each(|(_, call)| call.abort());
    }
}
