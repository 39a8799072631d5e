//! Domain types as messages.

use phoenix_domain::{CorrelationId, plan::Plan};
use phoenix_proto::{
    planner::{PlanAndExecuteResponse, ProposePlanResponse, WatchPlanResponse, dry_run_plan_response::Wave},
    to_timestamp, wire_usage,
};

use crate::{plan_run::active::PlanResult, proposals::Proposal, store::query::Event};

/// The response for the result of a plan; with `plan`, that has the output.
pub(super) fn encode_result(result: PlanResult, plan: Option<Plan>) -> PlanAndExecuteResponse {
    let PlanResult { plan_id, output, finish_reason, metadata, agent, agent_time, replay_of } = result;
    let (output, metadata) = if plan.is_some() { Default::default() } else { (output, metadata) };
    PlanAndExecuteResponse {
        plan_id: plan_id.to_string(),
        output: output.unwrap_or_default(),
        plan: plan.map(|plan| Box::new(plan.into())),
        agent: agent.into(),
        agent_time_us: u64::try_from(agent_time.as_micros()).unwrap_or(u64::MAX),
        replay_of: text(replay_of),
        finish_reason,
        metadata_json: if metadata.is_empty() { String::new() } else { metadata.to_string() },
    }
}

/// The response for a proposal.
pub(super) fn encode_proposal(proposal: Proposal) -> ProposePlanResponse {
    let Proposal { plan_id, strategy, tasks, waves, rounds, prompt_version, metadata, usage, replay_of } =
        proposal;
    ProposePlanResponse {
        plan_id: plan_id.map(|id| id.to_string()).unwrap_or_default(),
        strategy: strategy.as_str().into(),
        tasks: tasks.into_iter().map(Into::into).collect(),
        waves: waves.into_iter().map(|keys| Wave { keys }).collect(),
        rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
        prompt_version: prompt_version.unwrap_or_default(),
        metadata_json: if metadata.is_empty() { String::new() } else { metadata.to_string() },
        usage: wire_usage(usage),
        replay_of: text(replay_of),
    }
}

/// A correlation id as text; empty without one.
pub(super) fn text(id: Option<CorrelationId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// An event as a response.
pub(super) fn encode_event(Event { position, kind, at, task_key, data }: Event) -> WatchPlanResponse {
    WatchPlanResponse { position, kind, at: Some(to_timestamp(at)), task_key, data_json: data }
}
