//! `phoenix chat`: sends a message, and prints the answer as the agent says it.

use std::io::{IsTerminal, Read, stdin};

use phoenix_domain::{
    OrchestratorErrorCode,
    json::{Json, Object},
};
use reqwest::Method;

use super::{
    args::ChatArgs,
    error::ClientError,
    gateway::Gateway,
    output::{is_terminal, line, part, plain, text},
    text_file::read,
};
use crate::terminal::print_error;

/// First characters of the keys of tasks that ask a language model for tasks.
const PLANNING_KEY: &str = "planning-";

/// # Errors
/// When the request is refused, or the chat does not succeed.
pub(super) async fn run(args: ChatArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let mut body = Object::new();
    body.insert("message".into(), message(args.message)?.into());
    body.extend(args.agent.map(|agent| ("agent".into(), agent.into())));
    body.extend(args.model.map(|model| ("model".into(), model.into())));
    if let Some(path) = &args.context_file {
        body.insert("context".into(), read(path)?.into());
    }
    body.extend(args.strategy.map(|strategy| ("strategy".into(), strategy.as_str().into())));
    let mut events = gateway.events(gateway.request(Method::POST, "/api/v1/chat").json(&body)).await?;
    let live = is_terminal() && !args.gateway.json;
    let mut answer = Answer { live, shown: String::new(), task: String::new() };
    while let Some(event) = events.next().await? {
        let data = event.data.unwrap_or_default();
        let name = event.event.unwrap_or_default();
        if args.gateway.json {
            line(&data)?;
        }
        let facts: Json = Json::parse_stored(&data).unwrap_or_default();
        match name.as_str() {
            // What a language model proposes is not the answer.
            "output" if text(&facts, "task_key").starts_with(PLANNING_KEY) => {}
            "output" => answer.grow(text(&facts, "task_key"), text(&facts["data"], "text"))?,
            "output_reset" => answer.reset(&facts["data"]["attempt"])?,
            "response" => return answer.end(&facts, args.gateway.json),
            _ => {}
        }
    }
    Err(ClientError::Broken { url: gateway.url().into(), problem: "it ended without a response".into() })
}

/// The message of the command line, or of standard input.
pub(super) fn message(argument: Option<String>) -> Result<String, ClientError> {
    match argument {
        Some(message) if message != "-" => Ok(message),
        None if stdin().is_terminal() => {
            Err(ClientError::Usage("a message is missing: phoenix chat 'git status', or from a pipe".into()))
        }
        _ => {
            let mut text = String::new();
            let read = stdin().read_to_string(&mut text);
            read.map_err(|error| ClientError::File { path: "standard input".into(), error })?;
            Ok(text.trim_end().to_owned())
        }
    }
}

/// An answer that is being printed.
struct Answer {
    /// Whether parts are shown before the end. A program that reads the output gets the whole answer only.
    live: bool,
    /// What was shown of the present attempt.
    shown: String,
    /// Key of its task.
    task: String,
}

impl Answer {
    fn grow(&mut self, task: &str, said: &str) -> Result<(), ClientError> {
        if self.live {
            if self.task != task {
                task.clone_into(&mut self.task);
                if !std::mem::take(&mut self.shown).is_empty() {
                    line("")?;
                }
            }
            part(plain(said))?;
            self.shown.push_str(said);
        }
        Ok(())
    }

    /// A new attempt has begun: what was said before is void.
    fn reset(&mut self, attempt: &Json) -> Result<(), ClientError> {
        if !std::mem::take(&mut self.shown).is_empty() {
            line("")?;
        }
        if self.live {
            print_error(format_args!("the attempt failed; attempt {attempt} begins"));
        }
        Ok(())
    }

    /// Prints what of the answer was not shown.
    fn end(&self, response: &Json, is_json: bool) -> Result<(), ClientError> {
        if !self.shown.is_empty() && (response["status"] != "success" || response["output"] != *self.shown) {
            line("")?;
        }
        if response["status"] != "success" {
            let error = &response["error"];
            let (code, message) = (text(error, "code"), plain(text(error, "message")));
            let id = text(response, "correlation_id");
            let message = format!("{code}: {message}\nphoenix trace {id} shows what happened");
            return Err(ClientError::Failed { code: OrchestratorErrorCode::from_name(code), message });
        }
        match &response["output"] {
            _ if is_json => Ok(()),
            Json::String(output) if self.live && *output == self.shown => line(""),
            Json::String(output) if self.live => line(plain(output)),
            Json::String(output) => line(output),
            output => line(output.to_string()),
        }
    }
}
