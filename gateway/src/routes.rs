//! The endpoints, one file per subject. A handler decodes, calls and encodes.

mod accepted;
pub(crate) mod agents;
mod answer;
pub(crate) mod anthropic;
pub(crate) mod approvals;
pub(crate) mod budgets;
pub(crate) mod chat;
pub(crate) mod dead_letters;
mod event_stream;
mod followed_plan;
pub(crate) mod health;
pub(crate) mod mcp;
pub(crate) mod openai;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod plans;
pub(crate) mod responses;
pub(crate) mod statistics;
