//! `phoenix stats`: what happened in the last minutes or hours.

use phoenix_domain::json::Json;
use std::{fmt::Write, time::Duration};

use serde_json::value::RawValue;

use super::{
    args::StatsArgs,
    error::ClientError,
    gateway::Gateway,
    output::{line, parsed, short},
};

/// Heights of a bar, from low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// # Errors
/// When the request is refused.
pub(super) async fn run(args: StatsArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let statistics = statistics(&gateway, args.window.as_str()).await?;
    if args.gateway.json { line(statistics.get()) } else { line(summary(&parsed(&statistics)).trim_end()) }
}

/// The statistics of a window.
///
/// # Errors
/// When the request is refused.
pub(super) async fn statistics(gateway: &Gateway, window: &str) -> Result<Box<RawValue>, ClientError> {
    gateway.json(gateway.read("/api/v1/stats", &[("window", window)])).await
}

/// Statistics as a few lines of text, each with its line break.
pub(super) fn summary(statistics: &Json) -> String {
    let total = &statistics["total"];
    let count = |name: &str| total[name].as_u64().unwrap_or_default();
    let (succeeded, failed, cancelled) = (count("succeeded"), count("failed"), count("cancelled"));
    let mut text = format!(
        "plans     {} accepted, {succeeded} succeeded, {failed} failed, {cancelled} cancelled in {}\n",
        count("accepted"),
        statistics["window"].as_str().unwrap_or_default()
    );
    // Writing to a string does not fail.
    if succeeded + failed > 0 {
        let _ = writeln!(text, "success   {}", percent(succeeded, failed));
    }
    for (name, label) in [("latency_ms", "latency"), ("wait_ms", "wait")] {
        let shares = ["p50", "p95", "p99"].map(|share| format!("{share} {}", millis(&total[name][share])));
        if total[name].is_object() {
            let _ = writeln!(text, "{label:<8}  {}", shares.join("  "));
        }
    }
    let (input, output) = (count("input_tokens"), count("output_tokens"));
    if input + output > 0 {
        let cost = total["cost_usd"].as_f64().unwrap_or_default();
        let _ = writeln!(text, "models    {input} tokens in, {output} out, ${cost:.4}");
    }
    let buckets = statistics["buckets"].as_array().unwrap_or_default();
    let accepted: Vec<u64> =
        buckets.iter().map(|bucket| bucket["accepted"].as_u64().unwrap_or_default()).collect();
    let most = accepted.iter().copied().max().unwrap_or_default();
    if most > 0 {
        let seconds = statistics["bucket_secs"].as_u64().unwrap_or_default();
        let _ = writeln!(text, "accepted  {}  at most {most} in {seconds}s", bars(&accepted, most));
    }
    text
}

/// A bar for each count; a blank for none.
fn bars(counts: &[u64], most: u64) -> String {
    let bar = |count: &u64| match count.saturating_mul(BARS.len() as u64).div_ceil(most.max(1)) {
        0 => ' ',
        height => BARS[usize::try_from(height - 1).unwrap_or(0).min(BARS.len() - 1)],
    };
    counts.iter().map(bar).collect()
}

/// The share of plans that succeeded, of those that were not cancelled. Rounded down, so that 100 % means all.
fn percent(succeeded: u64, failed: u64) -> String {
    let hundredths = succeeded.saturating_mul(10_000) / (succeeded + failed).max(1);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

fn millis(value: &Json) -> String {
    let duration = Duration::try_from_secs_f64(value.as_f64().unwrap_or_default() / 1_000.0);
    short(duration.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn summary_has_what_happened_and_nothing_else() {
        let nothing = json!({"window": "1h", "total": {"accepted": 0, "latency_ms": null}, "buckets": []});
        assert_eq!(
            summary(&nothing.into()),
            "plans     0 accepted, 0 succeeded, 0 failed, 0 cancelled in 1h\n"
        );
        let some = json!({
            "window": "15m",
            "bucket_secs": 60,
            "total": {
                "accepted": 30_000, "succeeded": 29_999, "failed": 1, "cancelled": 0,
                "latency_ms": {"p50": 12.4, "p95": 640.0, "p99": 1_400.0},
                "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.0015,
            },
            "buckets": [{"accepted": 0}, {"accepted": 1}, {"accepted": 15_000}, {"accepted": 14_999}],
        });
        let expected = "plans     30000 accepted, 29999 succeeded, 1 failed, 0 cancelled in 15m\n\
                        success   99.99 %\n\
                        latency   p50 12ms  p95 640ms  p99 1.4s\n\
                        models    10 tokens in, 5 out, $0.0015\n\
                        accepted   ▁██  at most 15000 in 60s\n";
        assert_eq!(summary(&some.into()), expected);
    }
}
