//! The order of a plan's tasks: who waits for whom, and whether that can work.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::AgentCatalog,
    error::{OrchestratorError, OrchestratorErrorCode},
    plan::TaskSpec,
    template,
};

/// The most tasks of one plan.
pub const MAX_TASKS: usize = 256;

/// Tasks by their place, and what each waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    dependencies: Vec<BTreeSet<usize>>,
}

impl Graph {
    /// Checks the tasks of a plan: keys, agents, dependencies and references. A reference to another task's output is a
    /// dependency, whether `depends_on` names it or not.
    ///
    /// # Errors
    /// `validation_failed` or `planning_failed` whose details name the task's `key` and the `field`.
    pub fn of(tasks: &[TaskSpec], agents: &AgentCatalog) -> Result<Self, OrchestratorError> {
        if tasks.is_empty() {
            return Err(OrchestratorError::invalid("tasks", "must hold at least one task"));
        }
        if tasks.len() > MAX_TASKS {
            let problem = format!("holds {} tasks; at most {MAX_TASKS} are allowed", tasks.len());
            return Err(OrchestratorError::invalid("tasks", problem));
        }
        let mut places = BTreeMap::new();
        for (place, task) in tasks.iter().enumerate() {
            check_key(place, &task.key)?;
            if places.insert(task.key.as_str(), place).is_some() {
                return Err(at(place, "key", &task.key, "is used by two tasks"));
            }
        }
        let dependencies = tasks
            .iter()
            .enumerate()
            .map(|(place, task)| dependencies(place, task, &places, agents))
            .collect::<Result<Vec<_>, _>>()?;
        let graph = Self { dependencies };
        match graph.waves() {
            Ok(_) => Ok(graph),
            Err(stuck) => Err(cycle(&stuck, tasks)),
        }
    }

    /// What the task at `place` waits for.
    #[must_use]
    pub fn dependencies(&self, place: usize) -> &BTreeSet<usize> {
        &self.dependencies[place]
    }

    /// The tasks in the order in which they can run: those of one wave at the same time.
    #[must_use]
    pub fn order(&self) -> Vec<Vec<usize>> {
        self.waves().unwrap_or_default()
    }

    /// The waves, or the tasks that can never start.
    fn waves(&self) -> Result<Vec<Vec<usize>>, Vec<usize>> {
        let mut done = BTreeSet::new();
        let mut waves = Vec::new();
        while done.len() < self.dependencies.len() {
            let open = (0..self.dependencies.len()).filter(|place| !done.contains(place));
            let (wave, stuck): (Vec<_>, Vec<_>) =
                open.partition(|place| self.dependencies[*place].is_subset(&done));
            if wave.is_empty() {
                return Err(stuck);
            }
            done.extend(wave.iter().copied());
            waves.push(wave);
        }
        Ok(waves)
    }
}

fn dependencies(
    place: usize,
    task: &TaskSpec,
    places: &BTreeMap<&str, usize>,
    agents: &AgentCatalog,
) -> Result<BTreeSet<usize>, OrchestratorError> {
    agents.get(&task.agent).map_err(|error| {
        error.with_detail("key", &task.key).with_detail("field", format!("tasks[{place}].agent"))
    })?;
    if task.action.trim().is_empty() {
        return Err(at(place, "action", &task.key, "must name an action"));
    }
    let find = |field: &str, key: &str| {
        places
            .get(key)
            .copied()
            .ok_or_else(|| at(place, field, &task.key, &format!("names `{key}`, which is no task")))
    };
    let references =
        template::references(&task.payload).map_err(|e| at(place, "input", &task.key, &e.to_string()))?;
    let named = task.depends_on.iter().map(|key| find("depends_on", key));
    named.chain(references.iter().map(|reference| find("input", &reference.key))).collect()
}

fn check_key(place: usize, key: &str) -> Result<(), OrchestratorError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if key.is_empty() || key.len() > 64 || !key.chars().all(allowed) {
        return Err(at(place, "key", key, "must be 1 to 64 letters, digits, `_` or `-`"));
    }
    Ok(())
}

fn at(place: usize, field: &str, key: &str, problem: &str) -> OrchestratorError {
    OrchestratorError::invalid(&format!("tasks[{place}].{field}"), problem).with_detail("key", key)
}

/// Of the tasks that can never start, those that wait for each other.
fn cycle(stuck: &[usize], tasks: &[TaskSpec]) -> OrchestratorError {
    let keys: Vec<_> = stuck.iter().map(|place| tasks[*place].key.as_str()).collect();
    OrchestratorError::new(
        OrchestratorErrorCode::PlanningFailed,
        format!("these tasks wait for each other and can never start: {}", keys.join(", ")),
    )
    .with_detail("field", "tasks")
    .with_detail("key", keys.first().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

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
            payload: Map::from_iter([("x".to_owned(), json!(input))]),
            depends_on: depends_on.iter().map(|key| (*key).to_owned()).collect(),
            on_failure: OnFailure::Fail,
        }
    }

    #[test]
    fn references_are_dependencies_and_waves_run_at_the_same_time() {
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
    fn the_offending_key_is_named() {
        let mut unknown_agent = task("a", &[], "");
        unknown_agent.agent = "nobody".parse().unwrap();
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

    proptest! {
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
                for place in &wave {
                    prop_assert!(graph.dependencies(*place).is_subset(&done));
                }
                for place in wave {
                    prop_assert!(done.insert(place));
                }
            }
            prop_assert_eq!(done.len(), 20);
        }
    }
}
