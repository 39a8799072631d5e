//! A load generator for `POST /api/v1/chat` that is light enough to share a small machine with what it measures: one
//! thread, one keep-alive HTTP/1.1 connection per worker, and no more of an answer parsed than "did it work?".
//!
//! ```text
//! args ─→ Target + Load ─→ Engine ─┬─ Schedule: when is the next request due?
//!                                  └─ Connection: send it, read the answer
//!                             └─→ Tally ─→ Report ─→ table or JSON, exit code
//! ```
//!
//! Closed loop: each connection sends its next request when the last one is answered. Open loop: requests are due at
//! fixed times independent of the server, and a latency begins when its request was *due*, so that a server that stalls
//! is charged for everyone who had to wait (no coordinated omission).
//!
//! The library exists for other tools of this workspace: the benchmark drives its servers with the same [`Engine`].

pub mod args;
mod connection;
mod engine;
mod live;
mod load;
pub mod metrics;
mod outcome;
mod pacer;
mod progress;
mod report;
mod run;
mod schedule;
mod tally;
mod target;
mod tls;

pub use engine::Engine;
pub use live::Live;
pub use load::{Load, Pace};
pub use outcome::Outcome;
pub use report::{LatencyMs, Limits, OutcomeCount, Report};
pub use run::{USAGE, run};
pub use tally::Tally;
pub use target::{Gateway, InvalidTarget, Target};
