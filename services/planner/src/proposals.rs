//! Proposals for callers: the tasks of a message, which do not run.

use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    graph::Graph,
    json::Object,
    plan::{Plan, TaskSpec, TaskStatus},
    planning::{PlanningSettings, Strategy},
    usage::Usage,
};

use crate::planning::proposal::{Answer, accepted, prompt_version};

/// Proposed tasks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Proposal {
    /// The plan that asked a language model, if one was asked.
    pub(crate) plan_id: Option<PlanId>,
    /// `rules` or `model`.
    pub(crate) strategy: Strategy,
    /// The tasks.
    pub(crate) tasks: Vec<TaskSpec>,
    /// Keys of the tasks in the order in which they would run.
    pub(crate) waves: Vec<Vec<String>>,
    /// Number of times that the language model was asked.
    pub(crate) rounds: usize,
    /// Version of the prompt.
    pub(crate) prompt_version: Option<String>,
    /// Metadata of the last answer.
    pub(crate) metadata: Object,
    /// What all questions used.
    pub(crate) usage: Usage,
    /// The earlier request that received this proposal first.
    pub(crate) replay_of: Option<CorrelationId>,
}

impl Proposal {
    /// The task of a routed chat.
    pub(crate) fn of_rules(plan: Plan, graph: &Graph) -> Self {
        let tasks: Vec<_> = plan.tasks.into_iter().map(|task| task.spec).collect();
        Self {
            plan_id: None,
            strategy: Strategy::Rules,
            waves: waves(&tasks, graph),
            tasks,
            rounds: 0,
            prompt_version: None,
            metadata: Object::default(),
            usage: Usage::default(),
            replay_of: None,
        }
    }

    /// The tasks of the last answer of a plan that has succeeded.
    ///
    /// # Errors
    /// `planning_failed` when the answer cannot be read any more.
    pub(crate) fn of_model(
        plan: &Plan,
        settings: &PlanningSettings,
        replay_of: Option<CorrelationId>,
    ) -> Result<Self, OrchestratorError> {
        let questions = plan.tasks.iter().filter(|task| task.status == TaskStatus::Succeeded);
        let unusable = |problem: &str| {
            let message = format!("the answer of the language model cannot be used: {problem}");
            OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, message)
        };
        let last = plan.tasks.last().ok_or_else(|| unusable("the plan has no task"))?;
        let output = last.output.as_ref().ok_or_else(|| unusable("there is none"))?;
        let answer = Answer { data: &output.data, metadata: &output.metadata };
        let tasks = accepted(&answer, settings).map_err(|problems| unusable(&problems.join("; ")))?;
        let graph = Graph::of_accepted(&tasks)?;
        Ok(Self {
            plan_id: Some(plan.plan_id),
            strategy: Strategy::Model,
            waves: waves(&tasks, &graph),
            tasks,
            rounds: questions.count(),
            prompt_version: prompt_version(&last.spec),
            metadata: output.metadata.clone(),
            usage: plan.usage(),
            replay_of,
        })
    }
}

fn waves(tasks: &[TaskSpec], graph: &Graph) -> Vec<Vec<String>> {
    let key = |ordinal: &usize| tasks[*ordinal].key.clone();
    graph.order().iter().map(|wave| wave.iter().map(key).collect()).collect()
}
