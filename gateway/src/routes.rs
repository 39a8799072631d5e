//! The endpoints, one file per subject. A handler decodes, calls and encodes; it decides nothing.

pub(crate) mod agents;
pub(crate) mod chat;
pub(crate) mod dead_letters;
pub(crate) mod health;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod plans;
