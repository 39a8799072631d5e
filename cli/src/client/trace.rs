//! `phoenix trace`: everything that happened under a correlation id, in order.

mod lines;

use std::fmt::Write;

use jiff::Timestamp;
use phoenix_domain::{json::Json, plan::PLANNING_KEY, questions::MEMBER};
use phoenix_platform::logging::file::FOLDER;
use reqwest::Method;
use serde_json::value::RawValue;

use self::lines::Lines;
use super::{
    args::TraceArgs,
    error::ClientError,
    gateway::{Gateway, id},
    output::{between, cell, indented, line, parsed, plain, short, text, time},
};
use crate::terminal::print_error;

/// Most plans of one correlation id that are shown.
const MAX_PLANS: u64 = 50;

/// Longest output that is shown whole, in bytes.
const LONGEST_OUTPUT: usize = 2_000;

/// # Errors
/// When there is neither a plan nor a log line of that id, or a request is refused.
pub(super) async fn run(args: TraceArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let id = id(&args.id)?;
    let is_json = args.gateway.json;
    let plans = plans(&gateway, &id).await;
    let shown = plans.as_deref().unwrap_or_default();
    for (index, plan) in shown.iter().enumerate() {
        if is_json {
            line(plan.get())?;
            continue;
        }
        if index > 0 {
            line("")?;
        }
        line(story(&parsed(plan)))?;
    }
    // The lines of a plan have its correlation id; those of a request that was refused have no plan.
    let of_plans = shown.iter().map(|plan| text(&parsed(plan), "correlation_id").to_owned());
    let mut ids: Vec<_> = of_plans.chain([id]).collect();
    ids.dedup();
    let ids: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !id.is_empty()).collect();
    let log = Lines::read(&args.data_dir, &ids).unwrap_or_else(|error| {
        // The folder of another user, for instance: the journal has the story, too.
        let folder = args.data_dir.join(FOLDER);
        print_error(format_args!("the log lines in `{}` cannot be read: {error}", folder.display()));
        Lines::default()
    });
    if is_json {
        log.lines.iter().try_for_each(|found| line(found.to_string()))?;
    } else if !log.lines.is_empty() {
        let gap = if shown.is_empty() { "" } else { "\n" };
        line(format!("{gap}{}", log.story()))?;
    }
    match plans {
        // The lines explain why there is no plan.
        Err(ClientError::Unsuccessful(_)) if !log.lines.is_empty() => Ok(()),
        plans => plans.map(|_| ()),
    }
}

/// The plans of a correlation id, the oldest first, or the plan of an id.
async fn plans(gateway: &Gateway, id: &str) -> Result<Vec<Box<RawValue>>, ClientError> {
    let found = gateway.list("/api/v1/plans", &[("correlation_id", id)], "plans", MAX_PLANS).await?;
    let mut plan_ids: Vec<_> = found.iter().map(|plan| text(&parsed(plan), "plan_id").to_owned()).collect();
    // The listing begins with the newest, a story with the oldest.
    plan_ids.reverse();
    if plan_ids.is_empty() {
        plan_ids.push(id.to_owned());
    }
    let mut plans = Vec::new();
    for plan_id in plan_ids {
        let request = gateway.request(Method::GET, &format!("/api/v1/plans/{plan_id}"));
        let plan = gateway.json(request).await.map_err(|error| match error {
            ClientError::Refused { status: 404, .. } => ClientError::Unsuccessful(format!(
                "there is no plan with the correlation id or the id {id}; plans are kept for a limited time"
            )),
            other => other,
        })?;
        plans.push(plan);
    }
    Ok(plans)
}

/// A plan with its tasks and attempts, as lines without a line break at the end.
pub(super) fn story(plan: &Json) -> String {
    let created = time(plan, "created_at");
    let took = between(created, time(plan, "ended_at").or_else(|| Some(Timestamp::now())));
    let status = text(plan, "status");
    let word = if plan["ended_at"].is_null() { "for" } else { "after" };
    let mut out = format!("plan {}  {status} {word} {took}\n", text(plan, "plan_id"));
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:<12}{}", plain(value));
        }
    };
    fact("correlation", text(plan, "correlation_id"));
    fact("accepted", text(plan, "created_at"));
    fact("deadline", text(plan, "deadline_at"));
    fact("redrive of", text(plan, "redrive_of"));
    fact("redriven as", text(plan, "redriven_as"));
    fact("usage", &usage(&plan["usage"]));
    fact("error", &error(&plan["error"]));
    let mut rounds = Rounds::default();
    for task in plan["tasks"].as_array().into_iter().flatten() {
        if let Some(round) = rounds.begun_by(text(task, "key")) {
            let _ = writeln!(out, "  round {round}");
        }
        out.push_str(&task_story(task, created));
    }
    if let Some(output) = plan["output"].as_str() {
        let shown = output.get(..LONGEST_OUTPUT).unwrap_or(output);
        let more = if shown.len() < output.len() || plan["truncated"] == true { "\n    …" } else { "" };
        let _ = writeln!(out, "  output\n{}{more}", indented(shown, "    "));
    }
    out.truncate(out.trim_end().len());
    out
}

/// Counts the rounds of a plan that a language model plans: the questions to it, and the tasks that it has proposed.
#[derive(Debug, Default)]
struct Rounds {
    count: u32,
    tasks: u32,
    /// Whether the last task was a question.
    is_asking: bool,
}

impl Rounds {
    /// The number of the round that the task `key` begins, the next one of the plan, if it begins one.
    fn begun_by(&mut self, key: &str) -> Option<u32> {
        self.tasks += 1;
        let is_planned = self.count > 0 || self.tasks == 1;
        let was_asking = std::mem::replace(&mut self.is_asking, is_planned && key.starts_with(PLANNING_KEY));
        (self.is_asking && !was_asking).then(|| {
            self.count += 1;
            self.count
        })
    }
}

fn task_story(task: &Json, created: Option<Timestamp>) -> String {
    let mut out = format!(
        "  task {}  {} {}  {}",
        plain(text(task, "key")),
        plain(text(task, "agent")),
        plain(text(task, "action")),
        text(task, "status")
    );
    let phases = [("queued", "queue_ms"), ("backoff", "backoff_ms"), ("ran", "run_ms")];
    for (word, name) in phases {
        if let Some(millis) = task["timeline"][name].as_u64().filter(|millis| *millis > 0) {
            let _ = write!(out, "  {word} {}", short(std::time::Duration::from_millis(millis)));
        }
    }
    out.push('\n');
    let after: Vec<_> =
        task["depends_on"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    if !after.is_empty() {
        let _ = writeln!(out, "    after {}", plain(&after.join(", ")));
    }
    let wait = &task["waits_for"];
    if wait.is_object() {
        let until = text(wait, "until");
        let until = if until.is_empty() { String::new() } else { format!("  until {until}") };
        let _ = writeln!(out, "    waits for {}{}", plain(text(wait, "kind")), plain(&until));
    }
    if task["approval"].is_object() {
        out.push_str(&approval_story(&task["approval"], created));
    }
    let attempts = task["attempts"].as_array();
    for (index, attempt) in attempts.into_iter().flatten().enumerate() {
        out.push_str(&attempt_story(attempt, created));
        // A cancel ends the task. An attempt that another one follows was running when its executor or planner died, which records
        // of earlier versions do not say.
        let is_followed = attempts.is_some_and(|attempts| attempts.len() > index + 1);
        let is_explained = !text(attempt, "message").is_empty();
        if attempt["outcome"] == "cancelled" && is_followed && !is_explained && !task["pause"].is_object() {
            out.push_str("      lost: its executor or planner stopped; the task was dispatched again\n");
        }
    }
    // The last attempt says the same in other words.
    if attempts.is_none_or(<[Json]>::is_empty) && task["error"].is_object() {
        let _ = writeln!(out, "    error {}", plain(&error(&task["error"])));
    }
    out
}

fn approval_story(approval: &Json, created: Option<Timestamp>) -> String {
    let (requested, decided) = (time(approval, "requested_at"), time(&approval["decision"], "at"));
    let mut out = format!(
        "    approval  at +{}  {}  {}",
        between(created, requested),
        text(approval, "state"),
        between(requested, decided.or_else(|| Some(Timestamp::now())))
    );
    let decision = &approval["decision"];
    let edited = if decision["input"].is_object() { "with another input" } else { "" };
    let by = decision["actor"].as_str().map_or_else(String::new, |actor| format!("by {actor}"));
    for word in [&*by, edited, text(decision, "reason")] {
        if !word.is_empty() {
            let _ = write!(out, "  {}", plain(word));
        }
    }
    let is_waiting = text(approval, "state") == "waiting";
    if is_waiting {
        let _ = write!(out, "  expires {}", text(approval, "expires_at"));
    }
    // Nothing explains an expiry but what was asked, and of whom.
    if is_waiting || text(approval, "state") == "expired" {
        for (name, word) in [("reason", text(approval, "reason")), ("asks", text(approval, "approver"))] {
            if !word.is_empty() {
                let _ = write!(out, "\n      {name} {}", plain(word));
            }
        }
    }
    if is_waiting {
        let questions = approval["input"][MEMBER]["asked"].as_object();
        for (name, question) in questions.into_iter().flatten() {
            let _ = write!(out, "\n      question {}  {}", plain(name), plain(text(question, "message")));
            let _ = write!(out, "\n        schema {}", plain(&question["schema"].to_string()));
        }
        if questions.is_some_and(|questions| !questions.is_empty()) {
            let names =
                questions.into_iter().flatten().map(|(name, _)| format!("\"{}\": {{…}}", plain(name)));
            let _ = write!(out, "\n      answer with --input '{{{}}}'", names.collect::<Vec<_>>().join(", "));
        } else {
            let _ = write!(out, "\n      input {}", cell(&approval["input"].to_string()));
        }
        let _ = write!(out, "\n      hash {}", text(approval, "input_hash"));
    }
    out.push('\n');
    out
}

fn attempt_story(attempt: &Json, created: Option<Timestamp>) -> String {
    let (started, ended) = (time(attempt, "started_at"), time(attempt, "ended_at"));
    let outcome = attempt["outcome"].as_str().unwrap_or("running");
    let mut out = format!(
        "    attempt {}  at +{}  {outcome}  {}",
        attempt["number"],
        between(created, started),
        between(started, ended.or_else(|| Some(Timestamp::now())))
    );
    for word in [text(attempt, "error_class"), text(attempt, "worker"), &usage(&attempt["usage"])] {
        if !word.is_empty() {
            let _ = write!(out, "  {}", plain(word));
        }
    }
    out.push('\n');
    for (name, indent) in [("message", "      "), ("stderr_tail", "      stderr| ")] {
        if let Some(words) = attempt[name].as_str().filter(|words| !words.is_empty()) {
            let _ = writeln!(out, "{}", indented(words, indent));
        }
    }
    out
}

fn error(error: &Json) -> String {
    if error.is_object() {
        format!("{}: {}", text(error, "code"), text(error, "message"))
    } else {
        String::new()
    }
}

/// Tokens and cost; empty when there are none.
fn usage(usage: &Json) -> String {
    let counts = [("input", "input_tokens"), ("output", "output_tokens")];
    let tokens = counts.map(|(word, name)| Some(format!("{} {word} tokens", usage[name].as_u64()?)));
    let cost = usage["cost_usd"].as_f64().map(|cost| format!("USD {cost}"));
    tokens.into_iter().chain([cost]).flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn story_of(plan: &serde_json::Value) -> String {
        story(&plan.clone().into())
    }

    #[test]
    fn story_shows_each_attempt_with_its_cause() {
        let plan = json!({
            "plan_id": "P", "correlation_id": "C", "status": "failed",
            "created_at": "2026-11-27T08:00:00Z", "ended_at": "2026-11-27T08:00:03.2Z",
            "error": {"code": "execution_failed", "message": "no\u{1b}[1m luck"},
            "tasks": [{
                "key": "a", "agent": "echo", "action": "chat", "status": "dead_lettered", "depends_on": ["b", "c"],
                "timeline": {"queue_ms": 4, "backoff_ms": 0, "run_ms": 1200},
                "attempts": [
                    {"number": 1, "started_at": "2026-11-27T08:00:01Z", "ended_at": "2026-11-27T08:00:01.5Z",
                     "outcome": "failed", "error_class": "timeout", "message": "too slow", "worker": "pid 7",
                     "stderr_tail": "one\ntwo"},
                    {"number": 2, "started_at": "2026-11-27T08:00:02Z", "ended_at": "2026-11-27T08:00:03Z",
                     "outcome": "failed", "error_class": "crash", "worker": "pid 8",
                     "usage": {"input_tokens": 3, "output_tokens": 5, "cost_usd": 0.01}},
                ],
            }],
        });
        let expected = "\
plan P  failed after 3.2s
  correlation C
  accepted    2026-11-27T08:00:00Z
  error       execution_failed: no\u{fffd}[1m luck
  task a  echo chat  dead_lettered  queued 4ms  ran 1.2s
    after b, c
    attempt 1  at +1.0s  failed  500ms  timeout  pid 7
      too slow
      stderr| one
      stderr| two
    attempt 2  at +2.0s  failed  1.0s  crash  pid 8  3 input tokens, 5 output tokens, USD 0.01";
        assert_eq!(story_of(&plan), expected);
    }

    #[test]
    fn story_shows_what_a_task_waits_for() {
        for (wait, expected) in [
            (json!(null), "  task a     queued"),
            (json!({"kind": "capacity", "until": null}), "  task a     queued\n    waits for capacity"),
            (
                json!({"kind": "timer", "until": "2026-11-28T03:00:00Z"}),
                "  task a     queued\n    waits for timer  until 2026-11-28T03:00:00Z",
            ),
        ] {
            let task = json!({"key": "a", "status": "queued", "waits_for": wait});
            let shown = story_of(&json!({"tasks": [task]}));
            assert!(shown.ends_with(expected), "{shown}");
        }
    }

    #[test]
    fn rounds_of_a_planned_plan_are_headed() {
        let shown = |keys: &[&str]| {
            let tasks: Vec<_> = keys.iter().map(|key| json!({"key": key})).collect();
            let story = story_of(&json!({"tasks": tasks}));
            let words = story.lines().skip(1).map(|line| line.trim().trim_start_matches("task ").to_owned());
            words.map(|line| line.split("  ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let planned = shown(&["planning-1", "planning-2", "a", "b", "planning-3", "c", "planning-4"]);
        let expected = [
            "round 1",
            "planning-1",
            "planning-2",
            "a",
            "b",
            "round 2",
            "planning-3",
            "c",
            "round 3",
            "planning-4",
        ];
        assert_eq!(planned, expected);
        assert_eq!(shown(&["a", "planning-1"]), ["a", "planning-1"], "a plan of a caller has no rounds");
    }

    #[test]
    fn story_shows_the_questions_of_a_task_and_how_to_answer() {
        let question = json!({"message": "Which branch?", "schema": {"type": "object"}});
        let input = json!({"phoenix/questions": {"asked": {"branch": question}}, "repository": "r"});
        let approval = json!({"state": "waiting", "input": input, "input_hash": "h"});
        let shown = story_of(&json!({"tasks": [{"key": "a", "approval": approval}]}));
        let expected = "
      question branch  Which branch?
        schema {\"type\":\"object\"}
      answer with --input '{\"branch\": {…}}'
      hash h";
        assert!(shown.ends_with(expected), "{shown}");
    }

    #[test]
    fn story_of_any_document_is_text() {
        for odd in
            [json!(null), json!([]), json!({"tasks": [null, {"attempts": [3]}], "output": "é".repeat(3_000)})]
        {
            assert!(story_of(&odd).starts_with("plan "), "{odd}");
        }
    }
}
