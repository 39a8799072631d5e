//! A scripted planner.

mod service;

use std::{collections::VecDeque, sync::Arc};

use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{RequestContext, readiness::Readiness, server::GrpcServer};
use phoenix_proto::{
    planner::{
        CancelPlanRequest, DeadLetter, DecideApprovalRequest, DiscardDeadLettersRequest,
        ListDeadLettersRequest, ListPlansRequest, Plan, PlanAndExecuteRequest, RedriveDeadLettersRequest,
        RedrivePlanRequest, WaitingApproval, WatchPlanResponse, planner_service_server::PlannerServiceServer,
    },
    status_from_error,
};
use tokio::sync::{Notify, watch};
use tonic::Status;

use super::{Shared, plans};

/// Script of a stream of events.
#[derive(Debug, Clone)]
pub enum Watch {
    /// Sends these events, then breaks, as when the planner is killed.
    Breaks(Vec<WatchPlanResponse>),
    /// Sends these events, then ends, as when the planner shuts down. A plan that is executed has its result before.
    Ends(Vec<WatchPlanResponse>),
    /// Sends these events, then stays open.
    Stays(Vec<WatchPlanResponse>),
    /// Sends these events once this was notified, then ends. Of plans that are watched.
    EndsAfter(Arc<Notify>, Vec<WatchPlanResponse>),
    /// Fails to open.
    Fails,
}

/// Reply to a chat.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Succeeds with this output and the plan `PLAN`.
    Output(String),
    /// Succeeds with this output, which is incomplete for this reason.
    Partial(String, &'static str),
    /// Succeeds with this output and this metadata of it.
    Result(String, String),
    /// Fails.
    Error(OrchestratorError),
    /// Fails, except for this agent.
    Unless(&'static str, OrchestratorError),
    /// Never responds.
    Hang,
    /// Succeeds once this was notified.
    After(Arc<Notify>),
    /// Violates the contract: no plan id.
    Nonsense,
}

/// A chat as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub context: RequestContext,
    pub request: PlanAndExecuteRequest,
}

impl Seen {
    pub fn id(&self) -> CorrelationId {
        self.context.correlation_id
    }
}

#[derive(Debug, Clone)]
pub struct FakePlanner {
    reply: Shared<Reply>,
    seen: Arc<watch::Sender<Vec<Seen>>>,
    /// Number of calls that were closed before their end.
    left: Arc<watch::Sender<usize>>,
    plans: Shared<Vec<Plan>>,
    /// The plan that responses have with their result.
    pub at_hand: Shared<Option<Plan>>,
    watches: Shared<VecDeque<Watch>>,
    /// Positions after which events were requested.
    watched: Arc<watch::Sender<Vec<u64>>>,
    cancelled: Arc<watch::Sender<Vec<CancelPlanRequest>>>,
    listed: Shared<Vec<ListPlansRequest>>,
    /// The planner's dead letters.
    pub dead_letters: Shared<Vec<DeadLetter>>,
    /// What waits for a decision.
    pub waiting: Shared<Vec<WaitingApproval>>,
    /// Correlation id of the request that every response replays; empty without one.
    pub replays: Shared<String>,
    /// Requests about redrives, dead letters and approvals.
    pub asked: Shared<Asked>,
}

/// Requests about redrives, dead letters and approvals.
#[derive(Debug, Default)]
pub struct Asked {
    pub redrives: Vec<RedrivePlanRequest>,
    pub lists: Vec<ListDeadLettersRequest>,
    pub sweeps: Vec<RedriveDeadLettersRequest>,
    pub discards: Vec<DiscardDeadLettersRequest>,
    pub decisions: Vec<DecideApprovalRequest>,
}

impl Default for FakePlanner {
    fn default() -> Self {
        Self {
            reply: Shared::new(Reply::Output("done".into()).into()),
            seen: Arc::new(watch::Sender::new(Vec::new())),
            left: Arc::new(watch::Sender::new(0)),
            plans: Shared::default(),
            at_hand: Shared::default(),
            watches: Shared::default(),
            watched: Arc::default(),
            cancelled: Arc::default(),
            listed: Shared::default(),
            dead_letters: Shared::default(),
            waiting: Arc::new(vec![plans::waiting()].into()),
            replays: Shared::default(),
            asked: Shared::default(),
        }
    }
}

impl FakePlanner {
    /// The plan of every response.
    pub const PLAN: &str = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f";

    pub fn server(&self, readiness: Readiness) -> GrpcServer {
        GrpcServer::new(readiness, super::token()).add_service(PlannerServiceServer::new(self.clone()))
    }

    pub fn reply(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    pub fn fail(&self, error: OrchestratorError) {
        self.reply(Reply::Error(error));
    }

    /// Every chat so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// Stores this plan, in place of an earlier version.
    pub fn keep(&self, plan: Plan) {
        let mut plans = self.plans.lock().unwrap();
        plans.retain(|kept| kept.plan_id != plan.plan_id);
        plans.push(plan);
    }

    /// Scripts of the next streams. Without one a stream follows the state of the plan.
    pub fn watches(&self, scripts: impl IntoIterator<Item = Watch>) {
        self.watches.lock().unwrap().extend(scripts);
    }

    /// Positions after which events were requested.
    pub fn watched(&self) -> Vec<u64> {
        self.watched.borrow().clone()
    }

    pub async fn is_watched(&self, times: usize) {
        let mut watched = self.watched.subscribe();
        let asked = watched.wait_for(|watched| watched.len() >= times);
        let _ = tokio::time::timeout(super::PATIENCE, asked).await.expect("events are asked for").unwrap();
    }

    /// The first cancel, once there is one.
    pub async fn first_cancelled(&self) -> CancelPlanRequest {
        let mut cancelled = self.cancelled.subscribe();
        let first = cancelled.wait_for(|cancelled| !cancelled.is_empty());
        let first = tokio::time::timeout(super::PATIENCE, first).await.expect("a plan is cancelled").unwrap();
        first[0].clone()
    }

    /// Every cancel so far.
    pub fn all_cancelled(&self) -> Vec<CancelPlanRequest> {
        self.cancelled.borrow().clone()
    }

    /// Number of cancelled plans.
    pub fn cancelled(&self) -> usize {
        self.cancelled.borrow().len()
    }

    /// Filters of list requests.
    pub fn listed(&self) -> Vec<ListPlansRequest> {
        self.listed.lock().unwrap().clone()
    }

    fn replay_of(&self) -> String {
        self.replays.lock().unwrap().clone()
    }

    /// The error that every call returns, if the reply is one.
    fn failure(&self) -> Result<(), Status> {
        match &*self.reply.lock().unwrap() {
            Reply::Error(error) => Err(status_from_error(error)),
            _ => Ok(()),
        }
    }

    fn find(&self, plan_id: &str) -> Result<Plan, Status> {
        let found = self.plans.lock().unwrap().iter().find(|plan| plan.plan_id == plan_id).cloned();
        found.ok_or_else(|| {
            let message = format!("there is no plan {plan_id}");
            status_from_error(&OrchestratorError::new(OrchestratorErrorCode::NotFound, message))
        })
    }

    /// Plan and script of the next stream.
    fn script(&self, plan_id: &str, after_position: u64) -> Result<(Plan, Watch), Status> {
        let plan = self.find(plan_id)?;
        self.watched.send_modify(|watched| watched.push(after_position));
        let script = self.watches.lock().unwrap().pop_front();
        let script = script.unwrap_or_else(|| {
            let events = plans::events_of(&plan).into_iter();
            let events = events.filter(|event| event.position > after_position).collect();
            if plan.ended_at.is_some() { Watch::Ends(events) } else { Watch::Stays(events) }
        });
        Ok((plan, script))
    }

    pub async fn has_seen(&self, count: usize) {
        let mut seen = self.seen.subscribe();
        let arrived = seen.wait_for(|seen| seen.len() >= count);
        let _ = tokio::time::timeout(super::PATIENCE, arrived).await.expect("the chat arrives").unwrap();
    }

    pub async fn has_lost(&self, count: usize) {
        let mut left = self.left.subscribe();
        let gone = left.wait_for(|left| *left >= count);
        let _ = tokio::time::timeout(super::PATIENCE, gone).await.expect("the call is cancelled").unwrap();
    }
}
