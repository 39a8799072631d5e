//! `[agents.NAME] approval`: the actions of an agent that need an approval.

use serde::Deserialize;

use super::problems::Problems;

/// Word that stands for every action.
const REQUIRED: &str = "required";

/// The setting `approval` of an agent.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"required\" or a list of actions such as [\"git_commit\", \"write_*\"]"
)]
pub(super) enum ApprovalSetting {
    /// `"required"`: every action.
    Word(String),
    /// Patterns of the names of actions; none when empty.
    Actions(Vec<String>),
}

impl ApprovalSetting {
    /// The patterns of the actions. `at` is the setting in the file.
    pub(super) fn patterns(&self, at: &str, problems: &mut Problems) -> Vec<String> {
        match self {
            Self::Word(word) if word == REQUIRED => vec!["*".into()],
            Self::Word(word) => {
                let problem = format!(
                    "must be \"{REQUIRED}\" or a list of actions such as [\"git_commit\", \"write_*\"], not \"{word}\""
                );
                problems.add(at, problem);
                Vec::new()
            }
            Self::Actions(patterns) => {
                if patterns.iter().any(|pattern| pattern.trim().is_empty()) {
                    problems.add(at, "must not have a blank name; `*` stands for every action");
                }
                patterns.clone()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Table {
        approval: ApprovalSetting,
    }

    fn read(text: &str) -> (Vec<String>, bool) {
        let table: Table = toml::from_str(text).unwrap();
        let mut problems = Problems::default();
        (table.approval.patterns("agents.a.approval", &mut problems), problems.is_empty())
    }

    #[test]
    fn setting_is_a_word_or_a_list_of_patterns() {
        assert_eq!(read("approval = \"required\""), (vec!["*".to_owned()], true));
        assert_eq!(read("approval = [\"git_*\", \"x\"]"), (vec!["git_*".to_owned(), "x".to_owned()], true));
        assert_eq!(read("approval = []"), (Vec::new(), true));
        assert!(!read("approval = \"always\"").1 && !read("approval = [\" \"]").1);
    }
}
