//! Limits on the input of callers, agents and peers. `docs/limits.md` lists them.
//!
//! Each entry point (the gateway, the planner's gRPC API, an agent's response line, a rendered template) checks them before
//! anything is journaled. Readers of the journal accept everything that was written within the limits.

use crate::error::OrchestratorError;

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: usize = $value;)*

        /// Every limit by name.
        pub const ALL: &[(&str, usize)] = &[$((stringify!($name), $name),)*];
    };
}

limits! {
    /// Nesting depth of a task's input, an agent's result and its metadata. An object with scalar members is one level.
    MAX_DEPTH = 64;
    /// Nesting depth that the reader of the journal accepts, for journals from before [`MAX_DEPTH`] existed.
    MAX_STORED_DEPTH = 512;
    /// Bytes of a request body at the gateway.
    MAX_REQUEST_BYTES = 1024 * 1024;
    /// Bytes of a request body with a conversation, which may have images.
    MAX_CONVERSATION_REQUEST_BYTES = 3 * 1024 * 1024;
    /// Bytes of a task's rendered input, as compact JSON.
    MAX_FILLED_INPUT_BYTES = 8 * 1024 * 1024;
    /// Bytes of an agent's response line.
    MAX_ANSWER_BYTES = 8 * 1024 * 1024;
    /// Bytes of an answer's `output_type`.
    MAX_OUTPUT_TYPE_BYTES = 256;
    /// Bytes of a line that an agent writes before its answer.
    MAX_OUTPUT_LINE_BYTES = 64 * 1024;
    /// Bytes of all chunks of an attempt: their texts and deltas.
    MAX_OUTPUT_BYTES = 8 * 1024 * 1024;
    /// Bytes of an attempt's stderr tail.
    MAX_STDERR_BYTES = 64 * 1024;
    /// Tasks of one plan.
    MAX_TASKS = 256;
    /// `max_attempts` of an agent or a tool: no planner has numbers for more.
    MAX_ATTEMPTS = 100;
    /// Bytes of a plan: the inputs as compact JSON, keys, actions, dependencies and context together.
    MAX_PLAN_BYTES = 4 * 1024 * 1024;
    /// Bytes of a chat's message.
    MAX_MESSAGE_BYTES = 32_768;
    /// Bytes of the context of a request.
    MAX_CONTEXT_BYTES = 262_144;
    /// Messages of a conversation.
    MAX_CONVERSATION_MESSAGES = 4096;
    /// Bytes of the messages of a conversation as compact JSON, without the data of files and images in them, and of its options.
    MAX_CONVERSATION_BYTES = 1024 * 1024;
    /// Bytes of the data of all files and images in the messages of a conversation, in base64.
    MAX_CONVERSATION_FILE_BYTES = 2 * 1024 * 1024;
    /// Bytes of the name of a model.
    MAX_MODEL_BYTES = 256;
    /// Bytes of the reason for a cancel, a redrive, a discard, an isolation or a restoration, or an approval and the decision
    /// about it.
    MAX_REASON_BYTES = 1024;
    /// Characters of a text by which a listing is filtered.
    MAX_SEARCH_CHARS = 256;
    /// Characters of the name of an operator: of the person or program that decides, or is asked to.
    MAX_ACTOR_CHARS = 128;
    /// Seconds from the acceptance of a plan until the latest time before which it, or a task of it, must not start.
    MAX_DELAY_SECS = 31_536_000;
    /// Characters of a task's key.
    MAX_KEY_CHARS = 64;
    /// Bytes of an action's name.
    MAX_ACTION_BYTES = 256;
    /// Bytes of an idempotency key.
    MAX_IDEMPOTENCY_KEY_BYTES = 255;
    /// Bytes of one output or stderr tail in a view of a plan; the complete text has its own link.
    MAX_PREVIEW_BYTES = 64 * 1024;
    /// Bytes of all previews in one view or one page of a listing.
    MAX_VIEW_BYTES = 4 * 1024 * 1024;
    /// Bytes of an executor's catalog: names, descriptions, routes and input schemas of all its agents.
    MAX_CATALOG_BYTES = 4 * 1024 * 1024;
    /// Labels of an executor.
    MAX_LABELS = 32;
    /// Bytes of the name or the value of a label.
    MAX_LABEL_BYTES = 128;
}

/// Checks that a text has at most `limit` bytes.
///
/// # Errors
/// `validation_failed` with the field, the limit and the length.
pub fn check_text(field: &str, text: &str, limit: usize) -> Result<(), OrchestratorError> {
    check_bytes(field, text.len(), limit)
}

/// Checks that a text has at most `limit` characters.
///
/// # Errors
/// `validation_failed` with the field, the limit and the length.
pub fn check_chars(field: &str, text: &str, limit: usize) -> Result<(), OrchestratorError> {
    let found = text.chars().count();
    if found > limit {
        let problem = format!("is {found} characters long; at most {limit} are allowed");
        return Err(OrchestratorError::invalid(field, problem));
    }
    Ok(())
}

/// Checks that a value has at most `limit` bytes.
///
/// # Errors
/// `validation_failed` with the field, the limit and the size.
pub fn check_bytes(field: &str, found: usize, limit: usize) -> Result<(), OrchestratorError> {
    if found > limit {
        let problem = format!("is {found} bytes long; at most {limit} are allowed");
        return Err(OrchestratorError::invalid(field, problem));
    }
    Ok(())
}

/// Checks that a JSON value has at most [`MAX_DEPTH`] levels.
///
/// # Errors
/// `validation_failed` with the field, the limit and the depth.
pub fn check_depth(field: &str, found: usize) -> Result<(), OrchestratorError> {
    if found > MAX_DEPTH {
        let problem = format!("is nested {found} levels deep; at most {MAX_DEPTH} are allowed");
        return Err(OrchestratorError::invalid(field, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_over_a_limit_is_rejected_with_limit_and_length() {
        assert!(check_text("reason", &"x".repeat(MAX_REASON_BYTES), MAX_REASON_BYTES).is_ok());
        let error = check_text("reason", &"ä".repeat(MAX_REASON_BYTES), MAX_REASON_BYTES).unwrap_err();
        assert_eq!(error.message, "`reason` is 2048 bytes long; at most 1024 are allowed");
        assert!(check_depth("x", MAX_DEPTH).is_ok() && check_depth("x", MAX_DEPTH + 1).is_err());
    }
}
