//! What a collector has received, in a form that tests compare.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs},
    metrics::v1::{Metric, NumberDataPoint, ResourceMetrics, metric, number_data_point},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode},
};

/// One span, with the service that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedSpan {
    /// `service.name`, without `phoenix-`.
    pub service: String,
    /// Name of the span.
    pub name: String,
    /// Trace id in hexadecimal.
    pub trace_id: String,
    /// Span id in hexadecimal.
    pub span_id: String,
    /// Id of the parent in hexadecimal; empty for a root.
    pub parent_id: String,
    /// Message of the status, if it is ERROR.
    pub error: Option<String>,
    /// `Internal`, `Server`, `Client`.
    pub kind: &'static str,
    /// Attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Linked spans: trace id and span id.
    pub links: Vec<(String, String)>,
    /// Start and end in nanoseconds since 1970.
    pub times: (u64, u64),
}

/// One data point of a metric, with the service that sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectedPoint {
    /// `service.name`, without `phoenix-`.
    pub service: String,
    /// Name of the metric.
    pub name: String,
    /// `counter`, `gauge`, `histogram`.
    pub kind: &'static str,
    /// Unit.
    pub unit: String,
    /// Description.
    pub description: String,
    /// Attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The value; of a histogram the sum.
    pub value: f64,
    /// The number of values of a histogram.
    pub count: u64,
    /// Upper bounds and counts of the buckets of a histogram; the last bucket has no bound.
    pub buckets: (Vec<f64>, Vec<u64>),
}

/// One log record, with the service that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedLog {
    /// `service.name`, without `phoenix-`.
    pub service: String,
    /// Name of the scope.
    pub target: String,
    /// Name of the level.
    pub level: String,
    /// Body, as text.
    pub message: String,
    /// Attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Trace id in hexadecimal; empty outside a request.
    pub trace_id: String,
    /// Span id in hexadecimal; empty outside an exported span.
    pub span_id: String,
}

fn service(resource: Option<Resource>) -> String {
    let name = attributes(resource.unwrap_or_default().attributes).remove("service.name").unwrap_or_default();
    name.strip_prefix("phoenix-").unwrap_or(&name).to_owned()
}

pub(super) fn spans(batch: ResourceSpans) -> impl Iterator<Item = CollectedSpan> {
    let service = service(batch.resource);
    let spans = batch.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(move |span| collected_span(&service, span))
}

fn collected_span(service: &str, span: Span) -> CollectedSpan {
    let status = span.status.unwrap_or_default();
    let kind = match SpanKind::try_from(span.kind) {
        Ok(SpanKind::Server) => "Server",
        Ok(SpanKind::Client) => "Client",
        Ok(SpanKind::Internal) => "Internal",
        _ => "other",
    };
    CollectedSpan {
        kind,
        attributes: attributes(span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        error: (status.code == StatusCode::Error as i32).then_some(status.message),
        service: service.to_owned(),
        name: span.name,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_id: hex(&span.parent_span_id),
    }
}

pub(super) fn points(batch: ResourceMetrics) -> impl Iterator<Item = CollectedPoint> {
    let service = service(batch.resource);
    let metrics = batch.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
    metrics.flat_map(move |metric| points_of(&service, metric))
}

fn points_of(service: &str, metric: Metric) -> Vec<CollectedPoint> {
    let Metric { name, unit, description, data, .. } = metric;
    let point = |kind, attributes_of| CollectedPoint {
        service: service.to_owned(),
        name: name.clone(),
        kind,
        unit: unit.clone(),
        description: description.clone(),
        attributes: attributes(attributes_of),
        value: 0.0,
        count: 0,
        buckets: (Vec::new(), Vec::new()),
    };
    let number = |kind, NumberDataPoint { attributes, value, .. }| CollectedPoint {
        value: match value {
            Some(number_data_point::Value::AsInt(value)) => value as f64,
            Some(number_data_point::Value::AsDouble(value)) => value,
            None => f64::NAN,
        },
        ..point(kind, attributes)
    };
    match data {
        Some(metric::Data::Sum(sum)) if sum.is_monotonic => {
            sum.data_points.into_iter().map(|point| number("counter", point)).collect()
        }
        Some(metric::Data::Gauge(gauge)) => {
            gauge.data_points.into_iter().map(|point| number("gauge", point)).collect()
        }
        Some(metric::Data::Histogram(histogram)) => {
            let points = histogram.data_points.into_iter().map(|data| CollectedPoint {
                value: data.sum.unwrap_or(f64::NAN),
                count: data.count,
                buckets: (data.explicit_bounds, data.bucket_counts),
                ..point("histogram", data.attributes)
            });
            points.collect()
        }
        _ => Vec::new(),
    }
}

pub(super) fn logs(batch: ResourceLogs) -> impl Iterator<Item = CollectedLog> {
    let service = service(batch.resource);
    let records = batch.scope_logs.into_iter().flat_map(|scope| {
        let target = scope.scope.unwrap_or_default().name;
        scope.log_records.into_iter().map(move |record| (target.clone(), record))
    });
    records.map(move |(target, record)| {
        let LogRecord { severity_text, body, attributes: fields, trace_id, span_id, .. } = record;
        CollectedLog {
            service: service.clone(),
            target,
            level: severity_text,
            message: text(body),
            attributes: attributes(fields),
            trace_id: hex(&trace_id),
            span_id: hex(&span_id),
        }
    })
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|KeyValue { key, value, .. }| (key, text(value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(is_set)) => is_set.to_string(),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.into_iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
