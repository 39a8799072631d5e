//! Which agent a message is meant for.
//!
//! An agent's `route` holds words and phrases. A phrase matches where its words stand in the message, whole, in this
//! order and with nothing but spaces and punctuation between them; case does not matter. Of the agents that match, the
//! most specific one is chosen:
//!
//! 1. the one whose longest matching phrase has more words ("git status" before "status"),
//! 2. then the one whose phrase has more letters,
//! 3. then the one with more matching phrases,
//! 4. then the first by name, so that the choice never depends on chance.
//!
//! When nothing matches, the message goes to the default agent.

use std::cmp::Reverse;

use phoenix_domain::{AgentCatalog, AgentName, AgentSpec};

/// The agent that `message` is meant for, of those that are configured.
#[must_use]
pub fn route<'a>(catalog: &'a AgentCatalog, message: &str) -> &'a AgentName {
    let words = words(message);
    let best = catalog
        .iter()
        .filter_map(|spec| specificity(spec, &words).map(|specificity| (specificity, Reverse(&spec.name))))
        .max();
    best.map_or(catalog.default_agent(), |(_, Reverse(name))| name)
}

/// Words and letters of the longest phrase that matches, and how many match.
fn specificity(spec: &AgentSpec, message: &[String]) -> Option<(usize, usize, usize)> {
    let matching: Vec<_> = spec
        .route
        .iter()
        .map(|phrase| words(phrase))
        .filter(|phrase| !phrase.is_empty() && message.windows(phrase.len()).any(|place| place == phrase))
        .map(|phrase| (phrase.len(), phrase.iter().map(|word| word.chars().count()).sum()))
        .collect();
    let &(words, letters) = matching.iter().max()?;
    Some((words, letters, matching.len()))
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
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
    fn whole_words_any_case_and_the_most_specific_phrase() {
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
}
