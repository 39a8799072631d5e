//! What happened, merged: a batch of entries as rows, each of which is written once, however often it changed in the
//! batch. A chat that was accepted and answered within one batch is inserted as it ended.

mod rows;

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId, SweepId,
    action::ActionResult,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use serde::Serialize;

use super::{
    super::TaskRef,
    Entry,
    recent::Commit,
    rows::{Row, micros, row},
};

/// What a batch comes to, plan by plan.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    /// In the order in which they were heard of, which is nearly that of their ids: rows lie next to each other then.
    plans: Vec<PlanSteps<'a>>,
    places: HashMap<PlanId, usize>,
    redrives: Vec<Row>,
}

/// What happened to a plan in this batch.
#[derive(Debug)]
struct PlanSteps<'a> {
    plan_id: PlanId,
    /// If it was accepted in this batch.
    accepted: Option<Acceptance<'a>>,
    change: Option<PlanChange<'a>>,
    /// Of those tasks that something happened to, by their ordinals.
    tasks: Vec<TaskSteps<'a>>,
    events: Events,
}

/// A plan as it was accepted.
#[derive(Debug)]
struct Acceptance<'a> {
    planner: &'a str,
    plan: &'a Plan,
    /// Left for this batch by the last one.
    carried: bool,
}

/// Events as the beginning of a JSON array.
#[derive(Debug, Default)]
struct Events {
    count: i64,
    json: Vec<u8>,
}

/// What becomes of a plan.
#[derive(Debug)]
struct PlanChange<'a> {
    status: PlanStatus,
    ended_at: Option<i64>,
    result: Option<&'a Result<String, OrchestratorError>>,
}

/// What happened to a task in this batch.
#[derive(Debug)]
struct TaskSteps<'a> {
    ordinal: usize,
    change: Option<TaskChange<'a>>,
    /// Somebody said that it failed for good.
    dead_lettered: bool,
    attempts: Vec<AttemptSteps<'a>>,
}

/// What becomes of a task.
#[derive(Debug)]
struct TaskChange<'a> {
    status: TaskStatus,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    result: Option<&'a Result<ActionResult, OrchestratorError>>,
}

/// An attempt that began in this batch, ended in it, or both.
#[derive(Debug)]
struct AttemptSteps<'a> {
    number: u32,
    /// When, and which process.
    began: Option<(i64, &'a str)>,
    ended: Option<(i64, &'a AttemptOutcome)>,
}

impl<'a> Batch<'a> {
    /// Adds what was written at once.
    pub(super) fn add(&mut self, commit: &'a Commit) {
        commit.entries().for_each(|entry| self.add_entry(commit, entry));
    }

    /// Takes out what was accepted a moment ago and has not ended: left for the next batch, it is written once, too. Nothing
    /// if that is not for few among many: work that takes long is not carried from batch to batch.
    pub(super) fn take_unfinished(&mut self) -> HashSet<PlanId> {
        let has_ended = |plan: &&PlanSteps<'_>| plan.has_ended();
        let unfinished = |plan: &PlanSteps<'_>| {
            plan.accepted.as_ref().is_some_and(|accepted| !accepted.carried) && !plan.has_ended()
        };
        let taken: HashSet<_> =
            self.plans.iter().filter(|plan| unfinished(plan)).map(|plan| plan.plan_id).collect();
        if taken.len() > self.plans.iter().filter(has_ended).count() {
            return HashSet::new();
        }
        self.plans.retain(|plan| !unfinished(plan));
        taken
    }

    fn add_entry(&mut self, Commit { planner, carried, .. }: &'a Commit, entry: &'a Entry) {
        match entry {
            Entry::PlanAccepted { plan } => {
                let Plan { plan_id, correlation_id, created_at, tasks, redrive_of, .. } = &**plan;
                let (tasks, redrive_of) = (tasks.len(), *redrive_of);
                let facts = Accepted { correlation_id: *correlation_id, tasks, redrive_of };
                let steps = self.plan(*plan_id);
                steps.accepted = Some(Acceptance { planner, plan, carried: *carried });
                steps.events.add(None, "plan_accepted", *created_at, &facts);
            }
            Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep } => {
                self.redrives.push(row![*plan_id, micros(*at), *by, reason.as_str()]);
                let (plan, sweep_id) = (*redriven_as, *sweep);
                let facts = Redriven { plan_id: plan, correlation_id: *by, reason, sweep_id };
                self.plan(*plan_id).events.add(None, "plan_redriven", *at, &facts);
            }
            // Written together with the log, beside it.
            Entry::KeyUsed { .. } | Entry::SweepBegun { .. } | Entry::SweepEnded { .. } => {}
            Entry::TaskDispatched { task, at } => {
                let steps = self.plan(task.plan_id);
                steps.task_goes_on(task.ordinal, TaskStatus::Dispatched, micros(*at));
                steps.events.add(Some(task.ordinal), "task_dispatched", *at, &NoFacts {});
            }
            Entry::AttemptStarted { task, number, at, worker } => {
                let steps = self.plan(task.plan_id);
                steps.task_goes_on(task.ordinal, TaskStatus::InProgress, micros(*at));
                let attempts = &mut steps.task(task.ordinal).attempts;
                // An executor that counts wrong must not stop the journal: the first one of a number counts.
                if !attempts.iter().any(|known| known.number == *number && known.began.is_some()) {
                    let began = Some((micros(*at), worker.as_str()));
                    attempts.push(AttemptSteps { number: *number, began, ended: None });
                }
                let facts = AttemptStarted { attempt: *number, worker };
                steps.events.add(Some(task.ordinal), "attempt_started", *at, &facts);
            }
            Entry::AttemptEnded { task, number, at, outcome, retried } => {
                self.end_attempt(*task, *number, *at, outcome, *retried);
            }
            Entry::TaskEnded { task, status, at, result } => {
                let steps = self.plan(task.plan_id);
                let own = steps.task(task.ordinal);
                let change = own.change.get_or_insert_default();
                if !change.status.is_terminal() {
                    (change.status, change.ended_at, change.result) =
                        (*status, Some(micros(*at)), Some(result));
                }
                own.dead_lettered |= *status == TaskStatus::DeadLettered;
                steps.events.add(Some(task.ordinal), "task_ended", *at, &Ended { status: status.as_str() });
            }
            Entry::PlanEnded { plan_id, status, at, result } => {
                let steps = self.plan(*plan_id);
                if !steps.has_ended() {
                    let (ended_at, result) = (Some(micros(*at)), Some(result));
                    steps.change = Some(PlanChange { status: *status, ended_at, result });
                }
                steps.events.add(None, "plan_ended", *at, &Ended { status: status.as_str() });
            }
        }
    }

    fn end_attempt(
        &mut self,
        task: TaskRef,
        number: u32,
        at: Timestamp,
        outcome: &'a AttemptOutcome,
        retried: bool,
    ) {
        let steps = self.plan(task.plan_id);
        let end = (micros(at), outcome);
        let attempts = &mut steps.task(task.ordinal).attempts;
        match attempts.iter_mut().find(|known| known.number == number && known.began.is_some()) {
            Some(attempt) => drop(attempt.ended.get_or_insert(end)),
            None => attempts.push(AttemptSteps { number, began: None, ended: Some(end) }),
        }
        if retried {
            steps.task_goes_on(task.ordinal, TaskStatus::Retried, micros(at));
        }
        let (outcome, error_class) = match outcome {
            AttemptOutcome::Failed { class, .. } => (outcome.as_str(), Some(class.as_str())),
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled => (outcome.as_str(), None),
        };
        let facts = AttemptEnded { attempt: number, outcome, error_class, retried };
        steps.events.add(Some(task.ordinal), "attempt_ended", at, &facts);
    }

    fn plan(&mut self, plan_id: PlanId) -> &mut PlanSteps<'a> {
        let place = *self.places.entry(plan_id).or_insert_with(|| {
            let (accepted, change) = (None, None);
            self.plans.push(PlanSteps {
                plan_id,
                accepted,
                change,
                tasks: Vec::new(),
                events: Events::default(),
            });
            self.plans.len() - 1
        });
        &mut self.plans[place]
    }
}

impl<'a> PlanSteps<'a> {
    fn has_ended(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.status.is_terminal())
    }

    fn task(&mut self, ordinal: usize) -> &mut TaskSteps<'a> {
        let place = self.tasks.binary_search_by_key(&ordinal, |task| task.ordinal).unwrap_or_else(|place| {
            let (change, attempts) = (None, Vec::new());
            self.tasks.insert(place, TaskSteps { ordinal, change, dead_lettered: false, attempts });
            place
        });
        &mut self.tasks[place]
    }

    /// A task goes on; with its first step it is dispatched, and its plan runs.
    fn task_goes_on(&mut self, ordinal: usize, status: TaskStatus, at: i64) {
        let change = self.task(ordinal).change.get_or_insert_default();
        if !change.status.is_terminal() {
            change.status = status;
            change.dispatched_at.get_or_insert(at);
        }
        let runs = PlanChange { status: PlanStatus::Running, ended_at: None, result: None };
        self.change.get_or_insert(runs);
    }
}

impl Default for TaskChange<'_> {
    fn default() -> Self {
        Self { status: TaskStatus::Queued, dispatched_at: None, ended_at: None, result: None }
    }
}

impl Events {
    /// One more, of a task or of the plan itself.
    fn add(&mut self, ordinal: Option<usize>, kind: &str, at: Timestamp, facts: &impl Serialize) {
        self.json.push(if self.count == 0 { b'[' } else { b',' });
        // Facts have string keys and no number that JSON lacks, and memory takes them: this does not fail.
        let _ = serde_json::to_writer(&mut self.json, &(ordinal, kind, micros(at), facts));
        self.count += 1;
    }

    fn into_text(mut self) -> String {
        self.json.push(b']');
        String::from_utf8(self.json).unwrap_or_default()
    }
}

// The facts of events, as readers of the journal find them.

#[derive(Serialize)]
struct NoFacts {}

#[derive(Serialize)]
struct Accepted {
    correlation_id: CorrelationId,
    tasks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    redrive_of: Option<PlanId>,
}

#[derive(Serialize)]
struct Redriven<'a> {
    plan_id: PlanId,
    correlation_id: CorrelationId,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sweep_id: Option<SweepId>,
}

#[derive(Serialize)]
struct AttemptStarted<'a> {
    attempt: u32,
    worker: &'a str,
}

#[derive(Serialize)]
struct AttemptEnded<'a> {
    attempt: u32,
    outcome: &'a str,
    error_class: Option<&'a str>,
    retried: bool,
}

#[derive(Serialize)]
struct Ended<'a> {
    status: &'a str,
}
