//! Routing: selects the agent of a chat message.
//!
//! An agent's `route` holds words and phrases. A phrase matches a message that contains its words, whole, in this order and
//! separated by spaces and punctuation only. Case and Unicode normalization (`é` as one character or two) are ignored. The
//! most specific match wins:
//!
//! 1. the phrase with more words ("git status" before "status"),
//! 2. then the phrase with more letters,
//! 3. then the agent with more matching phrases,
//! 4. then the first agent by name, so that the result is deterministic.
//!
//! Without a match the message goes to the default agent.

use std::cmp::Reverse;

use phoenix_domain::{AgentCatalog, AgentName, AgentSpec};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// The agent for `message`.
#[must_use]
pub fn route<'a>(catalog: &'a AgentCatalog, message: &str) -> &'a AgentName {
    matching(catalog, message).unwrap_or(catalog.default_agent())
}

/// The agent whose words are in `message`, if there is one.
#[must_use]
pub fn matching<'a>(catalog: &'a AgentCatalog, message: &str) -> Option<&'a AgentName> {
    let words = words(message);
    let best = catalog
        .iter()
        .filter_map(|spec| specificity(spec, &words).map(|specificity| (specificity, Reverse(&spec.name))))
        .max();
    best.map(|(_, Reverse(name))| name)
}

/// Number of words and letters of the longest matching phrase, and the number of matching phrases.
fn specificity(spec: &AgentSpec, message: &[String]) -> Option<(usize, usize, usize)> {
    let matching: Vec<_> = spec
        .route
        .iter()
        .map(|phrase| words(phrase))
        .filter(|phrase| !phrase.is_empty() && message.windows(phrase.len()).any(|window| window == phrase))
        .map(|phrase| (phrase.len(), phrase.iter().map(|word| word.chars().count()).sum()))
        .collect();
    let &(words, letters) = matching.iter().max()?;
    Some((words, letters, matching.len()))
}

/// Normalized words of a text. A combining mark belongs to the letter before it; many letters have no precomposed form.
fn words(text: &str) -> Vec<String> {
    let text: String = if text.is_ascii() {
        // Normalization changes nothing.
        text.to_ascii_lowercase()
    } else {
        // Lower case follows compatibility decomposition, which may produce upper case, and precedes another composition.
        text.nfkc().collect::<String>().to_lowercase().nfkc().collect()
    };
    text.split(|c: char| !c.is_alphanumeric() && !is_combining_mark(c) && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(agents: &[(&str, &[&str])]) -> AgentCatalog {
        let specs = agents.iter().map(|(name, route)| {
            let mut spec = AgentSpec::new(name.parse().unwrap(), vec!["true".into()]);
            spec.route = route.iter().map(|phrase| (*phrase).to_owned()).collect();
            spec
        });
        AgentCatalog::new(specs, "model".parse().unwrap())
    }

    #[test]
    fn most_specific_phrase_of_whole_words_wins() {
        let catalog = catalog(&[
            ("git", &["git", "git status", "diff"]),
            ("reviewer", &["review", "diff"]),
            ("status", &["status", "service status"]),
            ("notes", &["ünïcode", "note_taking"]),
            ("model", &[]),
        ]);
        for (message, agent) in [
            ("Show me the Git Status, please!", "git"),
            ("what is the status?", "status"),
            ("git: service status", "status"),
            ("digital statuses", "model"),
            ("legit diffs", "model"),
            ("review this diff", "reviewer"),
            ("a diff", "git"),
            ("git\n\tstatus", "git"),
            ("status of git", "status"),
            ("ÜNÏCODE matters", "notes"),
            ("note_taking", "notes"),
            ("note taking", "model"),
            ("", "model"),
            ("???", "model"),
        ] {
            assert_eq!(route(&catalog, message).as_str(), agent, "{message}");
        }
    }

    #[test]
    fn message_in_another_unicode_form_matches() {
        let forms = [
            "caf\u{e9}",
            "cafe\u{301}",
            "x\u{302}y",
            "\u{c5}ngstr\u{f6}m",
            "A\u{30a}ngstro\u{308}m",
            "na\u{308}\u{323}chste",
        ];
        for route_form in forms {
            let catalog = catalog(&[("named", &[route_form]), ("model", &[])]);
            let message: String = route_form.to_uppercase();
            for message in [
                message.nfc().collect::<String>(),
                message.nfd().collect(),
                message.nfkc().collect(),
                message.nfkd().collect(),
                format!("please, {route_form}!"),
            ] {
                assert_eq!(route(&catalog, &message).as_str(), "named", "{route_form:?} in {message:?}");
            }
        }
        let plain = catalog(&[("named", &["cafe"]), ("model", &[])]);
        assert_eq!(route(&plain, "cafe\u{301}").as_str(), "model", "another word");
    }
}
