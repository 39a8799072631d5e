//! Settings of the git agent, and hints about them in messages.

use crate::protocol::shortened;

/// The variable that names the directory that contains all repositories.
pub const ROOT_VARIABLE: &str = "GIT_AGENT_REPO_ROOT";

/// Hint for messages about a wrong root directory.
pub(super) const ROOT_HINT: &str =
    "GIT_AGENT_REPO_ROOT (in docker-compose.yml: PHOENIX_REPO) names the directory of the git agent";

/// The variable by which an executor finds the processes of its agents. Every process that an agent starts must carry it.
pub(super) const EXECUTOR_VARIABLE: &str = "PHOENIX_EXECUTOR";

/// A caller's text in a form that a message may quote.
pub(super) fn quoted(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("`{}`", shortened(&text, 128))
}
