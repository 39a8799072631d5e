//! Bodies of the API that clients of Anthropic's Messages API speak. <https://docs.anthropic.com/en/api/messages>
//!
//! A request becomes a conversation in OpenAI's shape, which is the one that agents read; an answer in that shape becomes a message.

mod content;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod message;
mod options;
pub(crate) mod request;
pub(crate) mod tokens;
pub(crate) mod writer;
