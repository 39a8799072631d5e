//! Log lines, for programs and for people, from one place.
//!
//! | format | a line |
//! |---|---|
//! | JSON | one object; the fields of every span in scope stand at the top level |
//! | pretty | time, level, message, the event's own fields, then whose request it is |
//!
//! `tracing-subscriber`'s own JSON format nests span fields under `spans`; here `correlation_id`, `trace_id`, `plan_id`,
//! `task_id` and `agent` are found where `grep` and log stores look first. A field of the event wins over one of a span,
//! an inner span's over an outer one's.

use std::{
    fmt::{self, Write as _},
    io::Write,
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::telemetry::LogFormat;

/// Writes every event as one line.
#[derive(Debug)]
pub struct LogLines<W = fn() -> std::io::Stderr> {
    service: &'static str,
    format: LogFormat,
    colour: bool,
    writer: W,
}

impl LogLines {
    /// To standard error, for the process that plays the role `service`.
    #[must_use]
    pub fn stderr(service: &'static str, format: LogFormat, colour: bool) -> Self {
        Self { service, format, colour, writer: std::io::stderr }
    }
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

impl<S, W, O> Layer<S> for LogLines<W>
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
        let mut own = Map::new();
        event.record(&mut Fields(&mut own));
        let message = match own.remove("message") {
            Some(Value::String(message)) => message,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let mut inherited = Map::new();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                for (name, value) in fields {
                    if !own.contains_key(name) && !inherited.contains_key(name) {
                        inherited.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let line = Line { event, message, own, inherited };
        let mut text = match self.format {
            LogFormat::Json => line.json(self.service),
            LogFormat::Pretty => line.pretty(self.colour),
        };
        text.push('\n');
        // A log that can't be written has nowhere to say so. One write, so that lines of threads don't mix.
        let _ = (self.writer)().write_all(text.as_bytes());
    }
}

struct Line<'a> {
    event: &'a Event<'a>,
    message: String,
    own: Map<String, Value>,
    inherited: Map<String, Value>,
}

impl Line<'_> {
    fn json(self, service: &str) -> String {
        let mut line = Map::new();
        line.insert("timestamp".into(), Timestamp::now().to_string().into());
        line.insert("level".into(), self.event.metadata().level().as_str().into());
        line.insert("service".into(), service.into());
        line.insert("target".into(), self.event.metadata().target().into());
        line.insert("message".into(), self.message.into());
        for (name, value) in self.own.into_iter().chain(self.inherited) {
            line.entry(name).or_insert(value);
        }
        Value::Object(line).to_string()
    }

    fn pretty(self, colour: bool) -> String {
        let paint = |code: &'static str| if colour { code } else { "" };
        let (dim, reset) = (paint("\u{1b}[2m"), paint("\u{1b}[0m"));
        let level = *self.event.metadata().level();
        let level_colour = paint(match level {
            Level::ERROR => "\u{1b}[31m",
            Level::WARN => "\u{1b}[33m",
            Level::INFO => "\u{1b}[32m",
            Level::DEBUG | Level::TRACE => "\u{1b}[34m",
        });
        let time = Timestamp::now().strftime("%H:%M:%S%.3f");
        let mut text =
            format!("{dim}{time}{reset} {level_colour}{level:>5}{reset} {}", one_line(&self.message));
        // Agent and correlation id are what a person follows; the other ids are in the JSON and in the journal.
        let followed =
            self.inherited.iter().filter(|(name, _)| ["agent", "correlation_id"].contains(&name.as_str()));
        for (name, value) in self.own.iter().chain(followed) {
            let value = match value {
                Value::String(text) => one_line(text),
                other => other.to_string(),
            };
            // Writing to a string does not fail.
            let _ = write!(text, " {dim}{name}={reset}{value}");
        }
        text
    }
}

/// Line breaks and other control characters, made visible: what an agent says can't forge a line or move the cursor.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
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

    /// The one line that an event inside two spans becomes.
    fn line(format: LogFormat) -> String {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let layer = LogLines { service: "planner", format, colour: false, writer: move || sink.clone() };
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
        text
    }

    #[test]
    fn span_fields_are_at_the_top_level_and_the_innermost_wins() {
        let line: Value = serde_json::from_str(&line(LogFormat::Json)).unwrap();
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

    #[test]
    fn a_pretty_line_says_what_happened_and_to_whom() {
        let line = line(LogFormat::Pretty);
        let (_time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, " WARN agent failed:\\n\"again\" attempt=2 agent=git_agent correlation_id=c-1\n");
    }
}
