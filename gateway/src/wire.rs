//! Bodies of requests and responses, and their schemas. Conversions from and to the gRPC contract stand beside the types.

pub(crate) mod agent;
pub(crate) mod answer;
pub(crate) mod answer_writer;
pub(crate) mod anthropic;
pub(crate) mod budget;
pub(crate) mod chat;
pub(crate) mod dead_letter;
pub(crate) mod dead_letter_filter;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod mcp;
pub(crate) mod members_body;
pub(crate) mod model_request;
pub(crate) mod openai;
pub(crate) mod pieces;
pub(crate) mod plan;
pub(crate) mod plan_request;
pub(crate) mod redrive;
pub(crate) mod responses;
pub(crate) mod schemas;
pub(crate) mod statistics;
pub(crate) mod task;
pub(crate) mod timeline;
pub(crate) mod truncation;
pub(crate) mod usage;
pub(crate) mod window;
