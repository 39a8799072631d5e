//! How the tasks of a message are found.

use phoenix_proto::planner::PlanningStrategy;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the tasks of a message are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum StrategyV1 {
    /// The words of the message choose one agent.
    Rules,
    /// A language model proposes the tasks.
    Model,
    /// The words of the message choose an agent. Where no words match, a language model proposes the tasks, if one is configured.
    Auto,
}

impl TryFrom<String> for StrategyV1 {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        match name.as_str() {
            "rules" => Ok(Self::Rules),
            "model" => Ok(Self::Model),
            "auto" => Ok(Self::Auto),
            _ => Err("must be `rules`, `model` or `auto`"),
        }
    }
}

/// The strategy of a request; absent means that of the settings.
pub(crate) fn wire_strategy(strategy: Option<StrategyV1>) -> i32 {
    let strategy = match strategy {
        None => PlanningStrategy::Configured,
        Some(StrategyV1::Rules) => PlanningStrategy::Rules,
        Some(StrategyV1::Model) => PlanningStrategy::Model,
        Some(StrategyV1::Auto) => PlanningStrategy::Auto,
    };
    strategy.into()
}
