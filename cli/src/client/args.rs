//! Command line of the commands that talk to a gateway.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use phoenix_domain::json::{Json, Object};
use url::Url;

pub(crate) use super::endpoint::GatewayArgs;

/// Arguments of `phoenix chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The message; read from standard input when absent or `-`
    pub(crate) message: Option<String>,
    /// Agent that answers; the message decides when absent
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Model, such as anthropic/claude-sonnet-5-5, for agents that call one
    #[arg(long, short)]
    pub(crate) model: Option<String>,
    /// File with the context of the message
    #[arg(long, value_name = "FILE")]
    pub(crate) context_file: Option<PathBuf>,
    /// How the tasks are found; as the gateway's planner is configured when absent
    #[arg(long, value_enum)]
    pub(crate) strategy: Option<Strategy>,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// How the tasks of a message are found.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Strategy {
    /// The words of the message choose one agent
    Rules,
    /// A language model proposes the tasks
    Model,
    /// The words of the message choose an agent; where none match, a language model proposes the tasks
    Auto,
}

impl Strategy {
    /// Name in requests.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Model => "model",
            Self::Auto => "auto",
        }
    }
}

/// Arguments of `phoenix plans`.
#[derive(Debug, Args)]
pub(crate) struct PlansArgs {
    #[command(subcommand)]
    pub(crate) command: PlansCommand,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlansCommand {
    /// List plans, the newest first
    List(PlanFilter),
    /// Show a plan with its tasks and attempts
    Get {
        /// Id of the plan
        plan_id: String,
    },
    /// Print the events of a plan as they happen, until it ends
    Watch {
        /// Id of the plan
        plan_id: String,
    },
    /// Submit a plan, and print its id
    Submit {
        /// File with the plan, JSON as for POST /api/v1/plans; `-` is standard input
        file: PathBuf,
        /// Print the events of the plan until it ends
        #[arg(long, short)]
        wait: bool,
        /// A repeat with the same key returns the first plan
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Propose the tasks of a message without running them; `--json` prints them as a plan for `phoenix plans submit`
    Propose {
        /// The message; read from standard input when absent or `-`
        message: Option<String>,
        /// How the tasks are found; as the gateway's planner is configured when absent
        #[arg(long, value_enum)]
        strategy: Option<Strategy>,
        /// File with the context of the message
        #[arg(long, value_name = "FILE")]
        context_file: Option<PathBuf>,
    },
    /// Cancel a plan and kill its running tasks
    Cancel {
        /// Id of the plan
        plan_id: String,
        /// Reason, kept with the plan
        #[arg(long)]
        reason: Option<String>,
    },
    /// Approve a task that waits, so that it runs
    Approve {
        #[command(flatten)]
        decision: Decision,
        /// Another input for the task, or the answers to its questions: a JSON object, or a file with one; `-` is standard input
        #[arg(long, value_name = "JSON|FILE")]
        input: Option<String>,
        #[command(flatten)]
        budget: NewLimits,
    },
    /// Reject a task that waits, so that it never runs
    Reject {
        #[command(flatten)]
        decision: Decision,
    },
    /// Continue a failed plan as a new one, and print its id
    Redrive {
        /// Id of the plan
        plan_id: String,
        /// New inputs by key of the task: a JSON object, or a file with one; `-` is standard input
        #[arg(long, value_name = "JSON|FILE")]
        input: Option<String>,
        /// Reason, kept with the plan
        #[arg(long)]
        reason: Option<String>,
        /// Print the events of the new plan until it ends
        #[arg(long, short)]
        wait: bool,
    },
}

/// A decision about a task that waits for an approval.
#[derive(Debug, Args)]
pub(crate) struct Decision {
    /// Id of the plan
    pub(crate) plan_id: String,
    /// Key of the task; may be absent when only one task of the plan waits
    pub(crate) task: Option<String>,
    /// Name of the person or program that decides, kept in the journal
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    pub(crate) actor: String,
    /// Reason, kept in the journal
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Hash of the input that the decision is about; refused when the task waits with another one
    #[arg(long, value_name = "HASH")]
    pub(crate) input_hash: Option<String>,
}

/// New limits of a plan, for a task that waits for the budget of its plan.
#[derive(Debug, Args)]
pub(crate) struct NewLimits {
    /// New limit of the plan's cost in US dollars
    #[arg(long, value_name = "USD", value_parser = number)]
    max_cost_usd: Option<String>,
    /// New limit of the plan's tokens
    #[arg(long, value_name = "N", value_parser = number)]
    max_tokens: Option<String>,
    /// New limit of the plan's attempts
    #[arg(long, value_name = "N", value_parser = number)]
    max_calls: Option<String>,
    /// New limit of the time of the plan's attempts in milliseconds
    #[arg(long, value_name = "MS", value_parser = number)]
    max_wall_ms: Option<String>,
}

/// The text of a JSON number.
fn number(text: &str) -> Result<String, &'static str> {
    match Json::parse(text) {
        Ok(Json::Number(number)) => Ok(number.as_str().to_owned()),
        _ => Err("must be a number, such as 2.5"),
    }
}

impl NewLimits {
    /// The member `budget` of a decision, if there are any limits.
    pub(crate) fn into_member(self) -> Option<(String, Json)> {
        let Self { max_cost_usd, max_tokens, max_calls, max_wall_ms } = self;
        let limits = [
            ("max_cost_usd", max_cost_usd),
            ("max_tokens", max_tokens),
            ("max_calls", max_calls),
            ("max_wall_ms", max_wall_ms),
        ];
        let given = limits
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), Json::parse(&limit?).ok()?)));
        let limits: Object = given.collect();
        (!limits.is_empty()).then(|| ("budget".to_owned(), limits.into()))
    }
}

/// Arguments of `phoenix approvals`.
#[derive(Debug, Args)]
pub(crate) struct ApprovalsArgs {
    /// At most this many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Which plans to list.
#[derive(Debug, Args)]
pub(crate) struct PlanFilter {
    /// pending, running, unfinished (either), succeeded, failed or cancelled
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Plans with a task of this agent
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Plans of this correlation id
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<String>,
    /// Plans since this time (2026-11-27T08:00:00Z), or of the time until now (90m, 2h, 1d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// At most this many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
}

/// Arguments of `phoenix agents`.
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    #[command(subcommand)]
    pub(crate) command: AgentsCommand,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// List agents with their health and circuit
    List,
    /// Show one agent
    Get {
        /// Name of the agent
        name: String,
    },
    /// Give an agent no tasks until it is restored
    Isolate(DecisionArgs),
    /// End an isolation, or close an open circuit at once
    Restore(DecisionArgs),
}

/// An operator's decision about an agent.
#[derive(Debug, Args)]
pub(crate) struct DecisionArgs {
    /// Name of the agent
    pub(crate) name: String,
    /// Reason, shown with the agent and to callers whose tasks are rejected
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Who decides
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator", hide_env_values = true)]
    pub(crate) actor: String,
}

/// Arguments of `phoenix dead-letters`.
#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    pub(crate) command: DeadLettersCommand,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List tasks that failed permanently, the newest first
    List {
        #[command(flatten)]
        filter: DeadLetterFilter,
        /// open, redriven or discarded
        #[arg(long)]
        state: Option<String>,
        /// At most this many
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Redrive the plans of open dead letters, one after another
    Redrive {
        #[command(flatten)]
        filter: DeadLetterFilter,
        /// Plans per second
        #[arg(long, value_name = "N")]
        rate: Option<f64>,
        /// At most this many
        #[arg(long, short = 'n', value_name = "N")]
        limit: Option<u64>,
        /// Reason, kept with the plans
        #[arg(long)]
        reason: Option<String>,
    },
    /// Mark open dead letters as resolved, without running anything
    Discard {
        #[command(flatten)]
        filter: DeadLetterFilter,
        /// At most this many
        #[arg(long, short = 'n', value_name = "N")]
        limit: Option<u64>,
        /// Reason, kept with the dead letters
        #[arg(long)]
        reason: String,
    },
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct DeadLetterFilter {
    /// Tasks of this agent
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Tasks that ended with this error code
    #[arg(long)]
    pub(crate) code: Option<String>,
    /// Tasks whose last attempt has this failure class, such as timeout
    #[arg(long, value_name = "CLASS")]
    pub(crate) error_class: Option<String>,
    /// Tasks of this plan
    #[arg(long, value_name = "ID")]
    pub(crate) plan_id: Option<String>,
    /// Tasks of plans of this correlation id
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<String>,
    /// Tasks that failed since this time (2026-11-27T08:00:00Z), or in the time until now (90m, 2h, 1d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

/// Arguments of `phoenix mcp`.
#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Arguments of `phoenix stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Time until now
    #[arg(long, short, value_enum, default_value_t = Window::Hour)]
    pub(crate) window: Window,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// A time until now.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Window {
    #[value(name = "15m")]
    QuarterHour,
    #[value(name = "1h")]
    Hour,
    #[value(name = "6h")]
    SixHours,
    #[value(name = "24h")]
    Day,
}

impl Window {
    /// The window as the API names it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::QuarterHour => "15m",
            Self::Hour => "1h",
            Self::SixHours => "6h",
            Self::Day => "24h",
        }
    }
}

/// Arguments of `phoenix top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Seconds between refreshes
    #[arg(long, short, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    /// At most this many running plans, the oldest first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Arguments of `phoenix trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Correlation id, as in the header X-Correlation-Id and in every log line; the id of a plan works, too
    pub(crate) id: String,
    /// Data folder of a `phoenix up` on this machine, whose log lines of the id are shown
    #[arg(long, value_name = "DIR", default_value = "data", env = "PHOENIX_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Arguments of `phoenix context`.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    pub(crate) command: ContextCommand,
    /// Print JSON, one document per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts; tokens are not shown
    List,
    /// Show a context, or the current one
    Show {
        /// Name of the context
        name: Option<String>,
    },
    /// Make a context the current one, which commands use that name no gateway
    Use {
        /// Name of the context
        name: String,
    },
    /// Add a context, or replace it as a whole; the first one becomes the current one
    Set {
        /// Name of the context
        name: String,
        #[command(flatten)]
        settings: ContextSettings,
    },
    /// Remove a context
    Remove {
        /// Name of the context
        name: String,
    },
}

/// A gateway and how to talk to it.
#[derive(Debug, Args)]
pub(crate) struct ContextSettings {
    /// Address of the gateway
    #[arg(long, value_name = "URL")]
    pub(crate) url: Url,
    /// File with its token, which is read by each command
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Read its token from standard input, and keep it in the file of contexts
    #[arg(long, conflicts_with = "token_file")]
    pub(crate) token_stdin: bool,
    /// File with the certificates (PEM) of the authorities to trust
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}
