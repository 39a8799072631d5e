//! Bodies of budgets.

use jiff::Timestamp;
use phoenix_domain::{
    budget::{Amounts, Resource},
    json::Json,
    usage::Money,
};
use phoenix_proto::{
    InvalidField, common,
    planner::{BudgetState, ListBudgetsResponse},
    required, timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use utoipa::ToSchema;

use crate::{decode_error::shorten, members::Whole};

/// Largest limit in a request.
const MAX: u64 = 1_000_000_000_000_000;

/// Limits on what a plan may use. Unknown fields are rejected.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BudgetV1 {
    /// Cost in US dollars, with up to nine decimal places.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1_000_000_000)]
    max_cost_usd: Option<Dollars>,
    /// Tokens of language models, input and output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 1_000_000_000_000_000_u64)]
    max_tokens: Option<Whole<0, MAX>>,
    /// Attempts of agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 1_000_000_000_000_000_u64)]
    max_calls: Option<Whole<0, MAX>>,
    /// Time of attempts in milliseconds, added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 1_000_000_000_000_000_u64)]
    max_wall_ms: Option<Whole<0, MAX>>,
}

/// An amount of US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dollars(Money);

impl Serialize for Dollars {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.to_json().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Json::Number(number) = Json::deserialize(from)? else {
            return Err(D::Error::custom("must be a number of US dollars"));
        };
        number.as_str().parse().map(Self).map_err(|_| {
            let (most, found) = (Money::MAX, shorten(number.as_str()));
            D::Error::custom(format_args!("must be an amount of US dollars from 0 to {most}, not {found}"))
        })
    }
}

impl From<BudgetV1> for common::Budget {
    fn from(budget: BudgetV1) -> Self {
        let BudgetV1 { max_cost_usd, max_tokens, max_calls, max_wall_ms } = budget;
        Self {
            max_cost_nanos: max_cost_usd.map(|Dollars(money)| money.nanos()),
            max_tokens: max_tokens.map(Whole::get),
            max_calls: max_calls.map(Whole::get),
            max_wall_ms: max_wall_ms.map(Whole::get),
        }
    }
}

/// Limits; null where there is none.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BudgetLimitsV1 {
    /// Cost in US dollars.
    #[schema(value_type = Option<f64>, required)]
    max_cost_usd: Option<Json>,
    /// Tokens of language models, input and output.
    #[schema(required)]
    max_tokens: Option<u64>,
    /// Attempts of agents.
    #[schema(required)]
    max_calls: Option<u64>,
    /// Time of attempts in milliseconds.
    #[schema(required)]
    max_wall_ms: Option<u64>,
}

/// Amounts of what budgets limit.
#[derive(Debug, Serialize, ToSchema)]
struct AmountsV1 {
    /// US dollars.
    #[schema(value_type = f64)]
    cost_usd: Json,
    /// Tokens.
    tokens: u64,
    /// Attempts.
    calls: u64,
    /// Milliseconds.
    wall_ms: u64,
}

/// A budget and what is used of it.
#[derive(Debug, Serialize, ToSchema)]
struct BudgetStateV1 {
    /// `plan`, `agent` or `provider`.
    #[schema(examples("agent"))]
    scope: String,
    /// Identifier of the plan, or name of the agent or the provider.
    #[schema(examples("llm_router_agent"))]
    name: String,
    limits: BudgetLimitsV1,
    /// What ended calls used.
    used: AmountsV1,
    /// What is reserved for calls that run.
    reserved: AmountsV1,
    /// When it begins anew, at midnight UTC; null for a plan.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    resets_at: Option<Timestamp>,
}

/// Budgets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BudgetsV1 {
    /// The plan's first, if one was named, then those of agents and providers by name.
    budgets: Vec<BudgetStateV1>,
}

impl From<common::Budget> for BudgetLimitsV1 {
    fn from(wire: common::Budget) -> Self {
        let common::Budget { max_cost_nanos, max_tokens, max_calls, max_wall_ms } = wire;
        let max_cost_usd = max_cost_nanos.map(|nanos| Money::from_nanos(nanos).to_json());
        Self { max_cost_usd, max_tokens, max_calls, max_wall_ms }
    }
}

impl From<Amounts> for AmountsV1 {
    fn from(amounts: Amounts) -> Self {
        Self {
            cost_usd: Money::from_nanos(amounts[Resource::Cost]).to_json(),
            tokens: amounts[Resource::Tokens],
            calls: amounts[Resource::Calls],
            wall_ms: amounts[Resource::Wall],
        }
    }
}

impl TryFrom<BudgetState> for BudgetStateV1 {
    type Error = InvalidField;

    fn try_from(wire: BudgetState) -> Result<Self, InvalidField> {
        let BudgetState { scope, name, limits, used, reserved, resets_at } = wire;
        Ok(Self {
            scope,
            name,
            limits: required("limits", limits)?.into(),
            used: Amounts::from(required("used", used)?).into(),
            reserved: Amounts::from(required("reserved", reserved)?).into(),
            resets_at: timestamp("resets_at", resets_at)?,
        })
    }
}

impl TryFrom<ListBudgetsResponse> for BudgetsV1 {
    type Error = InvalidField;

    fn try_from(wire: ListBudgetsResponse) -> Result<Self, InvalidField> {
        let budgets = wire.budgets.into_iter().map(BudgetStateV1::try_from).collect::<Result<_, _>>()?;
        Ok(Self { budgets })
    }
}
