//! What happened, merged: a batch of entries as rows, each of which is written once, however often it changed in the
//! batch. A chat that was accepted and answered within one batch is inserted as it ended.

mod rows;

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, OrchestratorError, PlanId,
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

/// A plan as it was accepted, and by which planner.
#[derive(Debug, Clone, Copy)]
struct Acceptance<'a> {
    planner: &'a str,
    plan: &'a Plan,
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
    result: Option<&'a Result<(), OrchestratorError>>,
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
    /// Adds what was written at once, but nothing of the lives of the plans in `whole`: those were moved ahead.
    pub(super) fn add(&mut self, commit: &'a Commit, whole: &HashSet<PlanId>) {
        let is_moved = |entry: &Entry| {
            !matches!(entry, Entry::PlanRedriven { .. })
                && entry.plan_id().is_some_and(|plan_id| whole.contains(&plan_id))
        };
        for entry in commit.entries().filter(|entry| whole.is_empty() || !is_moved(entry)) {
            self.add_entry(&commit.planner, entry);
        }
    }

    /// Adds from `later` what happened to plans that were accepted here and end there, where that makes the plan whole: those
    /// plans. So a plan is written once, however little is moved at once.
    pub(super) fn look_ahead<'c: 'a>(&mut self, later: impl Iterator<Item = &'c Commit>) -> HashSet<PlanId> {
        let open = self.plans.iter().filter(|plan| plan.accepted.is_some() && !plan.has_ended());
        let mut open: HashMap<PlanId, Vec<&Entry>> = open.map(|plan| (plan.plan_id, Vec::new())).collect();
        let mut whole = HashSet::new();
        for commit in later {
            if open.is_empty() {
                break;
            }
            for entry in commit.entries() {
                let Some(plan_id) = entry.plan_id() else { continue };
                let Some(entries) = open.get_mut(&plan_id) else { continue };
                entries.push(entry);
                if !matches!(entry, Entry::PlanEnded { .. }) {
                    continue;
                }
                let entries = open.remove(&plan_id).unwrap_or_default();
                if self.plan(plan_id).is_whole_with(&entries) {
                    entries.into_iter().for_each(|entry| self.add_entry(&commit.planner, entry));
                    whole.insert(plan_id);
                }
            }
        }
        whole
    }

    fn add_entry(&mut self, planner: &'a str, entry: &'a Entry) {
        match entry {
            Entry::PlanAccepted { plan } => {
                let Plan { plan_id, correlation_id, created_at, tasks, redrive_of, .. } = &**plan;
                let (tasks, redrive_of) = (tasks.len(), *redrive_of);
                let facts = Accepted { correlation_id: *correlation_id, tasks, redrive_of };
                let steps = self.plan(*plan_id);
                steps.accepted = Some(Acceptance { planner, plan });
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

    /// Whether the plan is nothing but one task that has ended well, or was cancelled, once `entries` are added.
    fn is_whole_with(&self, entries: &[&Entry]) -> bool {
        let begins = |entry: &&Entry, number: u32| matches!(entry, Entry::AttemptStarted { number: begun, .. } if *begun == number);
        let attempts = || self.tasks.iter().flat_map(|task| &task.attempts);
        let fits = |entry: &&Entry| match entry {
            Entry::AttemptEnded { number, .. } => {
                attempts().any(|attempt| attempt.number == *number)
                    || entries.iter().any(|entry| begins(entry, *number))
            }
            Entry::TaskEnded { status, .. } => *status != TaskStatus::DeadLettered,
            Entry::PlanRedriven { .. } => false,
            _ => true,
        };
        self.accepted.is_some_and(|accepted| accepted.plan.tasks.len() == 1)
            && attempts().all(|attempt| attempt.began.is_some())
            && self.tasks.iter().all(|task| !task.dead_lettered)
            && entries.iter().any(|entry| matches!(entry, Entry::TaskEnded { .. }))
            && entries.iter().all(fits)
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
    sweep_id: Option<BulkRedriveId>,
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
