//! Messages of the Model Context Protocol (<https://modelcontextprotocol.io>), for the side of the server.

pub(crate) mod agent;
pub(crate) mod call;
pub(crate) mod era;
pub(crate) mod legacy_task;
pub(crate) mod message;
pub(crate) mod progress;
pub(crate) mod result;
pub(crate) mod schema;
pub(crate) mod task;
pub(crate) mod task_support;
pub(crate) mod tool;
pub(crate) mod tool_name;
