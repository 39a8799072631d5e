//! Budgets of a call: which accounts it is counted in, what is reserved there, and what it used.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics::counter;
use phoenix_domain::{
    AgentSpec, OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    budget::{Account, Amounts, BudgetSettings, Each, Limits, Resource, Room, Scope},
    json::{Json, Object},
    llm::ProviderKind,
    plan::Plan,
    usage::{ModelCall, Usage},
};

use crate::{
    metrics::BUDGET_REFUSALS,
    store::budget::{Call, Charge, Use, Verdict},
};

/// Members of a chat's options that limit the tokens of its answer.
const MAX_TOKENS: [&str; 3] = ["max_completion_tokens", "max_output_tokens", "max_tokens"];

/// The charges of a call of `agent` at `at`, with `of_plan` as limits of its plan; none when no budget applies to it.
pub(crate) fn charges(
    settings: &BudgetSettings,
    plan: &Plan,
    of_plan: Limits,
    agent: &AgentSpec,
    action: &str,
    payload: &Object,
    at: Timestamp,
) -> Vec<Charge> {
    let of_agent = settings.agents.get(&agent.name).copied();
    let provider = provider_of(settings, agent, payload);
    let of_provider = provider.and_then(|name| settings.providers.get(name).copied());
    let scopes = [
        (Some(of_plan), Scope::Plan(plan.plan_id)),
        (of_agent, Scope::Agent(agent.name.clone())),
        (of_provider, Scope::Provider(provider.unwrap_or_default().to_owned())),
    ];
    let limited =
        scopes.into_iter().filter_map(|(limits, scope)| Some((limits.filter(Limits::is_limited)?, scope)));
    let mut wanted = None;
    let charge = |(limits, scope): (Limits, Scope)| {
        let wanted =
            *wanted.get_or_insert_with(|| wanted_by(settings, plan, agent.timeout_of(action), payload));
        Charge { account: scope.account(at), limits, wanted: limits.reservation(wanted) }
    };
    limited.map(charge).collect()
}

/// The provider that a call is expected to ask: the one that the chat names, else the one that the agent asks first.
fn provider_of<'a>(settings: &BudgetSettings, agent: &'a AgentSpec, payload: &'a Object) -> Option<&'a str> {
    let first = agent.provider.as_deref()?;
    let model = payload.get("model").and_then(Json::as_str).map(str::trim).unwrap_or_default();
    let named = model.split_once('/').map_or(model, |(provider, _)| provider);
    let is_provider = settings.providers.contains_key(named) || ProviderKind::of_name(named).is_some();
    Some(if is_provider { named } else { first })
}

/// What a call is expected to use.
fn wanted_by(settings: &BudgetSettings, plan: &Plan, timeout: Duration, payload: &Object) -> Amounts {
    let options = payload.get("options").and_then(Json::as_object);
    let limit = |name: &str| match options?.get(name)? {
        Json::Number(number) => number.as_str().parse::<u64>().ok(),
        _ => None,
    };
    let max_tokens = MAX_TOKENS.into_iter().find_map(limit);
    let input = (payload.text_len() + plan.context.len()) as u64;
    let wall = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    settings.estimate.of_call(input, max_tokens, wall)
}

/// What is reserved for a call.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    pub(crate) call: Call,
    charges: Vec<Charge>,
    /// Amounts of each charge; empty until they are reserved.
    granted: Vec<Amounts>,
    since: Instant,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It did not start.
    NotStarted,
    /// It may have used anything: no response arrived.
    Unknown,
    /// With these calls of models.
    Reported(Vec<ModelCall>),
}

impl Hold {
    /// Before anything is reserved.
    pub(crate) fn new(call: Call, charges: Vec<Charge>) -> Self {
        Self { call, charges, granted: Vec::new(), since: Instant::now() }
    }

    pub(crate) fn charges(&self) -> &[Charge] {
        &self.charges
    }

    /// Records that everything is reserved.
    pub(crate) fn granted(&mut self, verdicts: &[Verdict]) {
        self.since = Instant::now();
        self.granted = verdicts
            .iter()
            .map(|verdict| match verdict.room {
                Room::Enough(granted) => granted,
                Room::Later(_) | Room::Exhausted(_) => Amounts::default(),
            })
            .collect();
    }

    /// How a call ended of which no more is known.
    pub(crate) fn abandoned(&self) -> Ended {
        if self.granted.is_empty() { Ended::NotStarted } else { Ended::Unknown }
    }

    /// The time that the call has, if a budget limits it, and the error when it is over.
    pub(crate) fn time_limit(&self) -> Option<(Duration, OrchestratorError)> {
        let limited = self.charges.iter().zip(&self.granted);
        let limited = limited.filter(|(charge, _)| charge.limits[Resource::Wall].is_some());
        let (charge, granted) = limited.min_by_key(|(_, granted)| granted[Resource::Wall])?;
        let limit = granted[Resource::Wall];
        let message = format!(
            "{} is used up: the call was ended after {limit} ms, all that was left of {} {} ms",
            name_of(&charge.account),
            Resource::Wall,
            charge.limits[Resource::Wall].unwrap_or_default(),
        );
        let error = refusal(charge, Resource::Wall, message);
        Some((Duration::from_millis(limit), error))
    }

    /// What the call used, by account.
    pub(crate) fn uses(&self, settings: &BudgetSettings, ended: &Ended, at: Timestamp) -> Vec<Use> {
        if matches!(ended, Ended::NotStarted) {
            return Vec::new();
        }
        let wall = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let of_charge = |(charge, granted): (&Charge, &Amounts)| {
            let mut used = match ended {
                Ended::Reported(calls) => reported(&charge.account.scope, calls, *granted),
                Ended::NotStarted | Ended::Unknown => *granted,
            };
            used[Resource::Wall] = wall;
            (charge.account.clone(), used)
        };
        let mut uses: Vec<Use> = self.charges.iter().zip(&self.granted).map(of_charge).collect();
        if let Ended::Reported(calls) = ended {
            // Providers that were asked instead of the expected one.
            for (name, limits) in &settings.providers {
                let account = Scope::Provider(name.clone()).account(at);
                let is_charged = uses.iter().any(|(charged, _)| charged.scope == account.scope);
                let is_asked = calls.iter().any(|call| call.provider == *name);
                if limits.is_limited() && is_asked && !is_charged {
                    let expected = limits.reservation(Each::new([settings.estimate.cost.nanos(), 0, 1, 0]));
                    let mut used = reported(&account.scope, calls, expected);
                    used[Resource::Wall] = wall;
                    uses.push((account, used));
                }
            }
        }
        uses
    }
}

/// What `calls` used in an account for `scope`. A call whose cost is not known costs what was reserved, unless its provider is
/// a server on this machine.
fn reported(scope: &Scope, calls: &[ModelCall], reserved: Amounts) -> Amounts {
    let is_own = |call: &&ModelCall| match scope {
        Scope::Provider(name) => call.provider == *name,
        Scope::Plan(_) | Scope::Agent(_) => true,
    };
    let own: Vec<ModelCall> = calls.iter().filter(is_own).cloned().collect();
    let usage = Usage::of(&own);
    let is_local = |call: &ModelCall| {
        let kind = ProviderKind::of_name(&call.provider);
        matches!(kind, Some(ProviderKind::Ollama | ProviderKind::LmStudio))
    };
    let has_unpriced = own.iter().any(|call| call.cost.is_none() && !is_local(call));
    let unpriced = if has_unpriced { reserved[Resource::Cost] } else { 0 };
    let cost = usage.cost.map_or(0, |cost| cost.nanos()).saturating_add(unpriced);
    let attempts = match scope {
        // Each call of the provider, or the attempt when nothing was reported at all.
        Scope::Provider(_) if !calls.is_empty() => u64::from(usage.calls),
        Scope::Provider(_) | Scope::Plan(_) | Scope::Agent(_) => 1,
    };
    Each::new([cost, usage.tokens.total(), attempts, 0])
}

/// How a dispatch ended for the budget. `failed` are the calls that the failed attempt reported.
pub(crate) fn ended(result: &Result<ActionResult, OrchestratorError>, failed: Vec<ModelCall>) -> Ended {
    match result {
        Ok(output) => Ended::Reported(ModelCall::in_metadata(&output.metadata)),
        Err(_) if !failed.is_empty() => Ended::Reported(failed),
        // A response that is no timeout: the agent says that nothing was used.
        Err(error)
            if error.details.contains_key("response_code")
                && error.code != OrchestratorErrorCode::Timeout =>
        {
            Ended::Reported(Vec::new())
        }
        Err(_) => Ended::Unknown,
    }
}

/// The error of a call that does not fit.
pub(crate) fn exhausted(charge: &Charge, verdict: &Verdict, resource: Resource) -> OrchestratorError {
    let limit = charge.limits[resource].unwrap_or_default();
    let (used, reserved) = (verdict.balance.used[resource], verdict.balance.reserved[resource]);
    let reset = charge.account.resets_at().map_or_else(String::new, |at| format!("; it resets at {at}"));
    let budget = name_of(&charge.account);
    let message = format!(
        "{budget} is used up: {resource} is {}, of which {} are used and {} reserved by running calls, and a call may need {}{reset}",
        resource.display(limit),
        resource.display(used),
        resource.display(reserved),
        resource.display(charge.wanted[resource].max(1)),
    );
    counter!(BUDGET_REFUSALS.name, "scope" => charge.account.scope.kind()).increment(1);
    refusal(charge, resource, message)
        .with_detail("used", plain(resource, used))
        .with_detail("reserved", plain(resource, reserved))
}

fn name_of(Account { scope, day }: &Account) -> String {
    match (scope, day) {
        (Scope::Plan(_), _) | (_, None) => "the budget of the plan".to_owned(),
        (scope, Some(day)) => format!("the budget of {} `{}` for {day}", scope.kind(), scope.name()),
    }
}

/// The error of a budget, with its limit and when it resets.
fn refusal(charge: &Charge, resource: Resource, message: String) -> OrchestratorError {
    let scope = &charge.account.scope;
    let error = OrchestratorError::new(OrchestratorErrorCode::BudgetExhausted, message)
        .with_detail("budget", format_args!("{}/{}", scope.kind(), scope.name()))
        .with_detail("limit", resource)
        .with_detail("limit_value", plain(resource, charge.limits[resource].unwrap_or_default()));
    charge.account.resets_at().into_iter().fold(error, |error, at| error.with_detail("resets_at", at))
}

/// An amount in the unit of its limit.
fn plain(resource: Resource, amount: u64) -> String {
    match resource {
        Resource::Cost => phoenix_domain::usage::Money::from_nanos(amount).to_string(),
        Resource::Tokens | Resource::Calls | Resource::Wall => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use phoenix_domain::usage::{Money, Tokens};

    use super::*;

    fn call(provider: &str, tokens: u64, cost: Option<u64>) -> ModelCall {
        ModelCall {
            provider: provider.into(),
            model: "m".into(),
            tokens: Tokens { input: tokens, ..Tokens::default() },
            cost: cost.map(Money::from_nanos),
        }
    }

    #[test]
    fn accounts_count_their_own_calls() {
        let calls = [call("openai", 10, Some(7)), call("anthropic", 5, None), call("ollama", 1, None)];
        let reserved = Each::new([100, 1000, 1, 0]);
        let agent = Scope::Agent("a".parse().unwrap());
        let provider = |name: &str| Scope::Provider(name.into());
        for (scope, expected) in [
            (agent.clone(), [107, 16, 1, 0]),
            (provider("openai"), [7, 10, 1, 0]),
            (provider("anthropic"), [100, 5, 1, 0]),
            (provider("ollama"), [0, 1, 1, 0]),
            (provider("gemini"), [0, 0, 0, 0]),
        ] {
            assert_eq!(reported(&scope, &calls, reserved).values(), expected, "{scope:?}");
        }
        assert_eq!(reported(&provider("openai"), &[], reserved).values(), [0, 0, 1, 0]);
        assert_eq!(reported(&agent, &[], reserved).values(), [0, 0, 1, 0]);
    }

    #[test]
    fn failure_without_a_response_may_have_used_anything() {
        let error = |code, answered: bool| {
            let error = OrchestratorError::new(code, "no");
            if answered { error.with_detail("response_code", 503) } else { error }
        };
        let is_unknown = |result, failed| matches!(ended(&result, failed), Ended::Unknown);
        let (failed, timeout) = (OrchestratorErrorCode::ExecutionFailed, OrchestratorErrorCode::Timeout);
        assert!(is_unknown(Err(error(failed, false)), Vec::new()));
        assert!(is_unknown(Err(error(timeout, true)), Vec::new()));
        assert!(!is_unknown(Err(error(timeout, true)), vec![call("openai", 1, None)]));
        assert!(!is_unknown(Err(error(failed, true)), Vec::new()));
    }
}
