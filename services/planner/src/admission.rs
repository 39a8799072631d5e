//! Who may hand a task over now, and who waits.
//!
//! The executor takes a bounded number of tasks of each agent ([`AgentSpec::places`]). The planner hands over no more than
//! that; what is beyond waits here, where it costs next to nothing, sees its cancel and its deadline at once, and keeps its
//! turn:
//!
//! - Turns go by the order in which this planner took plans in, and within a plan by the order of its tasks. So what an
//!   earlier plan has still to do goes before what a later one begins, and none can be overtaken for ever. No clock is
//!   asked: they jump.
//! - A place is held from before a task's first handover until the task has ended, through every handover in between, and
//!   then goes to the plan's next task for the same agent, if there is one.
//! - A caller who waits for its plan is not put in line: when an agent that its plan begins with has no place, it is told
//!   so ([`Full`]) before anything is journalled. The place it does get is kept for its task.
//! - Plans that nobody waits for are taken in up to a number of plans in flight, and wait.
//!
//! Several planners may share an executor. Then it may be full although this planner has a place left: the task keeps its
//! place and knocks again ([`crate::run`]).

mod gate;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::select_all;
use metrics::{Counter, Gauge};
use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode, rejections::too_many_plans,
};
use phoenix_platform::metrics::record_counter;

use crate::metrics::{PLANS_REFUSED, refused_counter, waiting_gauge};
use gate::Gate;
pub use gate::{Closed, Place, Waiting};

/// What a caller who was turned away is told to wait, at least and at most: a guess is a guess.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Every gate of a planner.
#[derive(Debug)]
pub struct Admission {
    plans: Arc<Gate>,
    max_plans: u32,
    agents: HashMap<AgentName, Agent>,
    /// For agents that there are not: whoever asks for one is told by the executor.
    nobody: Arc<Gate>,
    turns: AtomicU64,
}

#[derive(Debug)]
struct Agent {
    gate: Arc<Gate>,
    running: u32,
    queued: u32,
    refused: Counter,
}

/// A plan's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlanTurn(u64);

/// A task's turn: that of its plan, then its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(PlanTurn, usize);

/// Places that a plan has, and no task of it uses yet.
#[derive(Debug, Default)]
pub struct Places(Vec<(AgentName, Place)>);

/// An agent that has no place.
#[derive(Debug)]
pub struct Full<'a> {
    name: &'a AgentName,
    agent: &'a Agent,
}

impl Admission {
    /// Gates for the agents of a catalog, and one for `max_plans` plans in flight.
    #[must_use]
    pub fn new(agents: &AgentCatalog, max_plans: u32) -> Self {
        let gate = |spec: &AgentSpec| Agent {
            gate: Gate::new(spec.capacity(), waiting_gauge(&spec.name)),
            running: spec.concurrency(),
            queued: spec.max_queue,
            refused: refused_counter(&spec.name),
        };
        Self {
            plans: Gate::new(max_plans, Gauge::noop()),
            max_plans,
            agents: agents.iter().map(|spec| (spec.name.clone(), gate(spec))).collect(),
            nobody: Gate::new(u32::MAX, Gauge::noop()),
            turns: AtomicU64::new(0),
        }
    }

    /// Room for one more plan in flight.
    ///
    /// # Errors
    /// `overloaded` when there is none.
    pub fn room(&self) -> Result<Place, OrchestratorError> {
        self.plans.take().ok_or_else(|| {
            record_counter(&PLANS_REFUSED, 1);
            let max = self.max_plans;
            too_many_plans(max, retry_after(self.plans.outlook().1))
        })
    }

    /// Room for a plan that was accepted before.
    #[must_use]
    pub fn room_anyway(&self) -> Place {
        self.plans.take_anyway()
    }

    /// The next turn.
    #[must_use]
    pub fn turn(&self) -> PlanTurn {
        PlanTurn(self.turns.fetch_add(1, Ordering::Relaxed))
    }

    /// The next `count` turns.
    pub fn turns(&self, count: usize) -> impl Iterator<Item = PlanTurn> + Send + use<> {
        let count = count as u64;
        let first = self.turns.fetch_add(count, Ordering::Relaxed);
        (first..first + count).map(PlanTurn)
    }

    /// A place at each of `agents`.
    ///
    /// # Errors
    /// Names one that has none; then none is taken.
    pub fn take<'a>(&self, agents: impl IntoIterator<Item = &'a AgentName>) -> Result<Places, Full<'_>> {
        let mut places = Places::default();
        for (name, agent) in agents.into_iter().filter_map(|name| self.agents.get_key_value(name)) {
            match agent.gate.take() {
                Some(place) => places.0.push((name.clone(), place)),
                None => return Err(Full { name, agent }),
            }
        }
        Ok(places)
    }

    /// A place at `agent`, if there is one.
    #[must_use]
    pub fn take_one(&self, agent: &AgentName) -> Option<Place> {
        self.gate(agent).take()
    }

    /// Gets in line for a place at `agent`.
    pub fn wait(&self, agent: &AgentName, turn: Turn) -> Waiting {
        self.gate(agent).wait(turn)
    }

    /// Waits for a place at any of `agents`.
    ///
    /// # Errors
    /// When the planner ends.
    pub async fn any_place(&self, agents: &[(AgentName, Turn)]) -> Result<Places, Closed> {
        if agents.is_empty() {
            return Ok(Places::default());
        }
        let (place, which, _) = select_all(agents.iter().map(|(agent, turn)| self.wait(agent, *turn))).await;
        Ok(Places(vec![(agents[which].0.clone(), place?)]))
    }

    /// Gives no place any more, so that nothing new is begun while the planner ends.
    pub fn close(&self) {
        self.agents.values().for_each(|agent| agent.gate.close());
    }

    fn gate(&self, agent: &AgentName) -> &Arc<Gate> {
        self.agents.get(agent).map_or(&self.nobody, |agent| &agent.gate)
    }
}

impl PlanTurn {
    /// The turn of the plan's task at `ordinal`.
    #[must_use]
    pub const fn task(self, ordinal: usize) -> Turn {
        Turn(self, ordinal)
    }
}

impl Places {
    /// The place at `agent`, if there is one left.
    pub fn take(&mut self, agent: &AgentName) -> Option<Place> {
        let found = self.0.iter().position(|(name, _)| name == agent)?;
        Some(self.0.swap_remove(found).1)
    }

    /// Keeps a place at `agent` for another task.
    pub fn keep(&mut self, agent: &AgentName, place: Place) {
        self.0.push((agent.clone(), place));
    }

    /// Gives back what is left.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Full<'_> {
    /// Turns a caller away.
    #[must_use]
    pub fn refuse(self) -> OrchestratorError {
        let Self { name, agent: Agent { gate, running, queued, refused } } = self;
        refused.increment(1);
        let (in_line, outlook) = gate.outlook();
        let waiting = in_line.saturating_add(*queued as usize);
        let message =
            format!("agent `{name}` is busy: {running} tasks run and {waiting} wait; try again shortly");
        OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
            .with_retry_after(retry_after(outlook))
            .with_detail("agent", name)
            .with_detail("running", running)
            .with_detail("waiting", waiting)
    }
}

fn retry_after(outlook: Duration) -> Duration {
    outlook.clamp(SHORTEST_WAIT, LONGEST_WAIT)
}
