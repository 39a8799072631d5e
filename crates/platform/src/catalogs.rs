//! Catalogs of the executors: which agents exist, and what their actions, limits and policies are.
//!
//! Each executor streams its catalog. A [`CatalogView`] follows the executors and merges what they offer, so that an agent
//! is known while at least one executor offers it. An agent that no executor offers any more stays known for a grace period: an
//! executor that restarts takes nothing away.

mod choice;
mod executor;
mod follow;
mod offers;
mod view;

pub use self::{
    choice::Choice,
    executor::{ExecutorPeer, TaskInFlight},
    follow::{Follow, follow},
    view::{CatalogView, KnownAgents},
};

#[cfg(test)]
mod tests;
