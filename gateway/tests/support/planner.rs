//! A scripted planner.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_platform::{RequestContext, readiness::Readiness, server::GrpcServer};
use phoenix_proto::{
    planner::{
        CancelPlanRequest, CancelPlanResponse, DeadLetter, DiscardDeadLettersRequest,
        DiscardDeadLettersResponse, DryRunPlanResponse, ExecutePlanRequest, ExecutePlanResponse,
        GetPlanRequest, GetPlanResponse, GetStderrRequest, GetStderrResponse, GetTaskOutputRequest,
        GetTaskOutputResponse, ListDeadLettersRequest, ListDeadLettersResponse, ListPlansRequest,
        ListPlansResponse, Plan, PlanAccepted, PlanAndExecuteRequest, PlanAndExecuteResponse, PlanResult,
        PlanStatus, RedriveDeadLettersRequest, RedriveDeadLettersResponse, RedrivePlanRequest,
        RedrivePlanResponse, ResumeExecution, SubmitPlanResponse, WatchPlanRequest, WatchPlanResponse,
        dry_run_plan_response::Wave,
        execute_plan_request::Subject,
        execute_plan_response::Step,
        plan_result::Outcome,
        planner_service_server::{PlannerService, PlannerServiceServer},
    },
    status_from_error,
};
use tokio::sync::{Notify, watch};
use tonic::{Request, Response, Status};

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
    /// Fails.
    Error(OrchestratorError),
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
    watches: Shared<VecDeque<Watch>>,
    /// Positions after which events were requested.
    watched: Arc<watch::Sender<Vec<u64>>>,
    cancelled: Arc<watch::Sender<Vec<CancelPlanRequest>>>,
    listed: Shared<Vec<ListPlansRequest>>,
    /// The planner's dead letters.
    pub dead_letters: Shared<Vec<DeadLetter>>,
    /// Correlation id of the request that every response replays; empty without one.
    pub replays: Shared<String>,
    /// Requests about redrives and dead letters.
    pub asked: Shared<Asked>,
}

/// Requests about redrives and dead letters.
#[derive(Debug, Default)]
pub struct Asked {
    pub redrives: Vec<RedrivePlanRequest>,
    pub lists: Vec<ListDeadLettersRequest>,
    pub sweeps: Vec<RedriveDeadLettersRequest>,
    pub discards: Vec<DiscardDeadLettersRequest>,
}

impl Default for FakePlanner {
    fn default() -> Self {
        Self {
            reply: Shared::new(Reply::Output("done".into()).into()),
            seen: Arc::new(watch::Sender::new(Vec::new())),
            left: Arc::new(watch::Sender::new(0)),
            plans: Shared::default(),
            watches: Shared::default(),
            watched: Arc::default(),
            cancelled: Arc::default(),
            listed: Shared::default(),
            dead_letters: Shared::default(),
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

/// The result of a plan that has ended.
fn result_of(plan: Plan) -> PlanResult {
    let outcome = match plan.error {
        Some(error) => Outcome::Failure(error),
        None => {
            let last = plan.tasks.last().and_then(|task| task.output.as_ref());
            Outcome::Success(PlanAndExecuteResponse {
                plan_id: plan.plan_id,
                finish_reason: last.and_then(phoenix_proto::common::ActionOutput::finish_reason),
                output: plan.output.unwrap_or_default(),
                ..Default::default()
            })
        }
    };
    PlanResult { outcome: Some(outcome) }
}

/// Counts a call that is closed before its end.
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
        let mut finish_reason = None;
        let (plan_id, output) = match reply {
            Reply::Partial(output, reason) => {
                finish_reason = Some(reason.to_owned());
                (Self::PLAN.into(), output)
            }
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
        let agent = "echo_agent".into();
        Ok(Response::new(PlanAndExecuteResponse {
            plan_id,
            output,
            agent,
            agent_time_us: 1_000,
            replay_of: self.replay_of(),
            finish_reason,
        }))
    }

    type WatchPlanStream = Pin<Box<dyn Stream<Item = Result<WatchPlanResponse, Status>> + Send>>;

    async fn watch_plan(
        &self,
        request: Request<WatchPlanRequest>,
    ) -> Result<Response<Self::WatchPlanStream>, Status> {
        let WatchPlanRequest { plan_id, after_position } = request.into_inner();
        let (_, script) = self.script(&plan_id, after_position)?;
        let told = |events: Vec<WatchPlanResponse>| stream::iter(events.into_iter().map(Ok));
        let broken = || stream::iter([Err(Status::unavailable("the connection broke"))]);
        Ok(Response::new(match script {
            Watch::Breaks(events) => told(events).chain(broken()).boxed(),
            Watch::Ends(events) => told(events).boxed(),
            Watch::Stays(events) => told(events).chain(stream::pending()).boxed(),
            Watch::Fails => return Err(Status::unavailable("the planner is down")),
        }))
    }

    type ExecutePlanStream = Pin<Box<dyn Stream<Item = Result<ExecutePlanResponse, Status>> + Send>>;

    async fn execute_plan(
        &self,
        request: Request<ExecutePlanRequest>,
    ) -> Result<Response<Self::ExecutePlanStream>, Status> {
        let context = RequestContext::of(&request);
        let (plan_id, after_position) = match request.into_inner().subject.unwrap() {
            Subject::Plan(request) => {
                self.seen.send_modify(|seen| seen.push(Seen { context, request }));
                self.failure()?;
                (Self::PLAN.to_owned(), 0)
            }
            Subject::Resume(ResumeExecution { plan_id, after_position, .. }) => (plan_id, after_position),
        };
        let (plan, script) = self.script(&plan_id, after_position)?;
        let step = |step| Ok(ExecutePlanResponse { step: Some(step) });
        let accepted = step(Step::Accepted(PlanAccepted { plan_id, replay_of: self.replay_of() }));
        let told = move |events: Vec<WatchPlanResponse>| {
            stream::iter([accepted])
                .chain(stream::iter(events.into_iter().map(move |event| step(Step::Event(event)))))
        };
        let closed = Unanswered(self.left.clone(), false);
        Ok(Response::new(match script {
            Watch::Breaks(events) => {
                told(events).chain(stream::iter([Err(Status::unavailable("the connection broke"))])).boxed()
            }
            Watch::Ends(events) => {
                let result = plan.ended_at.is_some().then(|| step(Step::Result(result_of(plan))));
                told(events).chain(stream::iter(result)).boxed()
            }
            Watch::Stays(events) => {
                let pending = stream::pending().map(move |step| {
                    let _ = &closed;
                    step
                });
                told(events).chain(pending).boxed()
            }
            Watch::Fails => return Err(Status::unavailable("the planner is down")),
        }))
    }

    async fn submit_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<SubmitPlanResponse>, Status> {
        let context = RequestContext::of(&request);
        self.seen.send_modify(|seen| seen.push(Seen { context, request: request.into_inner() }));
        let reply = self.reply.lock().unwrap().clone();
        match reply {
            Reply::Error(error) => Err(status_from_error(&error)),
            _ => Ok(Response::new(SubmitPlanResponse {
                plan_id: Self::PLAN.into(),
                replay_of: self.replay_of(),
            })),
        }
    }

    async fn dry_run_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<DryRunPlanResponse>, Status> {
        let reply = self.reply.lock().unwrap().clone();
        if let Reply::Error(error) = reply {
            return Err(status_from_error(&error));
        }
        // One wave of tasks without dependencies, one of the others.
        let (first, second): (Vec<_>, Vec<_>) =
            request.into_inner().tasks.into_iter().partition(|task| task.depends_on.is_empty());
        let wave = |tasks: Vec<phoenix_proto::planner::TaskSpec>| Wave {
            keys: tasks.into_iter().map(|task| task.key).collect(),
        };
        Ok(Response::new(DryRunPlanResponse { waves: vec![wave(first), wave(second)] }))
    }

    async fn cancel_plan(
        &self,
        request: Request<CancelPlanRequest>,
    ) -> Result<Response<CancelPlanResponse>, Status> {
        let request = request.into_inner();
        let mut plan = self.find(&request.plan_id)?;
        if plan.ended_at.is_some() {
            let message = "the plan has ended already: succeeded";
            let error = OrchestratorError::new(OrchestratorErrorCode::Conflict, message);
            return Err(status_from_error(&error));
        }
        plan.set_status(PlanStatus::Cancelled);
        plan.ended_at = plan.created_at;
        self.keep(plan);
        self.cancelled.send_modify(|cancelled| cancelled.push(request));
        Ok(Response::new(CancelPlanResponse { replay_of: self.replay_of() }))
    }

    /// The new plan is [`Self::PLAN`].
    async fn redrive_plan(
        &self,
        request: Request<RedrivePlanRequest>,
    ) -> Result<Response<RedrivePlanResponse>, Status> {
        self.asked.lock().unwrap().redrives.push(request.into_inner());
        self.failure()?;
        Ok(Response::new(RedrivePlanResponse { plan_id: Self::PLAN.into(), replay_of: self.replay_of() }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        self.asked.lock().unwrap().lists.push(request.into_inner());
        self.failure()?;
        let dead_letters = self.dead_letters.lock().unwrap().clone();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token: "next".into() }))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        let correlation_id = RequestContext::of(&request).correlation_id.to_string();
        self.asked.lock().unwrap().sweeps.push(request.into_inner());
        self.failure()?;
        let sweep_id = Self::PLAN.into();
        Ok(Response::new(RedriveDeadLettersResponse {
            sweep_id,
            selected: 7,
            correlation_id,
            replay_of: self.replay_of(),
        }))
    }

    async fn discard_dead_letters(
        &self,
        request: Request<DiscardDeadLettersRequest>,
    ) -> Result<Response<DiscardDeadLettersResponse>, Status> {
        let correlation_id = RequestContext::of(&request).correlation_id.to_string();
        self.asked.lock().unwrap().discards.push(request.into_inner());
        self.failure()?;
        let sweep_id = Self::PLAN.into();
        Ok(Response::new(DiscardDeadLettersResponse {
            sweep_id,
            discarded: 7,
            correlation_id,
            replay_of: self.replay_of(),
        }))
    }

    async fn get_plan(&self, request: Request<GetPlanRequest>) -> Result<Response<GetPlanResponse>, Status> {
        let plan = self.find(&request.get_ref().plan_id)?;
        Ok(Response::new(GetPlanResponse { plan: Some(plan) }))
    }

    async fn get_task_output(
        &self,
        request: Request<GetTaskOutputRequest>,
    ) -> Result<Response<GetTaskOutputResponse>, Status> {
        let GetTaskOutputRequest { plan_id, task_key } = request.into_inner();
        let plan = self.get_plan(Request::new(GetPlanRequest { plan_id })).await?.into_inner().plan;
        let task = plan.into_iter().flat_map(|plan| plan.tasks).find(|task| task.key == task_key);
        let output = task.and_then(|task| task.output).ok_or_else(|| Status::not_found("no such output"))?;
        Ok(Response::new(GetTaskOutputResponse { output: Some(output) }))
    }

    async fn get_stderr(
        &self,
        request: Request<GetStderrRequest>,
    ) -> Result<Response<GetStderrResponse>, Status> {
        let GetStderrRequest { plan_id, task_key, attempt } = request.into_inner();
        let plan = self.get_plan(Request::new(GetPlanRequest { plan_id })).await?.into_inner().plan;
        let task = plan.into_iter().flat_map(|plan| plan.tasks).find(|task| task.key == task_key);
        let found = task.into_iter().flat_map(|task| task.attempts).find(|known| known.number == attempt);
        let stderr_tail = found.ok_or_else(|| Status::not_found("no such attempt"))?.stderr_tail;
        Ok(Response::new(GetStderrResponse { stderr_tail }))
    }

    async fn list_plans(
        &self,
        request: Request<ListPlansRequest>,
    ) -> Result<Response<ListPlansResponse>, Status> {
        self.listed.lock().unwrap().push(request.into_inner());
        let mut plans = self.plans.lock().unwrap().clone();
        plans.iter_mut().for_each(|plan| plan.tasks.clear());
        Ok(Response::new(ListPlansResponse { plans, next_page_token: Self::PLAN.into() }))
    }
}
