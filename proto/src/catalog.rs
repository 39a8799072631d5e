//! Agents of an executor's catalog on the wire.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use phoenix_domain::{
    ActionLimits, ActionSpec, AgentMode, AgentSpec,
    approval::{ApprovalPolicy, DEFAULT_APPROVAL_TIMEOUT},
    health::{BreakerPolicy, MAX_WINDOW_CALLS, MIN_TASKS},
    json::Json,
    retry::RetryPolicy,
    schema::InputSchema,
};

use crate::{InvalidField, executor, id, required};

impl From<&AgentSpec> for executor::Agent {
    fn from(spec: &AgentSpec) -> Self {
        let AgentSpec {
            name,
            description,
            // Known to the executor only: they may hold paths and names of secrets.
            command: _,
            env: _,
            mcp: _,
            listing,
            provider,
            provider_is_configured,
            route,
            actions,
            mode,
            workers,
            timeout,
            start_timeout,
            retry,
            breaker,
            max_concurrency,
            max_queue,
            approval,
        } = spec;
        Self {
            name: name.to_string(),
            description: description.clone(),
            provider: provider.clone().unwrap_or_default(),
            provider_is_configured: *provider_is_configured,
            route: route.clone(),
            actions: actions.iter().map(|(name, action)| (name.clone(), action.into())).collect(),
            mode: match mode {
                AgentMode::Oneshot => executor::AgentMode::Oneshot,
                AgentMode::Workers => executor::AgentMode::Workers,
                AgentMode::Mcp => executor::AgentMode::Mcp,
            }
            .into(),
            workers: *workers,
            max_concurrency: *max_concurrency,
            max_queue: *max_queue,
            timeout_ms: millis(*timeout),
            start_timeout_ms: millis(*start_timeout),
            retry: Some(retry.into()),
            breaker: Some(executor::BreakerPolicy {
                failure_threshold: breaker.failure_threshold,
                cooldown_ms: millis(breaker.cooldown),
                max_cooldown_ms: millis(breaker.max_cooldown),
                success_threshold: breaker.success_threshold,
                window_ms: millis(breaker.window),
                window_calls: breaker.window_calls,
                min_calls: breaker.min_calls,
                min_tasks: breaker.min_tasks,
                failure_percent: breaker.failure_percent,
                slow_call_ms: millis(breaker.slow_call),
                slow_percent: breaker.slow_percent,
            }),
            approval_actions: approval.actions.clone(),
            approval_timeout_ms: millis(approval.timeout),
            listing: listing.as_deref().map(Into::into),
        }
    }
}

impl From<&ActionSpec> for executor::AgentAction {
    fn from(ActionSpec { description, input_schema, limits }: &ActionSpec) -> Self {
        let ActionLimits { timeout, retry } = limits;
        Self {
            description: description.clone(),
            input_schema_json: input_schema
                .as_ref()
                .map_or_else(String::new, |schema| schema.source().to_string()),
            timeout_ms: timeout.map(millis),
            retry: retry.as_ref().map(Into::into),
        }
    }
}

impl From<&RetryPolicy> for executor::RetryPolicy {
    fn from(RetryPolicy { max_attempts, initial_backoff, max_backoff }: &RetryPolicy) -> Self {
        Self {
            max_attempts: *max_attempts,
            initial_backoff_ms: millis(*initial_backoff),
            max_backoff_ms: millis(*max_backoff),
        }
    }
}

impl From<executor::RetryPolicy> for RetryPolicy {
    fn from(policy: executor::RetryPolicy) -> Self {
        let executor::RetryPolicy { max_attempts, initial_backoff_ms, max_backoff_ms } = policy;
        Self {
            max_attempts: max_attempts.max(1),
            initial_backoff: Duration::from_millis(initial_backoff_ms),
            max_backoff: Duration::from_millis(max_backoff_ms),
        }
    }
}

impl TryFrom<executor::Agent> for AgentSpec {
    type Error = InvalidField;

    /// The agent without its program and environment, which its executor keeps.
    fn try_from(agent: executor::Agent) -> Result<Self, InvalidField> {
        let mode = match agent.mode() {
            executor::AgentMode::Oneshot => AgentMode::Oneshot,
            executor::AgentMode::Workers => AgentMode::Workers,
            executor::AgentMode::Mcp => AgentMode::Mcp,
            executor::AgentMode::Unspecified => return Err(InvalidField::new("mode", "is missing")),
        };
        let executor::Agent {
            name,
            description,
            provider,
            provider_is_configured,
            route,
            actions,
            mode: _,
            workers,
            max_concurrency,
            max_queue,
            timeout_ms,
            start_timeout_ms,
            retry,
            breaker,
            approval_actions,
            approval_timeout_ms,
            listing,
        } = agent;
        let actions = actions
            .into_iter()
            .map(|(name, action)| Ok((name, action.try_into()?)))
            .collect::<Result<BTreeMap<_, _>, InvalidField>>()?;
        Ok(Self {
            name: id("name", &name)?,
            description,
            command: Vec::new(),
            env: Vec::new(),
            mcp: None,
            listing: listing.map(|listing| Arc::new(listing.into())),
            provider: Some(provider).filter(|name| !name.is_empty()),
            provider_is_configured,
            route,
            actions,
            mode,
            workers,
            timeout: Duration::from_millis(timeout_ms),
            start_timeout: Duration::from_millis(start_timeout_ms),
            retry: required("retry", retry)?.into(),
            breaker: required("breaker", breaker)?.into(),
            max_concurrency,
            max_queue,
            approval: ApprovalPolicy {
                actions: approval_actions,
                timeout: match approval_timeout_ms {
                    // An executor of a version without approvals.
                    0 => DEFAULT_APPROVAL_TIMEOUT,
                    millis => Duration::from_millis(millis),
                },
            },
        })
    }
}

impl From<executor::BreakerPolicy> for BreakerPolicy {
    /// An executor of an older version knows no rates: its zeros switch them off.
    fn from(policy: executor::BreakerPolicy) -> Self {
        let executor::BreakerPolicy {
            failure_threshold,
            cooldown_ms,
            max_cooldown_ms,
            success_threshold,
            window_ms,
            window_calls,
            min_calls,
            min_tasks,
            failure_percent,
            slow_call_ms,
            slow_percent,
        } = policy;
        Self {
            failure_threshold: failure_threshold.max(1),
            cooldown: Duration::from_millis(cooldown_ms),
            max_cooldown: Duration::from_millis(max_cooldown_ms),
            success_threshold: success_threshold.max(1),
            window: Duration::from_millis(window_ms),
            window_calls: window_calls.min(MAX_WINDOW_CALLS),
            min_calls,
            min_tasks: min_tasks.max(MIN_TASKS),
            failure_percent,
            slow_call: Duration::from_millis(slow_call_ms),
            slow_percent,
        }
    }
}

impl TryFrom<executor::AgentAction> for ActionSpec {
    type Error = InvalidField;

    fn try_from(
        executor::AgentAction { description, input_schema_json, timeout_ms, retry }: executor::AgentAction,
    ) -> Result<Self, InvalidField> {
        let schema = |text: &str| {
            let source = Json::parse_stored(text)
                .map_err(|problem| InvalidField::new("input_schema_json", problem))?;
            Ok(InputSchema::trusted(source))
        };
        let input_schema = (!input_schema_json.is_empty()).then(|| schema(&input_schema_json)).transpose()?;
        let timeout = timeout_ms.map(|millis| Duration::from_millis(millis.max(1)));
        Ok(Self { description, input_schema, limits: ActionLimits { timeout, retry: retry.map(Into::into) } })
    }
}

/// Whole milliseconds, rounded up, so that a short time does not become none.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use phoenix_domain::mcp_listing::{McpListing, McpPrompt, McpPromptArgument, McpResource};

    use super::*;

    fn listing() -> McpListing {
        let [name, description] = ["name", "purpose"].map(str::to_owned);
        let argument =
            McpPromptArgument { name: name.clone(), description: description.clone(), is_required: true };
        let resource = McpResource {
            uri: "a:{b}".into(),
            name: name.clone(),
            description: description.clone(),
            mime_type: "text/plain".into(),
            is_template: true,
        };
        let prompt = McpPrompt { name, description, arguments: vec![argument] };
        McpListing { resources: vec![resource], prompts: vec![prompt], is_truncated: true }
    }

    fn agent() -> AgentSpec {
        let schema = InputSchema::new(serde_json::json!({"required": ["title"]})).unwrap();
        let limits = ActionLimits {
            timeout: Some(Duration::from_secs(2)),
            retry: Some(RetryPolicy { max_attempts: 9, ..RetryPolicy::default() }),
        };
        let write = ActionSpec { description: "Writes".into(), input_schema: Some(schema), limits };
        AgentSpec {
            description: "Takes notes".into(),
            command: vec!["/opt/notes".into()],
            env: vec!["NOTES_KEY".into()],
            route: vec!["note".into(), "write down".into()],
            actions: [("write".to_owned(), write), ("list".to_owned(), ActionSpec::default())].into(),
            mode: AgentMode::Workers,
            workers: 3,
            timeout: Duration::from_millis(1500),
            breaker: BreakerPolicy {
                failure_threshold: 7,
                cooldown: Duration::from_secs(9),
                max_cooldown: Duration::from_secs(10),
                success_threshold: 2,
                window: Duration::from_secs(11),
                window_calls: 12,
                min_calls: 13,
                min_tasks: 14,
                failure_percent: 15,
                slow_call: Duration::from_secs(16),
                slow_percent: 17,
            },
            approval: ApprovalPolicy { actions: vec!["write".into()], timeout: Duration::from_secs(3600) },
            listing: Some(Arc::new(listing())),
            ..AgentSpec::new("notes".parse().unwrap(), Vec::new())
        }
    }

    #[test]
    fn schema_returns_from_the_wire_with_every_digit() {
        let source =
            Json::parse(r#"{"maximum":123456789012345678901234567890,"enum":[1.10,-0,1e400]}"#).unwrap();
        let schema = InputSchema::new(source.clone()).unwrap();
        let spec = ActionSpec { input_schema: Some(schema), ..ActionSpec::default() };
        let agent = AgentSpec { actions: [("a".to_owned(), spec)].into(), ..agent() };
        let returned = AgentSpec::try_from(executor::Agent::from(&agent)).unwrap();
        assert_eq!(*returned.actions["a"].input_schema.as_ref().unwrap().source(), source);
    }

    #[test]
    fn agent_returns_from_the_wire_without_its_program() {
        let wire = executor::Agent::from(&agent());
        assert!(!format!("{wire:?}").contains("/opt/notes") && !format!("{wire:?}").contains("NOTES_KEY"));
        let expected = AgentSpec { command: Vec::new(), env: Vec::new(), ..agent() };
        assert_eq!(AgentSpec::try_from(wire).unwrap(), expected);
    }

    #[test]
    fn times_below_a_millisecond_and_above_the_range_survive() {
        let times = AgentSpec {
            timeout: Duration::from_micros(1),
            start_timeout: Duration::MAX,
            ..AgentSpec::new("a".parse().unwrap(), Vec::new())
        };
        let back = AgentSpec::try_from(executor::Agent::from(&times)).unwrap();
        assert_eq!(back.timeout, Duration::from_millis(1));
        assert_eq!(back.start_timeout, Duration::from_millis(u64::MAX));
    }

    #[test]
    fn invalid_agent_is_rejected_with_its_field() {
        let invalid = |change: fn(&mut executor::Agent)| {
            let mut wire = executor::Agent::from(&agent());
            change(&mut wire);
            AgentSpec::try_from(wire).unwrap_err().field
        };
        assert_eq!(invalid(|agent| agent.name = "No Name".into()), "name");
        assert_eq!(invalid(|agent| agent.mode = 0), "mode");
        assert_eq!(invalid(|agent| agent.retry = None), "retry");
        assert_eq!(invalid(|agent| agent.breaker = None), "breaker");
        let broken = |agent: &mut executor::Agent| {
            agent.actions.insert(
                "write".into(),
                executor::AgentAction { input_schema_json: "{".into(), ..Default::default() },
            );
        };
        assert_eq!(invalid(broken), "input_schema_json");
    }
}
