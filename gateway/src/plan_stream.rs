//! A reader of one plan's stream, through restarts of the planner: every event once, in order, up to the end.
//!
//! `WatchPlan` gives the events of a plan that exists. `ExecutePlan` also makes the plan, gives its result, and cancels the
//! plan when the stream is closed before that. A stream that breaks is opened again after the last event. What running tasks
//! say comes between the events.

use std::{collections::VecDeque, time::Duration};

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::{
    live_output::{LiveOutput, SeenOutput},
    planner::{
        ExecutePlanResponse, Plan, PlanAndExecuteRequest, PlanAndExecuteResponse, PlanResult,
        WatchPlanResponse, execute_plan_response::Step, plan_result::Outcome,
    },
};
use tonic::{Status, Streaming};

use crate::planner_client::{PlannerClient, WatchedOutput, unexpected_response};

/// Kind of the event that ends a plan.
pub(crate) const PLAN_ENDED: &str = "plan_ended";

/// The pause before a stream that broke is opened again; doubled from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A reader of one plan's stream.
#[derive(Debug)]
pub(crate) struct PlanStream {
    planner: PlannerClient,
    plan_id: PlanId,
    method: Method,
    /// Position of the last event that the reader has already.
    after: u64,
    /// Position of the last event that was received.
    position: u64,
    open: Option<OpenStream>,
    /// Output that was passed on.
    seen: SeenOutput,
    /// Items that were received and not returned yet.
    received: VecDeque<PlanItem>,
    backoff: Backoff,
    /// Whether the plan had ended before it was watched.
    had_ended: bool,
    has_ended: bool,
    is_over: bool,
}

/// An item of a plan's stream.
#[derive(Debug)]
pub(crate) enum PlanItem {
    /// An event.
    Event(WatchPlanResponse),
    /// What a running task says before it ends.
    Output(LiveOutput),
    /// The result of a plan that is executed: the last item.
    Result(Result<PlanAndExecuteResponse, OrchestratorError>),
}

/// How the stream is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Watch(WatchedOutput),
    Execute { continue_on_disconnect: bool },
}

/// A gRPC stream of the planner.
#[derive(Debug)]
pub(crate) enum OpenStream {
    /// Of `WatchPlan`.
    Watch(Streaming<WatchPlanResponse>),
    /// Of `ExecutePlan`.
    Execute(Streaming<ExecutePlanResponse>),
}

impl PlanStream {
    /// Watches a plan from the event that follows position `after`.
    ///
    /// # Errors
    /// `not_found`, or what keeps the planner from answering.
    pub(crate) async fn watch(
        planner: PlannerClient,
        plan_id: PlanId,
        after: u64,
        output: WatchedOutput,
    ) -> Result<Self, OrchestratorError> {
        let had_ended = has_ended(&planner.get(plan_id).await?);
        // A plan that has ended is read from its beginning: its end, which may lie before `after`, is then sure to come.
        let position = if had_ended { 0 } else { after };
        let open = OpenStream::Watch(planner.watch(plan_id, position, output).await?);
        Ok(Self { after, position, had_ended, ..Self::new(planner, plan_id, Method::Watch(output), open) })
    }

    /// Makes a plan and follows it to its result. Dropping the stream before that cancels the plan, unless the request says
    /// otherwise or repeats an earlier one.
    ///
    /// # Errors
    /// What prevents the plan from being accepted.
    pub(crate) async fn execute(
        planner: PlannerClient,
        request: PlanAndExecuteRequest,
    ) -> Result<Self, OrchestratorError> {
        let continues = request.continue_on_disconnect;
        let (plan_id, steps) = planner.execute(request).await?;
        let method = Method::Execute { continue_on_disconnect: continues || planner.is_replay() };
        Ok(Self::new(planner, plan_id, method, OpenStream::Execute(steps)))
    }

    fn new(planner: PlannerClient, plan_id: PlanId, method: Method, open: OpenStream) -> Self {
        Self {
            planner,
            plan_id,
            method,
            after: 0,
            position: 0,
            open: Some(open),
            seen: SeenOutput::default(),
            received: VecDeque::new(),
            backoff: Backoff::default(),
            had_ended: false,
            has_ended: false,
            is_over: false,
        }
    }

    /// The plan.
    pub(crate) const fn plan_id(&self) -> PlanId {
        self.plan_id
    }

    /// Whether the plan had ended before it was watched.
    pub(crate) const fn had_ended(&self) -> bool {
        self.had_ended
    }

    /// Whether the plan runs on when the stream is dropped.
    pub(crate) const fn outlives_stream(&self) -> bool {
        self.has_ended || !matches!(self.method, Method::Execute { continue_on_disconnect: false })
    }

    /// Takes the open gRPC stream away, if there is one. Dropping it closes it.
    pub(crate) fn take_open(&mut self) -> Option<OpenStream> {
        self.is_over = true;
        self.open.take()
    }

    /// The next item; `None` after the last one, or when a watched plan no longer exists. Events that were added to a plan
    /// after its end follow its end when the plan had ended before it was watched.
    pub(crate) async fn next(&mut self) -> Option<PlanItem> {
        loop {
            if let Some(item) = self.received.pop_front() {
                return Some(item);
            }
            if self.is_over {
                return None;
            }
            let Some(open) = &mut self.open else {
                self.backoff.wait().await;
                match self.reopen().await {
                    Ok(open) => self.open = Some(open),
                    Err(error) => {
                        if let Some(item) = self.failed(error) {
                            return item;
                        }
                    }
                }
                continue;
            };
            match open.message().await {
                Ok(Some(PlanItem::Event(output))) if output.position == 0 => {
                    self.backoff = Backoff::default();
                    let WatchPlanResponse { kind, task_key, data_json, .. } = output;
                    match self.seen.receive(&kind, task_key, data_json) {
                        Ok(news) => self.received.extend(news.map(PlanItem::Output)),
                        Err(error) => tracing::error!(%error, "the planner sent invalid output"),
                    }
                }
                // Sent again.
                Ok(Some(PlanItem::Event(event))) if event.position <= self.position => {}
                Ok(Some(PlanItem::Event(event))) => {
                    self.reached(&event);
                    let news = self.seen.journaled(&event.kind, &event.task_key, &event.data_json);
                    self.received.extend(news.map(PlanItem::Output));
                    if event.position > self.after {
                        self.received.push_back(PlanItem::Event(event));
                    }
                }
                Ok(Some(result)) => {
                    (self.has_ended, self.is_over) = (true, true);
                    return Some(result);
                }
                Ok(None) | Err(_) => {
                    self.open = None;
                    self.is_over = self.is_watched() && self.has_ended;
                }
            }
        }
    }

    const fn is_watched(&self) -> bool {
        matches!(self.method, Method::Watch(_))
    }

    fn reached(&mut self, event: &WatchPlanResponse) {
        self.position = event.position;
        self.backoff = Backoff::default();
        if event.kind == PLAN_ENDED {
            self.has_ended = true;
            self.is_over = self.is_watched() && !self.had_ended;
        }
    }

    async fn reopen(&self) -> Result<OpenStream, OrchestratorError> {
        let Self { planner, plan_id, position, .. } = self;
        match self.method {
            Method::Watch(output) => planner.watch(*plan_id, *position, output).await.map(OpenStream::Watch),
            Method::Execute { continue_on_disconnect } => {
                planner.resume(*plan_id, *position, continue_on_disconnect).await.map(OpenStream::Execute)
            }
        }
    }

    /// What to return when the stream could not be opened again; `None` when it is tried once more.
    fn failed(&mut self, error: OrchestratorError) -> Option<Option<PlanItem>> {
        let is_final = match self.method {
            Method::Watch(_) => error.code == OrchestratorErrorCode::NotFound,
            Method::Execute { .. } => !error.code.is_retryable(),
        };
        if !is_final {
            tracing::debug!(code = %error.code, "plan stream could not be opened");
            return None;
        }
        self.is_over = true;
        Some((!self.is_watched()).then_some(PlanItem::Result(Err(error))))
    }
}

impl OpenStream {
    /// The next item; `None` when the planner has closed the stream.
    async fn message(&mut self) -> Result<Option<PlanItem>, Status> {
        match self {
            Self::Watch(events) => Ok(events.message().await?.map(PlanItem::Event)),
            Self::Execute(steps) => loop {
                let Some(ExecutePlanResponse { step }) = steps.message().await? else { return Ok(None) };
                match step {
                    Some(Step::Event(event)) => return Ok(Some(PlanItem::Event(event))),
                    Some(Step::Result(result)) => return Ok(Some(PlanItem::Result(outcome(result)))),
                    // The first message of a stream that was resumed, or a step of a newer planner.
                    Some(Step::Accepted(_)) | None => {}
                }
            },
        }
    }
}

fn outcome(result: PlanResult) -> Result<PlanAndExecuteResponse, OrchestratorError> {
    match result.outcome {
        Some(Outcome::Success(answer)) => Ok(answer),
        Some(Outcome::Failure(error)) => Err(error.into()),
        None => Err(unexpected_response()),
    }
}

/// Whether a plan has ended.
pub(crate) fn has_ended(plan: &Plan) -> bool {
    let status = Option::<phoenix_domain::plan::PlanStatus>::from(plan.status());
    status.is_some_and(phoenix_domain::plan::PlanStatus::is_terminal)
}

/// The pause before the next try.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Backoff {
    /// Waits, and the next time for longer.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}
