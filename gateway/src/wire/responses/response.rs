//! A response.

use phoenix_domain::{
    OrchestratorError, PlanId,
    json::{Json, Object},
};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, RefOr, Schema, schema::AdditionalProperties},
};

use super::{echo::Echo, item};
use crate::wire::{
    answer::{Answer, Finish, Usage, created},
    schemas,
};

/// States of a response.
pub(crate) const STATUSES: [&str; 6] =
    ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"];

/// A response, as OpenAI's clients decode it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Response(Object);

/// What all states of one response have in common.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Plan of the response.
    pub(crate) plan_id: PlanId,
    /// Model of the request, until the agent names its own.
    pub(crate) model: String,
    /// Whether it outlives its caller, if that is known.
    pub(crate) background: Option<bool>,
    /// What it repeats of the request.
    pub(crate) echo: Echo,
}

impl Head {
    /// Identifier of the response of a plan.
    pub(crate) fn id(plan_id: PlanId) -> String {
        format!("resp_{plan_id}")
    }

    /// The plan of the response `id`.
    pub(crate) fn plan_of(id: &str) -> Option<PlanId> {
        id.strip_prefix("resp_")?.parse().ok()
    }

    /// The response before its end: `queued` or `in_progress`.
    pub(crate) fn pending(&self, status: &str) -> Response {
        self.response(status, &self.model, Vec::new(), [])
    }

    /// The response with the answer.
    pub(crate) fn answered(&self, answer: &Answer) -> Response {
        let (status, _) = ending(&answer.finish);
        self.ended(answer, item::of_answer(answer, status))
    }

    /// The response with the answer, whose items are `output`.
    pub(super) fn ended(&self, answer: &Answer, output: Vec<Json>) -> Response {
        let (status, reason) = ending(&answer.finish);
        let details = reason.map(|reason| members([("reason", reason.into())]).into());
        let usage = answer.usage.as_ref().map(|usage| usage_of(usage).into());
        let more =
            [("incomplete_details", details.unwrap_or_default()), ("usage", usage.unwrap_or_default())];
        self.response(status, &answer.model, output, more)
    }

    /// The response that ended with `error`, after the items in `output`.
    pub(crate) fn failed(&self, status: &str, error: &OrchestratorError, output: Vec<Json>) -> Response {
        let OrchestratorError { code, message, .. } = error;
        let error = members([("code", code.as_str().into()), ("message", message.as_str().into())]);
        self.response(status, &self.model, output, [("error", error.into())])
    }

    fn response<const N: usize>(
        &self,
        status: &str,
        model: &str,
        output: Vec<Json>,
        more: [(&str, Json); N],
    ) -> Response {
        let mut response = members([
            ("id", Self::id(self.plan_id).into()),
            ("object", "response".into()),
            ("created_at", created(self.plan_id).into()),
            ("status", status.into()),
            ("background", self.background.map_or(Json::Null, Json::Bool)),
            ("error", Json::Null),
            ("incomplete_details", Json::Null),
            ("model", model.into()),
            ("output", Json::Array(output)),
            ("usage", Json::Null),
        ]);
        response.extend(members(more));
        response.extend(self.echo.members());
        Response(response)
    }
}

impl Response {
    /// The members.
    pub(super) fn into_members(self) -> Object {
        self.0
    }
}

/// The state of a response whose answer ended for this reason, and what it lacks.
pub(super) fn ending(finish: &Finish) -> (&'static str, Option<&'static str>) {
    match finish.reason {
        "length" => ("incomplete", Some("max_output_tokens")),
        "content_filter" => ("incomplete", Some("content_filter")),
        _ => ("completed", None),
    }
}

fn usage_of(usage: &Usage) -> Object {
    let (input, output) = (usage.prompt_tokens, usage.completion_tokens);
    let [cached, reasoning] =
        [("cached_tokens", usage.cached_tokens()), ("reasoning_tokens", usage.reasoning_tokens())]
            .map(|(name, count)| members([(name, count.into())]));
    members([
        ("input_tokens", input.into()),
        ("input_tokens_details", cached.into()),
        ("output_tokens", output.into()),
        ("output_tokens_details", reasoning.into()),
        ("total_tokens", input.saturating_add(output).into()),
    ])
}

fn members<const N: usize>(members: [(&str, Json); N]) -> Object {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl PartialSchema for Response {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String);
        let output =
            ArrayBuilder::new().items(ObjectBuilder::new().property("type", text()).required("type"));
        let output =
            output.description(Some("Items with the types `reasoning`, `message` and `function_call`."));
        ObjectBuilder::new()
            .description(Some("A response. Other members repeat the request."))
            .property("id", text().description(Some("`resp_` and the plan.")))
            .required("id")
            .property("object", text().description(Some("Always `response`.")))
            .required("object")
            .property("status", schemas::states("State of the response.", STATUSES.into_iter()))
            .required("status")
            .property("model", text().description(Some("`provider/model`, or the agent that answered.")))
            .required("model")
            .property("output", output)
            .required("output")
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for Response {
    fn name() -> std::borrow::Cow<'static, str> {
        "Response".into()
    }
}
