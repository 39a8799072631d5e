//! Choice of the executor for a task.

use std::sync::Arc;

use phoenix_domain::{AgentName, AgentSpec};

use super::executor::ExecutorPeer;

/// An executor that offers an agent.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) executor: Arc<ExecutorPeer>,
    concurrency: u32,
    capacity: u32,
    max_attempts: u32,
}

/// The executor that was chosen for a task.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The executor.
    pub executor: Arc<ExecutorPeer>,
    /// Limit of attempts that the executor makes for the task.
    pub max_attempts: u32,
}

impl Candidate {
    pub(super) fn new(executor: &Arc<ExecutorPeer>, spec: &AgentSpec) -> Self {
        Self {
            executor: Arc::clone(executor),
            concurrency: spec.concurrency(),
            capacity: spec.capacity(),
            max_attempts: spec.most_attempts(),
        }
    }

    fn choice(&self) -> Choice {
        Choice { executor: Arc::clone(&self.executor), max_attempts: self.max_attempts }
    }

    /// Smaller is better: first an executor that accepts the task, then the one with fewer tasks for each that may run.
    fn score(&self, agent: &AgentName) -> (bool, f64) {
        let load = self.executor.load(agent);
        (load >= self.capacity, f64::from(load) / f64::from(self.concurrency.max(1)))
    }
}

/// The better of two random candidates, so that planners with the same view do not all choose the same one. `avoid` is chosen
/// only when there is no other.
pub(super) fn choose(
    candidates: &[Candidate],
    agent: &AgentName,
    avoid: Option<&Arc<ExecutorPeer>>,
) -> Option<Choice> {
    if let [only] = candidates {
        return Some(only.choice());
    }
    let is_avoided =
        |candidate: &&Candidate| avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, &candidate.executor));
    let allowed: Vec<_> = candidates.iter().filter(|candidate| !is_avoided(candidate)).collect();
    let first = fastrand::usize(..allowed.len().max(1));
    // Distinct from the first.
    let second = match allowed.len() {
        0 | 1 => first,
        count => (first + fastrand::usize(1..count)) % count,
    };
    let (first, second) = (allowed.get(first)?, allowed.get(second)?);
    let better = if second.score(agent) < first.score(agent) { second } else { first };
    Some(better.choice())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{client, service_token::ServiceToken};

    fn candidate(address: &str, max_concurrency: u32) -> Candidate {
        let channel = client::channel("http://127.0.0.1:1", ServiceToken::new("of-the-test").unwrap());
        let executor = ExecutorPeer::new(address.into(), channel.unwrap());
        let spec = AgentSpec { max_concurrency, max_queue: 2, ..AgentSpec::new(agent(), Vec::new()) };
        Candidate::new(&executor, &spec)
    }

    fn agent() -> AgentName {
        "a".parse().unwrap()
    }

    #[tokio::test]
    async fn tasks_are_shared_in_proportion_to_concurrency() {
        let candidates = [candidate("one", 30), candidate("two", 10)];
        let mut tasks = Vec::new();
        let mut counts: HashMap<String, u32> = HashMap::new();
        for _ in 0..40 {
            let Choice { executor, .. } = choose(&candidates, &agent(), None).unwrap();
            *counts.entry(executor.address().to_owned()).or_default() += 1;
            tasks.push(executor.start(&agent()));
        }
        assert_eq!((counts["one"], counts["two"]), (30, 10));
        drop(tasks);
        assert!(candidates.iter().all(|candidate| candidate.executor.load(&agent()) == 0));
    }

    #[tokio::test]
    async fn full_or_avoided_executor_is_the_last_choice() {
        let candidates = [candidate("full", 100), candidate("free", 1)];
        let full = &candidates[0].executor;
        full.report([(agent(), 102)]);
        candidates[1].executor.report([(agent(), 2)]);
        for _ in 0..20 {
            assert_eq!(choose(&candidates, &agent(), None).unwrap().executor.address(), "free");
            let avoided = choose(&candidates, &agent(), Some(&candidates[1].executor)).unwrap();
            assert_eq!(avoided.executor.address(), "full");
        }
        let only = choose(&candidates[..1], &agent(), Some(full)).unwrap();
        assert_eq!(only.executor.address(), "full", "there is no other");
        assert!(choose(&[], &agent(), None).is_none());
    }

    #[tokio::test]
    async fn every_executor_of_many_is_chosen() {
        let candidates: Vec<_> = (0..5).map(|n| candidate(&n.to_string(), 4)).collect();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            tasks.push(choose(&candidates, &agent(), None).unwrap().executor.start(&agent()));
        }
        let loads: Vec<_> = candidates.iter().map(|candidate| candidate.executor.load(&agent())).collect();
        assert!(loads.iter().all(|load| (1..=8).contains(load)), "{loads:?}");
    }
}
