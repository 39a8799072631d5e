//! Progress of a call, as notifications.
//!
//! The value of a notification is larger than the one before, as the protocol requires. A call of one task reports what its agent
//! reports, or else the bytes that the agent has said; a plan of several tasks reports the number of those that have ended.

use std::time::{Duration, Instant};

use phoenix_domain::{PlanId, json::Json};
use phoenix_proto::{live_output::LiveOutput, planner::WatchPlanResponse};
use serde::Serialize;

use super::{call::ProgressToken, message};

/// Shortest time between two notifications, so that an agent that says much floods no client.
const INTERVAL: Duration = Duration::from_millis(250);

const METHOD: &str = "notifications/progress";

/// The progress of one call.
#[derive(Debug)]
pub(crate) struct Progress {
    token: ProgressToken,
    tasks: usize,
    ended: u32,
    said: u64,
    /// Value of the last notification.
    last: f64,
    sent_at: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    progress_token: &'a ProgressToken,
    progress: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Progress {
    /// The progress of a call with `tasks` tasks.
    pub(crate) fn new(token: ProgressToken, tasks: usize) -> Self {
        Self { token, tasks, ended: 0, said: 0, last: 0.0, sent_at: Instant::now() }
    }

    /// The notification that the plan is durable: the first one.
    pub(crate) fn accepted(&self, plan_id: PlanId) -> String {
        self.notification(0.0, self.total(), Some(format!("plan {plan_id} is accepted")))
    }

    /// The notification of an event, if it is progress.
    pub(crate) fn event(&mut self, event: &WatchPlanResponse) -> Option<String> {
        if event.kind != "task_ended" || self.tasks < 2 {
            return None;
        }
        self.ended += 1;
        let status = Json::parse(&event.data_json).unwrap_or_default();
        let status = status["status"].as_str().unwrap_or("ended");
        let message = format!("task `{}`: {status}", event.task_key);
        self.advance(f64::from(self.ended), self.total(), Some(message))
    }

    /// The notification of what a task says, if it is progress.
    pub(crate) fn output(&mut self, output: &LiveOutput) -> Option<String> {
        if self.tasks > 1 {
            return None;
        }
        match output {
            LiveOutput::Output { part, .. } => {
                self.said += part.text.len() as u64;
                let is_due = self.sent_at.elapsed() >= INTERVAL;
                // Exact up to 8 PiB.
                #[expect(clippy::cast_precision_loss, reason = "an output is at most 8 MiB")]
                let said = self.said as f64;
                if is_due { self.advance(said, None, None) } else { None }
            }
            LiveOutput::Progress { report, .. } => {
                let report = Json::parse(report.get()).unwrap_or_default();
                let message = report["message"].as_str().map(str::to_owned);
                let value = report["progress"].as_f64().unwrap_or(self.last + 1.0);
                self.advance(value, report["total"].as_f64(), message)
            }
            LiveOutput::Reset { .. } => None,
        }
    }

    fn total(&self) -> Option<f64> {
        let total = u32::try_from(self.tasks).ok().filter(|tasks| *tasks > 1);
        total.map(f64::from)
    }

    fn advance(&mut self, value: f64, total: Option<f64>, message: Option<String>) -> Option<String> {
        if !value.is_finite() || value <= self.last {
            return None;
        }
        (self.last, self.sent_at) = (value, Instant::now());
        Some(self.notification(value, total, message))
    }

    fn notification(&self, progress: f64, total: Option<f64>, message: Option<String>) -> String {
        let params = Params { progress_token: &self.token, progress, total, message };
        message::notification(METHOD, &params)
    }
}

#[cfg(test)]
mod tests {
    use phoenix_proto::live_output::OutputPart;
    use serde_json::Value;

    use super::*;

    fn progress(tasks: usize) -> Progress {
        Progress::new(ProgressToken::of(&"t".into()).unwrap(), tasks)
    }

    fn value(notification: Option<String>) -> Option<(f64, Value)> {
        let sent: Value = serde_json::from_str(&notification?).unwrap();
        assert_eq!((&sent["method"], &sent["params"]["progressToken"]), (&METHOD.into(), &"t".into()));
        Some((sent["params"]["progress"].as_f64().unwrap(), sent["params"]["message"].clone()))
    }

    fn report(json: &str) -> LiveOutput {
        LiveOutput::Progress {
            task_key: "a".into(),
            report: serde_json::value::RawValue::from_string(json.into()).unwrap(),
        }
    }

    #[test]
    fn reports_of_an_agent_pass_when_they_increase() {
        let mut progress = progress(1);
        for (json, expected) in [
            (r#"{"attempt":1,"progress":3,"total":10,"message":"c"}"#, Some((3.0, "c".into()))),
            (r#"{"attempt":1,"progress":2}"#, None),
            (r#"{"attempt":1,"message":"d"}"#, Some((4.0, "d".into()))),
            (r#"{"attempt":2,"progress":4.5}"#, Some((4.5, Value::Null))),
        ] {
            assert_eq!(value(progress.output(&report(json))), expected, "{json}");
        }
    }

    #[test]
    fn output_is_progress_at_intervals() {
        let mut progress = progress(1);
        let output = || LiveOutput::Output {
            task_key: "a".into(),
            part: OutputPart { attempt: 1, offset: 0, text: "1234".into(), delta: None },
        };
        assert_eq!(value(progress.output(&output())), None, "it is too early");
        progress.sent_at -= INTERVAL;
        assert_eq!(value(progress.output(&output())), Some((8.0, Value::Null)));
    }

    #[test]
    fn plan_of_several_tasks_counts_those_that_ended() {
        let mut progress = progress(2);
        let event = |kind: &str| WatchPlanResponse {
            kind: kind.into(),
            task_key: "a".into(),
            data_json: r#"{"status":"succeeded"}"#.into(),
            ..Default::default()
        };
        assert_eq!(value(progress.event(&event("attempt_started"))), None);
        assert_eq!(value(progress.output(&report(r#"{"attempt":1,"progress":50}"#))), None);
        assert_eq!(value(progress.event(&event("task_ended"))), Some((1.0, "task `a`: succeeded".into())));
        assert_eq!(value(progress.event(&event("task_ended"))), Some((2.0, "task `a`: succeeded".into())));
    }
}
