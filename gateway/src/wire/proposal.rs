//! Proposed plans.

use phoenix_domain::json::{Json, Object};
use phoenix_proto::{InvalidField, planner::ProposePlanResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::{plan_request::PlanRequestV1, usage::UsageV1};

/// A proposed plan, of which no task has run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProposalV1 {
    /// How the tasks were found: `rules` or `model`.
    #[schema(examples("model"))]
    strategy: String,
    /// The plan that asked the language model, with its prompt and its answers; null when none was asked.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    plan_id: Option<String>,
    /// The proposed plan, a body of `POST /api/v1/plans`.
    plan: PlanRequestV1,
    /// Keys of tasks in the order in which they would run. The tasks of one wave run concurrently, after the waves before it.
    waves: Vec<Vec<String>>,
    /// Number of times that the language model was asked: more than once when an answer was rejected.
    rounds: u32,
    /// Version of the prompt; null when no language model was asked.
    #[schema(required)]
    prompt_version: Option<String>,
    /// Provider of the model that answered, as far as its agent says.
    #[schema(required)]
    provider: Option<String>,
    /// Model that answered, as far as its agent says.
    #[schema(required)]
    model: Option<String>,
    /// What all questions used, as far as the agent says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = UsageV1, required = false)]
    usage: Option<UsageV1>,
}

impl ProposalV1 {
    /// The body for a response of the planner; `context` is that of the request.
    ///
    /// # Errors
    /// When the response is not a proposal.
    pub(crate) fn of(context: String, response: ProposePlanResponse) -> Result<Self, InvalidField> {
        let ProposePlanResponse {
            plan_id,
            strategy,
            tasks,
            waves,
            rounds,
            prompt_version,
            metadata_json,
            usage,
            replay_of: _,
        } = response;
        let metadata = Object::parse(&metadata_json).unwrap_or_default();
        let name = |name: &str| metadata.get(name).and_then(Json::as_str).map(str::to_owned);
        Ok(Self {
            strategy,
            plan_id: Some(plan_id).filter(|id| !id.is_empty()),
            plan: PlanRequestV1::proposed(tasks, context)?,
            waves: waves.into_iter().map(|wave| wave.keys).collect(),
            rounds,
            prompt_version: Some(prompt_version).filter(|version| !version.is_empty()),
            provider: name("provider"),
            model: name("model"),
            usage: usage.map(UsageV1::from),
        })
    }
}
