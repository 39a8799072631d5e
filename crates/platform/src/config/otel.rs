//! The standard `OTEL_*` variables for traces, metrics and logs
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! A variable of one signal (`OTEL_EXPORTER_OTLP_TRACES_…`) overrides the general one (`OTEL_EXPORTER_OTLP_…`). Metrics and logs are
//! exported only when `OTEL_METRICS_EXPORTER` or `OTEL_LOGS_EXPORTER` says so. An invalid value is a problem like that of any other
//! setting; it never disables the export silently. Values of headers and parts of addresses may be secrets, so error messages do
//! not contain them.

mod values;

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue};
use phoenix_domain::llm::Secret;

use self::values::{checked_url, not_a_pair, pairs};
use super::{env::Lookup, problems::Problems};
use crate::telemetry::{
    LogExport, MetricExport, OtlpExports, OtlpProtocol, OtlpTarget, OtlpTls, ResourceSettings, Sampling,
    TraceExport,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of the SDK (`OTEL_BSP_MAX_QUEUE_SIZE`).
const DEFAULT_QUEUE_SPANS: usize = 2048;

/// Whole numbers that the SDK reads itself, and ignores when they are not valid.
const NUMBERS: [&str; 7] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

/// Default time between two exports of metrics (`OTEL_METRIC_EXPORT_INTERVAL`).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// Least time between two exports of metrics, each of which reads them all.
const LEAST_INTERVAL_MS: u64 = 100;

/// Defaults of the specification (`OTEL_BLRP_SCHEDULE_DELAY`, `…_MAX_QUEUE_SIZE`, `…_MAX_EXPORT_BATCH_SIZE`).
const DEFAULT_LOG_DELAY: Duration = Duration::from_secs(1);
const DEFAULT_LOG_QUEUE: usize = 2048;
const DEFAULT_LOG_BATCH: usize = 512;

/// What is exported to collectors.
pub(super) fn exports(env: Lookup<'_>, problems: &mut Problems) -> OtlpExports {
    // What the signals have in common is wrong for each of them, and one problem.
    let mut found = [Problems::default(), Problems::default(), Problems::default()];
    let [of_traces, of_metrics, of_logs] = &mut found;
    let mut traces = Variables { env, problems: of_traces, signal: Signal::Traces };
    let mut exports = OtlpExports::default();
    if !traces.is_disabled() {
        exports.traces = traces.trace_export();
        exports.metrics = Variables { env, problems: of_metrics, signal: Signal::Metrics }.metric_export();
        exports.logs = Variables { env, problems: of_logs, signal: Signal::Logs }.log_export();
        let has_any = exports.traces.is_some() || exports.metrics.is_some() || exports.logs.is_some();
        if has_any {
            let attributes = Variables { env, problems: of_traces, signal: Signal::Traces }.resource();
            exports.resource = ResourceSettings { service_name: env("OTEL_SERVICE_NAME"), attributes };
        }
    }
    found.into_iter().for_each(|found| problems.extend(found));
    exports
}

/// What is exported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    /// Name in variables.
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    /// Path of the endpoint over HTTP.
    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Exporter {
    /// Exports spans if there is an endpoint.
    Unset,
    Otlp,
    None,
}

struct Variables<'a> {
    env: Lookup<'a>,
    problems: &'a mut Problems,
    signal: Signal,
}

impl Variables<'_> {
    fn trace_export(&mut self) -> Option<TraceExport> {
        let exporter = self.exporter();
        if exporter == Exporter::None {
            return None;
        }
        let numbers = NUMBERS.map(|name| (name, self.number(name)));
        let queue_spans = numbers
            .iter()
            .find_map(|(name, value)| (*name == "OTEL_BSP_MAX_QUEUE_SIZE").then_some(*value)?);
        let target = self.target(exporter);
        let (sampling, captures_content) = (self.sampling(), self.captures_content());
        let queue_spans = size(queue_spans, DEFAULT_QUEUE_SPANS);
        Some(TraceExport { target: target?, sampling, captures_content, queue_spans })
    }

    fn metric_export(&mut self) -> Option<MetricExport> {
        let exporter = self.exporter();
        if exporter != Exporter::Otlp {
            return None;
        }
        let interval = self.at_least("OTEL_METRIC_EXPORT_INTERVAL", LEAST_INTERVAL_MS);
        let interval = interval.map_or(DEFAULT_INTERVAL, Duration::from_millis);
        Some(MetricExport { target: self.target(exporter)?, interval })
    }

    fn log_export(&mut self) -> Option<LogExport> {
        let exporter = self.exporter();
        if exporter != Exporter::Otlp {
            return None;
        }
        let delay = self.number("OTEL_BLRP_SCHEDULE_DELAY").map_or(DEFAULT_LOG_DELAY, Duration::from_millis);
        let queue_lines = size(self.number("OTEL_BLRP_MAX_QUEUE_SIZE"), DEFAULT_LOG_QUEUE);
        let batch_lines = size(self.number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"), DEFAULT_LOG_BATCH);
        Some(LogExport { target: self.target(exporter)?, delay, queue_lines, batch_lines })
    }

    /// The collector of the signal, if there is one.
    fn target(&mut self, exporter: Exporter) -> Option<OtlpTarget> {
        let protocol = self.protocol();
        let endpoint = self.endpoint(protocol, exporter);
        let headers = self.headers();
        let (timeout, gzip, tls) = (self.timeout(), self.gzip(protocol), self.tls());
        endpoint.map(|endpoint| OtlpTarget { protocol, endpoint, timeout, gzip, tls, headers })
    }

    /// The exporter variable with `suffix`: the one of the signal, else the general one.
    fn of_exporter(&self, suffix: &str) -> Option<(String, String)> {
        let signal = self.signal.name();
        [format!("OTEL_EXPORTER_OTLP_{signal}_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")]
            .into_iter()
            .find_map(|name| Some(((self.env)(&name)?, name)))
            .map(|(value, name)| (name, value.trim().to_owned()))
    }

    fn is_disabled(&mut self) -> bool {
        let Some(value) = (self.env)("OTEL_SDK_DISABLED") else { return false };
        match value.trim().to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                self.must("OTEL_SDK_DISABLED", &value, "true or false");
                false
            }
        }
    }

    /// Content is exported only when this is asked for. The values besides `true` and `false` are those of instrumentations in
    /// Python; those that mean events mean nothing here.
    fn captures_content(&mut self) -> bool {
        let name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT";
        let Some(value) = (self.env)(name) else { return false };
        match value.trim().to_ascii_lowercase().as_str() {
            "true" | "span_only" | "span_and_event" => true,
            "false" | "no_content" | "event_only" => false,
            _ => {
                self.must(name, &value, "true or false");
                false
            }
        }
    }

    fn exporter(&mut self) -> Exporter {
        let name = format!("OTEL_{}_EXPORTER", self.signal.name());
        let Some(value) = (self.env)(&name) else { return Exporter::Unset };
        match value.trim() {
            "otlp" => Exporter::Otlp,
            "none" => Exporter::None,
            _ => {
                self.must(&name, &value, "otlp or none");
                Exporter::Unset
            }
        }
    }

    fn protocol(&mut self) -> OtlpProtocol {
        let Some((name, value)) = self.of_exporter("PROTOCOL") else { return OtlpProtocol::Grpc };
        match value.as_str() {
            "grpc" => OtlpProtocol::Grpc,
            "http/protobuf" => OtlpProtocol::HttpProtobuf,
            _ => {
                self.must(&name, &value, "grpc or http/protobuf");
                OtlpProtocol::Grpc
            }
        }
    }

    fn endpoint(&mut self, protocol: OtlpProtocol, exporter: Exporter) -> Option<String> {
        let (port, is_http) = match protocol {
            OtlpProtocol::Grpc => (4317, false),
            OtlpProtocol::HttpProtobuf => (4318, true),
        };
        let Some((name, value)) = self.of_exporter("ENDPOINT") else {
            let path = if is_http { self.signal.path() } else { "" };
            return (exporter == Exporter::Otlp).then(|| format!("http://localhost:{port}{path}"));
        };
        let example = format!("must be a URL such as http://127.0.0.1:{port}");
        let is_base = is_http && name == "OTEL_EXPORTER_OTLP_ENDPOINT";
        match checked_url(&value) {
            Err(problem) => {
                // An address with `@` or `?` may hold a secret.
                let quoted = if value.contains(['@', '?']) { String::new() } else { format!("`{value}` ") };
                self.problems.add(name, format_args!("{quoted}{example}: {problem}"));
                None
            }
            Ok(_) if is_base && value.contains('?') => {
                let signal = self.signal.name();
                let whole = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
                self.problems.add(name, format_args!("must have no query; set the whole address as {whole}"));
                None
            }
            Ok(()) if is_base => Some(format!("{}{}", value.trim_end_matches('/'), self.signal.path())),
            Ok(()) => Some(value),
        }
    }

    fn timeout(&mut self) -> Duration {
        let Some((name, value)) = self.of_exporter("TIMEOUT") else { return DEFAULT_TIMEOUT };
        match value.parse() {
            Ok(millis @ 1..) => Duration::from_millis(millis),
            _ => {
                self.must(&name, &value, "a whole number of milliseconds, 1 or more");
                DEFAULT_TIMEOUT
            }
        }
    }

    fn gzip(&mut self, protocol: OtlpProtocol) -> bool {
        let Some((name, value)) = self.of_exporter("COMPRESSION") else { return false };
        match (value.as_str(), protocol) {
            ("none", _) => false,
            ("gzip", OtlpProtocol::HttpProtobuf) => true,
            ("gzip", OtlpProtocol::Grpc) => {
                self.must(&name, &value, "none, unless OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf");
                false
            }
            _ => {
                self.must(&name, &value, "gzip or none");
                false
            }
        }
    }

    fn tls(&mut self) -> OtlpTls {
        let ca = self.file("CERTIFICATE");
        let (certificate, key) = (self.file("CLIENT_CERTIFICATE"), self.file("CLIENT_KEY"));
        if certificate.is_some() != key.is_some() {
            let names = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_KEY";
            self.problems.add(names, "set both or neither");
        }
        OtlpTls { ca, identity: certificate.zip(key) }
    }

    /// The PEM file that a variable names.
    fn file(&mut self, suffix: &str) -> Option<Vec<u8>> {
        let (name, path) = self.of_exporter(suffix)?;
        match std::fs::read(&path) {
            Ok(pem) if pem.windows(11).any(|window| window == b"-----BEGIN ") => return Some(pem),
            Ok(_) => self.problems.add(name, format_args!("`{path}` is not a PEM file")),
            Err(error) => self.problems.add(name, format_args!("`{path}` cannot be read: {error}")),
        }
        None
    }

    fn sampling(&mut self) -> Sampling {
        let name = "OTEL_TRACES_SAMPLER";
        let share = self.share();
        let sampler = (self.env)(name);
        match sampler.as_deref().map(str::trim) {
            None | Some("parentbased_always_on") => Sampling { follows_parent: true, share: 1.0 },
            Some("parentbased_always_off") => Sampling { follows_parent: true, share: 0.0 },
            Some("parentbased_traceidratio") => Sampling { follows_parent: true, share },
            Some("always_on") => Sampling { follows_parent: false, share: 1.0 },
            Some("always_off") => Sampling { follows_parent: false, share: 0.0 },
            Some("traceidratio") => Sampling { follows_parent: false, share },
            Some(other) => {
                let known = "always_on, always_off, traceidratio, or one of them after parentbased_";
                self.must(name, other, known);
                Sampling { follows_parent: true, share: 1.0 }
            }
        }
    }

    /// The share in `OTEL_TRACES_SAMPLER_ARG`.
    fn share(&mut self) -> f64 {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = (self.env)(name) else { return 1.0 };
        match value.trim().parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => share,
            _ => {
                self.must(name, &value, "a number from 0 to 1");
                1.0
            }
        }
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let text = (self.env)(name).unwrap_or_default();
        pairs(&text).map_err(|index| self.problems.add(name, not_a_pair(index))).unwrap_or_default()
    }

    fn headers(&mut self) -> Vec<(String, Secret)> {
        let Some((name, value)) = self.of_exporter("HEADERS") else { return Vec::new() };
        let is_usable = |(name, value): &(String, String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        let headers = pairs(&value)
            .and_then(|headers| match headers.iter().position(|header| !is_usable(header)) {
                Some(index) => Err(index),
                None => Ok(headers),
            })
            .map_err(|index| self.problems.add(name, not_a_pair(index)))
            .unwrap_or_default();
        headers.into_iter().map(|(name, value)| (name, Secret::from(value))).collect()
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        self.at_least(name, u64::from(name.starts_with("OTEL_BSP_") || name.starts_with("OTEL_BLRP_")))
    }

    fn at_least(&mut self, name: &str, least: u64) -> Option<u64> {
        let value = (self.env)(name)?;
        let number = value.trim().parse().ok().filter(|number| *number >= least);
        if number.is_none() {
            self.must(name, &value, format_args!("a whole number, {least} or more"));
        }
        number
    }

    fn must(&mut self, name: &str, value: &str, be: impl fmt::Display) {
        self.problems.add(name, format_args!("`{value}` must be {be}"));
    }
}

fn size(number: Option<u64>, default: usize) -> usize {
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests;
