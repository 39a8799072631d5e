//! Output of one task.

use std::collections::VecDeque;

use serde_json::value::RawValue;

/// Bytes up to which text is joined into one item.
const JOINED_BYTES: usize = 4 * 1024;

/// Approximate overhead of an item in bytes.
const ITEM_OVERHEAD: usize = 64;

/// A part of the output.
#[derive(Debug)]
pub(super) struct Item {
    /// Bytes of output of the attempt before this item.
    pub(super) offset: u64,
    pub(super) text: String,
    /// The same part in the shape of OpenAI's deltas. An item with a delta is never joined or split.
    pub(super) delta: Option<Box<RawValue>>,
}

/// The newest progress report of a task.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(super) struct Report {
    pub(super) attempt: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<f64>,
}

/// Output of the last attempt of a task that has said something.
#[derive(Debug)]
pub(super) struct Buffer {
    /// Key of the task.
    pub(super) key: String,
    pub(super) attempt: u32,
    items: VecDeque<Item>,
    /// Number of items that were dropped from the front.
    pub(super) dropped: u64,
    /// Bytes of output so far, those of dropped items included.
    end: u64,
    /// Memory of the items in bytes, approximately.
    pub(super) bytes: usize,
    /// The newest report, and how many there were.
    pub(super) report: Option<(u64, Report)>,
}

impl Item {
    fn size(&self) -> usize {
        self.text.len() + self.delta.as_ref().map_or(0, |delta| delta.get().len())
    }
}

impl Buffer {
    pub(super) const fn new(key: String, attempt: u32) -> Self {
        Self { key, attempt, items: VecDeque::new(), dropped: 0, end: 0, bytes: 0, report: None }
    }

    /// Begins with the output of a later attempt. What was said before is dropped.
    pub(super) fn restart(&mut self, attempt: u32) {
        self.attempt = attempt;
        self.items.clear();
        (self.dropped, self.end, self.bytes) = (0, 0, 0);
    }

    pub(super) fn push(&mut self, text: String, delta: Option<Box<RawValue>>) {
        if delta.is_none()
            && let Some(Item { text: last, delta: None, .. }) = self.items.back_mut()
            && last.len() < JOINED_BYTES
        {
            last.push_str(&text);
            self.end += text.len() as u64;
            self.bytes += text.len();
            return;
        }
        let item = Item { offset: self.end, text, delta };
        self.end += item.size() as u64;
        self.bytes += item.size() + ITEM_OVERHEAD;
        self.items.push_back(item);
    }

    pub(super) fn report(&mut self, report: Report) {
        let number = self.report.as_ref().map_or(0, |(number, _)| *number);
        self.report = Some((number + 1, report));
    }

    /// Drops the oldest item, unless it is the last. Returns whether it did.
    pub(super) fn drop_oldest(&mut self) -> bool {
        if self.items.len() < 2 {
            return false;
        }
        if let Some(oldest) = self.items.pop_front() {
            self.bytes -= oldest.size() + ITEM_OVERHEAD;
            self.dropped += 1;
        }
        true
    }

    /// The items from the number `from` on.
    pub(super) fn items(&self, from: u64) -> impl Iterator<Item = &Item> {
        let skipped = usize::try_from(from.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        self.items.iter().skip(skipped)
    }
}
