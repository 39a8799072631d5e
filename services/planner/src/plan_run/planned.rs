//! Plans whose tasks a language model plans: what follows when a planning task has ended.
//!
//! A planning task is the only one that has not ended when it ends, so its answer is read when no task is left. The tasks that it
//! proposes, or the next question, become durable together with the end of the planning task. After that the run starts again
//! from the journal, as after a takeover.

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::plan::{PlanKind, TaskSpec};

use crate::{
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        scheduler::RunOutcome,
        task_state::{PlanOutput, TaskState},
    },
    planning::{
        build::queued,
        proposal::{Answer, NextStep, next_step},
    },
    store::entry::Entry,
};

impl ActivePlan {
    /// Outcome of a run whose tasks have all ended; `output` is that of the last one. Adds the entry that continues the plan, if its
    /// last task is a planning task.
    pub(super) fn conclude(
        &self,
        loaded: &LoadedPlan,
        states: &[TaskState],
        output: PlanOutput,
        entries: &mut Vec<Entry>,
    ) -> RunOutcome {
        let plan = &loaded.plan;
        let is_planning = |ordinal: &usize| plan.is_planning(*ordinal);
        if !states.len().checked_sub(1).is_some_and(|last| is_planning(&last)) {
            return RunOutcome::Finished(Ok(output));
        }
        let answers: Vec<_> =
            (0..states.len()).filter(is_planning).filter_map(|at| answer(&states[at])).collect();
        let agents = match self.deps.agents.catalog() {
            Ok(agents) => agents,
            Err(error) => return RunOutcome::Finished(Err(error)),
        };
        let round = answers.len();
        let added = match next_step(plan, &answers, &agents, &self.deps.planning) {
            NextStep::Accepted(tasks) => {
                tracing::info!(round, tasks = tasks.len(), "plan proposed");
                if plan.kind == PlanKind::Proposal {
                    return RunOutcome::Finished(Ok(output));
                }
                tasks
            }
            NextStep::AskAgain(question) => {
                tracing::info!(round, "proposed plan rejected");
                vec![question]
            }
            NextStep::Failed(error) => return RunOutcome::Finished(Err(error)),
        };
        entries.push(self.tasks_added(loaded, states.len(), added));
        RunOutcome::Extended
    }

    fn tasks_added(&self, loaded: &LoadedPlan, first: usize, mut specs: Vec<TaskSpec>) -> Entry {
        let at = Timestamp::now();
        // What the request says about budgets is for every task of its plan.
        let on_budget = loaded.plan.tasks.first().map(|task| task.spec.start.on_budget).unwrap_or_default();
        specs.iter_mut().for_each(|spec| spec.start.on_budget = on_budget);
        let tasks: Arc<[_]> = queued(specs, at).into();
        Entry::TasksAdded { plan_id: self.plan_id(), first, at, tasks }
    }
}

fn answer(state: &TaskState) -> Option<Answer<'_>> {
    match state {
        TaskState::Succeeded(data, metadata) => Some(Answer { data, metadata }),
        TaskState::Waiting | TaskState::Awaiting(_) | TaskState::Ready | TaskState::Failed => None,
    }
}
