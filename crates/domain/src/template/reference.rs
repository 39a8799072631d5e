//! References, their targets, and what can be wrong with them.

use crate::json::Json;

/// A reference in an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Key of the task.
    pub key: String,
    /// Path into its output; empty for the whole output.
    pub path: Vec<String>,
}

/// Target of a reference.
#[derive(Debug, Clone, Copy)]
pub enum Referent<'a> {
    /// The output of a task.
    Answer(&'a Json),
    /// The task failed and its plan continued: every path is null.
    Failed,
}

/// Error of a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A reference is not `tasks.KEY.output` with an optional path.
    #[error("`{{{{{0}}}}}` must look like {{{{tasks.KEY.output}}}} or {{{{tasks.KEY.output.path}}}}")]
    Malformed(String),
    /// A reference is not closed.
    #[error("`{{{{tasks.` is never closed by `}}}}`")]
    Unclosed,
    /// The output has no such path.
    #[error("task `{key}` has no `{path}` in its output: {found}")]
    NoSuchPath {
        /// Key of the task.
        key: String,
        /// The path.
        path: String,
        /// What was found instead.
        found: String,
    },
    /// The rendered input is too large.
    #[error("is {found} bytes long once its references are filled; at most {limit} are allowed")]
    TooLarge {
        /// Size as compact JSON in bytes.
        found: usize,
        /// Allowed size in bytes.
        limit: usize,
    },
    /// The rendered input is nested too deep.
    #[error("is nested {found} levels deep once its references are filled; at most {limit} are allowed")]
    TooDeep {
        /// Depth of the input.
        found: usize,
        /// Allowed depth.
        limit: usize,
    },
}
