//! The read command that a chat message asks for: "git status", "show me the git log, last 5", "what is in the staged diff?"
//!
//! Every word of a message counts. A message with an unknown word is rejected: an answer that ignores `a.txt` in
//! "git log a.txt" would answer another question.

use super::settings::quoted;
use crate::protocol::ActionError;

/// Most entries of a log.
pub(super) const MAX_LOG_ENTRIES: usize = 1000;

/// A command that a chat may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadCommand {
    Status,
    Diff { staged: bool },
    Log { limit: Option<usize> },
}

/// Meaning of one word.
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

/// Words without influence on the command.
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

/// Parses `message`.
pub(super) fn parse(message: &str) -> Result<ReadCommand, ActionError> {
    let message = message.to_lowercase().replace('’', "'");
    let words: Vec<&str> = message.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect();
    let mut parser = Parser::default();
    for word in &words {
        parser.add(word)?;
    }
    parser.command()
}

/// A word without the punctuation around it. Parts of a path or a revision stay: `a.txt`, `HEAD~1`, `../a`.
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

/// The words of a message so far.
#[derive(Default)]
struct Parser {
    verb: Option<Word<'static>>,
    staged: Option<bool>,
    count: Option<usize>,
    newest: bool,
    count_follows: bool,
}

impl Parser {
    fn add(&mut self, word: &str) -> Result<(), ActionError> {
        let count_follows = std::mem::take(&mut self.count_follows);
        match meaning(word) {
            Word::Count(number) => self.set_count(number)?,
            _ if count_follows => return Err(unknown(word)),
            Word::CountFollows => self.count_follows = true,
            Word::Status => self.set_verb(Word::Status)?,
            Word::Diff => self.set_verb(Word::Diff)?,
            Word::Log => self.set_verb(Word::Log)?,
            // "The last commit" is a log of one entry.
            Word::Commit if self.newest && self.count.is_none() => {
                self.set_verb(Word::Log)?;
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

    fn set_verb(&mut self, verb: Word<'static>) -> Result<(), ActionError> {
        if self.verb.is_some_and(|before| before != verb) {
            return Err(not_understood("A chat can ask for one command at a time"));
        }
        self.verb = Some(verb);
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

    fn command(self) -> Result<ReadCommand, ActionError> {
        let is_log = self.count.is_some() || self.newest;
        match self.verb {
            _ if self.count_follows => Err(not_understood("The number of commits is missing")),
            Some(Word::Status) if !is_log && self.staged.is_none() => Ok(ReadCommand::Status),
            Some(Word::Diff) if !is_log => Ok(ReadCommand::Diff { staged: self.staged.unwrap_or_default() }),
            Some(Word::Log) if self.staged.is_none() => Ok(ReadCommand::Log { limit: self.count }),
            Some(Word::Log) => Err(not_understood("A log has no staged part")),
            Some(_) => Err(not_understood("Only a log takes a number, and only a diff is staged or not")),
            None => Err(not_understood("The git agent did not understand this message")),
        }
    }
}

fn unknown(word: &str) -> ActionError {
    not_understood(&format!("The git agent cannot interpret {} in a chat", quoted(word)))
}

/// The rejection of a chat, with the requests that it may make.
fn not_understood(what: &str) -> ActionError {
    ActionError::invalid(format!(
        "{what}. A chat can ask for `git status`, `git diff` (or `git diff staged`) and `git log` (or `git log 5`); \
         changes, and the history or diff of one file, take the actions of a plan: git_add {{paths}}, git_commit \
         {{message}}, git_log {{path}}, git_diff {{path}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_parsed_into_read_commands() {
        let log = |limit| ReadCommand::Log { limit };
        for (message, reading) in [
            ("git status", ReadCommand::Status),
            ("Hey Phoenix, what's the STATUS of my repository?", ReadCommand::Status),
            ("What’s the `git status`?", ReadCommand::Status),
            ("show me the git diff", ReadCommand::Diff { staged: false }),
            ("git diff --staged", ReadCommand::Diff { staged: true }),
            ("Show the unstaged changes, please.", ReadCommand::Diff { staged: false }),
            ("what changed?", ReadCommand::Diff { staged: false }),
            ("show me the git log", log(None)),
            ("the last 5 commits, please", log(Some(5))),
            ("git log -3", log(Some(3))),
            ("git log -n 3", log(Some(3))),
            ("git log -n3", log(Some(3))),
            ("git log --max-count=1000", log(Some(1000))),
            ("What is the last commit?", log(Some(1))),
            ("the most recent commits", log(None)),
        ] {
            assert_eq!(parse(message).unwrap(), reading, "{message}");
        }
    }

    #[test]
    fn unknown_words_are_rejected_by_name() {
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
            let refusal = parse(message).unwrap_err();
            assert!(
                refusal.code == 400 && refusal.message.contains(&format!("`{word}`")),
                "{message}: {refusal}"
            );
        }
    }

    #[test]
    fn messages_without_one_command_are_rejected_with_a_hint() {
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
            let refusal = parse(message).unwrap_err();
            assert_eq!(refusal.code, 400, "{message}");
            assert!(refusal.message.contains("git status") && refusal.message.contains("git_commit"));
        }
    }
}
