//! Journaled events and output of one plan, in one stream.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};

use super::reader::OutputReader;
use crate::store::{error::JournalError, query::Event};

/// The events of a plan, and what its tasks say between them. Output has position 0.
pub(crate) struct LocalFeed {
    events: Pin<Box<dyn Stream<Item = Result<Event, JournalError>> + Send>>,
    output: Option<OutputReader>,
    /// An event that ends output, which is read before it.
    ending: Option<Event>,
}

impl LocalFeed {
    /// The feed of `events`, with the output of a reader, if there is one.
    pub(crate) fn new(
        events: impl Stream<Item = Result<Event, JournalError>> + Send + 'static,
        output: Option<OutputReader>,
    ) -> Self {
        Self { events: Box::pin(events), output, ending: None }
    }

    /// The next event; `None` at the end of the journaled ones. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, JournalError>> {
        loop {
            let Some(output) = &mut self.output else { return self.events.next().await };
            if let Some(event) = &self.ending {
                let key = Some(event.task_key.as_str()).filter(|key| !key.is_empty());
                let rest = output.try_next(key);
                return rest.or_else(|| self.ending.take()).map(Ok);
            }
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(Ok(event)) if ends_output(&event.kind) => self.ending = Some(event),
                    event => return event,
                },
                event = output.next() => return Some(Ok(event)),
            }
        }
    }
}

/// Whether everything that was said before an event of this kind is known when the event is.
fn ends_output(kind: &str) -> bool {
    matches!(kind, "attempt_ended" | "task_ended" | "plan_ended")
}
