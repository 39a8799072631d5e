//! The W3C trace context of a request (<https://www.w3.org/TR/trace-context/>).
//!
//! Where spans are exported, the exporter's layer holds the trace, and each process adds its own span. Elsewhere the context
//! is passed on unchanged, or as the first process generated it, so that logs and agents share one trace id, and no request
//! pays for spans that are not collected.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `version - trace-id - parent-id - flags`, in hexadecimal digits.
const TRACEPARENT_LENGTH: usize = 55;

/// Trace context of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TraceContext {
    traceparent: HeaderValue,
    tracestate: Option<HeaderValue>,
    /// Whether the context came from a caller, whose span is then the parent of the first span here.
    is_remote: bool,
}

impl TraceContext {
    /// A new trace.
    #[must_use]
    pub fn generate() -> Self {
        // Zero is not a valid id.
        let trace_id = fastrand::u128(1..);
        let text = format!("00-{trace_id:032x}-{:016x}-01", fastrand::u64(1..));
        // Hexadecimal digits and hyphens are always allowed in a header.
        let traceparent = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        Self { traceparent, tracestate: None, is_remote: false }
    }

    /// The trace context of `headers`. `tracestate` may be absent; a `traceparent` that is not valid counts as absent, as the
    /// standard requires.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let traceparent = headers.get(TRACEPARENT).filter(|value| is_valid(value.as_bytes()))?;
        let (traceparent, tracestate) = (traceparent.clone(), headers.get(TRACESTATE).cloned());
        Some(Self { traceparent, tracestate, is_remote: true })
    }

    /// The trace context of a `traceparent` and a `tracestate`, either of which may be empty. A `traceparent` that is not valid
    /// counts as absent.
    #[must_use]
    pub fn of_texts(traceparent: String, tracestate: String) -> Option<Self> {
        if !is_valid(traceparent.as_bytes()) {
            return None;
        }
        let traceparent = HeaderValue::try_from(traceparent).ok()?;
        let tracestate = (!tracestate.is_empty()).then(|| HeaderValue::try_from(tracestate).ok()).flatten();
        Some(Self { traceparent, tracestate, is_remote: true })
    }

    /// The `traceparent` and the `tracestate` of a call in the current span.
    pub(super) fn texts(&self) -> (String, String) {
        let context = Span::current().context();
        if context.span().span_context().is_valid() {
            let mut texts = Texts::default();
            TraceContextPropagator::new().inject_context(&context, &mut texts);
            return (texts.traceparent, texts.tracestate);
        }
        let tracestate = self.tracestate.as_ref().and_then(|value| value.to_str().ok());
        (self.text().to_owned(), tracestate.unwrap_or_default().to_owned())
    }

    /// The trace id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.text().get(3..35).unwrap_or_default()
    }

    fn text(&self) -> &str {
        self.traceparent.to_str().unwrap_or_default()
    }

    /// Makes `span` the first span of this process in the trace, and sets its field `trace_id`.
    pub(super) fn begin(&self, span: &Span) {
        if self.is_remote {
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), self);
            // Fails without an exporting layer, when there is no span to continue.
            let _ = span.set_parent(parent);
        }
        let context = span.context();
        let exported = context.span().span_context().clone();
        if exported.is_valid() {
            span.record("trace_id", tracing::field::display(exported.trace_id()));
        } else {
            span.record("trace_id", self.trace_id());
        }
    }

    /// Writes the trace context into the metadata of a call in the current span.
    pub(super) fn inject(&self, headers: &mut HeaderMap) {
        let context = Span::current().context();
        if context.span().span_context().is_valid() {
            TraceContextPropagator::new().inject_context(&context, &mut HeadersMut(headers));
            return;
        }
        headers.insert(TRACEPARENT, self.traceparent.clone());
        if let Some(tracestate) = &self.tracestate {
            headers.insert(TRACESTATE, tracestate.clone());
        }
    }

    pub(super) fn traceparent(&self) -> String {
        self.texts().0
    }
}

fn is_valid(traceparent: &[u8]) -> bool {
    let hyphens = [2, 35, 52];
    let is_zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
    traceparent.len() == TRACEPARENT_LENGTH
        && traceparent.iter().enumerate().all(|(index, byte)| match hyphens.contains(&index) {
            true => *byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
        && !traceparent.starts_with(b"ff")
        && traceparent.get(3..35).is_some_and(|trace_id| !is_zero(trace_id))
        && traceparent.get(36..52).is_some_and(|parent_id| !is_zero(parent_id))
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.text()),
            "tracestate" => self.tracestate.as_ref()?.to_str().ok(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[derive(Default)]
struct Texts {
    traceparent: String,
    tracestate: String,
}

impl Injector for Texts {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.traceparent = value,
            "tracestate" => self.tracestate = value,
            _ => {}
        }
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate is left out.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
