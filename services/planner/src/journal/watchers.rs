//! Watchers of plans, notified when their plan changes.
//!
//! A commit of this planner notifies the watchers of its plans once their events have positions in the tables. Commits of
//! other planners are found by one poll for all watchers, at an interval or after a hint of the store. Watchers only read
//! the tables: any number of them writes nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::PlanId;
use tokio::sync::{Notify, watch};

use crate::store::{
    backend::Store,
    entry::{Entries, Entry},
    error::JournalError,
};

/// Interval of the polls for changes by other planners.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Pause after the database could not be used.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The watched plans. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    plans: Mutex<Plans>,
    /// Whether any plan is watched; saves writers the lock.
    any: AtomicBool,
    committed: Notify,
}

#[derive(Debug, Default)]
struct Plans {
    watched: HashMap<PlanId, watch::Sender<()>>,
    /// Watched plans with commits whose watchers are not notified yet.
    committed: HashSet<PlanId>,
}

/// Watcher of one plan.
#[derive(Debug)]
pub struct PlanWatcher {
    watchers: Watchers,
    plan_id: PlanId,
    changes: Option<watch::Receiver<()>>,
}

impl PlanWatcher {
    /// Waits until the plan has changed since the last call, or since the watcher was created.
    pub async fn changed(&mut self) {
        // The sender exists for as long as it has a receiver.
        if let Some(changes) = &mut self.changes {
            let _ = changes.changed().await;
        }
    }
}

impl Drop for PlanWatcher {
    fn drop(&mut self) {
        let mut plans = self.watchers.lock();
        // Under the lock, so that the last watcher sees that it is the last.
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

    /// Records that these entries are durable.
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

    fn notify(&self, plan_ids: impl IntoIterator<Item = PlanId>) {
        let plans = self.lock();
        for changes in plan_ids.into_iter().filter_map(|plan_id| plans.watched.get(&plan_id)) {
            changes.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plans> {
        self.0.plans.lock()
    }
}

/// Notifies watchers until it is dropped. `position` is that of the journal before the first watcher.
pub(super) async fn run(watchers: Watchers, store: Arc<dyn Store>, mut position: u64) {
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = watchers.0.committed.notified() => publish(&watchers, &*store).await,
            // Retried on the next tick; the writer logs a journal that cannot be used.
            _ = polls.tick() => position = poll(&watchers, &*store, position).await.unwrap_or(position),
            () = store.hint() => position = poll(&watchers, &*store, position).await.unwrap_or(position),
        }
    }
}

/// Applies this planner's commits to the tables, then notifies their watchers.
async fn publish(watchers: &Watchers, store: &dyn Store) {
    loop {
        let committed = watchers.take_committed();
        if committed.is_empty() {
            return;
        }
        if store.flush().await.is_ok() {
            watchers.notify(committed);
        } else {
            watchers.lock().committed.extend(committed);
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Notifies the watchers of plans with events since `position`. Returns the position of the next search.
async fn poll(watchers: &Watchers, store: &dyn Store, position: u64) -> Result<u64, JournalError> {
    let watched = watchers.watched();
    if watched.is_empty() {
        // The first watched plan may be reported although it has not changed.
        return Ok(position);
    }
    let changes = store.changes(&watched, position).await?;
    watchers.notify(changes.plans);
    Ok(changes.position)
}
