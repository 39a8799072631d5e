//! The service of the scripted planner.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_platform::RequestContext;
use phoenix_proto::{
    planner::{
        BudgetState, CancelPlanRequest, CancelPlanResponse, DecideApprovalRequest, DecideApprovalResponse,
        DiscardDeadLettersRequest, DiscardDeadLettersResponse, DryRunPlanResponse, ExecutePlanRequest,
        ExecutePlanResponse, GetPlanRequest, GetPlanResponse, GetStatisticsRequest, GetStatisticsResponse,
        GetStderrRequest, GetStderrResponse, GetTaskOutputRequest, GetTaskOutputResponse,
        ListApprovalsRequest, ListApprovalsResponse, ListBudgetsRequest, ListBudgetsResponse,
        ListDeadLettersRequest, ListDeadLettersResponse, ListPlansRequest, ListPlansResponse, Plan,
        PlanAccepted, PlanAndExecuteRequest, PlanAndExecuteResponse, PlanResult, PlanStatus,
        ProposePlanResponse, RedriveDeadLettersRequest, RedriveDeadLettersResponse, RedrivePlanRequest,
        RedrivePlanResponse, ResumeExecution, SubmitPlanResponse, WatchPlanRequest, WatchPlanResponse,
        budget_state::Amounts, dry_run_plan_response::Wave, execute_plan_request::Subject,
        execute_plan_response::Step, plan_result::Outcome, planner_service_server::PlannerService,
    },
    status_from_error,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{FakePlanner, Reply, Seen, Watch};
use crate::support::plans::{self, approval, budget};

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
        let request = request.into_inner();
        let answered = request.agent.clone();
        self.seen.send_modify(|seen| seen.push(Seen { context, request }));
        let reply = self.reply.lock().unwrap().clone();
        let (mut finish_reason, mut metadata_json) = (None, String::new());
        let (plan_id, output) = match reply {
            Reply::Partial(output, reason) => {
                finish_reason = Some(reason.to_owned());
                (Self::PLAN.into(), output)
            }
            Reply::Result(output, metadata) => {
                metadata_json = metadata;
                (Self::PLAN.into(), output)
            }
            Reply::Output(output) => (Self::PLAN.parse::<PlanId>().unwrap().to_string(), output),
            Reply::Nonsense => (String::new(), String::new()),
            Reply::After(signal) => {
                signal.notified().await;
                (Self::PLAN.into(), "late".into())
            }
            Reply::Hang => std::future::pending().await,
            Reply::Unless(agent, _) if answered.as_deref() == Some(agent) => (Self::PLAN.into(), "ok".into()),
            Reply::Error(error) | Reply::Unless(_, error) => {
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
            metadata_json,
            plan: self.at_hand.lock().unwrap().clone().map(Box::new),
        }))
    }

    type WatchPlanStream = Pin<Box<dyn Stream<Item = Result<WatchPlanResponse, Status>> + Send>>;

    async fn watch_plan(
        &self,
        request: Request<WatchPlanRequest>,
    ) -> Result<Response<Self::WatchPlanStream>, Status> {
        let WatchPlanRequest { plan_id, after_position, .. } = request.into_inner();
        let (_, script) = self.script(&plan_id, after_position)?;
        let told = |events: Vec<WatchPlanResponse>| stream::iter(events.into_iter().map(Ok));
        let broken = || stream::iter([Err(Status::unavailable("the connection broke"))]);
        Ok(Response::new(match script {
            Watch::Breaks(events) => told(events).chain(broken()).boxed(),
            Watch::Ends(events) => told(events).boxed(),
            Watch::Stays(events) => told(events).chain(stream::pending()).boxed(),
            Watch::EndsAfter(notified, events) => {
                let notified = stream::once(async move { notified.notified().await });
                notified.flat_map(move |()| told(events.clone())).boxed()
            }
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
        let step = |step| Ok(ExecutePlanResponse { step: Some(step) });
        let reply = self.reply.lock().unwrap().clone();
        if let (Reply::Output(output), Err(_)) = (reply, self.find(&plan_id)) {
            let accepted = PlanAccepted { plan_id: plan_id.clone(), replay_of: self.replay_of() };
            let answer = PlanAndExecuteResponse { plan_id, output, ..Default::default() };
            let result = PlanResult { outcome: Some(Outcome::Success(answer)) };
            let steps = [step(Step::Accepted(accepted)), step(Step::Result(result))];
            return Ok(Response::new(stream::iter(steps).boxed()));
        }
        let (plan, script) = self.script(&plan_id, after_position)?;
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
            Watch::EndsAfter(..) => {
                return Err(Status::unimplemented("a plan that is executed does not wait"));
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

    async fn propose_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<ProposePlanResponse>, Status> {
        let context = RequestContext::of(&request);
        let request = request.into_inner();
        self.seen.send_modify(|seen| seen.push(Seen { context, request }));
        let reply = self.reply.lock().unwrap().clone();
        if let Reply::Error(error) = reply {
            return Err(status_from_error(&error));
        }
        Ok(Response::new(plans::proposal(&self.replay_of())))
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

    async fn decide_approval(
        &self,
        request: Request<DecideApprovalRequest>,
    ) -> Result<Response<DecideApprovalResponse>, Status> {
        let request = request.into_inner();
        let task_key = request.task_key.clone();
        self.asked.lock().unwrap().decisions.push(request);
        self.failure()?;
        let approval = Some(approval());
        Ok(Response::new(DecideApprovalResponse { task_key, approval, replay_of: self.replay_of() }))
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        self.failure()?;
        let ListApprovalsRequest { page_size, page_token: _ } = request.into_inner();
        let next_page_token = if page_size == 1 { "next".into() } else { String::new() };
        Ok(Response::new(ListApprovalsResponse {
            approvals: self.waiting.lock().unwrap().clone(),
            next_page_token,
        }))
    }

    /// That of the plan, if one is named, and one of an agent.
    async fn list_budgets(
        &self,
        request: Request<ListBudgetsRequest>,
    ) -> Result<Response<ListBudgetsResponse>, Status> {
        self.failure()?;
        let plan_id = request.into_inner().plan_id;
        let state = |scope: &str, name: &str, resets_at| BudgetState {
            scope: scope.into(),
            name: name.into(),
            limits: Some(budget()),
            used: Some(Amounts { cost_nanos: 1_250_000_000, tokens: 300, calls: 4, wall_ms: 1500 }),
            reserved: Some(Amounts { cost_nanos: 100_000_000, tokens: 5000, calls: 1, wall_ms: 30_000 }),
            resets_at,
        };
        let of_plan = (!plan_id.is_empty()).then(|| state("plan", &plan_id, None));
        let midnight = prost_types::Timestamp { seconds: 1_769_904_000, nanos: 0 };
        let of_agent = state("agent", "echo_agent", Some(midnight));
        Ok(Response::new(ListBudgetsResponse { budgets: of_plan.into_iter().chain([of_agent]).collect() }))
    }

    async fn get_statistics(
        &self,
        request: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        self.failure()?;
        Ok(Response::new(plans::statistics(request.into_inner().window_secs)))
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
