//! Agents that the executors offer: admission control and readiness follow their catalogs.

use std::sync::Arc;

use phoenix_platform::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::{deps::Deps, metrics::set_executors};

/// Applies every change of the agents until `stop`. Meets the condition `executor` of `readiness` while an executor is
/// reached.
pub(crate) async fn run(deps: Arc<Deps>, readiness: Readiness, stop: CancellationToken) {
    let mut changes = deps.agents.subscribe();
    let mut lacks_default = false;
    loop {
        let known = changes.borrow_and_update().clone();
        if let Ok(agents) = known.catalog() {
            deps.admission.set_agents(agents);
            let default = agents.default_agent();
            let lacked_default = std::mem::replace(&mut lacks_default, agents.get(default).is_err());
            if lacks_default && !lacked_default {
                tracing::warn!(agent = %default, "default agent is offered by no executor; messages without a route are rejected");
            }
        }
        set_executors(known.executors(), known.unreachable());
        // Last, because a planner that is ready accepts plans.
        readiness.set("executor", known.executors() > 0);
        match stop.run_until_cancelled(changes.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}
