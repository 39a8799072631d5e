//! Readiness of a process, from named conditions.
//!
//! A service names its conditions (`journal`, `executor`, …) at the start, all unmet; it is ready once every one is met.
//! Readiness is published as `grpc.health.v1`, for `phoenix up`, probes and the gateway's `/readyz`, and as `/readyz` beside
//! `/metrics`, for probes that cannot present a client certificate.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Condition of a process whose service has not named its conditions yet.
const START: &str = "start";

/// Conditions of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    conditions: BTreeMap<&'static str, bool>,
    shutting_down: bool,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.shutting_down && self.conditions.values().all(|met| *met)
    }
}

impl Readiness {
    /// A readiness that needs each of `conditions`.
    #[must_use]
    pub fn needing(conditions: &[&'static str]) -> Self {
        let conditions = conditions.iter().map(|name| (*name, false)).collect();
        Self { state: Arc::new(watch::Sender::new(State { conditions, shutting_down: false })) }
    }

    /// The readiness of a process whose service has not started.
    #[must_use]
    pub fn starting() -> Self {
        Self::needing(&[START])
    }

    /// Replaces the conditions by `conditions`, all unmet.
    pub fn require(&self, conditions: &[&'static str]) {
        let conditions = conditions.iter().map(|name| (*name, false)).collect();
        self.state.send_modify(|state| state.conditions = conditions);
    }

    /// Sets whether `condition` is met. Logs changes only.
    pub fn set(&self, condition: &'static str, met: bool) {
        let changed =
            self.state.send_if_modified(|state| state.conditions.insert(condition, met) != Some(met));
        if changed && met {
            tracing::info!(condition, "ready");
        } else if changed {
            tracing::warn!(condition, "not ready");
        }
    }

    /// Makes the process not ready, permanently.
    pub fn shut_down(&self) {
        self.state.send_modify(|state| state.shutting_down = true);
    }

    /// Whether every condition is met and no shutdown has begun.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Waits until the process is ready.
    pub async fn ready(&self) {
        // The sender lives as long as this readiness.
        let _ = self.state.subscribe().wait_for(State::is_ready).await;
    }

    /// Names of the unmet conditions.
    #[must_use]
    pub fn unmet(&self) -> Vec<&'static str> {
        self.state.borrow().conditions.iter().filter(|(_, met)| !**met).map(|(name, _)| *name).collect()
    }

    /// Calls `report` with the current state and each change, until the process shuts down.
    pub(crate) async fn follow<F: Future<Output = ()>>(&self, report: impl Fn(bool) -> F) {
        let mut changes = self.state.subscribe();
        loop {
            let state = changes.borrow_and_update().clone();
            report(state.is_ready()).await;
            if state.shutting_down || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_every_condition_and_ends_at_shutdown() {
        let readiness = Readiness::needing(&["journal", "executor"]);
        readiness.set("journal", true);
        assert_eq!(readiness.unmet(), ["executor"]);
        readiness.set("executor", true);
        assert!(readiness.is_ready());
        readiness.shut_down();
        readiness.set("executor", true);
        assert!(!readiness.is_ready());
    }

    #[test]
    fn starting_process_is_ready_only_with_its_conditions() {
        let readiness = Readiness::starting();
        assert_eq!((readiness.is_ready(), readiness.unmet()), (false, vec!["start"]));
        readiness.require(&["journal"]);
        assert_eq!((readiness.is_ready(), readiness.unmet()), (false, vec!["journal"]));
        readiness.set("journal", true);
        assert!(readiness.is_ready());
        let without_conditions = Readiness::starting();
        without_conditions.require(&[]);
        assert!(without_conditions.is_ready());
    }
}
