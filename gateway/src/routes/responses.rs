//! OpenAI's Responses API. Every response is a plan: one that runs in the background is read from the journal, at once or later.

pub(crate) mod create;
pub(crate) mod ending;
mod recorded;
pub(crate) mod stored;
