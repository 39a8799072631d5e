//! Proposals: a language model is asked for the tasks of a message, and its answer is checked like a request for a plan.
//!
//! The question is a task of the plan, so it has the time limit, the retries, the circuit, the budget and the journal of every
//! other task. What follows from its answer depends on nothing but the answer, the catalog and the settings.
//!
//! ```text
//! planning-1 ──▶ answer ──▶ valid      the tasks are added to the plan
//!                      └──▶ problems ──▶ planning-2, with the answer and its problems ──▶ … ──▶ planning_failed
//! tasks ──▶ all ended, the answer said `continue` ──▶ planning-3, with their outputs ──▶ answer, as above
//!                                                                                    └──▶ the answer to the message
//! ```

mod answer;
mod continuation;
mod limits;
mod prompt;
mod results;
mod rounds;
mod validate;

use phoenix_domain::{
    AgentCatalog, OrchestratorError, OrchestratorErrorCode,
    action::finish_reason,
    approval::ApprovalTerms,
    builtin::writes,
    json::{Json, Object},
    limits::{MAX_PLAN_BYTES, check_bytes},
    plan::{Plan, TaskSpec},
    planning::PlanningSettings,
};

pub(crate) use self::{
    answer::{Answer, Proposed},
    continuation::wants_continuation,
    prompt::{ask, prompt_version},
    rounds::rounds,
};
use self::{
    answer::{proposed_in, shown_text, tasks_of},
    continuation::limits_of,
    prompt::{ask_again, ask_on},
    validate::problems_of,
};

/// Provider of an answer for which no language model was asked.
const OFFLINE: &str = "offline";

/// Bytes of a rejected answer in an error.
const MAX_SHOWN_BYTES: usize = 1024;

/// Bytes of a problem.
const MAX_PROBLEM_BYTES: usize = 512;

/// What follows from the answer of a planning task, or from the outputs of proposed tasks.
#[derive(Debug)]
pub(crate) enum NextStep {
    /// The tasks that the model proposes.
    Accepted(Vec<TaskSpec>),
    /// The answer of the model to the message.
    Answered(String),
    /// Another question: with the problems of the answer, or with the outputs.
    Ask(TaskSpec),
    /// The plan fails.
    Failed(OrchestratorError),
}

/// What follows from the answers of the planning tasks of the last round of `plan`, of which the last one is that of its last task.
pub(crate) fn next_step(
    plan: &Plan,
    answers: &[Answer<'_>],
    agents: &AgentCatalog,
    settings: &PlanningSettings,
) -> NextStep {
    let (Some(last), Some(question)) = (answers.last(), plan.tasks.last().map(|task| &task.spec)) else {
        return NextStep::Failed(OrchestratorError::internal("the plan has no answer to plan with"));
    };
    if last.metadata.get("provider").and_then(Json::as_str) == Some(OFFLINE) {
        return NextStep::Failed(no_model(settings));
    }
    let problems = match proposed(last, plan, agents, settings) {
        Ok(Proposed::Tasks(tasks)) => return NextStep::Accepted(tasks),
        Ok(Proposed::Answer(text)) => return NextStep::Answered(text),
        Err(problems) => problems,
    };
    let times = u32::try_from(answers.len()).unwrap_or(u32::MAX);
    if times < settings.max_rounds {
        let again = ask_again(question, questions(plan) + 1, *last, &problems, rounds(plan).len() == 1);
        return asked(plan, again);
    }
    NextStep::Failed(planning_failed(answers, plan, agents, settings))
}

/// The question that follows when all tasks of a plan have ended, and its model wants their outputs.
pub(crate) fn next_question(plan: &Plan, settings: &PlanningSettings) -> NextStep {
    let Some(first) = plan.tasks.first() else {
        return NextStep::Failed(OrchestratorError::internal("the plan has no question to continue with"));
    };
    let limits = limits_of(plan, rounds(plan).len(), settings);
    asked(plan, ask_on(plan, &first.spec, questions(plan) + 1, &limits, settings))
}

/// Number of questions of a plan.
fn questions(plan: &Plan) -> usize {
    rounds(plan).iter().map(|round| round.questions.len()).sum()
}

/// Asks, if the plan does not become too large by that.
fn asked(plan: &Plan, question: TaskSpec) -> NextStep {
    match check_bytes("tasks", plan.size().saturating_add(question.size()), MAX_PLAN_BYTES) {
        Ok(()) => NextStep::Ask(question),
        Err(error) => {
            let message = format!("the language model cannot be asked again: {}", error.message);
            NextStep::Failed(OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, message))
        }
    }
}

/// What an answer in the last round of a plan proposes, or its problems.
fn proposed(
    answer: &Answer<'_>,
    plan: &Plan,
    agents: &AgentCatalog,
    settings: &PlanningSettings,
) -> Result<Proposed, Vec<String>> {
    let cut_off = finish_reason(answer.metadata).map(|reason| match reason.as_str() {
        "length" => format!(
            "the answer was cut off at {} tokens; propose fewer or smaller tasks",
            settings.max_tokens
        ),
        other => format!("the answer is not complete: {other}"),
    });
    if let Some(problem) = cut_off {
        return Err(shortened(vec![problem]));
    }
    let round = rounds(plan).len().saturating_sub(1);
    let limits = limits_of(plan, round, settings);
    let mut tasks = match proposed_in(answer.data, &limits).map_err(shortened)? {
        Proposed::Tasks(tasks) => tasks,
        answer @ Proposed::Answer(_) => return Ok(answer),
    };
    let problems = problems_of(&tasks, plan, round, &limits, agents);
    if !problems.is_empty() {
        return Err(shortened(problems));
    }
    require_approvals(&mut tasks, answer, settings);
    Ok(Proposed::Tasks(tasks))
}

/// The tasks of an answer that was accepted earlier: its agents may have left the catalog.
pub(crate) fn accepted(
    answer: &Answer<'_>,
    settings: &PlanningSettings,
) -> Result<Vec<TaskSpec>, Vec<String>> {
    let mut tasks = tasks_of(answer.data)?;
    require_approvals(&mut tasks, answer, settings);
    Ok(tasks)
}

/// Makes proposed tasks wait for an approval if they change something.
fn require_approvals(tasks: &mut [TaskSpec], answer: &Answer<'_>, settings: &PlanningSettings) {
    if settings.approve_writes {
        let by = model_of(answer.metadata).unwrap_or_else(|| "a language model".into());
        let writing = tasks.iter_mut().filter(|task| writes(&task.agent, &task.action));
        for task in writing {
            let reason = format!("proposed by {by}; `{}` of `{}` changes something", task.action, task.agent);
            task.start.approval.get_or_insert(ApprovalTerms { reason, ..ApprovalTerms::default() });
        }
    }
}

/// The provider and the model of an answer.
fn model_of(metadata: &Object) -> Option<String> {
    let name = |name: &str| metadata.get(name).and_then(Json::as_str).filter(|name| !name.is_empty());
    let model: String = name("model")?.chars().take(128).collect();
    Some(match name("provider") {
        Some(provider) => format!("{provider}/{model}"),
        None => model,
    })
}

fn no_model(settings: &PlanningSettings) -> OrchestratorError {
    let message = format!(
        "agent `{}` has no language model to plan with; set a provider's key in [llm], or use the strategy `rules`",
        settings.agent
    );
    OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, message)
        .with_detail("agent", &settings.agent)
}

/// The error after the last round, with the first and the last answer and their problems.
fn planning_failed(
    answers: &[Answer<'_>],
    plan: &Plan,
    agents: &AgentCatalog,
    settings: &PlanningSettings,
) -> OrchestratorError {
    let rounds = answers.len();
    let problems_of =
        |answer: &Answer<'_>| proposed(answer, plan, agents, settings).err().unwrap_or_default();
    let last = answers.last().map(problems_of).unwrap_or_default();
    let asked = if rounds == 1 { "once".to_owned() } else { format!("{rounds} times") };
    let message = format!(
        "the language model was asked {asked} and proposed no valid plan: {}",
        last.first().map_or("no problem was found", String::as_str)
    );
    let mut error = OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, message);
    let mut shown = vec![(1, answers.first())];
    if rounds > 1 {
        shown.push((rounds, answers.last()));
    }
    for (round, answer) in shown {
        let Some(answer) = answer else { continue };
        let text = answer.data.to_text();
        error =
            error.with_detail(format!("proposal_{round}"), shown_text(&text, MAX_SHOWN_BYTES)).with_detail(
                format!("problems_{round}"),
                shown_text(&problems_of(answer).join("\n"), MAX_SHOWN_BYTES),
            );
    }
    error
}

fn shortened(problems: Vec<String>) -> Vec<String> {
    problems.iter().map(|problem| shown_text(problem, MAX_PROBLEM_BYTES)).collect()
}

#[cfg(test)]
mod tests;
