//! Which reading command a sentence asks for: "git status", "show me the git log, last 5", "what is in the staged diff?"
//!
//! Every word of a sentence counts. A sentence with a word that has no meaning here is refused, since an answer that
//! passes over `a.txt` in "git log a.txt" is an answer to another question.

use super::{MAX_LOG_ENTRIES, not_understood, quoted};
use crate::ActionError;

/// A command that a chat may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Status,
    Diff { staged: bool },
    Log { limit: Option<usize> },
}

/// What one word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    Status,
    Diff,
    Log,
    Commit,
    Staged(bool),
    Newest,
    Count(&'a str),
    CountFollows,
    Filler,
    Writes,
    Unknown,
}

/// Words that ask for a change.
const WRITING: &[&str] = &[
    "add",
    "amend",
    "apply",
    "checkout",
    "cherry-pick",
    "clean",
    "clone",
    "delete",
    "fetch",
    "init",
    "merge",
    "mv",
    "pull",
    "push",
    "rebase",
    "remove",
    "reset",
    "restore",
    "revert",
    "rm",
    "stage",
    "stash",
    "switch",
    "tag",
    "undo",
    "unstage",
];

/// Words that change nothing about what is asked for.
const FILLERS: &[&str] = &[
    "a",
    "an",
    "and",
    "any",
    "are",
    "at",
    "can",
    "check",
    "code",
    "command",
    "could",
    "current",
    "currently",
    "directory",
    "display",
    "do",
    "entries",
    "folder",
    "for",
    "get",
    "git",
    "give",
    "has",
    "have",
    "hello",
    "here",
    "hey",
    "hi",
    "how",
    "i",
    "in",
    "is",
    "it",
    "its",
    "let",
    "let's",
    "lets",
    "like",
    "list",
    "look",
    "looks",
    "me",
    "my",
    "now",
    "of",
    "on",
    "our",
    "output",
    "phoenix",
    "please",
    "pls",
    "print",
    "project",
    "repo",
    "repository",
    "result",
    "run",
    "see",
    "show",
    "tell",
    "thank",
    "thanks",
    "that",
    "the",
    "there",
    "this",
    "to",
    "tree",
    "us",
    "view",
    "want",
    "was",
    "we",
    "what",
    "what's",
    "whats",
    "will",
    "with",
    "working",
    "workspace",
    "would",
    "you",
    "your",
];

/// The command that `message` asks for.
pub(super) fn understand(message: &str) -> Result<Reading, ActionError> {
    let message = message.to_lowercase().replace('’', "'");
    let words: Vec<&str> = message.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect();
    let mut asked = Asked::default();
    for word in &words {
        asked.hear(word)?;
    }
    asked.reading()
}

/// A word without the punctuation of its sentence. What belongs to a path or a revision stays: `a.txt`, `HEAD~1`, `../a`.
fn bare(word: &str) -> &str {
    const QUOTES: &[char] = &['"', '\'', '`', '(', ')', '“', '”', '«', '»'];
    word.trim_start_matches(QUOTES).trim_end_matches(|c| QUOTES.contains(&c) || ".,;:!?".contains(c))
}

fn meaning(word: &str) -> Word<'_> {
    let count = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match word {
        "status" => Word::Status,
        "diff" | "diffs" | "changes" | "changed" => Word::Diff,
        "log" | "logs" | "history" | "commits" => Word::Log,
        "commit" => Word::Commit,
        "staged" | "cached" | "--staged" | "--cached" => Word::Staged(true),
        "unstaged" => Word::Staged(false),
        "last" | "latest" | "newest" | "recent" | "most" => Word::Newest,
        "-n" | "--max-count" => Word::CountFollows,
        _ if WRITING.contains(&word) => Word::Writes,
        _ if FILLERS.contains(&word) => Word::Filler,
        _ => {
            let number = ["--max-count=", "-n", "-"].iter().find_map(|option| word.strip_prefix(option));
            let number = number.unwrap_or(word);
            if count(number) { Word::Count(number) } else { Word::Unknown }
        }
    }
}

/// What a sentence has said so far.
#[derive(Default)]
struct Asked {
    command: Option<Word<'static>>,
    staged: Option<bool>,
    count: Option<usize>,
    newest: bool,
    count_follows: bool,
}

impl Asked {
    fn hear(&mut self, word: &str) -> Result<(), ActionError> {
        let count_follows = std::mem::take(&mut self.count_follows);
        match meaning(word) {
            Word::Count(number) => self.set_count(number)?,
            _ if count_follows => return Err(unknown(word)),
            Word::CountFollows => self.count_follows = true,
            Word::Status => self.set_command(Word::Status)?,
            Word::Diff => self.set_command(Word::Diff)?,
            Word::Log => self.set_command(Word::Log)?,
            // The last commit is a log of one.
            Word::Commit if self.newest && self.count.is_none() => {
                self.set_command(Word::Log)?;
                self.count = Some(1);
            }
            Word::Staged(staged) => {
                if self.staged.is_some_and(|before| before != staged) {
                    return Err(not_understood("A chat can ask for one diff at a time, staged or not"));
                }
                self.staged = Some(staged);
            }
            Word::Newest => self.newest = true,
            Word::Filler => {}
            Word::Commit | Word::Writes => {
                return Err(not_understood(&format!("A chat can't {word} anything in a repository")));
            }
            Word::Unknown => return Err(unknown(word)),
        }
        Ok(())
    }

    fn set_command(&mut self, command: Word<'static>) -> Result<(), ActionError> {
        if self.command.is_some_and(|before| before != command) {
            return Err(not_understood("A chat can ask for one command at a time"));
        }
        self.command = Some(command);
        Ok(())
    }

    fn set_count(&mut self, number: &str) -> Result<(), ActionError> {
        let count = number.parse().ok().filter(|count| (1..=MAX_LOG_ENTRIES).contains(count));
        if count.is_none() || self.count.is_some() {
            let number = quoted(number);
            return Err(not_understood(&format!("{number} is not one number from 1 to {MAX_LOG_ENTRIES}")));
        }
        self.count = count;
        Ok(())
    }

    fn reading(self) -> Result<Reading, ActionError> {
        let of_log = self.count.is_some() || self.newest;
        match self.command {
            _ if self.count_follows => Err(not_understood("The number of commits is missing")),
            Some(Word::Status) if !of_log && self.staged.is_none() => Ok(Reading::Status),
            Some(Word::Diff) if !of_log => Ok(Reading::Diff { staged: self.staged.unwrap_or_default() }),
            Some(Word::Log) if self.staged.is_none() => Ok(Reading::Log { limit: self.count }),
            Some(Word::Log) => Err(not_understood("A log has no staged part")),
            Some(_) => Err(not_understood("Only a log takes a number, and only a diff is staged or not")),
            None => Err(not_understood("The git agent did not understand this message")),
        }
    }
}

fn unknown(word: &str) -> ActionError {
    not_understood(&format!("The git agent can't do what {} asks for in a chat", quoted(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_ask_for_what_they_say() {
        let log = |limit| Reading::Log { limit };
        for (message, reading) in [
            ("git status", Reading::Status),
            ("Hey Phoenix, what's the STATUS of my repository?", Reading::Status),
            ("What’s the `git status`?", Reading::Status),
            ("show me the git diff", Reading::Diff { staged: false }),
            ("git diff --staged", Reading::Diff { staged: true }),
            ("Show the unstaged changes, please.", Reading::Diff { staged: false }),
            ("what changed?", Reading::Diff { staged: false }),
            ("show me the git log", log(None)),
            ("the last 5 commits, please", log(Some(5))),
            ("git log -3", log(Some(3))),
            ("git log -n 3", log(Some(3))),
            ("git log -n3", log(Some(3))),
            ("git log --max-count=1000", log(Some(1000))),
            ("What is the last commit?", log(Some(1))),
            ("the most recent commits", log(None)),
        ] {
            assert_eq!(understand(message).unwrap(), reading, "{message}");
        }
    }

    #[test]
    fn words_without_a_meaning_are_refused_by_name() {
        for (message, word) in [
            ("git log a.txt", "a.txt"),
            ("git diff HEAD~1", "head~1"),
            ("git log --oneline", "--oneline"),
            ("git log -p", "-p"),
            ("git log --author=ann", "--author=ann"),
            ("git status src/", "src/"),
            ("git status -s", "-s"),
            ("git diff main..topic", "main..topic"),
            ("what changed since yesterday?", "since"),
            ("don't show the git diff", "don't"),
            ("git log -n main", "main"),
            ("git log größe", "größe"),
        ] {
            let refusal = understand(message).unwrap_err();
            assert!(
                refusal.code == 400 && refusal.message.contains(&format!("`{word}`")),
                "{message}: {refusal}"
            );
        }
    }

    #[test]
    fn wishes_that_no_command_fulfils_are_refused_with_what_there_is() {
        for message in [
            "commit the diff",
            "git push",
            "add everything",
            "hello",
            "statuses",
            "",
            "git status and git diff",
            "What's the status of the last commit?",
            "git log 0",
            "git log 1001",
            "git log 99999999999999999999999",
            "git log 5 10",
            "git log -n",
            "git diff 5",
            "git status --staged",
            "git log staged",
            "the staged and unstaged changes",
        ] {
            let refusal = understand(message).unwrap_err();
            assert_eq!(refusal.code, 400, "{message}");
            assert!(refusal.message.contains("git status") && refusal.message.contains("git_commit"));
        }
    }
}
