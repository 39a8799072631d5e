//! Log lines in JSON and as text.
//!
//! | format | a line |
//! |---|---|
//! | JSON | one object; the fields of every span in scope are top-level members |
//! | pretty | time, level, message, the event's own fields, then agent and correlation id |
//!
//! `tracing-subscriber`'s own JSON format nests span fields under `spans`; here `correlation_id`, `trace_id`, `plan_id`,
//! `task_id` and `agent` are top-level members, where `grep` and log stores look first. A field of the event overrides one
//! of a span, and an inner span's field overrides an outer one's.
//!
//! Every chat writes several lines, so lines are assembled from bytes: a span's fields are rendered when the span opens, and
//! a line is built in a buffer that its thread reuses ([`value`] renders the fields). Lines on standard error may also be kept in
//! files ([`mod@file`]).

pub mod file;
mod format;
mod value;
mod writer;

use std::{cell::RefCell, io::Write};

use jiff::Timestamp;
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use self::value::{Fields, Rendered};
pub use self::{
    format::LogFormat,
    writer::{LINES_DROPPED, LineSink, LogWriter},
};
use crate::spans;

/// Fields that every JSON line begins with. Other fields of these names are dropped.
const FIXED: [&str; 5] = ["timestamp", "level", "service", "target", "message"];

/// Span fields of a pretty line. JSON lines and the journal have the other ids.
const PRETTY_SPAN_FIELDS: [&str; 2] = ["agent", "correlation_id"];

/// Capacity in bytes that a reused line buffer keeps.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// A `tracing` layer that writes one line per event.
#[derive(Debug)]
pub struct LogLayer<L = LogWriter> {
    service: &'static str,
    format: LogFormat,
    colour: bool,
    /// Whether pretty lines begin with the service.
    prefix: bool,
    lines: L,
}

impl<L> LogLayer<L> {
    /// A layer that writes to `lines`, for the role `service`. With `prefix`, pretty lines begin with the service.
    #[must_use]
    pub fn new(service: &'static str, format: LogFormat, colour: bool, prefix: bool, lines: L) -> Self {
        Self { service, format, colour, prefix, lines }
    }
}

/// Rendered fields of a span, stored in its extensions: of each format for itself, since a process may have a layer of each.
struct SpanFields<const IS_JSON: bool>(Rendered);

impl<S, L> Layer<S> for LogLayer<L>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    L: LineSink,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Rendered::of_span(attributes.fields().len());
        attributes.record(&mut Fields { format: self.format, into: &mut fields, message: None });
        match self.format {
            LogFormat::Json => span.extensions_mut().insert(SpanFields::<true>(fields)),
            LogFormat::Pretty => span.extensions_mut().insert(SpanFields::<false>(fields)),
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let fields = match self.format {
            LogFormat::Json => extensions.get_mut().map(|SpanFields::<true>(fields)| fields),
            LogFormat::Pretty => extensions.get_mut().map(|SpanFields::<false>(fields)| fields),
        };
        if let Some(fields) = fields {
            values.record(&mut Fields { format: self.format, into: fields, message: None });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        let written = SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => {
                self.write(event, &context, &mut scratch);
                true
            }
            // A value that is being rendered logs.
            Err(_) => false,
        });
        if !written {
            self.write(event, &context, &mut Scratch::default());
        }
    }
}

/// Reused buffers of one thread.
#[derive(Default)]
struct Scratch {
    line: Vec<u8>,
    message: Vec<u8>,
    own: Rendered,
    clock: Clock,
    /// Names of the span fields that the line has.
    inherited: Vec<&'static str>,
}

impl<L: LineSink> LogLayer<L> {
    fn write<S>(&self, event: &Event<'_>, context: &Context<'_, S>, scratch: &mut Scratch)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let Scratch { line, message, own, clock, inherited } = scratch;
        line.clear();
        message.clear();
        own.clear();
        inherited.clear();
        event.record(&mut Fields { format: self.format, into: own, message: Some(message) });
        match self.format {
            LogFormat::Json => {
                self.begin_json(line, clock.now(), event.metadata(), message);
                own.iter()
                    .filter(|(name, _)| !FIXED.contains(name))
                    .for_each(|field| json_field(line, field));
            }
            LogFormat::Pretty => {
                self.begin_pretty(line, event.metadata(), message);
                own.iter().for_each(|field| self.pretty_field(line, field));
            }
        }
        for span in context.event_scope(event).into_iter().flatten() {
            let extensions = span.extensions();
            let fields = match self.format {
                LogFormat::Json => extensions.get().map(|SpanFields::<true>(fields)| fields),
                LogFormat::Pretty => extensions.get().map(|SpanFields::<false>(fields)| fields),
            };
            let Some(fields) = fields else { continue };
            for field @ (name, _) in fields.iter() {
                if own.has(name) || inherited.contains(&name) {
                    continue;
                }
                match self.format {
                    LogFormat::Json if !FIXED.contains(&name) => json_field(line, field),
                    LogFormat::Pretty if PRETTY_SPAN_FIELDS.contains(&name) => self.pretty_field(line, field),
                    LogFormat::Json | LogFormat::Pretty => continue,
                }
                inherited.push(name);
            }
        }
        if self.format == LogFormat::Json
            && let Some(id) = spans::current_id()
        {
            let _ = write!(line, ",\"span_id\":\"{id}\"");
        }
        line.extend_from_slice(if self.format == LogFormat::Json { b"}\n" } else { b"\n" });
        self.lines.line(*event.metadata().level(), line);
        if line.capacity() > MAX_BUFFER_BYTES {
            *line = Vec::new();
        }
    }

    fn begin_json(&self, line: &mut Vec<u8>, time: &[u8], metadata: &Metadata<'_>, message: &[u8]) {
        let parts: [&[u8]; 9] = [
            br#"{"timestamp":""#,
            time,
            br#"","level":""#,
            metadata.level().as_str().as_bytes(),
            br#"","service":""#,
            self.service.as_bytes(),
            br#"","target":""#,
            metadata.target().as_bytes(),
            br#"","message":"#,
        ];
        parts.iter().for_each(|part| line.extend_from_slice(part));
        line.extend_from_slice(if message.is_empty() { br#""""# } else { message });
    }

    fn begin_pretty(&self, line: &mut Vec<u8>, metadata: &Metadata<'_>, message: &[u8]) {
        let level = *metadata.level();
        let level_colour = self.paint(match level {
            Level::ERROR => "\u{1b}[31m",
            Level::WARN => "\u{1b}[33m",
            Level::INFO => "\u{1b}[32m",
            Level::DEBUG | Level::TRACE => "\u{1b}[34m",
        });
        let (dim, reset) = (self.paint(DIM), self.paint(RESET));
        if self.prefix {
            let _ = write!(line, "{:<8} | ", self.service);
        }
        let time = Timestamp::now().strftime("%H:%M:%S%.3f");
        let _ = write!(line, "{dim}{time}{reset} {level_colour}{level:>5}{reset} ");
        line.extend_from_slice(message);
    }

    fn pretty_field(&self, line: &mut Vec<u8>, (name, value): (&str, &[u8])) {
        let _ = write!(line, " {}{name}={}", self.paint(DIM), self.paint(RESET));
        line.extend_from_slice(value);
    }

    fn paint(&self, code: &'static str) -> &'static str {
        if self.colour { code } else { "" }
    }
}

const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

fn json_field(line: &mut Vec<u8>, (name, value): (&str, &[u8])) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    line.extend_from_slice(value);
}

/// The present time as text. The part before the fraction changes once a second.
#[derive(Default)]
struct Clock {
    second: i64,
    text: Vec<u8>,
}

impl Clock {
    /// The present time with a fixed number of digits, so that lines sort as text.
    fn now(&mut self) -> &[u8] {
        self.at(Timestamp::now())
    }

    fn at(&mut self, now: Timestamp) -> &[u8] {
        let second = now.as_second();
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text.clear();
            // Writing to memory cannot fail.
            let _ = write!(self.text, "{now:.6}");
            return &self.text;
        }
        let digits = self.text.iter_mut().rev().skip(1);
        let mut micros = now.subsec_microsecond();
        for digit in digits.take(6) {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or_default();
            micros /= 10;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
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
    fn times_are_those_of_the_library() {
        let mut clock = Clock::default();
        for nanos in [0, 1_795_728_380_000_000_000, 1_795_728_380_000_001_000, 1_795_728_380_999_999_999]
            .into_iter()
            .chain((0..2000).map(|step| 1_795_728_380_000_000_000 + step * 1_234_567))
        {
            let now = Timestamp::from_nanosecond(nanos).unwrap();
            assert_eq!(std::str::from_utf8(clock.at(now)).unwrap(), format!("{now:.6}"));
        }
    }

    /// The line of an event inside two spans.
    fn line(format: LogFormat) -> String {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let lines = move || sink.clone();
        let layer = LogLayer { service: "planner", format, colour: false, prefix: false, lines };
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
    fn json_line_has_span_fields_and_the_innermost_wins() {
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
        assert_eq!(line["timestamp"].as_str().unwrap().len(), "2026-11-26T21:26:20.536639Z".len());
        assert!(line.get("otel.kind").is_none());
    }

    #[test]
    fn layers_of_both_formats_share_the_spans() {
        let (pretty, json) = (Buffer::default(), Buffer::default());
        let layer = |format, buffer: &Buffer| {
            let sink = buffer.clone();
            LogLayer::new("planner", format, false, false, move || sink.clone())
        };
        let layers = tracing_subscriber::registry()
            .with(layer(LogFormat::Pretty, &pretty))
            .with(layer(LogFormat::Json, &json));
        tracing::subscriber::with_default(layers, || {
            let span =
                tracing::info_span!("outer", agent = "git_agent", correlation_id = tracing::field::Empty);
            span.record("correlation_id", "c-1");
            let _outer = span.entered();
            tracing::info!("both");
        });
        let text = |buffer: &Buffer| String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let line: Value = serde_json::from_str(&text(&json)).unwrap();
        assert_eq!((&line["correlation_id"], &line["agent"]), (&"c-1".into(), &"git_agent".into()));
        assert!(text(&pretty).ends_with(" both agent=git_agent correlation_id=c-1\n"), "{}", text(&pretty));
    }

    #[test]
    fn pretty_line_has_event_fields_agent_and_correlation_id() {
        let line = line(LogFormat::Pretty);
        let (_time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, " WARN agent failed:\\n\"again\" attempt=2 agent=git_agent correlation_id=c-1\n");
    }
}
