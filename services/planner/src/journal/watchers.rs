//! Watchers of plans, woken when their plan has changed, and by nothing else.
//!
//! A commit of this planner wakes the watchers of the plans in it, after their events have positions in the tables. What
//! another planner of the same journal writes is found by one look for all watchers, which reads one number for as long as
//! nothing has happened. Watchers read the tables only: however many there are, they write nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use phoenix_domain::PlanId;
use tokio::sync::{Notify, watch};

use super::{Entries, Entry, JournalError, Store};

/// How often changes by other planners are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The wait after the database could not be used.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The plans that are watched. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    plans: Mutex<Plans>,
    /// Whether any plan is watched, for writers that should not take the lock for nothing.
    any: AtomicBool,
    committed: Notify,
}

#[derive(Debug, Default)]
struct Plans {
    watched: HashMap<PlanId, watch::Sender<()>>,
    /// Those of them that were committed, and whose watchers are still to be woken.
    committed: HashSet<PlanId>,
}

/// One watcher of one plan.
#[derive(Debug)]
pub struct PlanWatcher {
    watchers: Watchers,
    plan_id: PlanId,
    changes: Option<watch::Receiver<()>>,
}

impl PlanWatcher {
    /// Waits until the plan has changed since the last call, or since the watcher was made.
    pub async fn changed(&mut self) {
        // The sender lives for as long as it has a receiver.
        if let Some(changes) = &mut self.changes {
            let _ = changes.changed().await;
        }
    }
}

impl Drop for PlanWatcher {
    fn drop(&mut self) {
        let mut plans = self.watchers.lock();
        // Under the lock, so that the last one to go finds that it is the last.
        self.changes = None;
        if plans.watched.get(&self.plan_id).is_some_and(|changes| changes.receiver_count() == 0) {
            plans.watched.remove(&self.plan_id);
            plans.committed.remove(&self.plan_id);
            self.watchers.0.any.store(!plans.watched.is_empty(), Ordering::Release);
        }
    }
}

impl Watchers {
    /// Watches a plan from now on.
    pub(super) fn watch(&self, plan_id: PlanId) -> PlanWatcher {
        let mut plans = self.lock();
        let changes = plans.watched.entry(plan_id).or_insert_with(|| watch::Sender::new(())).subscribe();
        self.0.any.store(true, Ordering::Release);
        PlanWatcher { watchers: self.clone(), plan_id, changes: Some(changes) }
    }

    /// These entries are durable.
    pub(super) fn committed(&self, groups: &[Entries]) {
        if !self.0.any.load(Ordering::Acquire) {
            return;
        }
        let mut plans = self.lock();
        let Plans { watched, committed } = &mut *plans;
        let changed = groups.iter().flat_map(|group| group.iter()).filter_map(Entry::plan_id);
        let before = committed.len();
        committed.extend(changed.filter(|plan_id| watched.contains_key(plan_id)));
        if committed.len() > before {
            self.0.committed.notify_one();
        }
    }

    fn take_committed(&self) -> HashSet<PlanId> {
        std::mem::take(&mut self.lock().committed)
    }

    fn watched(&self) -> Vec<PlanId> {
        self.lock().watched.keys().copied().collect()
    }

    fn wake(&self, plan_ids: impl IntoIterator<Item = PlanId>) {
        let plans = self.lock();
        for changes in plan_ids.into_iter().filter_map(|plan_id| plans.watched.get(&plan_id)) {
            changes.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plans> {
        // Nothing panics while it is locked.
        self.0.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes watchers for as long as it is polled. `position` is that of the journal before the first of them came.
pub(super) async fn run(watchers: Watchers, store: Arc<dyn Store>, mut position: u64) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = watchers.0.committed.notified() => publish(&watchers, &*store).await,
            // What can't be read is tried again; whoever writes the journal logs that it can't be used.
            _ = looks.tick() => position = look(&watchers, &*store, position).await.unwrap_or(position),
        }
    }
}

/// Has what this planner committed moved to where watchers read, then wakes them.
async fn publish(watchers: &Watchers, store: &dyn Store) {
    loop {
        let committed = watchers.take_committed();
        if committed.is_empty() {
            return;
        }
        if store.settle().await.is_ok() {
            watchers.wake(committed);
        } else {
            watchers.lock().committed.extend(committed);
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Wakes the watchers of plans with events after `position`, and tells the position that was found.
async fn look(watchers: &Watchers, store: &dyn Store, position: u64) -> Result<u64, JournalError> {
    let watched = watchers.watched();
    let now = store.position().await?;
    if now != position && !watched.is_empty() {
        watchers.wake(store.changed_since(&watched, position).await?);
    }
    Ok(now)
}
