//! The ledger that the agents of a soak keep: which attempts of a task ran, and whether two ran at once.

use std::{collections::HashSet, fs, path::Path};

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
