//! Callers of an agent that is an MCP server: the example with the official SDK, which the executor starts again after each kill.

use std::path::{Path, PathBuf};

use phoenix_testkit::http::Rest;
use serde_json::json;

use crate::{
    callers::{Fact, Observation, poll, submit},
    random::Random,
};

/// The section of the agent, if the SDK is installed.
pub(crate) fn agent() -> Option<String> {
    let Some(program) = std::env::var_os("MCP_SERVER_TIME_BIN").map(PathBuf::from) else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "MCP_SERVER_TIME_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: MCP agents in the soak, because MCP_SERVER_TIME_BIN is not set");
        return None;
    };
    // The SDK is a dependency of this server.
    let python = program.with_file_name("python3");
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/agents/units.py");
    Some(format!(
        "[agents.units]\nmcp = {{ command = {} }}\nenv = [\"PATH\", \"MARK\"]\nstart_timeout_secs = 60\n\
         [agents.units.circuit_breaker]\nfailure_threshold = 1000000\n",
        json!([python, server])
    ))
}

/// Submits a plan that converts a length, and passes the result on to another agent.
pub(crate) async fn plan(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let kilometres = 1 + random.below(1_000_000);
    let tasks = json!([
        {"key": "convert", "agent": "units", "action": "convert_length",
         "input": {"value": kilometres, "unit": "km", "into": "m"}},
        {"key": "say", "agent": "quick", "input": {"message": "{{tasks.convert.output.m}} m"}},
    ]);
    let plan_id = submit(&rest, &mut random, &correlation_id, &json!({ "tasks": tasks })).await;
    poll(&rest, &plan_id).await;
    // A call that may have begun when its executor was killed is not repeated: the plan may fail, but not lie.
    let facts = vec![Fact::Accepted(plan_id), Fact::NotCancelled, Fact::Converted(kilometres * 1000)];
    Observation { correlation_id, facts }
}
