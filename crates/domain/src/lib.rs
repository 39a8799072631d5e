//! Domain types: chats, plans, tasks, attempts, agents and errors.
//!
//! Everything here is pure: no runtime, no sockets, no database. State machines ([`health`]) take the current time as an
//! argument and return the next state, so that every rule can be tested without a clock. Wire types are in `phoenix-proto` and
//! are converted at the edge of each service.

pub mod action;
pub mod action_limits;
pub mod actor;
pub mod agent;
mod agent_name;
pub mod approval;
pub mod budget;
pub mod budget_pause;
pub mod builtin;
pub mod catalog;
pub mod chat;
pub mod conversation;
pub mod dead_letter;
pub mod error;
pub mod graph;
pub mod health;
pub mod ids;
pub mod input;
pub mod json;
pub mod limits;
pub mod llm;
pub mod mcp;
pub mod mcp_listing;
pub mod pattern;
pub mod plan;
pub mod planning;
pub mod questions;
pub mod rejections;
pub mod retry;
pub mod schema;
mod states;
pub mod template;
pub mod usage;
pub mod wait;

pub use action::{ActionRequest, ActionResponse, FailureClass};
pub use action_limits::ActionLimits;
pub use agent::{ActionSpec, AgentMode, AgentName, AgentSpec};
pub use catalog::AgentCatalog;
pub use error::{OrchestratorError, OrchestratorErrorCode};
pub use ids::{BulkRedriveId, CorrelationId, PlanId, TaskId};
