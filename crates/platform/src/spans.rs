//! What spans have beyond fields of `tracing`: attributes by convention ([`crate::semconv`]), spans of the past, and links.
//!
//! Attributes that only readers of traces need are no fields of `tracing`, because those appear in log lines and cost time without
//! an exporter. Everything here does nothing unless this process exports spans.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use opentelemetry::{
    Array, Context, StringValue, Value,
    propagation::TextMapPropagator,
    trace::{Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::semconv;

pub use opentelemetry::KeyValue as Attribute;

/// Shorter waits have no span.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Exporter of this process, set by [`crate::init_tracing`].
static EXPORT: OnceLock<Export> = OnceLock::new();

struct Export {
    tracer: SdkTracer,
    captures_content: bool,
}

/// A span of the past.
#[derive(Debug)]
pub struct PastSpan {
    /// Name.
    pub name: Cow<'static, str>,
    /// Whether it is a call of another process.
    pub is_call: bool,
    /// Start.
    pub started_at: SystemTime,
    /// End.
    pub ended_at: SystemTime,
    /// Attributes.
    pub attributes: Vec<Attribute>,
    /// Error code or class, if it failed.
    pub error: Option<&'static str>,
}

/// What a task waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitSpan {
    /// A place at the agent.
    Place,
    /// The time between two attempts.
    Backoff,
    /// An executor that offers the agent.
    Executor,
    /// A decision about its approval.
    Approval,
    /// The time before which it must not start.
    Timer,
    /// A budget that is used up.
    Budget,
}

impl WaitSpan {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Place => ("wait place", "place"),
            Self::Backoff => ("wait backoff", "backoff"),
            Self::Executor => ("wait executor", "executor"),
            Self::Approval => ("wait approval", "approval"),
            Self::Timer => ("wait timer", "timer"),
            Self::Budget => ("wait budget", "budget"),
        }
    }
}

/// Makes the functions here effective. The first call counts.
pub(crate) fn enable(provider: &SdkTracerProvider, captures_content: bool) -> SdkTracer {
    let scope = opentelemetry::InstrumentationScope::builder("phoenix")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(semconv::SCHEMA_URL)
        .build();
    let tracer = provider.tracer_with_scope(scope);
    let _ = EXPORT.set(Export { tracer: tracer.clone(), captures_content });
    tracer
}

/// Whether this process exports spans.
#[must_use]
pub fn is_exporting() -> bool {
    EXPORT.get().is_some()
}

/// Whether spans contain messages, inputs and outputs.
#[must_use]
pub fn captures_content() -> bool {
    EXPORT.get().is_some_and(|export| export.captures_content)
}

/// Adds attributes to `span`.
pub fn describe<A: IntoIterator<Item = Attribute>>(span: &Span, attributes: impl FnOnce() -> A) {
    if is_exporting() {
        attributes().into_iter().for_each(|Attribute { key, value, .. }| span.set_attribute(key, value));
    }
}

/// Records a child of `parent` that has ended.
pub fn record(parent: &Span, past: impl FnOnce() -> PastSpan) {
    let Some(Export { tracer, .. }) = EXPORT.get() else { return };
    let parent = parent.context();
    if !parent.span().span_context().is_sampled() {
        return;
    }
    let PastSpan { name, is_call, started_at, ended_at, attributes, error } = past();
    let kind = if is_call { SpanKind::Client } else { SpanKind::Internal };
    let span = tracer.span_builder(name).with_kind(kind).with_start_time(started_at);
    let mut span = tracer.build_with_context(span.with_attributes(attributes), &parent);
    if let Some(error) = error {
        span.set_attribute(Attribute::new(semconv::ERROR_TYPE, error));
        span.set_status(Status::error(error));
    }
    span.end_with_timestamp(ended_at.max(started_at));
}

/// Records that a task has waited since `since`, as a child of the current span. `key` is that of the task, where it is known.
pub fn record_wait(kind: WaitSpan, since: Timestamp, key: Option<&str>, outcome: Option<&'static str>) {
    let ended_at = SystemTime::now();
    let started_at = SystemTime::from(since);
    if !is_exporting() || ended_at.duration_since(started_at).is_ok_and(|waited| waited < SHORTEST_WAIT) {
        return;
    }
    let (name, kind) = kind.names();
    record(&Span::current(), || {
        let key = key.map(|key| Attribute::new(semconv::own::TASK_KEY, key.to_owned()));
        let outcome = outcome.map(|outcome| Attribute::new(semconv::own::WAIT_OUTCOME, outcome));
        let kind = Attribute::new(semconv::own::WAIT_KIND, kind);
        PastSpan {
            name: name.into(),
            is_call: false,
            started_at,
            ended_at,
            attributes: [Some(kind), key, outcome].into_iter().flatten().collect(),
            error: None,
        }
    });
}

/// The `traceparent` of `span`, if the span is exported.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    if !is_exporting() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let is_exported = context.is_valid() && context.is_sampled();
    is_exported.then(|| format!("00-{}-{}-01", context.trace_id(), context.span_id()))
}

/// The id of the exported span that this thread is in.
pub(crate) fn current_id() -> Option<SpanId> {
    if !is_exporting() {
        return None;
    }
    Context::map_current(|context| {
        let span = context.span();
        let context = span.span_context();
        (context.is_valid() && context.is_sampled()).then(|| context.span_id())
    })
}

/// Links `span` to the span of a `traceparent`, if that is valid.
pub fn link(span: &Span, traceparent: &str, relation: &'static str) {
    if !is_exporting() {
        return;
    }
    if let Some(linked) = span_context(traceparent) {
        span.add_link_with_attributes(linked, vec![Attribute::new(semconv::own::LINK_RELATION, relation)]);
    }
}

fn span_context(traceparent: &str) -> Option<SpanContext> {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// An attribute with several texts.
#[must_use]
pub fn texts(name: &'static str, values: Vec<String>) -> Attribute {
    let values = values.into_iter().map(StringValue::from).collect();
    Attribute::new(name, Value::Array(Array::String(values)))
}
