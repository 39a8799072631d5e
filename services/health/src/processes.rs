//! The processes of an agent, as the executors that offer it know them.

use std::time::Duration;

use phoenix_domain::AgentName;
use phoenix_platform::catalogs::{CatalogView, ExecutorPeer};
use phoenix_proto::{
    executor::{
        AgentLoad, InspectAgentRequest, InspectAgentResponse, executor_service_client::ExecutorServiceClient,
    },
    health_v1::AgentProcesses,
};

/// Longest wait for the executors. Less than the time limits of the callers.
const WAIT: Duration = Duration::from_millis(500);

/// The processes of `agent` at each executor that offers it and answers in time.
pub(crate) async fn processes_of(agents: &CatalogView, agent: &AgentName) -> Vec<AgentProcesses> {
    let asked = agents.executors_of(agent).into_iter().map(|executor| async move {
        tokio::time::timeout(WAIT, inspect(&executor, agent)).await.ok().flatten()
    });
    let mut found: Vec<_> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
    found.sort_by(|a, b| a.executor.cmp(&b.executor));
    found
}

async fn inspect(executor: &ExecutorPeer, agent: &AgentName) -> Option<AgentProcesses> {
    let request = InspectAgentRequest { agent: agent.to_string() };
    // An executor of an older version does not know the call.
    let answer = ExecutorServiceClient::new(executor.channel()).inspect_agent(request).await.ok()?;
    let InspectAgentResponse {
        instance_id,
        load,
        processes,
        restarts,
        crash_loop,
        last_stderr,
        last_stderr_at,
    } = answer.into_inner();
    let AgentLoad { agent: _, running, free } = load.unwrap_or_default();
    Some(AgentProcesses {
        executor: instance_id,
        running,
        free,
        processes,
        restarts,
        crash_loop,
        last_stderr,
        last_stderr_at,
    })
}
