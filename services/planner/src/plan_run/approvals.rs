//! Approvals of one plan's tasks: which tasks wait for a decision, and what was decided.
//!
//! A decision is written by any planner ([`Journal::decide`](crate::journal::Journal::decide)), and the first one counts; an expiry is
//! a decision of the planner that runs the plan. That planner is woken, reads the plan again, and applies what it finds, so a
//! run can start from any journaled state. A task that waits holds no permit.
//!
//! A task whose agent asks for input before it answers gets another approval, whose decision brings the answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError,
    action::ActionResult,
    approval::{Approval, ApprovalState},
    json::Object,
    plan::{Plan, TaskStatus},
    questions::Questions,
    wait::WaitKind,
};
use phoenix_platform::spans::{WaitSpan, record_wait};

use crate::{
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        registry::CancelHandle,
        task_state::TaskState,
    },
    store::{
        approval::NewDecision,
        entry::{ApprovalOutcome, Entry},
        error::JournalError,
    },
};

/// Pause before another try to end approvals that have expired.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longest sleep until a time of the clock, which may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Whether a task whose dependencies have ended may start.
pub(super) enum Gate {
    /// The task may start.
    Open,
    /// The task waits.
    Waits(WaitKind),
    /// The task ends.
    Refused(OrchestratorError),
}

/// Approvals of a run, by the ordinals of their tasks.
pub(super) struct TaskApprovals {
    known: BTreeMap<usize, Arc<Approval>>,
    /// Tasks that wait for a decision in this run.
    waiting: Vec<usize>,
    /// Tasks whose agents asked for input in this run.
    asked: BTreeSet<usize>,
    /// Whether the last look at approvals that have expired ended none.
    is_retrying: bool,
}

impl TaskApprovals {
    /// The approvals that the journal knows.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut approvals =
            Self { known: BTreeMap::new(), waiting: Vec::new(), asked: BTreeSet::new(), is_retrying: false };
        approvals.learn(plan);
        approvals
    }

    fn learn(&mut self, plan: &Plan) {
        for (ordinal, task) in plan.tasks.iter().enumerate() {
            let Some(approval) = task.approval.as_deref().filter(|_| !task.status.is_terminal()) else {
                continue;
            };
            // The journal may know only an earlier approval of the task.
            let known = self.known.get(&ordinal).map(|known| known.requested_at.as_microsecond());
            if known.is_none_or(|known| known <= approval.requested_at.as_microsecond()) {
                self.known.insert(ordinal, Arc::new(approval.clone()));
            }
        }
    }

    /// When the first approval that waits expires.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.waiting.iter().filter_map(|ordinal| Some(self.known.get(ordinal)?.expires_at)).min()
    }

    /// Whether an approval that waits has expired.
    pub(super) fn is_due(&self) -> bool {
        self.next_expiry().is_some_and(|at| at <= Timestamp::now())
    }

    /// The input with which a task runs, if it was approved.
    pub(super) fn approved_input(&self, ordinal: usize) -> Option<Object> {
        self.known.get(&ordinal)?.approved_input().cloned()
    }

    /// When the decision about a task was made, if there is one.
    pub(super) fn decided_at(&self, ordinal: usize) -> Option<Timestamp> {
        Some(self.known.get(&ordinal)?.decision.as_ref()?.at)
    }

    /// Waits until something may have been decided. For ever while no task waits.
    pub(super) async fn changed(&self, handle: &CancelHandle) {
        let Some(expiry) = self.next_expiry() else { return std::future::pending().await };
        tokio::select! {
            () = handle.woken() => {}
            () = async {
                if self.is_retrying {
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                reached(expiry).await;
            } => {}
        }
    }

    /// Takes the waiting tasks with a decision.
    fn take_decided(&mut self) -> Vec<usize> {
        let Self { known, waiting, .. } = self;
        let is_waiting =
            |ordinal: &usize| known.get(ordinal).is_some_and(|a| a.state == ApprovalState::Waiting);
        let (still, decided) = waiting.iter().copied().partition(is_waiting);
        *waiting = still;
        decided
    }
}

impl ActivePlan {
    /// Whether the approval of a task lets it start. Adds the entries that record what it comes to.
    pub(super) fn approval_gate(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        states: &[TaskState],
        approvals: &mut TaskApprovals,
        entries: &mut Vec<Entry>,
    ) -> Gate {
        let (spec, task) = (&loaded.plan.tasks[ordinal].spec, self.task_ref(ordinal));
        let Some(approval) = approvals.known.get(&ordinal) else {
            let Some((policy, is_required)) = self.deps.approval_policy(spec) else { return Gate::Open };
            let input = match self.payload(loaded, ordinal, states) {
                Ok(input) => input,
                Err(error) => return Gate::Refused(error),
            };
            let (now, terms) = (Timestamp::now(), spec.start.approval.as_ref());
            let approval = Arc::new(Approval::requested(now, input, terms, &policy, is_required));
            entries.push(Entry::ApprovalRequested { task, approval: Arc::clone(&approval) });
            tracing::info!(key = spec.key, agent = %spec.agent, action = spec.action, "task waits for an approval");
            approvals.known.insert(ordinal, approval);
            approvals.waiting.push(ordinal);
            return Gate::Waits(WaitKind::Approval);
        };
        if approval.state == ApprovalState::Waiting {
            approvals.waiting.push(ordinal);
            return Gate::Waits(WaitKind::Approval);
        }
        // Recorded unless an earlier run has done so; that one queued the task.
        if loaded.plan.tasks[ordinal].status == TaskStatus::AwaitingApproval
            || loaded.plan.tasks[ordinal].approval.is_none()
            || approvals.asked.remove(&ordinal)
        {
            let outcome = ApprovalOutcome::of(approval);
            let state = approval.state.as_str();
            record_wait(WaitSpan::Approval, approval.requested_at, Some(&spec.key), Some(state));
            entries.push(Entry::ApprovalDecided { task, at: Timestamp::now(), outcome });
        }
        approval.refusal(&spec.key).map_or(Gate::Open, Gate::Refused)
    }

    /// Lets a task wait that ended because its agent asks for input. Adds the entry that records it.
    pub(super) fn wait_for_answers(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        result: &Result<ActionResult, OrchestratorError>,
        states: &[TaskState],
        approvals: &mut TaskApprovals,
        entries: &mut Vec<Entry>,
    ) -> bool {
        let Some(questions) = result.as_ref().err().and_then(Questions::of_error) else { return false };
        let (spec, task) = (&loaded.plan.tasks[ordinal].spec, self.task_ref(ordinal));
        let input =
            approvals.approved_input(ordinal).map_or_else(|| self.payload(loaded, ordinal, states), Ok);
        let Ok(mut input) = input else { return false };
        // Those that were answered.
        Questions::take(&mut input);
        let timeout = self.deps.approval_timeout(&spec.agent);
        let approval = Arc::new(questions.approval(Timestamp::now(), &spec.agent, input, timeout));
        tracing::info!(key = spec.key, agent = %spec.agent, action = spec.action, "task waits for answers");
        entries.push(Entry::ApprovalRequested { task, approval: Arc::clone(&approval) });
        approvals.known.insert(ordinal, approval);
        approvals.waiting.push(ordinal);
        approvals.asked.insert(ordinal);
        true
    }

    /// Ends the approvals that have expired, and reads what was decided. Returns the tasks with a decision.
    pub(super) async fn look_at_approvals(
        &self,
        approvals: &mut TaskApprovals,
    ) -> Result<Vec<usize>, JournalError> {
        if approvals.waiting.is_empty() {
            return Ok(Vec::new());
        }
        approvals.is_retrying = true;
        match self.read_approvals(approvals).await {
            Ok(()) => {}
            Err(JournalError::Database(_) | JournalError::InDoubt(_) | JournalError::FileGone(_)) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        }
        approvals.is_retrying = approvals.is_due();
        Ok(approvals.take_decided())
    }

    async fn read_approvals(&self, approvals: &mut TaskApprovals) -> Result<(), JournalError> {
        let now = Timestamp::now();
        for ordinal in &approvals.waiting {
            if approvals.known.get(ordinal).is_none_or(|approval| approval.expires_at > now) {
                continue;
            }
            // Not written when another planner has written a decision.
            self.deps.journal.decide(self.task_ref(*ordinal), &NewDecision::expired(now)).await?;
        }
        approvals.learn(&self.deps.read_plan(self.plan_id()).await?);
        Ok(())
    }
}

/// Waits until a time of the clock; for ever without one.
pub(super) async fn reached_if(at: Option<Timestamp>) {
    match at {
        Some(at) => reached(at).await,
        None => std::future::pending().await,
    }
}

/// Waits until a time of the clock.
async fn reached(at: Timestamp) {
    while let Ok(left) = Duration::try_from(at.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}
