//! The API that clients of OpenAI's chat completions speak. Every completion is a plan.

pub(crate) mod completions;
pub(crate) mod models;
