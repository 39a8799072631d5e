//! Query parameters and headers of requests.

use utoipa::openapi::{
    ObjectBuilder, Required, Schema,
    path::{Operation, Parameter as Documented, ParameterBuilder, ParameterIn},
    schema::Type,
};

use crate::{
    budget_header,
    wire::schemas::{self, Parameter},
};

const PAGE_SIZE: (&str, Parameter, &str) =
    ("page_size", Parameter::PageSize, "Size of a page: 1 to 500, 50 when absent");

const PAGE_TOKEN: &str = "`next_page_token` of the page before";

const PLANS: [(&str, Parameter, &str); 8] = [
    ("status", Parameter::PlanStatus, "Only plans in this state; `unfinished` is pending or running"),
    ("agent", Parameter::Agent, "Only plans with a task of this agent"),
    ("correlation_id", Parameter::Id, "Only plans with this correlation id"),
    ("since", Parameter::Time, "Only plans accepted at this time (RFC 3339) or later; write a `+` as `%2B`"),
    (
        "error",
        Parameter::Search,
        "Only plans whose error has this text in its code or message, in whichever case its letters are",
    ),
    ("order", Parameter::Order, "`newest` plans first, or `oldest`; `newest` when absent"),
    PAGE_SIZE,
    ("page_token", Parameter::Id, PAGE_TOKEN),
];

const DEAD_LETTERS: [(&str, Parameter, &str); 9] = [
    ("state", Parameter::DeadLetterState, "`open` when absent"),
    ("agent", Parameter::Agent, "Only tasks of this agent"),
    ("code", Parameter::Code, "Only tasks that ended with this error code"),
    ("error_class", Parameter::ErrorClass, "Only tasks whose last attempt has this failure class"),
    ("plan_id", Parameter::Id, "Only tasks of this plan"),
    ("correlation_id", Parameter::Id, "Only tasks of plans with this correlation id"),
    (
        "since",
        Parameter::Time,
        "Only tasks that were dead-lettered at this time (RFC 3339) or later; write a `+` as `%2B`",
    ),
    PAGE_SIZE,
    ("page_token", Parameter::DeadLetter, PAGE_TOKEN),
];

const RESPONSE: [(&str, Parameter, &str); 2] = [
    ("stream", Parameter::Flag, "Whether the events are read"),
    ("starting_after", Parameter::Position, "With `stream`: number of the last event that the reader has"),
];
const APPROVALS: [(&str, Parameter, &str); 2] =
    [PAGE_SIZE, ("page_token", Parameter::DeadLetter, PAGE_TOKEN)];

const BUDGETS: [(&str, Parameter, &str); 1] = [("plan_id", Parameter::Id, "Also the budget of this plan")];

const STATISTICS: [(&str, Parameter, &str); 2] = [
    ("window", Parameter::Window, "Time until now; `1h` when absent"),
    ("buckets", Parameter::Flag, "Whether the response has the parts of the window; `true` when absent"),
];

/// Parameters of an operation beside its path and body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepts {
    /// `X-Correlation-Id`.
    pub(super) id: bool,
    /// `Idempotency-Key`.
    pub(super) key: bool,
    /// `on_disconnect`.
    pub(super) disconnect: bool,
    /// `Prefer`.
    pub(super) prefer: bool,
    /// `X-Phoenix-Budget`.
    pub(super) budget: bool,
}

/// Adds parameters to the operation at `path`.
pub(super) fn add(path: &str, operation: &mut Operation, accepts: Accepts) {
    let reads = operation.request_body.is_none();
    let query = |table: &[(&str, Parameter, &str)]| {
        table.iter().map(|(name, kind, description)| in_query(name, *kind, description)).collect()
    };
    let mut parameters: Vec<Documented> = match path {
        "/api/v1/plans" if reads => query(&PLANS),
        "/api/v1/dead-letters" => query(&DEAD_LETTERS),
        "/v1/responses/{response_id}" => query(&RESPONSE),
        "/api/v1/approvals" => query(&APPROVALS),
        "/api/v1/budgets" => query(&BUDGETS),
        "/api/v1/stats" => query(&STATISTICS),
        "/api/v1/plans/{plan_id}/events" => positions(),
        _ => Vec::new(),
    };
    let headers = [
        accepts.id.then(correlation_id),
        accepts.key.then(key),
        accepts.disconnect.then(on_disconnect),
        accepts.prefer.then(prefer),
        accepts.budget.then(budget),
    ];
    parameters.extend(headers.into_iter().flatten());
    if !parameters.is_empty() {
        operation.parameters.get_or_insert_default().extend(parameters.into_iter().map(Into::into));
    }
}

fn in_query(name: &str, kind: Parameter, description: &str) -> Documented {
    parameter(name, ParameterIn::Query, description).schema(Some(kind.schema())).build()
}

/// Position after which a stream starts.
fn positions() -> Vec<Documented> {
    let header = "Only events after this one";
    let query = "The same, where headers cannot be set; the header overrides it";
    [("Last-Event-ID", ParameterIn::Header, header), ("last_event_id", ParameterIn::Query, query)]
        .into_iter()
        .map(|(name, location, description)| {
            parameter(name, location, description).schema(Some(Parameter::Position.schema())).build()
        })
        .collect()
}

fn correlation_id() -> Documented {
    let description = "Correlation id in responses, logs and traces; generated when absent.";
    parameter("X-Correlation-Id", ParameterIn::Header, description)
        .schema(Some(Schema::from(schemas::uuid())))
        .build()
}

/// The idempotency key.
fn key() -> Documented {
    let description =
        "Key of the request: a repeated request with the same key takes effect once. Visible ASCII.";
    let schema = text().pattern(Some("^[!-~]{1,255}$")).min_length(Some(1)).max_length(Some(255));
    parameter("Idempotency-Key", ParameterIn::Header, description).schema(Some(Schema::from(schema))).build()
}

/// Effect of a disconnect.
fn on_disconnect() -> Documented {
    let description = "Effect on the plan when a waiting caller disconnects: `cancel` by default.";
    let schema = text().enum_values(Some(["cancel", "continue", ""]));
    parameter("on_disconnect", ParameterIn::Query, description).schema(Some(Schema::from(schema))).build()
}

/// The preference for an early response.
fn prefer() -> Documented {
    let description = "`respond-async`: respond with 202 as soon as the plan is durable.";
    parameter("Prefer", ParameterIn::Header, description).schema(Some(Schema::from(text()))).build()
}

/// The budget of the plan.
fn budget() -> Documented {
    let description =
        "Limits of the plan, a JSON object as `budget` of `POST /api/v1/chat`: `{\"max_calls\": 2}`.";
    parameter(budget_header::NAME, ParameterIn::Header, description)
        .schema(Some(Schema::from(text())))
        .build()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn parameter(name: &str, location: ParameterIn, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(location)
        .required(Required::False)
        .description(Some(description))
}
