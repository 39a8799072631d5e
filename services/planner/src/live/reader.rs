//! A reader of the output of one plan.

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::PlanId;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{
    buffer::{Buffer, Item},
    plan_output::{LiveOutputs, PlanOutput},
};
use crate::store::query::Event;

/// Bytes of text in one event.
const EVENT_BYTES: usize = 64 * 1024;

/// A reader with cursors of its own. Dropping it detaches it.
#[derive(Debug)]
pub(crate) struct OutputReader {
    plan: Arc<PlanOutput>,
    changes: watch::Receiver<()>,
    /// One per task that has said something.
    cursors: Vec<Cursor>,
    /// The task that is looked at first, so that none is starved.
    next: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    attempt: u32,
    /// Whether output of this attempt was read.
    has_read: bool,
    /// Number of the item, and of the bytes of it that were read.
    item: u64,
    read: usize,
    /// Number of the last progress report.
    report: u64,
}

#[derive(Serialize)]
struct Output<'a> {
    attempt: u32,
    offset: u64,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Reset {
    attempt: u32,
}

impl LiveOutputs {
    /// A reader of what a plan has said and will say here.
    pub(crate) fn reader(&self, plan_id: PlanId) -> OutputReader {
        let plan = self.plan(plan_id);
        let changes = plan.subscribe();
        OutputReader { plan, changes, cursors: Vec::new(), next: 0 }
    }
}

impl OutputReader {
    /// The next event: `output`, `output_reset` or `progress`. Waits for ever when nothing more is said. Cancel safe.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.try_next(None) {
                return event;
            }
            // The sender lives as long as the reader.
            let _ = self.changes.changed().await;
        }
    }

    /// The next event that is there already, of the task `key` or of any task.
    pub(crate) fn try_next(&mut self, key: Option<&str>) -> Option<Event> {
        let tasks = self.plan.tasks();
        self.cursors.resize(tasks.len(), Cursor::default());
        let count = tasks.len();
        let order = (0..count).map(|index| (self.next + index) % count);
        for index in order {
            let (task, cursor) = (tasks.get(index)?, self.cursors.get_mut(index)?);
            if key.is_none_or(|key| task.key == key)
                && let Some((kind, data)) = cursor.advance(task)
            {
                self.next = (index + 1) % count;
                let (kind, task_key) = (kind.to_owned(), task.key.clone());
                return Some(Event { position: 0, kind, at: Timestamp::now(), task_key, data });
            }
        }
        None
    }
}

impl Cursor {
    /// Kind and facts of the next event of `task`.
    fn advance(&mut self, task: &Buffer) -> Option<(&'static str, String)> {
        if self.attempt != task.attempt {
            let had_read = self.has_read;
            *self = Self { attempt: task.attempt, report: self.report, ..Self::default() };
            if had_read {
                return Some(("output_reset", json(&Reset { attempt: task.attempt })));
            }
        }
        if let Some(output) = self.output(task) {
            self.has_read = true;
            return Some(("output", output));
        }
        let (number, report) = task.report.as_ref()?;
        if *number == self.report {
            return None;
        }
        self.report = *number;
        Some(("progress", json(report)))
    }

    fn output(&mut self, task: &Buffer) -> Option<String> {
        if self.item < task.dropped {
            (self.item, self.read) = (task.dropped, 0);
        }
        let attempt = task.attempt;
        let mut joined = String::new();
        let mut start = None;
        for (number, Item { offset, text, delta }) in (self.item..).zip(task.items(self.item)) {
            if let Some(delta) = delta {
                if start.is_some() {
                    break;
                }
                (self.item, self.read) = (number + 1, 0);
                return Some(json(&Output { attempt, offset: *offset, text, delta: Some(delta) }));
            }
            if number > self.item {
                (self.item, self.read) = (number, 0);
            }
            let rest = text.get(self.read..).unwrap_or_default();
            if rest.is_empty() {
                continue;
            }
            start.get_or_insert(offset + self.read as u64);
            joined.push_str(rest);
            self.read = text.len();
            if joined.len() >= EVENT_BYTES {
                break;
            }
        }
        start.map(|offset| json(&Output { attempt, offset, text: &joined, delta: None }))
    }
}

fn json(facts: &impl Serialize) -> String {
    // Strings and numbers can always be written.
    serde_json::to_string(facts).unwrap_or_default()
}
