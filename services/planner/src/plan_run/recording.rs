//! The output of a task on its way into the journal.
//!
//! Parts that follow each other closely share an entry, so an answer costs a few commits per second, however fast its agent
//! writes. While an entry of the largest size waits for its time, the output is not read, and the agent blocks.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::json::Object;
use phoenix_proto::executor::TaskOutput;
use tokio::time::Instant;

use crate::{
    journal::Journal,
    store::{
        entry::{Entry, OutputPart},
        error::JournalError,
        task_ref::TaskRef,
    },
};

/// Shortest time between two entries.
const INTERVAL: Duration = Duration::from_millis(250);

/// Size of an entry in bytes at which it takes no more parts.
const MAX_BYTES: usize = 256 * 1024;

/// Approximate overhead of a part in bytes.
const PART_OVERHEAD: usize = 32;

/// Records what one task says, if its plan wants that.
#[derive(Debug)]
pub(super) struct OutputRecording<'a> {
    journal: &'a Journal,
    task: TaskRef,
    is_wanted: bool,
    /// Attempt that `parts` belong to.
    attempt: u32,
    /// What waits for an entry.
    parts: Vec<OutputPart>,
    bytes: usize,
    /// When the next entry may follow.
    next_at: Instant,
}

impl<'a> OutputRecording<'a> {
    /// A recording of `task`; one that is not wanted records nothing.
    pub(super) fn new(journal: &'a Journal, task: TaskRef, is_wanted: bool) -> Self {
        let (parts, next_at) = (Vec::new(), Instant::now());
        Self { journal, task, is_wanted, attempt: 0, parts, bytes: 0, next_at }
    }

    /// Whether the output is recorded.
    pub(super) const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Waits until what was said is to be appended; for ever when that is nothing.
    pub(super) async fn is_due(&self) {
        if self.parts.is_empty() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.next_at).await;
    }

    /// Records a part. Waits when the present entry is full.
    ///
    /// # Errors
    /// Only when the journal is closed.
    pub(super) async fn push(&mut self, output: TaskOutput) -> Result<(), JournalError> {
        let TaskOutput { attempt, data, delta_json } = output;
        if attempt != self.attempt {
            self.flush().await?;
            self.attempt = attempt;
        }
        self.bytes += data.len() + delta_json.len();
        // Readers take nothing from a delta that is no object.
        match (Object::parse(&delta_json).ok(), self.parts.last_mut()) {
            (None, Some(OutputPart { text, delta: None })) => text.push_str(&data),
            (delta, _) => {
                self.bytes += PART_OVERHEAD;
                self.parts.push(OutputPart { text: data, delta });
            }
        }
        if self.bytes >= MAX_BYTES {
            self.is_due().await;
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends what waits for an entry, so that it precedes the entries that follow.
    ///
    /// # Errors
    /// Only when the journal is closed.
    pub(super) async fn flush(&mut self) -> Result<(), JournalError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let (task, number, at) = (self.task, self.attempt, Timestamp::now());
        let parts = std::mem::take(&mut self.parts);
        (self.bytes, self.next_at) = (0, Instant::now() + INTERVAL);
        self.journal.append(Entry::TaskOutput { task, number, at, parts }).await
    }
}
