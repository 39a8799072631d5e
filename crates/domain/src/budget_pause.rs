//! Pauses: a task waits, instead of failing, for a budget that is used up.
//!
//! A pause is an approval of another kind: what is asked for is a larger budget, or another look at it. Its input says which
//! limit is reached, and the input of the decision has the new limits of the plan.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    approval::{Approval, ApprovalKind, ApprovalState, DEFAULT_APPROVAL_TIMEOUT},
    budget::{BudgetSettings, Limits, Resource},
    error::{OrchestratorError, OrchestratorErrorCode as Code},
    json::{Json, Object},
    usage::Money,
};

/// Time after which a pause without a decision ends its task.
pub const PAUSE_TIMEOUT: Duration = DEFAULT_APPROVAL_TIMEOUT;

/// Details of an error of a budget that a pause shows.
const FACTS: [&str; 6] = ["budget", "limit", "limit_value", "used", "reserved", "resets_at"];

/// The limit that a task waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachedLimit {
    /// Scope of the budget: `plan`, `agent` or `provider`.
    pub scope: String,
    /// Name of what the budget is for.
    pub name: String,
    /// What is limited.
    pub resource: Resource,
    /// The limit at that time.
    pub limit: u64,
    /// When the budget begins anew; absent for a plan.
    pub resets_at: Option<Timestamp>,
}

impl ReachedLimit {
    /// Whether the budget is that of the plan.
    #[must_use]
    pub fn is_of_plan(&self) -> bool {
        self.scope == "plan"
    }

    /// Whether more is allowed by now, by these limits of the plan and these settings, or because the budget began anew.
    #[must_use]
    pub fn is_over(&self, of_plan: &Limits, settings: &BudgetSettings, at: Timestamp) -> bool {
        let limits = match &*self.scope {
            "plan" => Some(of_plan),
            "agent" => {
                settings.agents.iter().find(|(name, _)| name.as_str() == self.name).map(|(_, limits)| limits)
            }
            _ => settings.providers.get(&self.name),
        };
        let is_raised =
            limits.and_then(|limits| limits[self.resource]).is_none_or(|limit| limit > self.limit);
        is_raised || self.resets_at.is_some_and(|resets_at| resets_at <= at)
    }
}

/// The pause of a task that ended with `error`, if that is an error of a budget.
#[must_use]
pub fn pause(at: Timestamp, error: &OrchestratorError) -> Option<Approval> {
    if error.code != Code::BudgetExhausted {
        return None;
    }
    let fact = |name: &str| Some((name.to_owned(), fact(name, error.details.get(name)?)));
    let input: Object = FACTS.into_iter().filter_map(fact).collect();
    let pause = Approval::waiting(ApprovalKind::Budget, at, PAUSE_TIMEOUT, error.message.clone(), input);
    reached(&pause).map(|_| pause)
}

/// The limit that a pause is about.
#[must_use]
pub fn reached(pause: &Approval) -> Option<ReachedLimit> {
    let text = |name: &str| pause.input.get(name).and_then(Json::as_str);
    let (scope, name) = text("budget")?.split_once('/')?;
    let limit = text("limit")?;
    let resource = Resource::ALL.into_iter().find(|resource| resource.limit_name() == limit)?;
    let limit = amount(resource, pause.input.get("limit_value")?)?;
    let resets_at = text("resets_at").and_then(|at| at.parse().ok());
    Some(ReachedLimit { scope: scope.to_owned(), name: name.to_owned(), resource, limit, resets_at })
}

/// When a pause ends without a decision: when the budget begins anew, or the pause expires.
#[must_use]
pub fn until(pause: &Approval) -> Timestamp {
    reached(pause)
        .and_then(|reached| reached.resets_at)
        .map_or(pause.expires_at, |at| at.min(pause.expires_at))
}

/// Error of the task with this key whose pause ended without a larger budget.
#[must_use]
pub fn refusal(pause: &Approval, key: &str) -> OrchestratorError {
    let by = pause.decision.as_ref().filter(|decision| !decision.actor.is_empty());
    let because = match by {
        Some(decision) if decision.reason.is_empty() => {
            format!("a larger one was refused by {}", decision.actor)
        }
        Some(decision) => format!("a larger one was refused by {}: {}", decision.actor, decision.reason),
        None => format!("no larger one was granted before {}", pause.expires_at),
    };
    let error = OrchestratorError::new(Code::BudgetExhausted, format!("{}; {because}", pause.reason));
    let error = error.with_detail("key", key).with_detail("approval", pause.state);
    let facts = pause.input.iter().map(|(name, value)| (name, value.to_text()));
    facts.fold(error, |error, (name, text)| error.with_detail(name, text))
}

/// Limits as the input of a decision.
#[must_use]
pub fn limits_input(limits: &Limits) -> Object {
    let named = Resource::ALL.into_iter().filter_map(|resource| Some((resource, limits[resource]?)));
    let members = named.map(|(resource, limit)| {
        let number = match resource {
            Resource::Cost => Money::from_nanos(limit).to_json(),
            Resource::Tokens | Resource::Calls | Resource::Wall => Json::from(limit),
        };
        (resource.limit_name().to_owned(), number)
    });
    members.collect()
}

/// The limits in the input of a decision.
#[must_use]
pub fn limits_of(input: &Object) -> Limits {
    let mut limits = Limits::NONE;
    for resource in Resource::ALL {
        limits[resource] = input.get(resource.limit_name()).and_then(|value| amount(resource, value));
    }
    limits
}

/// The limits that a decision grants; none without one.
#[must_use]
pub fn granted(pause: &Approval) -> Option<Limits> {
    let input = pause.decision.as_ref()?.input.as_ref()?;
    (pause.state == ApprovalState::Approved).then(|| limits_of(input))
}

fn amount(resource: Resource, value: &Json) -> Option<u64> {
    match (resource, value) {
        (Resource::Cost, value) => Money::of_json(value).map(Money::nanos),
        (_, Json::Number(number)) => number.as_str().parse().ok(),
        _ => None,
    }
}

/// A detail of an error: amounts as numbers.
fn fact(name: &str, text: &str) -> Json {
    let is_amount = matches!(name, "limit_value" | "used" | "reserved");
    let number = is_amount.then(|| Json::parse(text).ok()).flatten();
    number.unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(budget: &str, limit: &str, value: &str) -> OrchestratorError {
        OrchestratorError::new(Code::BudgetExhausted, "the budget is used up")
            .with_detail("budget", budget)
            .with_detail("limit", limit)
            .with_detail("limit_value", value)
            .with_detail("resets_at", "2026-11-28T00:00:00Z")
    }

    #[test]
    fn pause_says_which_limit_is_reached() {
        let at = Timestamp::UNIX_EPOCH;
        for (limit, value, expected) in
            [("max_cost_usd", "0.05", 50_000_000), ("max_calls", "2", 2), ("max_wall_ms", "1000", 1000)]
        {
            let pause = pause(at, &error("agent/echo_agent", limit, value)).unwrap();
            let found = reached(&pause).unwrap();
            assert_eq!((&*found.scope, &*found.name, found.limit), ("agent", "echo_agent", expected));
            assert_eq!(found.resource.limit_name(), limit);
            assert_eq!(until(&pause), at + PAUSE_TIMEOUT);
            assert_eq!(refusal(&pause, "a").details["limit_value"], value);
        }
        for odd in [
            error("plan", "max_calls", "2"),
            error("plan/x", "max_x", "2"),
            error("plan/x", "max_calls", "?"),
        ] {
            assert_eq!(pause(at, &odd), None, "{odd:?}");
        }
        assert_eq!(pause(at, &OrchestratorError::internal("no")), None);
    }

    #[test]
    fn pause_is_over_when_more_is_allowed() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let mut limits = Limits::NONE;
        limits[Resource::Calls] = Some(2);
        let mut settings = BudgetSettings::default();
        settings.agents.insert("a".parse().unwrap(), limits);
        let of = |budget: &str| {
            let mut error = error(budget, "max_calls", "2");
            error.details.remove("resets_at");
            reached(&pause(now, &error).unwrap()).unwrap()
        };
        let raised = limits.map(|_, limit| limit.map(|limit| limit + 1));
        assert!(!of("plan/x").is_over(&limits, &settings, now));
        assert!(of("plan/x").is_over(&raised, &settings, now));
        assert!(!of("agent/a").is_over(&raised, &settings, now));
        assert!(of("agent/b").is_over(&raised, &settings, now), "it has no budget any more");
        assert!(of("provider/x").is_over(&raised, &settings, now));
        let daily = reached(&pause(now, &error("agent/a", "max_calls", "2")).unwrap()).unwrap();
        assert!(!daily.is_over(&limits, &settings, now));
        assert!(daily.is_over(&limits, &settings, daily.resets_at.unwrap()));
    }

    #[test]
    fn limits_survive_a_decision() {
        let limits = Limits::new([Some(1_234_567_891), None, Some(7), Some(0)]);
        let input = limits_input(&limits);
        assert_eq!(input.to_string(), r#"{"max_cost_usd":1.234567891,"max_calls":7,"max_wall_ms":0}"#);
        assert_eq!(limits_of(&input), limits);
    }
}
