//! The standard `OTEL_*` variables for traces
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! A variable for traces (`OTEL_EXPORTER_OTLP_TRACES_…`) overrides the general one (`OTEL_EXPORTER_OTLP_…`). An invalid value is
//! a problem like that of any other setting; it never disables the export silently. Values of headers and parts of addresses
//! may be secrets, so error messages do not contain them.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{env::Lookup, problems::Problems};
use crate::telemetry::{OtlpProtocol, Sampling, TraceExport, TraceTls};

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

/// The export of spans, if one is configured.
pub(super) fn trace_export(env: Lookup<'_>, problems: &mut Problems) -> Option<TraceExport> {
    let mut variables = Variables { env, problems };
    if variables.is_disabled() {
        return None;
    }
    let exporter = variables.exporter();
    if exporter == Exporter::None {
        return None;
    }
    let protocol = variables.protocol();
    let endpoint = variables.endpoint(protocol, exporter);
    let numbers = NUMBERS.map(|name| (name, variables.number(name)));
    let queue_spans =
        numbers.iter().find_map(|(name, value)| (*name == "OTEL_BSP_MAX_QUEUE_SIZE").then_some(*value)?);
    variables.check_headers();
    let export = TraceExport {
        protocol,
        endpoint: endpoint.clone().unwrap_or_default(),
        timeout: variables.timeout(),
        gzip: variables.gzip(protocol),
        tls: variables.tls(),
        sampling: variables.sampling(),
        service_name: env("OTEL_SERVICE_NAME"),
        resource: variables.resource(),
        captures_content: variables.captures_content(),
        queue_spans: queue_spans.and_then(|spans| usize::try_from(spans).ok()).unwrap_or(DEFAULT_QUEUE_SPANS),
    };
    endpoint.map(|_| export)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Exporter {
    /// Exports if there is an endpoint.
    Unset,
    Otlp,
    None,
}

struct Variables<'a> {
    env: Lookup<'a>,
    problems: &'a mut Problems,
}

impl Variables<'_> {
    /// The exporter variable with `suffix`: the one for traces, else the general one.
    fn of_exporter(&self, suffix: &str) -> Option<(String, String)> {
        [format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")]
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
        let Some(value) = (self.env)("OTEL_TRACES_EXPORTER") else { return Exporter::Unset };
        match value.trim() {
            "otlp" => Exporter::Otlp,
            "none" => Exporter::None,
            _ => {
                self.must("OTEL_TRACES_EXPORTER", &value, "otlp or none");
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
            let path = if is_http { "/v1/traces" } else { "" };
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
                let advice =
                    "must have no query; set the whole address as OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
                self.problems.add(name, advice);
                None
            }
            Ok(()) if is_base => Some(format!("{}/v1/traces", value.trim_end_matches('/'))),
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

    fn tls(&mut self) -> TraceTls {
        let ca = self.file("CERTIFICATE");
        let (certificate, key) = (self.file("CLIENT_CERTIFICATE"), self.file("CLIENT_KEY"));
        if certificate.is_some() != key.is_some() {
            let names = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_KEY";
            self.problems.add(names, "set both or neither");
        }
        TraceTls { ca, identity: certificate.zip(key) }
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

    fn check_headers(&mut self) {
        let Some((name, value)) = self.of_exporter("HEADERS") else { return };
        let is_usable = |(name, value): &(String, String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        let wrong = match pairs(&value) {
            Ok(headers) => headers.iter().position(|header| !is_usable(header)),
            Err(index) => Some(index),
        };
        if let Some(index) = wrong {
            self.problems.add(name, not_a_pair(index));
        }
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        let value = (self.env)(name)?;
        let least = u64::from(name.starts_with("OTEL_BSP_"));
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

fn checked_url(text: &str) -> Result<(), &'static str> {
    let url: Uri = text.parse().map_err(|_| "it is not a URL")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("it must begin with http:// or https://");
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("it must not hold a user or a password; send them as OTEL_EXPORTER_OTLP_HEADERS")
        }
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err("it names no host"),
    }
}

/// Parses `name=value,name=value` with percent-encoded values. The error is the index of the first invalid entry.
fn pairs(text: &str) -> Result<Vec<(String, String)>, usize> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let pairs = entries.enumerate().map(|(index, entry)| {
        let (name, value) = entry.split_once('=').ok_or(index)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| index)?;
        let name = name.trim();
        if name.is_empty() { Err(index) } else { Ok((name.to_owned(), value.into_owned())) }
    });
    pairs.collect()
}

fn not_a_pair(index: usize) -> String {
    format!(
        "entry {} must be name=value; entries are separated by commas, and values are percent-encoded",
        index + 1
    )
}

#[cfg(test)]
mod tests;
