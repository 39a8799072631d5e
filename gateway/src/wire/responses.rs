//! Bodies of OpenAI's Responses API. <https://platform.openai.com/docs/api-reference/responses>
//!
//! A request becomes a conversation in the shape of chat completions, which is the one that agents read; an answer in that shape
//! becomes a response, a list of items.

pub(crate) mod echo;
mod input;
pub(crate) mod item;
mod options;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod writer;
