//! A planner that says what a test wants.

use std::sync::Arc;

use phoenix_domain::{CorrelationId, OrchestratorError, PlanId};
use phoenix_platform::{RequestContext, readiness::Readiness, server::GrpcServer};
use phoenix_proto::{
    planner::{
        GetPlanRequest, GetPlanResponse, ListPlansRequest, ListPlansResponse, PlanAndExecuteRequest,
        PlanAndExecuteResponse,
        planner_service_server::{PlannerService, PlannerServiceServer},
    },
    status_from_error,
};
use tokio::sync::{Notify, watch};
use tonic::{Request, Response, Status};

use super::Shared;

/// What the planner does with a chat.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers with this output and the plan `PLAN`.
    Output(String),
    /// Fails.
    Error(OrchestratorError),
    /// Never answers.
    Hang,
    /// Answers once this has been notified.
    After(Arc<Notify>),
    /// Breaks the contract: no plan id.
    Nonsense,
}

/// One chat as it arrived.
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
    /// Chats whose caller left.
    left: Arc<watch::Sender<usize>>,
}

impl Default for FakePlanner {
    fn default() -> Self {
        Self {
            reply: Shared::new(Reply::Output("done".into()).into()),
            seen: Arc::new(watch::Sender::new(Vec::new())),
            left: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl FakePlanner {
    /// The plan of every answer.
    pub const PLAN: &str = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f";

    pub fn server(&self, readiness: Readiness) -> GrpcServer {
        GrpcServer::new(readiness).add_service(PlannerServiceServer::new(self.clone()))
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

/// Counts a call that ends without an answer.
struct Unanswered(Arc<watch::Sender<usize>>, bool);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.1 {
            self.0.send_modify(|left| *left += 1);
        }
    }
}

#[tonic::async_trait]
impl PlannerService for FakePlanner {
    async fn plan_and_execute(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<PlanAndExecuteResponse>, Status> {
        let mut call = Unanswered(self.left.clone(), false);
        let context = RequestContext::of(&request);
        self.seen.send_modify(|seen| seen.push(Seen { context, request: request.into_inner() }));
        let reply = self.reply.lock().unwrap().clone();
        let (plan_id, output) = match reply {
            Reply::Output(output) => (Self::PLAN.parse::<PlanId>().unwrap().to_string(), output),
            Reply::Nonsense => (String::new(), String::new()),
            Reply::After(signal) => {
                signal.notified().await;
                (Self::PLAN.into(), "late".into())
            }
            Reply::Hang => std::future::pending().await,
            Reply::Error(error) => {
                call.1 = true;
                return Err(status_from_error(&error));
            }
        };
        call.1 = true;
        Ok(Response::new(PlanAndExecuteResponse { plan_id, output, agent: "echo_agent".into() }))
    }

    async fn get_plan(&self, _: Request<GetPlanRequest>) -> Result<Response<GetPlanResponse>, Status> {
        Err(Status::unimplemented("the gateway does not ask"))
    }

    async fn list_plans(&self, _: Request<ListPlansRequest>) -> Result<Response<ListPlansResponse>, Status> {
        Err(Status::unimplemented("the gateway does not ask"))
    }
}
