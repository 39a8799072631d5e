//! Events of a plan, as rows that hold several events each.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::store::{
    error::JournalError,
    query::Event,
    stored::value::{damaged, from_json, time},
};

/// Events of one row: the position of the first, and all of them as a JSON array. The others follow without a gap.
pub(in crate::store) type EventRow = (i64, String);

/// Ordinal of the task, kind, time, facts.
#[derive(Deserialize)]
struct StoredEvent(Option<usize>, String, i64, Box<RawValue>);

/// Events after position `after`, at most `limit`. `keys` are the keys of the plan's tasks.
pub(in crate::store) fn read_events(
    rows: Vec<EventRow>,
    keys: &[String],
    after: i64,
    limit: u32,
) -> Result<Vec<Event>, JournalError> {
    let mut found = Vec::new();
    for (first, text) in rows {
        let events: Vec<StoredEvent> = from_json("events.events", &text)?;
        for (position, StoredEvent(ordinal, kind, at, data)) in (first..).zip(events) {
            if position > after {
                let task_key = ordinal.and_then(|ordinal| keys.get(ordinal)).cloned().unwrap_or_default();
                let position = u64::try_from(position).map_err(|_| damaged("events.position", position))?;
                found.push(Event { position, kind, at: time(at)?, task_key, data: data.get().to_owned() });
            }
        }
    }
    found.truncate(limit as usize);
    Ok(found)
}
