//! One completion from one provider, at once or in pieces.

use std::time::{Duration, Instant};

use phoenix_domain::llm::Provider;

use super::{
    cost,
    errors::ProviderErrors,
    http::{Head, Http, OpenResponse, TransportError},
    pieces,
    wire::{
        self, Stream,
        assembly::Assembly,
        frames::{Format, Frame, Frames},
        types::{Completion, Prompt, Rejected, ResponseError, Step, Usage},
    },
};
use crate::protocol::{ActionError, Output};

/// Time in which usage must follow the finish reason. Without it, the answer is complete all the same.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// The request to one provider.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) provider: Provider<'a>,
    pub(super) prompt: &'a Prompt<'a>,
    pub(super) errors: ProviderErrors<'a>,
    /// Deadline of the whole answer.
    pub(super) until: Instant,
    /// Deadline of the answer's begin: the chain of fallbacks leaves time for the next one.
    pub(super) begin_until: Instant,
}

/// A failed exchange.
pub(super) struct Failure {
    pub(super) error: ActionError,
    /// Whether a piece of the answer has reached the caller, so that no other model may begin.
    pub(super) has_begun: bool,
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        Self { error, has_begun: false }
    }
}

impl Exchange<'_> {
    /// Asks the provider, and sends pieces of a streamed answer to `output`.
    pub(super) fn run(mut self, http: &Http, output: &mut Output<'_>) -> Result<Completion, Failure> {
        let request =
            wire::request(self.provider, self.prompt).map_err(|problem| self.errors.unsupported(problem))?;
        let begun = Instant::now();
        let until =
            |limit: Option<Duration>, until: Instant| limit.map_or(until, |limit| until.min(begun + limit));
        self.until = until(self.provider.total_timeout, self.until);
        let first_token = self.provider.first_token_timeout.filter(|_| self.prompt.is_streamed);
        let begin_until = until(first_token, self.begin_until).min(self.until);
        let late = |error: TransportError| match error {
            TransportError::Timeout if begin_until < self.until => self.errors.late(begin_until - begun),
            error => self.errors.transport(error),
        };
        let response = http.post(&request, begin_until).map_err(late)?;
        if !(200..300).contains(&response.head.status) {
            let response = response.whole(begin_until).map_err(late)?;
            return Err(self.errors.status(&response).into());
        }
        if self.prompt.is_streamed {
            return Streaming::new(self, response, begun, begin_until).run(output);
        }
        let response = response.whole(begin_until).map_err(late)?;
        let completion = wire::completion(self.provider.dialect(), &response.body);
        completion.map_err(|rejected| self.rejected(*rejected, &response.head).into())
    }

    fn rejected(&self, rejected: Rejected, head: &Head) -> ActionError {
        let Rejected { error, model, usage } = rejected;
        self.having_used(self.errors.response(error, head), model.as_deref(), usage)
    }

    /// The error, with what was used before it.
    fn having_used(&self, mut error: ActionError, model: Option<&str>, usage: Usage) -> ActionError {
        error.model_calls.extend(cost::call(self.provider, model, usage));
        error
    }
}

/// A streamed answer while it is read.
struct Streaming<'a> {
    exchange: Exchange<'a>,
    head: Head,
    response: OpenResponse<'a>,
    begun: Instant,
    begin_until: Instant,
    stream: Stream,
    assembly: Assembly,
}

/// What a part of the body leads to.
enum Progress {
    More,
    /// The end was announced, and nothing is missing.
    Ended,
}

impl<'a> Streaming<'a> {
    fn new(exchange: Exchange<'a>, response: OpenResponse<'a>, begun: Instant, begin_until: Instant) -> Self {
        let head = response.head.clone();
        let stream = Stream::of(exchange.provider.dialect());
        Self { exchange, head, response, begun, begin_until, stream, assembly: Assembly::default() }
    }

    fn run(mut self, output: &mut Output<'_>) -> Result<Completion, Failure> {
        match self.read(output) {
            Ok(()) => {
                let has_begun = self.assembly.has_begun;
                let completion = wire::streamed(self.assembly.into_completion());
                completion.map_err(|rejected| Failure {
                    error: self.exchange.rejected(*rejected, &self.head),
                    has_begun,
                })
            }
            Err(error) => {
                let (model, usage) = self.assembly.used();
                let error = self.exchange.having_used(error, model.as_deref(), usage);
                Err(Failure { error, has_begun: self.assembly.has_begun })
            }
        }
    }

    fn read(&mut self, output: &mut Output<'_>) -> Result<(), ActionError> {
        let format = Format::of(self.exchange.provider.dialect());
        let mut frames = Frames::new(format);
        let mut is_first = true;
        while let Some(part) = self.part()? {
            let part = part.as_ref();
            // A server that does not stream answers with one document, and a page of a proxy is none at all.
            if is_first && !part.trim_ascii_start().is_empty() {
                is_first = false;
                if format == Format::Sse && matches!(part.trim_ascii_start()[0], b'{' | b'[' | b'<') {
                    return self.whole(part, output);
                }
            }
            frames.push(part);
            loop {
                match frames.next() {
                    Ok(Some(frame)) => {
                        if let Progress::Ended = self.frame(frame, output)? {
                            return Ok(());
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Err(self.error(error)),
                }
            }
        }
        match frames.end() {
            Ok(rest) => {
                for frame in rest {
                    self.frame(frame, output)?;
                }
            }
            // Half an event after the finish reason misses nothing of the answer.
            Err(error) if !self.assembly.is_finished => return Err(self.error(error)),
            Err(_) => {}
        }
        if self.assembly.is_finished { Ok(()) } else { Err(self.error(ResponseError::Unfinished)) }
    }

    /// The next part of the body, within the limit of the present phase; `None` at the end.
    fn part(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, ActionError> {
        let Exchange { provider, errors, until, .. } = self.exchange;
        let now = Instant::now();
        let (phase, limit) = if self.assembly.is_finished {
            (now + REST_TIMEOUT, None)
        } else if self.assembly.has_begun {
            (now + provider.stall_timeout, Some(provider.stall_timeout))
        } else {
            (self.begin_until, None)
        };
        match self.response.part(phase.min(until)) {
            Ok(part) => Ok(part),
            // The answer is complete; only its usage is missing.
            Err(_) if self.assembly.is_finished => Ok(None),
            Err(TransportError::Timeout) if phase < until => Err(match limit {
                Some(limit) => errors.stalled(limit),
                None => errors.late(self.begin_until - self.begun),
            }),
            Err(error) => Err(errors.transport(error)),
        }
    }

    fn frame(&mut self, frame: Frame, output: &mut Output<'_>) -> Result<Progress, ActionError> {
        let Frame::Data(data) = frame else {
            self.assembly.is_finished = true;
            return Ok(Progress::Ended);
        };
        let step = self.stream.step(&data).and_then(|mut step| {
            self.assembly.add(&mut step)?;
            Ok(step)
        });
        let step = step.map_err(|error| self.error(error))?;
        let is_last = step.is_last;
        pieces::send(step, output);
        Ok(if is_last { Progress::Ended } else { Progress::More })
    }

    /// Reads an answer that is not streamed.
    fn whole(&mut self, first: &[u8], output: &mut Output<'_>) -> Result<(), ActionError> {
        let mut body = first.to_vec();
        while let Some(part) = self.part()? {
            body.extend_from_slice(part.as_ref());
            if body.len() > wire::frames::MAX_EVENT_BYTES {
                return Err(self.error(ResponseError::TooLarge));
            }
        }
        let completion = wire::completion(self.exchange.provider.dialect(), &body);
        let Completion { text, extra, model, finish_reason, usage } = match completion {
            Ok(completion) => completion,
            Err(rejected) => {
                let Rejected { error, model, usage } = *rejected;
                let mut used = Step { model, usage, ..Step::default() };
                self.assembly.add(&mut used).map_err(|error| self.error(error))?;
                return Err(self.error(error));
            }
        };
        let mut step = Step { text, delta: extra, model, finish_reason, usage, is_last: true };
        self.assembly.add(&mut step).map_err(|error| self.error(error))?;
        pieces::send(step, output);
        Ok(())
    }

    fn error(&self, error: ResponseError) -> ActionError {
        self.exchange.errors.response(error, &self.head)
    }
}
