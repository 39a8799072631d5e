//! The ledger that the agents of a soak keep: which attempts of a task ran, and whether two ran at once.

use std::{collections::HashSet, fs, path::Path};

use crate::callers::{Fact, Observation};

/// Panics when a task ran although its approval was rejected or has expired, or has succeeded without a trace.
pub(crate) fn check_approvals(folder: &Path, observations: &[Observation]) {
    let mut said = HashSet::new();
    for task in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(task.unwrap().path()).unwrap();
        said.extend(text.lines().filter_map(|line| line.strip_prefix("says ")).map(str::to_owned));
    }
    for observation in observations {
        for fact in &observation.facts {
            let agrees = match fact {
                Fact::Ran(message) => said.contains(message),
                Fact::NeverRan(message) => !said.contains(message),
                _ => true,
            };
            assert!(agrees, "{fact:?} contradicts the ledger: {observation:#?}");
        }
    }
}

/// Panics when two executions of a task ran at once although both executors lived, or when two had the same number. Returns
/// the number of executions.
pub(crate) fn check(folder: &Path) -> usize {
    let (mut executions, mut violations) = (0, Vec::new());
    for task in fs::read_dir(folder).unwrap() {
        let path = task.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let starts = text.lines().filter_map(|line| line.strip_prefix("start ")?.split(' ').next());
        let mut numbers = HashSet::new();
        executions += starts.clone().count();
        let all_differ = starts.clone().all(|number| numbers.insert(number));
        if !all_differ || text.contains("overlap ") {
            violations.push(format!("task {}:\n{text}", path.file_name().unwrap().display()));
        }
    }
    assert!(
        violations.is_empty(),
        "a task ran twice at once, or under one number:\n{}",
        violations.join("\n")
    );
    executions
}
