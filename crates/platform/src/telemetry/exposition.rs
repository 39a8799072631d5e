//! The recorded metrics as OTLP: names, labels and values are those of `/metrics`.
//!
//! The recorder gives its values only as the text of a scrape, so this reads that text. What both have in common cannot differ then.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, metric,
        number_data_point,
    },
};

/// When the counts began and when they were read, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) began: u64,
    pub(super) read: u64,
}

/// The metrics of the text of a scrape. Lines that are none are left out.
pub(super) fn metrics(text: &str, times: Times) -> Vec<Metric> {
    let mut reader = Reader { times, help: None, metrics: Vec::new(), bucket: Vec::new() };
    text.lines().for_each(|line| reader.line(line));
    reader.metrics.retain(|metric| points(metric) > 0);
    reader.metrics
}

/// The number of data points of a metric.
pub(super) fn points(metric: &Metric) -> usize {
    match &metric.data {
        Some(metric::Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        Some(metric::Data::Histogram(histogram)) => histogram.data_points.len(),
        _ => 0,
    }
}

struct Reader<'a> {
    times: Times,
    /// Name and help text of the next metric.
    help: Option<(&'a str, String)>,
    metrics: Vec<Metric>,
    /// Cumulative buckets of the histogram that is read.
    bucket: Vec<(f64, u64)>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            self.help = help.split_once(' ').map(|(name, help)| (name, unescaped(help)));
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            self.begin(kind);
        } else if !line.is_empty() && !line.starts_with('#') {
            // A line that is not understood costs its value.
            let _ = self.sample(line);
        }
    }

    fn begin(&mut self, line: &str) {
        let Some((name, kind)) = line.split_once(' ') else { return };
        let data = match kind {
            "counter" => metric::Data::Sum(Sum {
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
                ..Sum::default()
            }),
            "gauge" => metric::Data::Gauge(Gauge::default()),
            "histogram" => metric::Data::Histogram(Histogram {
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                ..Histogram::default()
            }),
            _ => return,
        };
        let help = self.help.take().filter(|(of, _)| *of == name);
        self.bucket.clear();
        self.metrics.push(Metric {
            name: name.to_owned(),
            description: help.map(|(_, help)| help).unwrap_or_default(),
            unit: unit(name).to_owned(),
            data: Some(data),
            ..Metric::default()
        });
    }

    fn sample(&mut self, line: &str) -> Option<()> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
            None => (series, Vec::new()),
        };
        let Self { times, metrics, bucket, .. } = self;
        let Metric { name: metric, data, .. } = metrics.last_mut()?;
        let suffix = name.strip_prefix(metric.as_str())?;
        let number = |value| NumberDataPoint {
            attributes: attributes(labels.clone()),
            start_time_unix_nano: times.began,
            time_unix_nano: times.read,
            value: Some(value),
            ..NumberDataPoint::default()
        };
        match (data.as_mut()?, suffix) {
            (metric::Data::Sum(sum), "") => {
                sum.data_points.push(number(number_data_point::Value::AsInt(value.parse().ok()?)));
            }
            (metric::Data::Gauge(gauge), "") => {
                let point = number(number_data_point::Value::AsDouble(value.parse().ok()?));
                gauge.data_points.push(NumberDataPoint { start_time_unix_nano: 0, ..point });
            }
            (metric::Data::Histogram(_), "_bucket") => {
                let (_, bound) = labels.iter().find(|(name, _)| name == "le")?;
                bucket.push((bound.parse().ok()?, value.parse().ok()?));
            }
            (metric::Data::Histogram(histogram), "_sum") => {
                histogram.data_points.push(HistogramDataPoint {
                    attributes: attributes(labels),
                    start_time_unix_nano: times.began,
                    time_unix_nano: times.read,
                    sum: Some(value.parse().ok()?),
                    ..HistogramDataPoint::default()
                });
            }
            (metric::Data::Histogram(histogram), "_count") => {
                let point = histogram.data_points.last_mut()?;
                point.count = value.parse().ok()?;
                let below = std::iter::once(0).chain(bucket.iter().map(|(_, count)| *count));
                point.bucket_counts =
                    bucket.iter().zip(below).map(|((_, count), below)| count.saturating_sub(below)).collect();
                point.explicit_bounds =
                    bucket.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect();
                bucket.clear();
            }
            _ => return None,
        }
        Some(())
    }
}

/// Unit of a metric, which its name has.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        ""
    }
}

fn attributes(labels: Vec<(String, String)>) -> Vec<KeyValue> {
    labels.into_iter().map(|(name, value)| attribute(name, any_value::Value::StringValue(value))).collect()
}

/// An attribute.
pub(super) fn attribute(name: impl Into<String>, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The labels between the braces of a series.
fn labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let end = closing_quote(rest)?;
        let (value, rest) = rest.split_at(end);
        labels.push((name.to_owned(), unescaped(value)));
        let rest = rest.strip_prefix('"')?;
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(labels)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match characters.next() {
            Some('n') => plain.push('\n'),
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics as recorder;

    const TIMES: Times = Times { began: 1, read: 2 };

    fn one(text: &str) -> Metric {
        let mut found = metrics(text, TIMES);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn label(attribute: &KeyValue) -> (&str, &str) {
        match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::StringValue(text)) => (&attribute.key, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn labels_help_and_values_are_read() {
        let text = "# HELP a_total Of\\n a \\\\ b.\n# TYPE a_total counter\na_total{x=\"1,\\\"}\\\\\",y=\"\"} 7\na_total 8\n\n";
        let metric = one(text);
        assert_eq!((metric.name.as_str(), metric.description.as_str()), ("a_total", "Of\n a \\ b."));
        let Some(metric::Data::Sum(sum)) = metric.data else { panic!("a counter") };
        assert!(sum.is_monotonic && sum.data_points.iter().all(|point| point.start_time_unix_nano == 1));
        let labels: Vec<_> = sum.data_points[0].attributes.iter().map(label).collect();
        assert_eq!(labels, [("x", "1,\"}\\"), ("y", "")]);
        assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsInt(7)));
        assert_eq!(sum.data_points[1].value, Some(number_data_point::Value::AsInt(8)));
    }

    #[test]
    fn histogram_has_the_counts_of_its_buckets() {
        let text = "# TYPE t_seconds histogram\nt_seconds_bucket{a=\"x\",le=\"0.5\"} 2\nt_seconds_bucket{a=\"x\",le=\"1\"} 5\nt_seconds_bucket{a=\"x\",le=\"+Inf\"} 6\nt_seconds_sum{a=\"x\"} 7.5\nt_seconds_count{a=\"x\"} 6\n";
        let metric = one(text);
        assert_eq!(metric.unit, "s");
        let Some(metric::Data::Histogram(histogram)) = metric.data else { panic!("a histogram") };
        let point = &histogram.data_points[0];
        assert_eq!(point.attributes.iter().map(label).collect::<Vec<_>>(), [("a", "x")]);
        assert_eq!(point.explicit_bounds, [0.5, 1.0]);
        assert_eq!((&point.bucket_counts[..], point.count, point.sum), (&[2, 3, 1][..], 6, Some(7.5)));
    }

    #[test]
    fn lines_that_are_no_metric_are_left_out() {
        let text = "a 1\n# TYPE b counter\nb x\nb{c} 1\nb{c=\"1} 1\nc 1\n# TYPE d summary\nd 1\n# TYPE e\n";
        assert!(metrics(text, TIMES).is_empty());
    }

    #[test]
    fn every_line_of_a_scrape_is_a_value() {
        recorder::init_metrics(&[]).unwrap();
        recorder::record_histogram(&recorder::Metric::histogram("test_read_seconds", "Time."), 0.2);
        let text = recorder::scrape().unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        let values = |metric: &Metric| match &metric.data {
            Some(metric::Data::Histogram(histogram)) => {
                histogram.data_points.iter().map(|point| point.bucket_counts.len() + 2).sum()
            }
            _ => points(metric),
        };
        assert_eq!(metrics(&text, TIMES).iter().map(values).sum::<usize>(), lines, "{text}");
    }
}
