//! Records of the journal: the stored format of an [`Entry`].
//!
//! ```text
//! {"v":1,"plan_id":"…","record":{"task_ended":{…}}}     one line per entry
//! ```
//!
//! Only this module defines the format. A field of a domain type can be renamed without a change of stored data, and a new
//! field must be stored or left out explicitly, because every conversion destructures its type. Payloads are raw JSON text,
//! kept digit for digit. `tests/store/records/` holds lines of every version.
//!
//! Records are independent. One that cannot be read, or whose kind this version does not know, makes only its own plan
//! unreadable. Version 0.1.0 stored the records of a commit as a JSON array without the envelope, which is read as well.

pub(super) mod unusable;
mod v1;

use phoenix_domain::{
    OrchestratorError, PlanId, action::ActionResult, budget::Limits, plan::StartConditions, usage::ModelCall,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::v1::ConditionsV1;
use self::v1::RecordV1;
pub(super) use self::v1::{AnswerV1, CallV1, ErrorV1};
use crate::store::{entry::Entry, record::unusable::Unusable};

/// Version of new records.
const VERSION: u32 = 1;

/// A record as the log holds it.
#[derive(Debug)]
pub(super) struct Stored {
    /// The record's plan, if it can be determined.
    pub(super) plan_id: Option<PlanId>,
    /// The entry, or the reason why it cannot be used.
    pub(super) entry: Result<Entry, Unusable>,
    /// The line as stored.
    pub(super) line: String,
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

/// Stored form of an agent's output in a column.
pub(super) fn output_text(output: &ActionResult) -> String {
    text_of(&AnswerV1::from(output))
}

/// Stored form of an error in a column.
pub(super) fn error_text(error: &OrchestratorError) -> String {
    text_of(&ErrorV1::from(error))
}

/// Stored form of the limits of a plan in a column; none without limits.
pub(super) fn budget_text(limits: &Limits) -> Option<String> {
    limits.is_limited().then(|| text_of(&limits.values()))
}

/// Reads the result of [`budget_text`].
pub(super) fn read_budget(text: &str) -> Result<Limits, Unusable> {
    read_text(text).map(Limits::new)
}

/// Stored form of the conditions of a task in a column; none without conditions.
pub(super) fn conditions_text(conditions: &StartConditions) -> Option<String> {
    (!conditions.is_empty()).then(|| text_of(&ConditionsV1::from(conditions)))
}

/// Reads the result of [`conditions_text`].
pub(super) fn read_conditions(text: &str) -> Result<StartConditions, Unusable> {
    read_text::<ConditionsV1>(text)?.try_into()
}

/// Stored form of calls of models in a column.
pub(super) fn calls_text(calls: &[ModelCall]) -> String {
    text_of(&calls.iter().map(CallV1::from).collect::<Vec<_>>())
}

/// Reads the result of [`calls_text`].
pub(super) fn read_calls(text: &str) -> Result<Vec<ModelCall>, Unusable> {
    Ok(read_text::<Vec<CallV1>>(text)?.into_iter().map(Into::into).collect())
}

/// Reads the result of [`output_text`].
pub(super) fn read_output(text: &str) -> Result<ActionResult, Unusable> {
    read_text::<AnswerV1>(text)?.try_into()
}

/// Reads the result of [`error_text`].
pub(super) fn read_error(text: &str) -> Result<OrchestratorError, Unusable> {
    read_text::<ErrorV1>(text)?.try_into()
}

fn text_of(value: &impl Serialize) -> String {
    // Does not fail, as for a record.
    serde_json::to_string(value).unwrap_or_default()
}

fn read_text<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Unusable> {
    serde_json::from_str(text).map_err(|error| {
        Unusable::Damaged(format!("holds other JSON than is expected from character {} on", error.column()))
    })
}

/// Appends `entry` to `lines`, as one line.
pub(super) fn write(entry: &Entry, lines: &mut Vec<u8>) {
    let envelope = Envelope { v: VERSION, plan_id: entry.plan_id(), record: &RecordV1::from(entry) };
    // Keys are strings, numbers are JSON numbers, and the target is memory, so this does not fail.
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

/// Reads records and writes those that can be read, each as a line. For fuzzing.
#[doc(hidden)]
#[must_use]
pub fn rewrite_records(text: &[u8]) -> Vec<String> {
    read(text).into_iter().filter_map(|stored| stored.entry.ok()).map(|entry| lines([&entry])).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of version 1, as they were when their kinds were new. They are only ever added to.
    const FIXTURES: [&[u8]; 6] = [
        include_bytes!("../../tests/store/records/1.jsonl"),
        include_bytes!("../../tests/store/records/1-approvals.jsonl"),
        include_bytes!("../../tests/store/records/1-lost.jsonl"),
        include_bytes!("../../tests/store/records/1-planned.jsonl"),
        include_bytes!("../../tests/store/records/1-sweeps.jsonl"),
        include_bytes!("../../tests/store/records/1-waits.jsonl"),
    ];

    #[test]
    fn every_kind_of_record_has_a_stored_line_that_is_read() {
        let mut stored = std::collections::BTreeSet::new();
        for line in FIXTURES.iter().flat_map(|fixture| read(fixture)) {
            let envelope: StoredEnvelope = serde_json::from_str(&line.line).unwrap();
            stored.insert(kind_of(&envelope.record).unwrap());
            let entry = line.entry.unwrap_or_else(|problem| panic!("{problem:?} {}", line.line));
            let again = read(lines([&entry]).as_bytes()).remove(0).entry.unwrap();
            assert_eq!(lines([&again]), lines([&entry]), "{}", line.line);
        }
        assert_eq!(stored, v1::KINDS.into_iter().map(str::to_owned).collect());
    }

    #[test]
    fn list_of_kinds_is_complete() {
        let problem = serde_json::from_str::<RecordV1>(r#"{"?":1}"#).unwrap_err().to_string();
        let known = v1::KINDS.map(|kind| format!("`{kind}`")).join(", ");
        assert!(problem.contains(&format!("expected one of {known}")), "{problem}");
    }
}
