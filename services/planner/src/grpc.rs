//! `PlannerService`: decode, call, encode.

use phoenix_domain::PlanId;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::RequestContext;
use phoenix_proto::{
    InvalidField, id, optional,
    planner::{
        GetPlanRequest, GetPlanResponse, ListPlansRequest, ListPlansResponse, PlanAndExecuteRequest,
        PlanAndExecuteResponse, planner_service_server::PlannerService,
    },
    status_from_error,
};
use tonic::{Request, Response, Status};

use crate::{
    planner::{Answer, ChatWish, Planner},
    store::{JournalError, PlanFilter},
};

const DEFAULT_PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

/// The service over a [`Planner`].
#[derive(Debug, Clone)]
pub struct PlannerGrpc {
    planner: Planner,
}

impl PlannerGrpc {
    /// Serves `planner`.
    #[must_use]
    pub const fn new(planner: Planner) -> Self {
        Self { planner }
    }
}

#[tonic::async_trait]
impl PlannerService for PlannerGrpc {
    async fn plan_and_execute(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<PlanAndExecuteResponse>, Status> {
        let context = RequestContext::of(&request);
        let PlanAndExecuteRequest { message, context: chat_context, agent } = request.into_inner();
        let wish = ChatWish { message, context: chat_context, agent };
        let answer = self.planner.plan_and_execute_v1(context, wish).await;
        let Answer { plan_id, output, agent } = answer.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(PlanAndExecuteResponse {
            plan_id: plan_id.to_string(),
            output,
            agent: agent.into(),
        }))
    }

    async fn get_plan(&self, request: Request<GetPlanRequest>) -> Result<Response<GetPlanResponse>, Status> {
        let plan_id: PlanId = id("plan_id", &request.get_ref().plan_id)?;
        let plan = self.planner.journal().plan(plan_id).await.map_err(journal_status)?;
        let plan = plan.ok_or_else(|| {
            let error = OrchestratorError::new(
                OrchestratorErrorCode::NotFound,
                format!("there is no plan {plan_id}"),
            );
            status_from_error(&error)
        })?;
        Ok(Response::new(GetPlanResponse { plan: Some(plan.into()) }))
    }

    async fn list_plans(
        &self,
        request: Request<ListPlansRequest>,
    ) -> Result<Response<ListPlansResponse>, Status> {
        let filter = filter(request.get_ref())?;
        let plans = self.planner.journal().plans(&filter).await.map_err(journal_status)?;
        let full = u32::try_from(plans.len()) == Ok(filter.limit);
        let next = plans.last().filter(|_| full).map(|plan| plan.plan_id.to_string());
        let plans = plans.into_iter().map(Into::into).collect();
        Ok(Response::new(ListPlansResponse { plans, next_page_token: next.unwrap_or_default() }))
    }
}

fn filter(request: &ListPlansRequest) -> Result<PlanFilter, InvalidField> {
    if request.page_size > LARGEST_PAGE {
        return Err(InvalidField::new("page_size", format!("must be at most {LARGEST_PAGE}")));
    }
    Ok(PlanFilter {
        correlation_id: optional("correlation_id", request.correlation_id.as_deref().unwrap_or_default())?,
        status: request.status().into(),
        before: optional("page_token", &request.page_token)?,
        limit: if request.page_size == 0 { DEFAULT_PAGE } else { request.page_size },
    })
}

fn journal_status(error: JournalError) -> Status {
    tracing::error!(%error, "the journal cannot be read");
    status_from_error(&error.into())
}
