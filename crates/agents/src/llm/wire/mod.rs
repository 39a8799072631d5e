//! The protocols of the providers, as data: the request to send and the interpretation of the response.
//!
//! Only the text of a response has to match the documentation. Everything beside it (usage, names, reasons) may be absent
//! or of any type: servers that copy an API do not copy all of it.

use phoenix_domain::{
    json::{Json, Object},
    llm::{Dialect, FinishReason, Provider},
};

use self::types::{Completion, Prompt, ProviderRequest, Rejected, ResponseError, Step, Unsupported, Usage};
use super::error_body::{ErrorBody, has_content};

mod anthropic;
pub(super) mod assembly;
mod content;
pub(super) mod frames;
mod gemini;
pub(super) mod json;
pub(super) mod ollama;
mod openai;
pub(super) mod types;

/// The request to `provider`.
///
/// # Errors
/// For a conversation that the provider's API cannot express.
pub(super) fn request(provider: Provider<'_>, prompt: &Prompt<'_>) -> Result<ProviderRequest, Unsupported> {
    match provider.dialect() {
        Dialect::OpenAi => Ok(openai::request(provider, prompt)),
        Dialect::Anthropic => anthropic::request(provider, prompt),
        Dialect::Gemini => gemini::request(provider, prompt),
        Dialect::Ollama => ollama::request(provider, prompt),
    }
}

/// The options among `options` that have no equivalent in the API, and so are not sent.
pub(super) fn ignored_options<'a>(provider: Provider<'_>, options: &'a Object) -> Vec<&'a str> {
    let known = match provider.dialect() {
        Dialect::OpenAi => {
            let names = options.keys().map(String::as_str);
            return names.filter(|name| openai::is_foreign(provider, name)).collect();
        }
        Dialect::Anthropic => anthropic::OPTIONS,
        Dialect::Gemini => gemini::OPTIONS,
        Dialect::Ollama => ollama::OPTIONS,
    };
    options.keys().map(String::as_str).filter(|name| !known.contains(name)).collect()
}

/// The completion in a 2xx response.
pub(super) fn completion(dialect: Dialect, body: &[u8]) -> Result<Completion, Box<Rejected>> {
    let body = json::parse(body).ok_or_else(|| boxed(ResponseError::Malformed))?;
    let completion = match dialect {
        Dialect::OpenAi => openai::completion(&body),
        Dialect::Anthropic => anthropic::completion(&body),
        Dialect::Gemini => gemini::completion(&body).map_err(boxed)?,
        Dialect::Ollama => ollama::completion(&body),
    };
    match completion {
        // A completion with an error beside it was interrupted.
        Some(completion)
            if completion.has_content() && completion.finish_reason.as_deref() != Some("error") =>
        {
            Ok(completion)
        }
        completion => {
            let (model, usage) = completion.as_ref().map(used).unwrap_or_default();
            Err(Box::new(Rejected { error: response_error(&body, completion), model, usage }))
        }
    }
}

/// Reader of the events of a streamed answer.
#[derive(Debug)]
pub(super) enum Stream {
    OpenAi,
    Anthropic(anthropic::Stream),
    Gemini(gemini::Stream),
    Ollama(ollama::Stream),
}

impl Stream {
    pub(super) fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi,
            Dialect::Anthropic => Self::Anthropic(anthropic::Stream::default()),
            Dialect::Gemini => Self::Gemini(gemini::Stream::default()),
            Dialect::Ollama => Self::Ollama(ollama::Stream::default()),
        }
    }

    /// What an event says.
    ///
    /// # Errors
    /// For an event that is an error, and for data that is no event of the API.
    pub(super) fn step(&mut self, data: &Json) -> Result<Step, ResponseError> {
        if let Some(error) = error_in(data) {
            return Err(error);
        }
        let step = match self {
            Self::OpenAi => openai::step(data),
            Self::Anthropic(stream) => stream.step(data),
            Self::Gemini(stream) => stream.step(data)?,
            Self::Ollama(stream) => stream.step(data),
        };
        step.ok_or(ResponseError::Malformed)
    }
}

/// The error that an event of a stream reports.
fn error_in(data: &Json) -> Option<ResponseError> {
    // Google writes an error in the middle of a stream as a list.
    let event = data.as_array().and_then(<[Json]>::first).unwrap_or(data);
    let choice = &event["choices"][0];
    let source = if has_content(&choice["error"]) { choice } else { event };
    let is_error = has_content(&source["error"])
        || event["type"].as_str() == Some("error")
        || event["object"].as_str() == Some("error")
        || choice["finish_reason"].as_str() == Some("error");
    is_error.then(|| {
        let body = ErrorBody::of(source);
        ResponseError::Error { status: body.status.unwrap_or(502), body }
    })
}

/// The completion of a stream that has ended.
///
/// # Errors
/// For one without content.
pub(super) fn streamed(completion: Completion) -> Result<Completion, Box<Rejected>> {
    if completion.has_content() {
        return Ok(completion);
    }
    let (model, usage) = used(&completion);
    Err(Box::new(Rejected { error: without_content(completion), model, usage }))
}

fn boxed(error: ResponseError) -> Box<Rejected> {
    Box::new(error.into())
}

/// The model of a completion, and what it used.
fn used(completion: &Completion) -> (Option<String>, Usage) {
    (completion.model.clone(), completion.usage)
}

fn response_error(body: &Json, completion: Option<Completion>) -> ResponseError {
    let choice = Some(&body["choices"][0]).filter(|choice| has_content(&choice["error"]));
    let error = ErrorBody::of(choice.unwrap_or(body));
    let names_error = has_content(&body["error"]) || completion.is_none() || choice.is_some();
    if !error.message.is_empty() && names_error {
        return ResponseError::Error { status: error.status.unwrap_or(502), body: error };
    }
    completion.map_or(ResponseError::Malformed, without_content)
}

fn without_content(completion: Completion) -> ResponseError {
    let reason = completion.finish_reason.unwrap_or_else(|| "not given".into());
    match FinishReason::of(&reason) {
        Some(FinishReason::Length) => ResponseError::CutOff,
        Some(FinishReason::ContentFilter) => ResponseError::Declined(reason),
        _ if reason == "error" => ResponseError::Malformed,
        Some(FinishReason::Stop) | None => ResponseError::Empty(reason),
    }
}
