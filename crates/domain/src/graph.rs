//! The dependency graph of a plan's tasks.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::AgentCatalog,
    error::{OrchestratorError, OrchestratorErrorCode},
    limits::{MAX_KEY_CHARS, MAX_TASKS},
    plan::TaskSpec,
    template,
};

/// Limit of task keys in the message about a cycle.
const MAX_NAMED_TASKS: usize = 16;

/// Dependencies of each task, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    dependencies: Vec<BTreeSet<usize>>,
}

impl Graph {
    /// Builds the graph of a plan and validates keys, agents, dependencies and references. A reference to another task's output
    /// is a dependency, whether `depends_on` names it or not.
    ///
    /// # Errors
    /// `validation_failed` or `planning_failed` whose details name the task's `key` and the `field`.
    pub fn of(tasks: &[TaskSpec], agents: &AgentCatalog) -> Result<Self, OrchestratorError> {
        Self::check(tasks, Some(agents))
    }

    /// As [`of`](Self::of), for tasks that were accepted earlier: their agents may have left the catalog.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn of_accepted(tasks: &[TaskSpec]) -> Result<Self, OrchestratorError> {
        Self::check(tasks, None)
    }

    fn check(tasks: &[TaskSpec], agents: Option<&AgentCatalog>) -> Result<Self, OrchestratorError> {
        if tasks.is_empty() {
            return Err(OrchestratorError::invalid("tasks", "must hold at least one task"));
        }
        if tasks.len() > MAX_TASKS {
            let problem = format!("holds {} tasks; at most {MAX_TASKS} are allowed", tasks.len());
            return Err(OrchestratorError::invalid("tasks", problem));
        }
        let mut indices = BTreeMap::new();
        for (index, task) in tasks.iter().enumerate() {
            check_key(index, &task.key)?;
            if indices.insert(task.key.as_str(), index).is_some() {
                return Err(at(index, "key", &task.key, "is used by two tasks"));
            }
        }
        let dependencies = tasks
            .iter()
            .enumerate()
            .map(|(index, task)| dependencies(index, task, &indices, agents))
            .collect::<Result<Vec<_>, _>>()?;
        let graph = Self { dependencies };
        match graph.waves() {
            Ok(_) => Ok(graph),
            Err(stuck) => Err(cycle(&graph.cycle_among(&stuck), tasks)),
        }
    }

    /// Dependencies of the task at `index`.
    #[must_use]
    pub fn dependencies(&self, index: usize) -> &BTreeSet<usize> {
        &self.dependencies[index]
    }

    /// Tasks in execution order, in waves: the tasks of a wave can run at the same time.
    #[must_use]
    pub fn order(&self) -> Vec<Vec<usize>> {
        self.waves().unwrap_or_default()
    }

    /// The waves, or the tasks that cannot start.
    fn waves(&self) -> Result<Vec<Vec<usize>>, Vec<usize>> {
        let mut done = BTreeSet::new();
        let mut waves = Vec::new();
        while done.len() < self.dependencies.len() {
            let open = (0..self.dependencies.len()).filter(|index| !done.contains(index));
            let (wave, stuck): (Vec<_>, Vec<_>) =
                open.partition(|index| self.dependencies[*index].is_subset(&done));
            if wave.is_empty() {
                return Err(stuck);
            }
            done.extend(wave.iter().copied());
            waves.push(wave);
        }
        Ok(waves)
    }

    /// A cycle among the tasks that cannot start, beginning with the first in the plan's order. Each task waits for the next, the
    /// last for the first.
    fn cycle_among(&self, stuck: &[usize]) -> Vec<usize> {
        let stuck: BTreeSet<_> = stuck.iter().copied().collect();
        // A task that cannot start waits for another such task, so the walk returns to a visited task.
        let mut walk: Vec<usize> = Vec::new();
        let mut next = stuck.first().copied();
        while let Some(task) = next {
            if let Some(begin) = walk.iter().position(|passed| *passed == task) {
                walk.drain(..begin);
                break;
            }
            walk.push(task);
            next = self.dependencies[task].intersection(&stuck).next().copied();
        }
        let first = walk.iter().enumerate().min_by_key(|(_, task)| **task).map_or(0, |(index, _)| index);
        walk.rotate_left(first);
        walk
    }
}

fn dependencies(
    index: usize,
    task: &TaskSpec,
    indices: &BTreeMap<&str, usize>,
    agents: Option<&AgentCatalog>,
) -> Result<BTreeSet<usize>, OrchestratorError> {
    if let Some(agents) = agents {
        check_agent(index, task, agents)?;
    }
    if task.action.trim().is_empty() {
        return Err(at(index, "action", &task.key, "must name an action"));
    }
    let find = |field: &str, key: &str| {
        indices
            .get(key)
            .copied()
            .ok_or_else(|| at(index, field, &task.key, &format!("names `{key}`, which is no task")))
    };
    let references =
        template::references(&task.payload).map_err(|e| at(index, "input", &task.key, &e.to_string()))?;
    let named = task.depends_on.iter().map(|key| find("depends_on", key));
    named.chain(references.iter().map(|reference| find("input", &reference.key))).collect()
}

/// Checks that the task's agent is configured.
///
/// # Errors
/// `planning_failed` whose details name the task's `key` and the `field`.
pub fn check_agent(index: usize, task: &TaskSpec, agents: &AgentCatalog) -> Result<(), OrchestratorError> {
    let known = agents.get(&task.agent).map(drop);
    known.map_err(|error| {
        error.with_detail("key", &task.key).with_detail("field", format!("tasks[{index}].agent"))
    })
}

fn check_key(index: usize, key: &str) -> Result<(), OrchestratorError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if key.is_empty() || key.len() > MAX_KEY_CHARS || !key.chars().all(allowed) {
        return Err(at(index, "key", key, "must be 1 to 64 letters, digits, `_` or `-`"));
    }
    Ok(())
}

fn at(index: usize, field: &str, key: &str, problem: &str) -> OrchestratorError {
    OrchestratorError::invalid(&format!("tasks[{index}].{field}"), problem).with_detail("key", key)
}

/// The error for a cycle, with each task before the one that it waits for.
fn cycle(cycle: &[usize], tasks: &[TaskSpec]) -> OrchestratorError {
    let key = |index: &usize| tasks[*index].key.as_str();
    let first = cycle.first().map(key).unwrap_or_default();
    let mut names: Vec<_> = cycle.iter().map(key).chain([first]).collect();
    let left_out = names.len().saturating_sub(MAX_NAMED_TASKS);
    let more = format!("({left_out} more)");
    if left_out > 1 {
        names.splice(MAX_NAMED_TASKS / 2..MAX_NAMED_TASKS / 2 + left_out, [more.as_str()]);
    }
    OrchestratorError::new(
        OrchestratorErrorCode::PlanningFailed,
        format!("tasks wait for each other in a cycle and can never start: {}", names.join(" -> ")),
    )
    .with_detail("field", "tasks")
    .with_detail("key", first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{agent::AgentSpec, plan::OnFailure};

    fn agents() -> AgentCatalog {
        let spec = AgentSpec::new("echo".parse().unwrap(), vec!["true".into()]);
        AgentCatalog::new([spec], "echo".parse().unwrap())
    }

    fn task(key: &str, depends_on: &[&str], input: &str) -> TaskSpec {
        TaskSpec {
            key: key.into(),
            agent: "echo".parse().unwrap(),
            action: "echo".into(),
            payload: crate::json::Object::from_iter([("x".to_owned(), input.into())]),
            depends_on: depends_on.iter().map(|key| (*key).to_owned()).collect(),
            on_failure: OnFailure::Fail,
            start: crate::plan::StartConditions::default(),
        }
    }

    #[test]
    fn references_are_dependencies_and_define_waves() {
        let tasks = [
            task("note", &["log"], "{{tasks.status.output}}"),
            task("status", &[], ""),
            task("log", &[], ""),
            task("last", &["note"], ""),
        ];
        let graph = Graph::of(&tasks, &agents()).unwrap();
        assert_eq!(graph.order(), [vec![1, 2], vec![0], vec![3]]);
    }

    #[test]
    fn invalid_task_is_named_by_key_and_field() {
        let mut unknown_agent = task("a", &[], "");
        unknown_agent.agent = "missing".parse().unwrap();
        let many: Vec<_> = (0..257).map(|n| task(&format!("t{n}"), &[], "")).collect();
        for (tasks, code, key, field) in [
            (vec![], "validation_failed", None, "tasks"),
            (many, "validation_failed", None, "tasks"),
            (vec![task("a b", &[], "")], "validation_failed", Some("a b"), "tasks[0].key"),
            (vec![task("a", &[], ""), task("a", &[], "")], "validation_failed", Some("a"), "tasks[1].key"),
            (vec![task("a", &["z"], "")], "validation_failed", Some("a"), "tasks[0].depends_on"),
            (vec![task("a", &[], "{{tasks.z.output}}")], "validation_failed", Some("a"), "tasks[0].input"),
            (vec![task("a", &[], "{{tasks.z}}")], "validation_failed", Some("a"), "tasks[0].input"),
            (vec![unknown_agent], "planning_failed", Some("a"), "tasks[0].agent"),
            (vec![task("a", &["a"], "")], "planning_failed", Some("a"), "tasks"),
            (vec![task("a", &["b"], ""), task("b", &["a"], "")], "planning_failed", Some("a"), "tasks"),
        ] {
            let error = Graph::of(&tasks, &agents()).unwrap_err();
            assert_eq!((error.code.as_str(), error.details["field"].as_str()), (code, field), "{error}");
            assert_eq!(error.details.get("key").map(String::as_str), key, "{error}");
        }
    }

    #[test]
    fn cycle_message_names_only_the_cycle() {
        let cycle_of = |edges: &[(&str, &str)]| {
            let mut keys: Vec<_> = edges.iter().flat_map(|(key, before)| [*key, *before]).collect();
            keys.sort_unstable();
            keys.dedup();
            let before =
                |key| edges.iter().filter(|(after, _)| *after == key).map(|(_, before)| *before).collect();
            let tasks: Vec<_> = keys
                .iter()
                .map(|key| task(key, &Vec::<&str>::from_iter::<Vec<_>>(before(*key)), ""))
                .collect();
            Graph::of(&tasks, &agents()).unwrap_err()
        };
        for (edges, cycle, key) in [
            (&[("a", "b"), ("b", "a"), ("c", "b")][..], "a -> b -> a", "a"),
            (&[("a", "b"), ("b", "c"), ("c", "b")], "b -> c -> b", "b"),
            (&[("a", "a"), ("b", "a")], "a -> a", "a"),
            (&[("a", "c"), ("c", "b"), ("b", "a"), ("d", "a"), ("e", "f")], "a -> c -> b -> a", "a"),
        ] {
            let error = cycle_of(edges);
            assert!(error.message.ends_with(&format!(": {cycle}")), "{error}");
            assert_eq!(error.details["key"], key, "{error}");
        }
        let keys: Vec<_> = (0..MAX_TASKS).map(|n| format!("{n:064}")).collect();
        let ring = |n: usize| task(&keys[n], &[&keys[(n + 1) % MAX_TASKS]], "");
        let error = Graph::of(&(0..MAX_TASKS).map(ring).collect::<Vec<_>>(), &agents()).unwrap_err();
        assert!(error.message.len() < 2048 && error.message.contains("more) -> "), "{error}");
    }

    proptest! {
        /// For any edges, each named task waits for the next.
        #[test]
        fn cycle_message_follows_dependencies(edges in prop::collection::vec((0usize..12, 0usize..12), 1..40)) {
            let tasks: Vec<_> = (0..12)
                .map(|n| {
                    let before: Vec<_> = edges.iter().filter(|(after, _)| *after == n).map(|(_, before)| format!("t{before}")).collect();
                    task(&format!("t{n}"), &before.iter().map(String::as_str).collect::<Vec<_>>(), "")
                })
                .collect();
            if let Err(error) = Graph::of(&tasks, &agents()) {
                let (_, cycle) = error.message.split_once(": ").unwrap();
                let names: Vec<_> = cycle.split(" -> ").collect();
                prop_assert!(names.len() >= 2 && names.first() == names.last(), "{}", error);
                for pair in names.windows(2) {
                    let waiting = tasks.iter().find(|task| task.key == pair[0]).unwrap();
                    prop_assert!(waiting.depends_on.iter().any(|before| before == pair[1]), "{}", error);
                }
            }
        }

        /// In any graph without cycles every task runs once, after all it waits for.
        #[test]
        fn the_order_respects_every_dependency(edges in prop::collection::vec((0usize..20, 0usize..20), 0..60)) {
            let tasks: Vec<_> = (0..20)
                .map(|n| {
                    let earlier: Vec<_> = edges.iter().filter(|(a, b)| *a.max(b) == n && a != b)
                        .map(|(a, b)| format!("t{}", a.min(b))).collect();
                    let earlier: Vec<_> = earlier.iter().map(String::as_str).collect();
                    task(&format!("t{n}"), &earlier, "")
                })
                .collect();
            let graph = Graph::of(&tasks, &agents()).unwrap();
            let mut done = BTreeSet::new();
            for wave in graph.order() {
                for index in &wave {
                    prop_assert!(graph.dependencies(*index).is_subset(&done));
                }
                for index in wave {
                    prop_assert!(done.insert(index));
                }
            }
            prop_assert_eq!(done.len(), 20);
        }
    }
}
