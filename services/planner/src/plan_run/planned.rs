//! Plans whose tasks a language model plans: what follows when all their tasks have ended.
//!
//! A planning task is the only one that has not ended when it ends, so its answer is read when no task is left. The tasks that it
//! proposes, or the next question, become durable together with the end of the planning task. After that the run starts again
//! from the journal, as after a takeover. When proposed tasks have ended, the run starts again, too, before the model is asked what
//! follows: the question is made of what the journal has of them.

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
        proposal::{Answer, NextStep, next_question, next_step, rounds, wants_continuation},
    },
    store::entry::Entry,
};

impl ActivePlan {
    /// Outcome of a run whose tasks have all ended; `output` is that of the last one. Adds the entry that continues the plan, if a
    /// language model does.
    pub(super) fn conclude(
        &self,
        loaded: &LoadedPlan,
        states: &[TaskState],
        output: PlanOutput,
        entries: &mut Vec<Entry>,
    ) -> RunOutcome {
        let plan = &loaded.plan;
        let Some(last) = states.len().checked_sub(1).filter(|_| plan.kind.is_planned()) else {
            return RunOutcome::Finished(Ok(output));
        };
        let step = if plan.is_planning(last) {
            self.after_answer(loaded, states)
        } else if !wants_continuation(plan) {
            return RunOutcome::Finished(Ok(output));
        } else if plan.tasks.iter().all(|task| task.status.is_terminal()) {
            tracing::info!(round = rounds(plan).len(), "plan continues with its results");
            next_question(plan, &self.deps.planning)
        } else {
            return RunOutcome::Extended;
        };
        let added = match step {
            NextStep::Accepted(_) if plan.kind == PlanKind::Proposal => {
                return RunOutcome::Finished(Ok(output));
            }
            NextStep::Accepted(tasks) => tasks,
            NextStep::Answered(text) => {
                return RunOutcome::Finished(Ok(PlanOutput { text: Some(text), ..output }));
            }
            NextStep::Ask(question) => vec![question],
            NextStep::Failed(error) => return RunOutcome::Finished(Err(error)),
        };
        entries.push(self.tasks_added(loaded, states.len(), added));
        RunOutcome::Extended
    }

    /// What follows from the answers of the last round's questions.
    fn after_answer(&self, loaded: &LoadedPlan, states: &[TaskState]) -> NextStep {
        let questions = rounds(&loaded.plan).pop().map(|round| round.questions).unwrap_or_default();
        let answers: Vec<_> = states[questions].iter().filter_map(answer).collect();
        let agents = match self.deps.agents.catalog() {
            Ok(agents) => agents,
            Err(error) => return NextStep::Failed(error),
        };
        let round = answers.len();
        let step = next_step(&loaded.plan, &answers, &agents, &self.deps.planning);
        match &step {
            NextStep::Accepted(tasks) => tracing::info!(round, tasks = tasks.len(), "plan proposed"),
            NextStep::Answered(_) => tracing::info!(round, "plan answered"),
            NextStep::Ask(_) | NextStep::Failed(_) => tracing::info!(round, "proposed plan rejected"),
        }
        step
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
