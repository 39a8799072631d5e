//! Names of the OpenTelemetry semantic conventions (<https://opentelemetry.io/docs/specs/semconv/>) in spans, and Phoenix's own.
//!
//! The conventions for generative AI left the others after version 1.41 and are still in development, so their names are in one
//! place. A test compares every name here with the packages that the conventions are published as.

/// Schema of the names.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";

/// Class of a failure: an error code, a failure class or a status.
pub const ERROR_TYPE: &str = "error.type";

/// Method of an HTTP request.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// Method as it was sent, if the convention does not know it.
pub const HTTP_REQUEST_METHOD_ORIGINAL: &str = "http.request.method_original";
/// Status of an HTTP response.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// Route with placeholders.
pub const HTTP_ROUTE: &str = "http.route";
/// Path of an HTTP request.
pub const URL_PATH: &str = "url.path";
/// `http` or `https`.
pub const URL_SCHEME: &str = "url.scheme";

/// RPC system: `grpc`.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// Full name of the method.
pub const RPC_METHOD: &str = "rpc.method";
/// Name of the status, such as `DEADLINE_EXCEEDED`.
pub const RPC_RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";

/// What an agent, a model or a tool is asked for.
pub const GEN_AI_OPERATION_NAME: &str = "gen_ai.operation.name";
/// Agent.
pub const GEN_AI_AGENT_NAME: &str = "gen_ai.agent.name";
/// Tool of an MCP server.
pub const GEN_AI_TOOL_NAME: &str = "gen_ai.tool.name";
/// Kind of the tool.
pub const GEN_AI_TOOL_TYPE: &str = "gen_ai.tool.type";
/// Provider of a model.
pub const GEN_AI_PROVIDER_NAME: &str = "gen_ai.provider.name";
/// Model that was asked.
pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
/// Model that answered.
pub const GEN_AI_RESPONSE_MODEL: &str = "gen_ai.response.model";
/// Why the model ended its answer.
pub const GEN_AI_RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Tokens of the input.
pub const GEN_AI_USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Tokens of the output.
pub const GEN_AI_USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// Part of the input that was read from a cache.
pub const GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
/// Part of the output that is reasoning.
pub const GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: &str = "gen_ai.usage.reasoning.output_tokens";

/// Content, by opt-in: messages to an agent.
pub const GEN_AI_INPUT_MESSAGES: &str = "gen_ai.input.messages";
/// Content, by opt-in: the answer of an agent.
pub const GEN_AI_OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
/// Content, by opt-in: input of a tool.
pub const GEN_AI_TOOL_CALL_ARGUMENTS: &str = "gen_ai.tool.call.arguments";
/// Content, by opt-in: output of a tool.
pub const GEN_AI_TOOL_CALL_RESULT: &str = "gen_ai.tool.call.result";

/// Method of the Model Context Protocol.
pub const MCP_METHOD_NAME: &str = "mcp.method.name";
/// Exit code of a process.
pub const PROCESS_EXIT_CODE: &str = "process.exit.code";

/// Values of [`GEN_AI_OPERATION_NAME`].
pub mod operation {
    /// An attempt of an agent.
    pub const INVOKE_AGENT: &str = "invoke_agent";
    /// A call of a language model.
    pub const CHAT: &str = "chat";
    /// A call of a tool of an MCP server.
    pub const EXECUTE_TOOL: &str = "execute_tool";
}

/// Names without a convention, all of which begin with `phoenix.`.
pub mod own {
    /// Endpoint of the gateway, as in metrics and logs.
    pub const ENDPOINT: &str = "phoenix.endpoint";
    /// Action of a task.
    pub const ACTION: &str = "phoenix.action";
    /// Key of a task in its plan.
    pub const TASK_KEY: &str = "phoenix.task.key";
    /// What a task waited for.
    pub const WAIT_KIND: &str = "phoenix.wait.kind";
    /// How the wait ended: the decision about an approval, for instance.
    pub const WAIT_OUTCOME: &str = "phoenix.wait.outcome";
    /// Why an attempt was cancelled.
    pub const CANCEL_REASON: &str = "phoenix.cancel_reason";
    /// Cost of a model call in US dollars.
    pub const COST_USD: &str = "phoenix.cost_usd";
    /// Relation of a linked span: `redrive_of`.
    pub const LINK_RELATION: &str = "phoenix.link.relation";
}
