//! Report of a run: a table for people, JSON for programs, and the missed limits.

use std::fmt;

use serde::Serialize;

use crate::{
    load::{Load, Pace},
    tally::Tally,
};

/// The result of one run. Its JSON keys are stable: new ones may come, none goes or changes its meaning.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where the chats went.
    pub url: String,
    /// `closed` or `open`.
    pub mode: &'static str,
    /// Number of connections.
    pub connections: usize,
    /// Requests per second that were due, of an open loop.
    pub rate: Option<f64>,
    /// From the first request's turn to the last one's end, in seconds.
    pub elapsed_secs: f64,
    /// Ended requests of every outcome.
    pub sent: u64,
    /// Those that succeeded.
    pub ok: u64,
    /// Those that did not.
    pub errors: u64,
    /// `errors / sent`; 0 when nothing was sent.
    pub error_rate: f64,
    /// Requests that succeeded, per second.
    pub req_per_sec: f64,
    /// Of requests that succeeded or timed out, from when each was due.
    pub latency_ms: LatencyMs,
    /// Number of requests by outcome.
    pub outcomes: Vec<OutcomeCount>,
    /// One sentence for each limit that was not kept.
    pub missed: Vec<String>,
}

/// Latencies in milliseconds; null without a sample.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatencyMs {
    /// Half of the requests stay within it.
    pub p50: Option<f64>,
    /// 90 % stay within it.
    pub p90: Option<f64>,
    /// 99 % stay within it.
    pub p99: Option<f64>,
    /// 99.9 % stay within it.
    pub p99_9: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
}

/// Number of requests with one outcome.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OutcomeCount {
    /// The HTTP status; null when no whole answer came.
    pub status: Option<u16>,
    /// `success`, a code of the error table, `other`, `not_json`, `client_timeout`, `connect_failed` or `connection_lost`.
    pub code: &'static str,
    /// The number.
    pub count: u64,
}

/// Limits that a successful run meets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// The most that p99 may be, in milliseconds.
    pub max_p99_ms: Option<f64>,
    /// The largest share of requests that may fail, 0 to 1.
    pub max_error_rate: Option<f64>,
}

impl Report {
    /// The result of sending `load` to `url`.
    #[must_use]
    pub fn new(url: &str, load: &Load, tally: &Tally, limits: Limits) -> Self {
        let (mode, rate) = match load.pace {
            Pace::Closed => ("closed", None),
            Pace::Open { per_second } => ("open", Some(per_second)),
        };
        let (sent, ok) = (tally.sent(), tally.ok());
        let mut report = Self {
            url: url.to_owned(),
            mode,
            connections: load.connections.get(),
            rate,
            elapsed_secs: tally.elapsed.as_secs_f64(),
            sent,
            ok,
            errors: sent - ok,
            error_rate: if sent == 0 { 0.0 } else { (sent - ok) as f64 / sent as f64 },
            req_per_sec: tally.ok_per_sec(),
            latency_ms: LatencyMs {
                p50: tally.latency_ms(0.5),
                p90: tally.latency_ms(0.9),
                p99: tally.latency_ms(0.99),
                p99_9: tally.latency_ms(0.999),
                max: tally.max_ms(),
            },
            outcomes: tally
                .outcomes()
                .map(|(outcome, count)| OutcomeCount { status: outcome.status, code: outcome.code, count })
                .collect(),
            missed: Vec::new(),
        };
        report.missed = report.judge(limits);
        report
    }

    fn judge(&self, limits: Limits) -> Vec<String> {
        let mut missed = Vec::new();
        if self.ok == 0 {
            missed.push("no request succeeded".into());
        }
        if let (Some(limit), Some(p99)) = (limits.max_p99_ms, self.latency_ms.p99)
            && p99 > limit
        {
            missed.push(format!("p99 is {p99:.3} ms; --max-p99-ms allows {limit} ms"));
        }
        if let Some(limit) = limits.max_error_rate
            && self.error_rate > limit
        {
            missed.push(format!(
                "{} of {} requests failed ({}); --max-error-rate allows {}",
                self.errors,
                self.sent,
                percent(self.error_rate),
                percent(limit)
            ));
        }
        missed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, connections, elapsed_secs, sent, ok, errors, latency_ms, .. } = self;
        writeln!(f, "target      {url}")?;
        match self.rate {
            None => writeln!(f, "mode        closed loop, {connections} connections")?,
            Some(rate) => writeln!(f, "mode        open loop, {rate} per second, {connections} connections")?,
        }
        writeln!(f, "elapsed     {elapsed_secs:.2} s")?;
        writeln!(f, "sent        {sent}")?;
        writeln!(f, "ok          {ok}")?;
        writeln!(f, "errors      {errors} ({})", percent(self.error_rate))?;
        writeln!(f, "req/s       {:.1}", self.req_per_sec)?;
        let LatencyMs { p50, p90, p99, p99_9, max } = *latency_ms;
        for (name, value) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
            match value {
                Some(ms) => writeln!(f, "{name:<11} {ms:.3} ms")?,
                None => writeln!(f, "{name:<11} -")?,
            }
        }
        writeln!(f, "\n{:<8}{:<22}{:>10}", "status", "code", "count")?;
        for OutcomeCount { status, code, count } in &self.outcomes {
            let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            writeln!(f, "{status:<8}{code:<22}{count:>10}")?;
        }
        Ok(())
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
