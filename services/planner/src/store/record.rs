//! The journal's records: how an [`Entry`] is written, and how it is read back, by this version and by later ones.
//!
//! ```text
//! {"v":1,"plan_id":"…","record":{"task_ended":{…}}}     one line per entry
//! ```
//!
//! The format is spelled out here and nowhere else: a field of a domain type may be renamed without a change of what lies in a
//! database, and a field that is added must be written or left out on purpose, since every conversion takes its type apart.
//! Payloads are raw JSON text, kept digit for digit. `tests/store/records/` holds lines of every version.
//!
//! Each record stands alone. One that cannot be read, or is of a kind that this version does not know, costs the plan it is
//! about and nothing else. Version 0.1.0 wrote the records of one commit as a JSON array without the envelope; that is read
//! as well.

use phoenix_domain::{OrchestratorError, PlanId, action::ActionResult, json::JsonError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Entry;

mod v1;

use v1::RecordV1;
pub(super) use v1::{AnswerV1, ErrorV1};

/// The version that is written.
const VERSION: u32 = 1;

/// What the log holds of one entry.
#[derive(Debug)]
pub(super) struct Stored {
    /// The plan it is about, as far as that can be told.
    pub(super) plan_id: Option<PlanId>,
    /// The entry, or why it cannot be read.
    pub(super) entry: Result<Entry, Unusable>,
    /// The line as it was written.
    pub(super) line: String,
}

/// Why a record cannot be used by this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// A newer version wrote it.
    #[error("holds something that only a newer version knows: {0}")]
    Unknown(String),
    /// It does not hold what it should.
    #[error("{0}")]
    Damaged(String),
}

impl From<JsonError> for Unusable {
    fn from(error: JsonError) -> Self {
        Self::Damaged(format!("holds JSON that {error}"))
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_id: Option<PlanId>,
    record: &'a RecordV1,
}

#[derive(Deserialize)]
struct StoredEnvelope {
    v: u32,
    #[serde(default)]
    plan_id: Option<PlanId>,
    record: Box<RawValue>,
}

/// An agent's answer as a column of the tables holds it.
pub(super) fn answer_text(answer: &ActionResult) -> String {
    text_of(&AnswerV1::from(answer))
}

/// An error as a column of the tables holds it.
pub(super) fn error_text(error: &OrchestratorError) -> String {
    text_of(&ErrorV1::from(error))
}

/// Reads what [`answer_text`] has written.
pub(super) fn read_answer(text: &str) -> Result<ActionResult, Unusable> {
    read_text::<AnswerV1>(text)?.try_into()
}

/// Reads what [`error_text`] has written.
pub(super) fn read_error(text: &str) -> Result<OrchestratorError, Unusable> {
    read_text::<ErrorV1>(text)?.try_into()
}

fn text_of(value: &impl Serialize) -> String {
    // As for a record.
    serde_json::to_string(value).unwrap_or_default()
}

fn read_text<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Unusable> {
    serde_json::from_str(text).map_err(|error| {
        Unusable::Damaged(format!("holds other JSON than is expected from character {} on", error.column()))
    })
}

/// Appends `entry` to `lines`, as a line of its own.
pub(super) fn write(entry: &Entry, lines: &mut Vec<u8>) {
    let envelope = Envelope { v: VERSION, plan_id: entry.plan_id(), record: &RecordV1::from(entry) };
    // Names are text, numbers are JSON's, and memory takes them: this does not fail.
    let _ = serde_json::to_writer(&mut *lines, &envelope);
    lines.push(b'\n');
}

/// The lines of several entries.
pub(super) fn lines<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> String {
    let mut lines = Vec::new();
    entries.into_iter().for_each(|entry| write(entry, &mut lines));
    String::from_utf8(lines).unwrap_or_default()
}

/// Reads what one commit wrote.
pub(super) fn read(text: &[u8]) -> Vec<Stored> {
    if text.trim_ascii_start().starts_with(b"[") {
        return match serde_json::from_slice::<Vec<Box<RawValue>>>(text) {
            Ok(records) => records.iter().map(|record| read_record(record, None, record.get())).collect(),
            Err(error) => vec![damaged(text, format!("no JSON from character {} on", error.column()))],
        };
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    lines.map(read_line).collect()
}

fn read_line(line: &[u8]) -> Stored {
    let envelope: StoredEnvelope = match serde_json::from_slice(line) {
        Ok(envelope) => envelope,
        Err(error) => return damaged(line, format!("no record from character {} on", error.column())),
    };
    let text = String::from_utf8_lossy(line);
    if envelope.v != VERSION {
        let entry = Err(Unusable::Unknown(format!("version {}", envelope.v)));
        return Stored { plan_id: envelope.plan_id, entry, line: text.into() };
    }
    read_record(&envelope.record, envelope.plan_id, &text)
}

fn read_record(record: &RawValue, plan_id: Option<PlanId>, line: &str) -> Stored {
    let entry = match serde_json::from_str::<RecordV1>(record.get()) {
        Ok(known) => Entry::try_from(known),
        Err(error) => Err(kind_of(record).map_or_else(
            || Unusable::Damaged(format!("no record from character {} on", error.column())),
            |kind| match v1::KINDS.contains(&kind.as_str()) {
                true => Unusable::Damaged(format!("`{kind}` does not hold what it should")),
                false => Unusable::Unknown(kind),
            },
        )),
    };
    let known = entry.as_ref().ok().and_then(Entry::plan_id);
    let plan_id = known.or(plan_id).or_else(|| plan_named_in(record.get().as_bytes()));
    Stored { plan_id, entry, line: line.to_owned() }
}

/// The one member of a record, which names its kind.
fn kind_of(record: &RawValue) -> Option<String> {
    let members: std::collections::BTreeMap<String, serde::de::IgnoredAny> =
        serde_json::from_str(record.get()).ok()?;
    members.into_keys().next()
}

fn damaged(text: &[u8], problem: String) -> Stored {
    let line = String::from_utf8_lossy(text).into_owned();
    Stored { plan_id: plan_named_in(text), entry: Err(Unusable::Damaged(problem)), line }
}

/// The plan that damaged text is about, by the first name of one in it.
fn plan_named_in(text: &[u8]) -> Option<PlanId> {
    const NAME: &[u8] = br#""plan_id":""#;
    let start = text.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    std::str::from_utf8(text.get(start..start + 36)?).ok()?.parse().ok()
}
