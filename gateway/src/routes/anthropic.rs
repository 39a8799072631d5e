//! The API that clients of Anthropic's Messages API speak. Every message is a plan.

pub(crate) mod count_tokens;
pub(crate) mod messages;
