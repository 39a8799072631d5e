//! Health of an agent and its circuit breaker, as a pure state machine.
//!
//! ```text
//!           consecutive failures of two tasks, failure rate, slow calls
//!  closed ─────────────────────────────────────────────────────────────▶ open until `circuit_open_until`
//!     ▲                                                                    │            ▲
//!     └── `success_threshold` successes ── half open: one probe at a time ◀┘            │
//!                                               └── failed or slow probe: twice as long ┘
//!  isolated: by an operator, until an operator restores the agent
//! ```
//!
//! Outcomes are counted per attempt, but the attempts of a single task never open a circuit: a request that crashes its agent
//! says little about the next request. A circuit opens after consecutive failures of at least two tasks, or because of the
//! rates of failed or slow calls in a sliding [`Window`]. An outcome without information about the agent
//! ([`Outcome::Neutral`]: a cancelled attempt, an invalid request) only releases the probe. While a circuit is open, only
//! attempts that have started since are evidence that the agent works.

mod breaker;
mod circuit;
mod policy;
mod record;
mod window;

pub use self::{
    circuit::{Cause, Circuit, CircuitState, Evidence, Isolation, Standing, Transition, check_decision},
    policy::{BreakerPolicy, MAX_WINDOW_CALLS, MIN_TASKS},
    record::{Admission, AgentHealth, HealthState, Outcome, Probe, Report},
    window::Window,
};

#[cfg(test)]
mod tests;
