//! The words of the product as types: what a chat, a plan, a task, an attempt, an agent and a failure are.
//!
//! Everything here is pure: no runtime, no sockets, no database. State machines ([`plan`], [`health`]) take the
//! present time as an argument and give the next state back, so that every rule can be tested without a clock.
//! Wire types live in `phoenix-proto` and are turned into these types at the edge of each service.

pub mod action;
pub mod agent;
pub mod builtin;
pub mod catalog;
pub mod chat;
pub mod dead_letter;
pub mod error;
pub mod graph;
pub mod health;
pub mod ids;
pub mod input;
pub mod json;
pub mod limits;
pub mod llm;
pub mod plan;
pub mod rejections;
pub mod retry;
pub mod schema;
pub mod template;

pub use action::{ActionRequest, ActionResponse, FailureClass};
pub use agent::{ActionSpec, AgentMode, AgentName, AgentSpec};
pub use catalog::AgentCatalog;
pub use error::{OrchestratorError, OrchestratorErrorCode};
pub use ids::{BulkRedriveId, CorrelationId, PlanId, TaskId};
