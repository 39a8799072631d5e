//! The error table, shared by every service. Each code has one gRPC status, one HTTP status and one answer to "may a
//! retry help?". To add a code, add a row here.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

macro_rules! error_table {
    ($($(#[$doc:meta])* $code:ident = $name:literal, grpc $grpc:literal, http $http:literal, retry $retry:literal;)*) => {
        /// Error code of a request that did not succeed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum OrchestratorErrorCode {
            $($(#[$doc])* #[serde(rename = $name)] $code,)*
        }

        impl OrchestratorErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// The name in responses, such as `agent_unavailable`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// The numeric gRPC status code (<https://grpc.io/docs/guides/status-codes/>).
            #[must_use]
            pub const fn grpc_code(self) -> i32 {
                match self { $(Self::$code => $grpc,)* }
            }

            /// The HTTP status code.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$code => $http,)* }
            }

            /// Whether the same request, sent again later, may succeed.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$code => $retry,)* }
            }
        }
    };
}

// Of the rows that share a gRPC status, a status without details stands for the first.
error_table! {
    /// The request itself is wrong; the message names the field.
    ValidationFailed = "validation_failed", grpc 3, http 400, retry false;
    /// The request is well-formed, but the planner cannot build a plan from it.
    PlanningFailed = "planning_failed", grpc 9, http 422, retry false;
    /// The idempotency key belongs to a request with another body.
    IdempotencyMismatch = "idempotency_mismatch", grpc 9, http 422, retry false;
    /// A part of Phoenix cannot take work now: planner, executor, journal, or the owner of a plan.
    Unavailable = "unavailable", grpc 14, http 503, retry true;
    /// The agent cannot take work now: its circuit is open.
    AgentUnavailable = "agent_unavailable", grpc 14, http 503, retry true;
    /// The work did not end within its deadline.
    Timeout = "timeout", grpc 4, http 504, retry true;
    /// The agent ran and failed for good.
    ExecutionFailed = "execution_failed", grpc 10, http 502, retry false;
    /// A queue is full; nothing was started.
    Overloaded = "overloaded", grpc 8, http 429, retry true;
    /// A budget is used up; the message names it, and when it resets.
    BudgetExhausted = "budget_exhausted", grpc 8, http 429, retry false;
    /// The work was cancelled before it ended.
    Cancelled = "cancelled", grpc 1, http 409, retry false;
    /// The named resource does not exist.
    NotFound = "not_found", grpc 5, http 404, retry false;
    /// The request contradicts the current state of a resource.
    Conflict = "conflict", grpc 6, http 409, retry false;
    /// The token is missing or wrong.
    Unauthenticated = "unauthenticated", grpc 16, http 401, retry false;
    /// A defect in Phoenix. Never the answer to a caller's mistake.
    Internal = "internal", grpc 13, http 500, retry false;
}

impl OrchestratorErrorCode {
    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The code that a gRPC status without details stands for: the first row with it. Statuses outside the table are
    /// `internal`.
    #[must_use]
    pub fn from_grpc_code(grpc: i32) -> Self {
        Self::ALL.iter().copied().find(|code| code.grpc_code() == grpc).unwrap_or(Self::Internal)
    }
}

impl std::fmt::Display for OrchestratorErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as a value. Creating or reading one has no side effect; it is logged once, where the request ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct OrchestratorError {
    /// The row of the table.
    pub code: OrchestratorErrorCode,
    /// The error in one sentence, for people. No Debug dump, no path of this machine, no secret.
    pub message: String,
    /// Facts about the error, for programs: `field`, `agent`, `attempts`, `stderr` …
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    /// Time until the next try, for retryable codes. Milliseconds in JSON.
    #[serde(default, rename = "retry_after_ms", skip_serializing_if = "Option::is_none", with = "millis")]
    pub retry_after: Option<Duration>,
}

/// A duration as a number of milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
    pub(super) fn serialize<S: Serializer>(after: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

impl OrchestratorError {
    /// An error without details.
    #[must_use]
    pub fn new(code: OrchestratorErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: BTreeMap::new(), retry_after: None }
    }

    /// A `validation_failed` that names the offending field.
    #[must_use]
    pub fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(OrchestratorErrorCode::ValidationFailed, format!("`{field}` {problem}"))
            .with_detail("field", field)
    }

    /// An `internal` error. The message is for callers; the cause is logged where it is known.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(OrchestratorErrorCode::Internal, message)
    }

    /// Adds a detail.
    #[must_use]
    pub fn with_detail(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.details.insert(key.into(), value.to_string());
        self
    }

    /// Sets the time until the next try.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_is_found_by_its_name() {
        let names: BTreeSet<_> = OrchestratorErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), OrchestratorErrorCode::ALL.len(), "a name stands for one row only");
        for &code in OrchestratorErrorCode::ALL {
            assert_eq!(OrchestratorErrorCode::from_name(code.as_str()), Some(code));
            assert!((400..600).contains(&code.http_status()), "{code}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn bare_grpc_status_stands_for_the_first_row_that_has_it() {
        use OrchestratorErrorCode::{
            AgentUnavailable, BudgetExhausted, IdempotencyMismatch, Overloaded, PlanningFailed, Unavailable,
        };
        for &code in OrchestratorErrorCode::ALL {
            let first = match code {
                AgentUnavailable => Unavailable,
                BudgetExhausted => Overloaded,
                IdempotencyMismatch => PlanningFailed,
                code => code,
            };
            assert_eq!(OrchestratorErrorCode::from_grpc_code(code.grpc_code()), first, "{code}");
        }
    }

    #[test]
    fn unknown_grpc_codes_are_internal() {
        assert_eq!(OrchestratorErrorCode::from_grpc_code(2), OrchestratorErrorCode::Internal);
    }
}
