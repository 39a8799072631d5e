//! The header `X-Phoenix-Budget`: the budget of a plan, for clients whose requests have no member for it.

use axum::{extract::FromRequestParts, http::request::Parts};
use phoenix_domain::OrchestratorError;
use phoenix_proto::common::Budget;
use serde::Serialize;

use crate::{
    decode_error::explain_header, header_names::X_PHOENIX_BUDGET, members::Members, problem::Failure,
    wire::budget::BudgetV1,
};

/// Name of the header in messages and in the OpenAPI document.
pub(crate) const NAME: &str = "X-Phoenix-Budget";

/// The budget of a request, if it has one.
#[derive(Debug, Default)]
pub(crate) struct BudgetHeader(Option<BudgetV1>);

/// A request with its budget. Without one it is written as its body alone, so that its digest is that of its body.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum WithBudget<'a, T> {
    /// The body.
    Body(&'a T),
    /// The body and the budget.
    Limited(&'a T, &'a BudgetV1),
}

impl<S: Sync> FromRequestParts<S> for BudgetHeader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let mut values = parts.headers.get_all(X_PHOENIX_BUDGET).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(OrchestratorError::invalid(NAME, "is given twice").into());
        }
        let text = value.to_str().map_err(|_| OrchestratorError::invalid(NAME, "must be ASCII"))?;
        let budget = serde_json::from_str(text).map_err(|error| explain_header(NAME, &error))?;
        let Members(budget) = budget;
        Ok(Self(Some(budget)))
    }
}

impl BudgetHeader {
    /// `body` with the budget.
    pub(crate) const fn with<'a, T>(&'a self, body: &'a T) -> WithBudget<'a, T> {
        match &self.0 {
            Some(budget) => WithBudget::Limited(body, budget),
            None => WithBudget::Body(body),
        }
    }

    /// The limits of the plan.
    pub(crate) fn into_limits(self) -> Option<Budget> {
        self.0.map(Into::into)
    }
}
