//! Accounts of budgets.

use std::fmt;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::{agent_name::AgentName, ids::PlanId};

/// What a budget is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One plan, for as long as it runs.
    Plan(PlanId),
    /// An agent, for each day.
    Agent(AgentName),
    /// A provider of models, for each day.
    Provider(String),
}

/// An account: a scope, and the day for scopes that are counted by day. Days are those of UTC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// What it is for.
    pub scope: Scope,
    /// The day; none for a plan.
    pub day: Option<Date>,
}

impl Scope {
    /// Name of the kind of scope: `plan`, `agent` or `provider`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Plan(_) => "plan",
            Self::Agent(_) => "agent",
            Self::Provider(_) => "provider",
        }
    }

    /// Name within its kind.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Plan(plan_id) => plan_id.to_string(),
            Self::Agent(agent) => agent.to_string(),
            Self::Provider(provider) => provider.clone(),
        }
    }

    /// The account at a time.
    #[must_use]
    pub fn account(self, at: Timestamp) -> Account {
        let day = match self {
            Self::Plan(_) => None,
            Self::Agent(_) | Self::Provider(_) => Some(at.to_zoned(TimeZone::UTC).date()),
        };
        Account { scope: self, day }
    }
}

impl Account {
    /// When a new account takes its place: at midnight UTC. `None` for a plan.
    #[must_use]
    pub fn resets_at(&self) -> Option<Timestamp> {
        let next = self.day?.tomorrow().ok()?;
        Some(next.to_zoned(TimeZone::UTC).ok()?.timestamp())
    }
}

/// Key in the journal, such as `agent/llm_router_agent/2026-11-27`.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope.kind(), self.scope.name())?;
        self.day.map_or(Ok(()), |day| write!(f, "/{day}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day_of_an_account_is_that_of_utc() {
        let agent = || Scope::Agent("a".parse().unwrap());
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let account = agent().account(at("2026-11-27T23:59:59.999Z"));
        assert_eq!(account.to_string(), "agent/a/2026-11-27");
        assert_eq!(account.resets_at(), Some(at("2026-11-28T00:00:00Z")));
        assert_ne!(account, agent().account(at("2026-11-28T00:00:00Z")));
        assert_eq!(account, agent().account(at("2026-11-28T01:00:00+02:00")));
        let plan = Scope::Plan(PlanId::generate()).account(at("2026-11-27T00:00:00Z"));
        assert_eq!((plan.day, plan.resets_at()), (None, None));
    }
}
