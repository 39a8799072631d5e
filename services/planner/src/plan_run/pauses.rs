//! Tasks of one plan that wait for a budget which is used up.
//!
//! A pause ends with a decision, which may bring new limits for the plan, when the budget begins anew, or when its limit is
//! larger than it was: by the settings of the planner that takes the plan over, or by a decision about another task. The task then
//! reserves again what it needs, and pauses again if that does not fit.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError,
    action::ActionResult,
    approval::{Approval, ApprovalState},
    budget::OnBudget,
    budget_pause,
    plan::{AttemptOutcome, Plan, TaskStatus},
    wait::WaitKind,
};
use phoenix_platform::spans::{WaitSpan, record_wait};

use crate::{
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        approvals::{Gate, RETRY_AFTER, reached_if},
        progress::TaskProgress,
        registry::CancelHandle,
    },
    store::{
        approval::NewDecision,
        entry::{ApprovalOutcome, Entry},
        error::JournalError,
    },
};

/// Tasks that wait for a budget, by their ordinals.
pub(super) struct TaskPauses {
    waiting: BTreeMap<usize, Arc<Approval>>,
    /// How long the next look waits, after one that failed.
    delay: Duration,
}

impl TaskPauses {
    /// The pauses that the journal knows. Decisions about them apply to the plan.
    pub(super) fn of(loaded: &LoadedPlan) -> Self {
        let tasks = loaded.plan.tasks.iter().enumerate();
        let paused = tasks.filter(|(_, task)| task.status == TaskStatus::AwaitingBudget);
        let waiting: BTreeMap<usize, Arc<Approval>> = paused
            .filter_map(|(ordinal, task)| Some((ordinal, Arc::new((**task.pause.as_ref()?).clone()))))
            .collect();
        for pause in waiting.values() {
            budget_pause::granted(pause).map(|granted| loaded.grant(granted));
        }
        Self { waiting, delay: Duration::ZERO }
    }

    /// The first time at which a pause ends without a decision.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        self.waiting.values().map(|pause| budget_pause::until(pause)).min()
    }

    /// Waits until a pause may have ended. For ever while there is none.
    pub(super) async fn changed(&self, handle: &CancelHandle) {
        let Some(at) = self.next_time() else { return std::future::pending().await };
        tokio::time::sleep(self.delay).await;
        tokio::select! {
            () = handle.woken() => {}
            () = reached_if(Some(at)) => {}
        }
    }

    /// Takes over what `plan` says about the pauses. Returns whether a decision was made.
    fn learn(&mut self, plan: &Plan, loaded: &LoadedPlan) -> bool {
        let mut has_decision = false;
        for (ordinal, pause) in &mut self.waiting {
            // The journal may know only an earlier pause of the task.
            let found = plan.tasks.get(*ordinal).and_then(|task| task.pause.as_deref());
            let found = found.filter(|found| found.requested_at == pause.requested_at);
            if let Some(found) = found.filter(|found| found.state != ApprovalState::Waiting) {
                has_decision = true;
                budget_pause::granted(found).map(|granted| loaded.grant(granted));
                *pause = Arc::new(found.clone());
            }
        }
        has_decision
    }
}

impl ActivePlan {
    /// Lets a task wait that ended because a budget of it is used up, if its plan asked for that. Adds the entries that record
    /// it.
    pub(super) fn wait_for_budget(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        result: &Result<ActionResult, OrchestratorError>,
        progress: &TaskProgress,
        waits: &mut TaskPauses,
        entries: &mut Vec<Entry>,
    ) -> bool {
        let (task, spec) = (self.task_ref(ordinal), &loaded.plan.tasks[ordinal].spec);
        let Err(error) = result else { return false };
        if spec.start.on_budget != OnBudget::Pause {
            return false;
        }
        let Some(pause) = budget_pause::pause(Timestamp::now(), error) else { return false };
        tracing::info!(key = spec.key, agent = %spec.agent, reason = error.message, "task waits for a budget");
        let pause = Arc::new(pause);
        let paused = AttemptOutcome::Cancelled { reason: error.message.clone() };
        entries.extend(progress.close_attempt(task, paused, true));
        entries.push(Entry::BudgetReached { task, pause: Arc::clone(&pause) });
        waits.waiting.insert(ordinal, pause);
        true
    }

    /// Whether a task that waits for a budget may try again. Adds the entry that records it.
    pub(super) fn pause_gate(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        pauses: &mut TaskPauses,
        entries: &mut Vec<Entry>,
    ) -> Gate {
        let Some(pause) = pauses.waiting.get(&ordinal).map(Arc::clone) else { return Gate::Open };
        let (task, at) = (self.task_ref(ordinal), Timestamp::now());
        if pause.state == ApprovalState::Waiting {
            let reached = budget_pause::reached(&pause);
            let is_over = |reached: budget_pause::ReachedLimit| {
                reached.is_over(&loaded.budget(), &self.deps.budgets, at)
            };
            if !reached.is_none_or(is_over) {
                return Gate::Waits(WaitKind::Budget);
            }
            record_wait(
                WaitSpan::Budget,
                pause.requested_at,
                Some(&loaded.plan.tasks[ordinal].spec.key),
                None,
            );
            entries.push(Entry::TaskResumed { task, at, kind: WaitKind::Budget });
            pauses.waiting.remove(&ordinal);
            return Gate::Open;
        }
        pauses.waiting.remove(&ordinal);
        let budget = budget_pause::granted(&pause).map(|_| loaded.budget());
        let outcome = ApprovalOutcome::of(&pause);
        let (runs, key) = (outcome.runs, &loaded.plan.tasks[ordinal].spec.key);
        record_wait(WaitSpan::Budget, pause.requested_at, Some(key), Some(pause.state.as_str()));
        entries.push(Entry::BudgetDecided { task, at, outcome, budget });
        if runs {
            return Gate::Open;
        }
        Gate::Refused(budget_pause::refusal(&pause, &loaded.plan.tasks[ordinal].spec.key))
    }

    /// Ends the pauses that have expired, and reads what was decided. Returns the tasks that may wait no more.
    pub(super) async fn look_at_pauses(
        &self,
        loaded: &LoadedPlan,
        pauses: &mut TaskPauses,
    ) -> Result<Vec<usize>, JournalError> {
        if pauses.waiting.is_empty() {
            return Ok(Vec::new());
        }
        pauses.delay = RETRY_AFTER;
        match self.read_pauses(loaded, pauses).await {
            Ok(has_decision) => {
                let is_due = pauses.next_time().is_some_and(|at| at <= Timestamp::now());
                if !is_due {
                    pauses.delay = Duration::ZERO;
                }
                let has_changed = has_decision || is_due;
                Ok(pauses.waiting.keys().copied().filter(|_| has_changed).collect())
            }
            Err(JournalError::Database(_) | JournalError::InDoubt(_) | JournalError::FileGone(_)) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn read_pauses(&self, loaded: &LoadedPlan, pauses: &mut TaskPauses) -> Result<bool, JournalError> {
        let now = Timestamp::now();
        for (ordinal, pause) in pauses.waiting.iter().filter(|(_, pause)| pause.expires_at <= now) {
            let expired = NewDecision::expired(now);
            tracing::debug!(ordinal, reason = pause.reason, "pause has expired");
            // Not written when another planner has written a decision.
            self.deps.journal.decide(self.task_ref(*ordinal), &expired).await?;
        }
        Ok(pauses.learn(&self.deps.read_plan(self.plan_id()).await?, loaded))
    }
}
