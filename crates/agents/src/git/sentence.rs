//! Which reading command a sentence asks for: "git status", "show me the git log, last 5", "what is in the staged diff?"

use super::not_understood;
use crate::ActionError;

/// A command that a chat may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Status,
    Diff { staged: bool },
    Log { limit: Option<usize> },
}

/// Words that ask for a change.
const WRITING: &[&str] = &[
    "add", "checkout", "clean", "commit", "merge", "pull", "push", "rebase", "reset", "revert", "stage",
    "stash",
];

/// The first word that names a command decides. Where it names a change the sentence is refused, so that "commit the
/// diff" does not pass for a wish to see the diff.
pub(super) fn understand(message: &str) -> Result<Reading, ActionError> {
    let message = message.to_lowercase();
    let words = || message.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    for word in words() {
        match word {
            "status" => return Ok(Reading::Status),
            "diff" | "changes" | "changed" => {
                let staged = words().any(|word| matches!(word, "staged" | "cached"));
                return Ok(Reading::Diff { staged });
            }
            "log" | "history" | "commits" => {
                return Ok(Reading::Log { limit: words().find_map(|word| word.parse().ok()) });
            }
            word if WRITING.contains(&word) => {
                return Err(not_understood(&format!("A chat can't {word} anything in a repository")));
            }
            _ => {}
        }
    }
    Err(not_understood("The git agent did not understand this message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_ask_for_what_they_say() {
        for (message, reading) in [
            ("git status", Reading::Status),
            ("What's the STATUS of the last commit?", Reading::Status),
            ("show me the git diff", Reading::Diff { staged: false }),
            ("git diff --staged", Reading::Diff { staged: true }),
            ("what changed?", Reading::Diff { staged: false }),
            ("show me the git log", Reading::Log { limit: None }),
            ("the last 5 commits, please", Reading::Log { limit: Some(5) }),
        ] {
            assert_eq!(understand(message).unwrap(), reading, "{message}");
        }
    }

    #[test]
    fn wishes_to_change_and_anything_else_are_refused_with_what_there_is() {
        for message in ["commit the diff", "git push", "add everything", "hello", "statuses", ""] {
            let refusal = understand(message).unwrap_err();
            assert_eq!(refusal.code, 400, "{message}");
            assert!(refusal.message.contains("git status") && refusal.message.contains("git_commit"));
        }
    }
}
