//! Log lines as OTLP records. A record has what its JSON line has, and nothing else: neither content nor secrets.

use std::collections::BTreeMap;

use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use serde_json::{Map, Value};

use super::exposition::attribute;

/// Modules that send the batches. Their lines of a detailed `RUST_LOG` would cause further ones without end.
const OF_TRANSPORT: [&str; 8] =
    ["h2", "hyper", "hyper_util", "opentelemetry", "reqwest", "rustls", "tonic", "tower"];

/// The request for `lines`, JSON objects that end in a line break, and the number of its records.
pub(super) fn request(resource: &Resource, lines: &[u8]) -> (ExportLogsServiceRequest, usize) {
    let mut scopes: BTreeMap<String, Vec<LogRecord>> = BTreeMap::new();
    let mut count = 0;
    for (target, record) in lines.split(|byte| *byte == b'\n').filter_map(record) {
        scopes.entry(target).or_default().push(record);
        count += 1;
    }
    let scope_logs = scopes.into_iter().map(|(name, log_records)| ScopeLogs {
        scope: Some(InstrumentationScope { name, ..InstrumentationScope::default() }),
        log_records,
        ..ScopeLogs::default()
    });
    let logs = ResourceLogs {
        resource: Some(resource.clone()),
        scope_logs: scope_logs.collect(),
        ..ResourceLogs::default()
    };
    (ExportLogsServiceRequest { resource_logs: vec![logs] }, count)
}

/// The module and the record of a line, unless the line is of the export itself.
fn record(line: &[u8]) -> Option<(String, LogRecord)> {
    let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let target = text("target");
    let module = target.split("::").next().unwrap_or_default();
    if OF_TRANSPORT.contains(&module) {
        return None;
    }
    let at = text("timestamp").parse::<Timestamp>().ok()?.as_nanosecond();
    let at = u64::try_from(at).ok()?;
    let level = text("level");
    let (trace_id, span_id) = (bytes(&text("trace_id"), 16), bytes(&text("span_id"), 8));
    let body = text("message");
    fields.remove("service");
    let record = LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: severity(&level).into(),
        severity_text: level,
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }),
        attributes: fields.into_iter().filter_map(field).collect(),
        trace_id,
        span_id,
        ..LogRecord::default()
    };
    Some((target, record))
}

fn field((name, value): (String, Value)) -> Option<KeyValue> {
    let value = match value {
        Value::String(text) => any_value::Value::StringValue(text),
        Value::Bool(is_set) => any_value::Value::BoolValue(is_set),
        Value::Number(number) => match number.as_i64() {
            Some(number) => any_value::Value::IntValue(number),
            None => any_value::Value::DoubleValue(number.as_f64()?),
        },
        // No line has them.
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(attribute(name, value))
}

fn severity(level: &str) -> SeverityNumber {
    match level {
        "ERROR" => SeverityNumber::Error,
        "WARN" => SeverityNumber::Warn,
        "INFO" => SeverityNumber::Info,
        "DEBUG" => SeverityNumber::Debug,
        _ => SeverityNumber::Trace,
    }
}

/// The bytes of an id in hexadecimal; none when it is not one of that length.
fn bytes(hex: &str, length: usize) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    bytes.filter(|bytes| bytes.len() == length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_the_fields_of_its_line() {
        let line = r#"{"timestamp":"2026-11-26T21:26:20.536639Z","level":"WARN","service":"planner","target":"phoenix_planner::run","message":"attempt failed","attempt":2,"share":0.5,"is_last":true,"agent":"a","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331"}"#;
        let noise =
            r#"{"timestamp":"2026-11-26T21:26:20.5Z","level":"DEBUG","target":"h2::codec","message":"m"}"#;
        let (request, count) =
            request(&Resource::default(), format!("{line}\n{noise}\nnot a line\n").as_bytes());
        assert_eq!(count, 1);
        let scope = &request.resource_logs[0].scope_logs[0];
        assert_eq!(scope.scope.as_ref().unwrap().name, "phoenix_planner::run");
        let record = &scope.log_records[0];
        assert_eq!((record.severity_text.as_str(), record.severity_number), ("WARN", 13));
        assert_eq!(record.time_unix_nano, 1_795_728_380_536_639_000);
        assert_eq!(record.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!((record.trace_id.len(), record.span_id.len()), (16, 8));
        let names: Vec<_> = record.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        assert_eq!(names, ["agent", "attempt", "is_last", "share"]);
        assert_eq!(record.attributes[1].value.as_ref().unwrap().value, Some(any_value::Value::IntValue(2)));
    }

    #[test]
    fn id_of_another_length_is_left_out() {
        assert!(bytes("0af7", 16).is_empty() && bytes("zz", 1).is_empty() && bytes("", 8).is_empty());
    }
}
