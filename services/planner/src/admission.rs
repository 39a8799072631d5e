//! Admission control: which task may be dispatched now, and which one waits.
//!
//! The executors accept a bounded number of tasks for each agent ([`AgentSpec::capacity`]). The planner dispatches no more than
//! that, and follows their catalogs: a change of an agent's capacity takes effect at once. Work beyond it waits here, where it costs almost nothing, reacts at once to a cancel or a deadline, and keeps its
//! priority:
//!
//! - Priority is the order in which this planner accepted the plans, then the order of the tasks in the plan. Tasks of an
//!   earlier plan precede those of a later one, so no plan starves. Wall clocks play no part, since they jump.
//! - A task holds its permit from before its first dispatch until it has ended, across redispatches. The permit then passes
//!   to the next task of the same plan for that agent, if there is one.
//! - A synchronous plan never queues: when an agent of its first tasks is at capacity, the request is rejected
//!   ([`AtCapacity`]) before anything is journaled.
//! - Asynchronous plans are accepted up to a number of plans in flight, and queue.
//!
//! A task that waits for an approval, a time or a budget has no permit, and a plan of which every open task waits is not in flight.
//!
//! An agent that no executor offers any more has no limit: its tasks need not wait for a permit to fail.
//!
//! Several planners may share an executor. It can then be at capacity although this planner has a permit; the task keeps the
//! permit and is dispatched again (`plan_run/task.rs`).

pub mod fair_semaphore;
pub mod priority;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::select_all;
use metrics::{Counter, Gauge};
use parking_lot::RwLock;
use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode, rejections::too_many_plans,
};
use phoenix_platform::metrics::record_counter;

use crate::{
    admission::{
        fair_semaphore::{Closed, FairSemaphore, Permit, Waiter},
        priority::{PlanPriority, Priority},
    },
    metrics::{PLANS_REFUSED, refused_counter, waiting_gauge},
};

/// Bounds of the `Retry-After` of a rejected request; within them it is an estimate.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Plans that only wait and are not counted as in flight. Each takes about 8 KB of memory; further ones are counted.
const MAX_WAITING_PLANS: u32 = 100_000;

/// Capacity of a planner: one semaphore per agent, and one for plans in flight.
#[derive(Debug)]
pub struct Admission {
    plans: Arc<FairSemaphore>,
    max_plans: u32,
    /// Places of plans that only wait for approvals, times or budgets.
    waiting: Arc<FairSemaphore>,
    agents: RwLock<HashMap<AgentName, Arc<AgentCapacity>>>,
    /// Unlimited, for agents that were never known: their tasks fail.
    unknown_agents: Arc<FairSemaphore>,
    next_priority: AtomicU64,
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct AgentCapacity {
    semaphore: Arc<FairSemaphore>,
    running: AtomicU32,
    queued: AtomicU32,
    refused: Counter,
}

/// Permits that a plan holds and that no task uses yet.
#[derive(Debug, Default)]
pub struct Permits(Vec<(AgentName, Permit)>);

/// An agent without a free permit.
#[derive(Debug)]
pub struct AtCapacity<'a> {
    name: &'a AgentName,
    agent: Arc<AgentCapacity>,
}

impl Admission {
    /// Capacity for `max_plans` plans in flight, and for no agent yet.
    #[must_use]
    pub fn new(max_plans: u32) -> Self {
        Self {
            plans: FairSemaphore::new(max_plans, Gauge::noop()),
            max_plans,
            waiting: FairSemaphore::new(MAX_WAITING_PLANS, Gauge::noop()),
            agents: RwLock::default(),
            unknown_agents: FairSemaphore::new(u32::MAX, Gauge::noop()),
            next_priority: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Takes the capacity of each agent from `catalog`. Tasks that queue for an agent which is not in the catalog any more get
    /// their permits, so that they fail.
    pub fn set_agents(&self, catalog: &AgentCatalog) {
        let mut agents = self.agents.write();
        if self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        for spec in catalog.iter() {
            let agent = agents.entry(spec.name.clone()).or_insert_with(|| AgentCapacity::new(&spec.name));
            agent.set(spec);
        }
        for (_, agent) in agents.iter().filter(|(name, _)| catalog.get(name).is_err()) {
            agent.semaphore.set_permits(u32::MAX);
        }
    }

    /// Acquires capacity for one more plan in flight.
    ///
    /// # Errors
    /// `overloaded` when there is none.
    pub fn try_acquire_plan(&self) -> Result<Permit, OrchestratorError> {
        self.plans.try_acquire().ok_or_else(|| {
            record_counter(&PLANS_REFUSED, 1);
            too_many_plans(self.max_plans, retry_after(self.plans.queue().estimated_wait))
        })
    }

    /// Acquires capacity for a plan that was accepted earlier, beyond the limit if necessary.
    #[must_use]
    pub fn acquire_plan_over_limit(&self) -> Permit {
        self.plans.acquire_over_limit()
    }

    /// A place for a plan that only waits, and need not count as in flight meanwhile.
    #[must_use]
    pub fn try_acquire_waiting(&self) -> Option<Permit> {
        self.waiting.try_acquire()
    }

    /// The next priority.
    #[must_use]
    pub fn priority(&self) -> PlanPriority {
        PlanPriority::new(self.next_priority.fetch_add(1, Ordering::Relaxed))
    }

    /// The next `count` priorities.
    pub fn priorities(&self, count: usize) -> impl Iterator<Item = PlanPriority> + Send + use<> {
        let count = count as u64;
        let first = self.next_priority.fetch_add(count, Ordering::Relaxed);
        (first..first + count).map(PlanPriority::new)
    }

    /// Acquires one permit of each of `agents`. Unknown agents need none.
    ///
    /// # Errors
    /// Names an agent at capacity; no permit is taken then.
    pub fn try_acquire_all<'a>(
        &self,
        agents: impl IntoIterator<Item = &'a AgentName>,
    ) -> Result<Permits, AtCapacity<'a>> {
        let mut permits = Permits::default();
        let known = self.agents.read();
        for name in agents {
            let Some(agent) = known.get(name) else { continue };
            match agent.semaphore.try_acquire() {
                Some(permit) => permits.0.push((name.clone(), permit)),
                None => return Err(AtCapacity { name, agent: Arc::clone(agent) }),
            }
        }
        Ok(permits)
    }

    /// Acquires a permit of `agent`, if one is free.
    #[must_use]
    pub fn try_acquire(&self, agent: &AgentName) -> Option<Permit> {
        self.semaphore(agent).try_acquire()
    }

    /// Queues for a permit of `agent`.
    pub fn acquire(&self, agent: &AgentName, priority: Priority) -> Waiter {
        self.semaphore(agent).acquire(priority)
    }

    /// Waits for a permit of any of `agents`.
    ///
    /// # Errors
    /// When the planner shuts down.
    pub async fn acquire_any(&self, agents: &[(AgentName, Priority)]) -> Result<Permits, Closed> {
        if agents.is_empty() {
            return Ok(Permits::default());
        }
        let waiters = agents.iter().map(|(agent, priority)| self.acquire(agent, *priority));
        let (permit, index, _) = select_all(waiters).await;
        Ok(Permits(vec![(agents[index].0.clone(), permit?)]))
    }

    /// Gives out no more permits, so that nothing new starts during shutdown.
    pub fn close(&self) {
        let agents = self.agents.write();
        self.is_closed.store(true, Ordering::Relaxed);
        agents.values().for_each(|agent| agent.semaphore.close());
    }

    fn semaphore(&self, agent: &AgentName) -> Arc<FairSemaphore> {
        let agents = self.agents.read();
        Arc::clone(agents.get(agent).map_or(&self.unknown_agents, |agent| &agent.semaphore))
    }
}

impl AgentCapacity {
    /// No capacity yet.
    fn new(name: &AgentName) -> Arc<Self> {
        Arc::new(Self {
            semaphore: FairSemaphore::new(0, waiting_gauge(name)),
            running: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            refused: refused_counter(name),
        })
    }

    fn set(&self, spec: &AgentSpec) {
        self.running.store(spec.concurrency(), Ordering::Relaxed);
        self.queued.store(spec.max_queue, Ordering::Relaxed);
        self.semaphore.set_permits(spec.capacity());
    }
}

impl Permits {
    /// Takes the permit of `agent`, if there is one.
    pub fn take(&mut self, agent: &AgentName) -> Option<Permit> {
        let index = self.0.iter().position(|(name, _)| name == agent)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Keeps a permit of `agent` for another task.
    pub fn put(&mut self, agent: &AgentName, permit: Permit) {
        self.0.push((agent.clone(), permit));
    }

    /// Releases all permits.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl AtCapacity<'_> {
    /// The error for a rejected caller. Counts the rejection.
    #[must_use]
    pub fn reject(self) -> OrchestratorError {
        let Self { name, agent } = self;
        agent.refused.increment(1);
        let running = agent.running.load(Ordering::Relaxed);
        let queue = agent.semaphore.queue();
        let waiting = queue.waiters.saturating_add(agent.queued.load(Ordering::Relaxed) as usize);
        let retry_after = retry_after(queue.estimated_wait);
        let message = format!(
            "agent `{name}` is at capacity ({running} running, {waiting} queued); retry after {} s",
            retry_after.as_millis().div_ceil(1000)
        );
        OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
            .with_retry_after(retry_after)
            .with_detail("agent", name)
            .with_detail("running", running)
            .with_detail("waiting", waiting)
    }
}

fn retry_after(estimated_wait: Duration) -> Duration {
    estimated_wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER)
}
