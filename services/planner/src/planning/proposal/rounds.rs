//! Rounds of a plan: questions to the language model, and the tasks of the answer that was accepted.
//!
//! ```text
//! planning-1 planning-2 a b │ planning-3 c │ planning-4
//! round 0                   │ round 1      │ round 2
//! ```

use std::ops::Range;

use phoenix_domain::{
    graph::Graph,
    plan::{Plan, TaskSpec},
};

/// Ordinals of the questions and of the tasks of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    /// The first question, and those that repeat it with the problems of its answer.
    pub(crate) questions: Range<usize>,
    /// The tasks that the last answer proposes.
    pub(crate) tasks: Range<usize>,
}

/// The rounds of a plan.
pub(crate) fn rounds(plan: &Plan) -> Vec<Round> {
    let mut rounds: Vec<Round> = Vec::new();
    for ordinal in 0..plan.tasks.len() {
        let next = ordinal + 1;
        match rounds.last_mut() {
            Some(round) if !plan.is_planning(ordinal) => round.tasks.end = next,
            Some(round) if round.tasks.is_empty() => {
                (round.questions.end, round.tasks) = (next, next..next);
            }
            _ => rounds.push(Round { questions: ordinal..next, tasks: next..next }),
        }
    }
    rounds
}

/// The tasks that were proposed before a round, and the round of each.
pub(super) fn proposed_before(plan: &Plan, round: usize) -> (Vec<TaskSpec>, Vec<usize>) {
    let rounds = rounds(plan).into_iter().take(round).enumerate();
    let tasks = rounds.flat_map(|(round, Round { tasks, .. })| tasks.map(move |ordinal| (ordinal, round)));
    tasks.map(|(ordinal, round)| (plan.tasks[ordinal].spec.clone(), round)).unzip()
}

/// Largest number of tasks in a row in a round. `rounds` has the round of each task of the graph.
pub(super) fn depth_of(graph: &Graph, rounds: &[usize], round: usize) -> usize {
    let mut levels = vec![0; rounds.len()];
    for task in graph.order().into_iter().flatten().filter(|task| rounds[*task] == round) {
        // Tasks of earlier rounds have the level 0.
        let before = graph.dependencies(task).iter().map(|dependency| levels[*dependency]).max();
        levels[task] = before.unwrap_or(0) + 1;
    }
    levels.into_iter().max().unwrap_or(0)
}
