//! The check at the end of a soak: the journal must be consistent in itself and with the observations of every caller.

use std::collections::{BTreeMap, HashMap};

use phoenix_testkit::{http::Rest, wait::until_some};
use serde_json::Value;

use crate::callers::{Fact, Observation, events};

/// Every plan of the journal, by the correlation id of its request.
pub(crate) struct JournalSnapshot(HashMap<String, Vec<Entry>>);

/// A plan and its events.
struct Entry {
    plan: Value,
    /// Id and kind of each event.
    events: Vec<(String, String)>,
}

impl JournalSnapshot {
    /// Reads every plan, once all have ended.
    pub(crate) async fn read(rest: &Rest) -> Self {
        for status in ["pending", "running"] {
            let path = format!("/api/v1/plans?status={status}&page_size=1");
            until_some(&format!("no plan is {status}"), async || {
                let page = rest.try_send("GET".parse().unwrap(), &path, None).await?;
                page.json["plans"].as_array()?.is_empty().then_some(())
            })
            .await;
        }
        let mut plans: HashMap<String, Vec<Entry>> = HashMap::new();
        let mut path = "/api/v1/plans?page_size=500".to_owned();
        loop {
            let page = read(rest, &path).await;
            for summary in page["plans"].as_array().unwrap() {
                let plan_id = summary["plan_id"].as_str().unwrap();
                let plan = read(rest, &format!("/api/v1/plans/{plan_id}")).await;
                let events = events(rest, plan_id).await.into_iter().map(|sent| (sent.id, sent.event));
                let entry = Entry { plan, events: events.collect() };
                plans.entry(summary["correlation_id"].as_str().unwrap().into()).or_default().push(entry);
            }
            match page["next_page_token"].as_str() {
                Some(token) => path = format!("/api/v1/plans?page_size=500&page_token={token}"),
                None => return Self(plans),
            }
        }
    }

    /// Number of plans by final state.
    pub(crate) fn ends(&self) -> BTreeMap<&str, usize> {
        let mut ends = BTreeMap::new();
        for entry in self.0.values().flatten() {
            *ends.entry(entry.plan["status"].as_str().unwrap()).or_default() += 1;
        }
        ends
    }

    /// Number of tasks by the state of their approval.
    pub(crate) fn approvals(&self) -> BTreeMap<&str, usize> {
        let mut states = BTreeMap::new();
        for task in self.tasks() {
            if let Some(state) = task["approval"]["state"].as_str() {
                *states.entry(state).or_default() += 1;
            }
        }
        states
    }

    /// Number of tasks of an agent by final state.
    pub(crate) fn ends_of(&self, agent: &str) -> BTreeMap<&str, usize> {
        let mut ends = BTreeMap::new();
        for task in self.tasks().filter(|task| task["agent"] == agent) {
            *ends.entry(task["status"].as_str().unwrap()).or_default() += 1;
        }
        ends
    }

    fn tasks(&self) -> impl Iterator<Item = &Value> {
        self.0.values().flatten().flat_map(|entry| entry.plan["tasks"].as_array().unwrap())
    }

    /// Number of attempts that were cancelled and repeated.
    pub(crate) fn attempts_made_again(&self) -> usize {
        self.tasks()
            .map(|task| attempts(task).windows(2).filter(|pair| pair[0]["outcome"] == "cancelled").count())
            .sum()
    }

    /// Panics for the first inconsistent plan.
    pub(crate) fn check_consistency(&self) {
        for Entry { plan, events } in self.0.values().flatten() {
            check_tasks(plan);
            check_events(plan, events);
        }
    }

    /// Panics when a caller's observation contradicts the journal.
    pub(crate) fn check_observation(&self, observation: &Observation) {
        let plans = self.0.get(&observation.correlation_id).map_or(&[][..], Vec::as_slice);
        assert!(plans.len() <= 1, "a request became two plans: {observation:#?}");
        let Some(Entry { plan, events }) = plans.first() else {
            let names_no_plan = |fact: &Fact| match fact {
                Fact::NotCancelled => true,
                Fact::Observed(observed) => observed.is_empty(),
                Fact::Accepted(_) | Fact::Ended(..) | Fact::Converted(_) => false,
                Fact::Ran(_) | Fact::NeverRan(_) => false,
            };
            assert!(observation.facts.iter().all(names_no_plan), "a plan is lost: {observation:#?}");
            return;
        };
        for fact in &observation.facts {
            let agrees = match fact {
                Fact::Accepted(plan_id) => plan["plan_id"] == plan_id.as_str(),
                Fact::Ended(status, output) => {
                    plan["status"] == *status
                        && output.as_ref().is_none_or(|output| plan["output"] == *output)
                }
                Fact::NotCancelled => plan["status"] != "cancelled",
                Fact::Converted(metres) => {
                    let output = plan["output"].as_str().and_then(|output| output.strip_suffix(" m"));
                    plan["status"] == "failed"
                        || output.and_then(|output| output.parse().ok()) == Some(*metres as f64)
                }
                // What the agents did is in their ledger.
                Fact::Ran(_) | Fact::NeverRan(_) => true,
                Fact::Observed(observed) => {
                    let ended = observed.last().is_some_and(|(_, kind)| kind == "plan_ended");
                    events.starts_with(observed) && (!ended || observed.len() == events.len())
                }
            };
            assert!(agrees, "{fact:?} contradicts the journal: {plan:#}\n{events:#?}");
        }
    }
}

/// What is at `path`, once it can be read.
async fn read(rest: &Rest, path: &str) -> Value {
    until_some(path, async || {
        let answer = rest.try_send("GET".parse().unwrap(), path, None).await?;
        (answer.status == 200).then_some(answer.json)
    })
    .await
}

fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().unwrap()
}

/// Checks that the tasks and attempts of an ended plan are consistent.
fn check_tasks(plan: &Value) {
    let status = plan["status"].as_str().unwrap();
    assert!(plan["ended_at"].is_string(), "{plan:#}");
    let mut survived = true;
    for task in plan["tasks"].as_array().unwrap() {
        for (n, attempt) in attempts(task).iter().enumerate() {
            let before =
                n.checked_sub(1).map_or(0, |before| attempts(task)[before]["number"].as_u64().unwrap());
            assert!(attempt["number"].as_u64() > Some(before), "no number is used twice: {plan:#}");
            assert!(attempt["outcome"].is_string(), "no attempt of an ended plan is open: {plan:#}");
            let is_last = n + 1 == attempts(task).len();
            assert!(is_last || attempt["outcome"] != "succeeded", "no attempt follows a success: {plan:#}");
        }
        assert!(task["ended_at"].is_string(), "{plan:#}");
        let last = attempts(task).last().map(|attempt| attempt["outcome"].as_str().unwrap());
        match task["status"].as_str().unwrap() {
            "succeeded" => assert_eq!(last, Some("succeeded"), "{plan:#}"),
            "dead_lettered" => {
                assert_ne!(last, Some("succeeded"), "{plan:#}");
                survived &= task["on_failure"] == "continue";
            }
            "cancelled" => survived = false,
            other => panic!("a task of an ended plan is {other}: {plan:#}"),
        }
    }
    // A plan during whose run five planners crashed fails regardless of its tasks.
    let is_given_up = plan["error"]["details"]["planner_crashes"].is_string();
    assert_eq!(status == "succeeded", survived && !is_given_up, "{plan:#}");
    assert_eq!(status == "succeeded", plan["error"].is_null(), "{plan:#}");
}

/// Checks that the events of a plan match its rows.
fn check_events(plan: &Value, events: &[(String, String)]) {
    let count = |kind: &str| events.iter().filter(|(_, other)| other == kind).count();
    let kind = |event: Option<&(String, String)>| event.map(|(_, kind)| kind.clone());
    let tasks = plan["tasks"].as_array().unwrap();
    let attempts: usize = tasks.iter().map(|task| attempts(task).len()).sum();
    assert_eq!(kind(events.first()).as_deref(), Some("plan_accepted"), "{plan:#}\n{events:#?}");
    assert_eq!(kind(events.last()).as_deref(), Some("plan_ended"), "{plan:#}\n{events:#?}");
    assert_eq!((count("plan_accepted"), count("plan_ended")), (1, 1), "{plan:#}\n{events:#?}");
    assert_eq!(count("task_ended"), tasks.len(), "each task ends once: {plan:#}\n{events:#?}");
    assert_eq!(count("attempt_started"), attempts, "{plan:#}\n{events:#?}");
    let ids: Vec<u64> = events.iter().map(|(id, _)| id.parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "events are in the order of the journal: {events:#?}");
}
