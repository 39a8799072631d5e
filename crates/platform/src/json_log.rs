//! Log lines for machines: one JSON object per line, with the fields of every span in scope at the top level.
//!
//! `tracing-subscriber`'s own JSON format nests span fields under `spans`; here `correlation_id`, `trace_id`, `plan_id`,
//! `task_id` and `agent` are found where `grep` and log stores look first. A field of the event wins over one of a span,
//! an inner span's over an outer one's.

use std::{fmt, io::Write};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Writes every event to standard error as one line of JSON.
#[derive(Debug)]
pub struct JsonLog<W = fn() -> std::io::Stderr> {
    service: &'static str,
    writer: W,
}

impl JsonLog {
    /// For the process that plays the role `service`.
    #[must_use]
    pub fn stderr(service: &'static str) -> Self {
        Self { service, writer: std::io::stderr }
    }
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

impl<S, W, O> Layer<S> for JsonLog<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn() -> O + 'static,
    O: Write,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Map::new();
        attributes.record(&mut Fields(&mut fields));
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut() {
            values.record(&mut Fields(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        event.record(&mut Fields(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        let mut line = Map::new();
        line.insert("timestamp".into(), jiff::Timestamp::now().to_string().into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("service".into(), self.service.into());
        line.insert("target".into(), event.metadata().target().into());
        line.insert("message".into(), message);
        for (name, value) in fields {
            line.entry(name).or_insert(value);
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                for (name, value) in fields {
                    if !line.contains_key(name) {
                        line.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        // A log that can't be written has nowhere to say so.
        let _ = (self.writer)().write_all(&bytes);
    }
}

/// Collects fields as JSON values. Fields for the tracing exporter (`otel.…`) are not for readers of logs.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        if !field.name().starts_with("otel.") {
            self.0.insert(field.name().into(), value.into());
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn span_fields_are_at_the_top_level_and_the_innermost_wins() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let layer = JsonLog { service: "planner", writer: move || sink.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let outer = tracing::info_span!(
                "outer",
                correlation_id = "c-1",
                agent = "outer",
                trace_id = tracing::field::Empty
            );
            outer.record("trace_id", "t-1");
            let _outer = outer.enter();
            let _inner = tracing::info_span!("inner", agent = "git_agent", otel.kind = "client").entered();
            tracing::warn!(attempt = 2, "agent failed:\n\"again\"");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 1, "a line break in a message stays inside the line");
        let line: Value = serde_json::from_str(&text).unwrap();
        for (key, value) in [
            ("level", "WARN"),
            ("service", "planner"),
            ("message", "agent failed:\n\"again\""),
            ("correlation_id", "c-1"),
            ("trace_id", "t-1"),
            ("agent", "git_agent"),
        ] {
            assert_eq!(line[key], value, "{key}");
        }
        assert_eq!(line["attempt"], 2);
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(line.get("otel.kind").is_none());
    }
}
