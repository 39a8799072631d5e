//! Names of operators: of the person or program that decides about an agent, a circuit or an approval.

use crate::{
    error::OrchestratorError,
    limits::{MAX_ACTOR_CHARS, check_chars},
};

/// Checks the name of an operator.
///
/// # Errors
/// `validation_failed` that names `actor`, when the name is blank or too long.
pub fn check_actor(actor: &str) -> Result<(), OrchestratorError> {
    if actor.trim().is_empty() {
        return Err(OrchestratorError::invalid("actor", "must name the person or program that decides"));
    }
    check_chars("actor", actor, MAX_ACTOR_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actor_is_not_blank_and_counted_in_characters() {
        assert!(check_actor(&"ä".repeat(MAX_ACTOR_CHARS)).is_ok());
        let error = check_actor(&"ä".repeat(MAX_ACTOR_CHARS + 1)).unwrap_err();
        assert_eq!(error.message, "`actor` is 129 characters long; at most 128 are allowed");
        assert!(check_actor(" \t").unwrap_err().message.contains("must name"));
    }
}
