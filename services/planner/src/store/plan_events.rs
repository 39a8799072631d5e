//! Events of a plan, as JSON text: `[ordinal of the task or null, kind, time, facts]` each.

use jiff::Timestamp;
use phoenix_domain::{BulkRedriveId, CorrelationId, PlanId, json::Object, wait::WaitKind};
use serde::Serialize;

use crate::store::entry::OutputPart;

/// Maximum number of events in a block ([`Events::into_blocks`]).
pub(super) const BLOCK: i64 = 64;

/// Events in order, as unfinished JSON arrays of up to [`BLOCK`] events.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) count: i64,
    blocks: Vec<Vec<u8>>,
}

impl Events {
    /// Adds an event of a task or of the plan itself.
    pub(super) fn add(&mut self, ordinal: Option<usize>, kind: &str, at: Timestamp, facts: &impl Serialize) {
        if self.count % BLOCK == 0 {
            self.blocks.push(Vec::new());
        }
        self.count += 1;
        let Some(json) = self.blocks.last_mut() else { return };
        json.push(if json.is_empty() { b'[' } else { b',' });
        // Keys are strings, numbers are JSON numbers, and the target is memory, so this does not fail.
        let _ = serde_json::to_writer(json, &(ordinal, kind, at.as_microsecond(), facts));
    }

    /// All events as one array.
    pub(super) fn into_text(self) -> String {
        let mut blocks = self.blocks.into_iter();
        let mut json = blocks.next().unwrap_or_else(|| vec![b'[']);
        for block in blocks {
            json.push(b',');
            json.extend(block.into_iter().skip(1));
        }
        finish(json)
    }

    /// Arrays of up to [`BLOCK`] events.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = String> {
        self.blocks.into_iter().map(finish)
    }
}

fn finish(mut json: Vec<u8>) -> String {
    json.push(b']');
    String::from_utf8(json).unwrap_or_default()
}

// Facts of events, as readers of the journal find them.

#[derive(Serialize)]
pub(super) struct NoFacts {}

#[derive(Serialize)]
pub(super) struct Accepted<'a> {
    pub(super) correlation_id: CorrelationId,
    pub(super) tasks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redrive_of: Option<PlanId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Added<'a> {
    pub(super) tasks: usize,
    pub(super) keys: Vec<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Redriven<'a> {
    pub(super) plan_id: PlanId,
    pub(super) correlation_id: CorrelationId,
    pub(super) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sweep_id: Option<BulkRedriveId>,
}

#[derive(Serialize)]
pub(super) struct AttemptStarted<'a> {
    pub(super) attempt: u32,
    pub(super) worker: &'a str,
}

#[derive(Serialize)]
pub(super) struct AttemptEnded<'a> {
    pub(super) attempt: u32,
    pub(super) outcome: &'a str,
    pub(super) error_class: Option<&'a str>,
    pub(super) retried: bool,
    /// Why it was cancelled or lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Output<'a> {
    pub(super) attempt: u32,
    pub(super) parts: Vec<Part<'a>>,
}

#[derive(Serialize)]
pub(super) struct Part<'a> {
    pub(super) text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delta: Option<&'a Object>,
}

impl<'a> From<&'a OutputPart> for Part<'a> {
    fn from(OutputPart { text, delta }: &'a OutputPart) -> Self {
        Self { text, delta: delta.as_ref() }
    }
}

#[derive(Serialize)]
pub(super) struct ApprovalRequested<'a> {
    pub(super) input_hash: &'a str,
    pub(super) expires_at: Timestamp,
    pub(super) on_expiry: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) approver: &'a str,
}

#[derive(Serialize)]
pub(super) struct ApprovalDecided<'a> {
    pub(super) input_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) new_input_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) actor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) reason: &'a str,
}

#[derive(Serialize)]
pub(super) struct WaitStarted<'a> {
    #[serde(rename = "for")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
    /// The limit of a budget that is reached.
    #[serde(flatten)]
    pub(super) reached: Option<&'a Object>,
}

#[derive(Serialize)]
pub(super) struct WaitEnded<'a> {
    #[serde(rename = "for")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) actor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) reason: &'a str,
    /// New limits of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) budget: Option<&'a Object>,
}

impl WaitEnded<'_> {
    /// The end of a wait without a decision.
    pub(super) const fn of(kind: WaitKind) -> Self {
        Self { kind: kind.as_str(), decision: None, actor: "", reason: "", budget: None }
    }
}

#[derive(Serialize)]
pub(super) struct Ended<'a> {
    pub(super) status: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_the_events_of_the_whole_text_in_order() {
        for count in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            let events = || {
                let mut events = Events::default();
                (0..count).for_each(|n| events.add(usize::try_from(n).ok(), "k", Timestamp::UNIX_EPOCH, &n));
                events
            };
            let parse = |text: String| serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap();
            let blocks: Vec<_> = events().into_blocks().map(parse).collect();
            assert!(blocks.iter().rev().skip(1).all(|block| block.len() as i64 == BLOCK));
            assert_eq!(blocks.concat(), parse(events().into_text()), "{count}");
        }
    }
}
