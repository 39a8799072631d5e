//! The journal: every plan, task, attempt and event, durable before anybody is told of it.
//!
//! Entries are handed to one writer, which commits whatever has gathered while the last commit ran, so that plans at the
//! same time share one fsync. Reading goes past the writer, to the committed state.

mod damage;
mod lease;
mod watchers;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, BulkRedriveId, PlanId,
    dead_letter::DeadLetter,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::{readiness::Readiness, sqlite::OpenError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

pub use self::watchers::PlanWatcher;
use self::watchers::Watchers;
use crate::store::{
    self, DeadLetterPlace, DeadLetterQuery, Entries, Entry, Event, Extent, Forgotten, JournalError, LeftPlan,
    OldPlans, OpenDeadLetters, Page, PlanFilter, Store, Sweep, TakeoverScope, Unfinished, Unreadable,
    UsedKey,
};

/// Entries that may wait for the writer; beyond it, whoever appends waits.
const QUEUE: usize = 4096;

/// Access to the journal. Cheap to clone; the writer ends when the last one is gone.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: mpsc::Sender<writer::Job>,
    store: Arc<dyn Store>,
    instance: Arc<str>,
    behind: Arc<AtomicBool>,
    others: Arc<tokio::sync::Mutex<(lease::Others, lease::Left)>>,
    fenced: CancellationToken,
    watchers: Watchers,
    damage: Arc<damage::Damage>,
    renewal: Arc<AbortOnDropHandle<()>>,
    publisher: Arc<AbortOnDropHandle<()>>,
    _writer: Arc<AbortOnDropHandle<()>>,
}

impl Journal {
    /// Opens, or makes, the journal at `url`, under a lease of its own. Meets the condition `journal` of `readiness` while
    /// it takes entries.
    ///
    /// # Errors
    /// When the database can't be opened or was written by a newer version.
    pub async fn open(url: &str, readiness: Readiness) -> Result<Self, StartError> {
        let store = store::open(url).await?;
        let instance = Uuid::new_v4().to_string();
        let unusable = |cause| StartError::Journal { url: url.to_owned(), cause };
        store.register(&instance).await.map_err(&unusable)?;
        let position = store.position().await.map_err(unusable)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let watchers = Watchers::default();
        let fenced = CancellationToken::new();
        let behind = Arc::new(AtomicBool::new(false));
        let writer = writer::Writer {
            store: Arc::clone(&store),
            planner: instance.clone(),
            readiness,
            behind: Arc::clone(&behind),
            fenced: fenced.clone(),
            watchers: watchers.clone(),
        };
        let writer = tokio::spawn(writer::run(writer, jobs));
        let renewal = tokio::spawn(renew(queue.downgrade()));
        let publisher = tokio::spawn(watchers::run(watchers.clone(), Arc::clone(&store), position));
        Ok(Self {
            queue,
            store,
            instance: instance.into(),
            behind,
            others: Arc::default(),
            fenced,
            watchers,
            damage: Arc::default(),
            renewal: Arc::new(AbortOnDropHandle::new(renewal)),
            publisher: Arc::new(AbortOnDropHandle::new(publisher)),
            _writer: Arc::new(AbortOnDropHandle::new(writer)),
        })
    }

    /// Cancelled when another planner has taken over: this one must stop.
    #[must_use]
    pub const fn fenced(&self) -> &CancellationToken {
        &self.fenced
    }

    /// Takes over what planners that are gone left undone. Plans with open tasks for other agents than `agents` are left to
    /// a planner that knows them, for `grace`; those that are to be cancelled need none.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn claim(&self, agents: &AgentCatalog, grace: Duration) -> Result<Unfinished, JournalError> {
        let alive = self.store.planners().await?;
        let mut others = self.others.lock().await;
        let (others, left) = &mut *others;
        let dead = others.dead(&self.instance, alive);
        let mut anyway = left.overdue(grace);
        anyway.extend(self.store.cancel_requests().await?.into_iter().map(|(plan_id, _)| plan_id));
        let agents = agents.iter().map(|spec| spec.name.clone()).collect();
        let scope = TakeoverScope { agents: Some(agents), anyway };
        let claimed = self.store.claim(&self.instance, &dead, &scope).await?;
        claimed.unreadable.iter().for_each(|record| self.damage.meet(record));
        for LeftPlan { plan_id, agent } in left.update(&claimed.left) {
            let grace_secs = grace.as_secs();
            tracing::warn!(%plan_id, agent, grace_secs, "plan left to a planner that knows its agent");
        }
        Ok(claimed)
    }

    /// Asks whichever planner owns a plan to cancel it.
    ///
    /// # Errors
    /// When the request can't be made durable.
    pub async fn request_cancel(&self, plan_id: PlanId, reason: &str) -> Result<(), JournalError> {
        self.store.request_cancel(&self.instance, plan_id, reason, Timestamp::now()).await
    }

    /// Plans that are to be cancelled, whoever owns them, with the reasons.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError> {
        self.store.cancel_requests().await
    }

    /// Deletes the requests to cancel plans that have ended.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn forget_cancel_requests(&self) -> Result<(), JournalError> {
        self.store.forget_cancel_requests().await
    }

    /// The state of a plan, or the one before, if it has changed a moment ago.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn moved_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
        self.store.moved_status(plan_id).await
    }

    /// Gives the lease up, so that a successor need not wait for its end, and lets go of the database. Nobody must read or
    /// write afterwards.
    pub async fn close(&self) {
        self.renewal.abort();
        self.publisher.abort();
        if let Err(error) = self.store.release(&self.instance).await {
            tracing::warn!(%error, "the lease could not be given up; it runs out by itself");
        }
        self.store.close().await;
    }

    /// Makes the acceptance of something new durable (a plan, with what is already known of its end), all of it or nothing.
    ///
    /// # Errors
    /// When it could not be made durable, or claims what was claimed before ([`JournalError::Taken`]); then it does not
    /// exist.
    pub async fn accept(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        if self.behind.load(Ordering::Relaxed) {
            return Err(JournalError::Behind);
        }
        let (done, committed) = oneshot::channel();
        self.send(writer::Job::Accept { entries: entries.into(), done }).await?;
        committed.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Adds progress of an accepted plan and waits until it is durable. While the database does not take it, it is tried
    /// again, in order: an accepted plan's history has no holes.
    ///
    /// # Errors
    /// Only when the process ends meanwhile.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        let (done, committed) = oneshot::channel();
        self.send(writer::Job::Progress { entries: entries.into(), done: Some(done) }).await?;
        committed.await.map_err(|_| JournalError::Closed)
    }

    /// As [`Self::record`], without waiting: for steps that nobody is told of before a later one is durable.
    ///
    /// # Errors
    /// Only when the process ends meanwhile.
    pub async fn note(&self, entry: Entry) -> Result<(), JournalError> {
        self.send(writer::Job::Progress { entries: [entry].into(), done: None }).await
    }

    /// One plan with its tasks and attempts.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn plan(&self, plan_id: PlanId) -> Result<Option<Plan>, JournalError> {
        let plan = self.store.plan(plan_id).await;
        if let Err(JournalError::Damaged(what)) = &plan {
            self.damage.meet(&Unreadable { id: plan_id.to_string(), what: what.clone() });
        }
        plan
    }

    /// Several plans with their tasks and attempts, those that are there. One that can't be read does not spoil the others.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn whole_plans(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        let plans = self.store.whole_plans(plan_ids).await?;
        for (plan_id, plan) in &plans {
            if let Err(JournalError::Damaged(what)) = plan {
                self.damage.meet(&Unreadable { id: plan_id.to_string(), what: what.clone() });
            }
        }
        Ok(plans)
    }

    /// Plans, newest first, without their tasks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError> {
        let page = self.store.plans(filter).await?;
        page.unreadable.iter().for_each(|record| self.damage.meet(record));
        Ok(page)
    }

    /// What `key` stands for and how it was first used, if that was not before `not_before`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn subject_of_key(
        &self,
        key: &str,
        not_before: Timestamp,
    ) -> Result<Option<UsedKey>, JournalError> {
        self.store.subject_of_key(key, not_before).await
    }

    /// Events of a plan after `position`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        self.store.events(plan_id, position, limit).await
    }

    /// As [`Self::events`], without moving anything: what was committed a moment ago may be missing. A watcher of the plan
    /// is woken when it is there.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn moved_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        self.store.moved_events(plan_id, position, limit).await
    }

    /// Deletes a batch of plans that ended long ago.
    ///
    /// # Errors
    /// When the database can't be used, or another planner has taken over.
    pub async fn forget_plans(&self, old: &OldPlans) -> Result<Forgotten, JournalError> {
        self.store.forget_plans(&self.instance, old).await
    }

    /// Deletes at most `limit` keys that were first used before `before`: how many.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn forget_keys(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.store.forget_keys(&self.instance, before, limit).await
    }

    /// When the oldest plan was accepted that has not ended, whoever runs it.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError> {
        self.store.oldest_unfinished().await
    }

    /// How much there is.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn extent(&self) -> Result<Extent, JournalError> {
        self.store.extent().await
    }

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterPlace>, JournalError> {
        let page = self.store.dead_letters(query).await?;
        page.unreadable.iter().for_each(|record| self.damage.meet(record));
        Ok(page)
    }

    /// How many dead letters are open, or were a moment ago.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError> {
        self.store.open_dead_letters().await
    }

    /// A sweep, and how many dead letters it has selected.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn sweep(&self, sweep_id: BulkRedriveId) -> Result<Option<(Sweep, u64)>, JournalError> {
        self.store.sweep(sweep_id).await
    }

    /// Plans with dead letters that a sweep has selected and that are still open, oldest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn swept_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
        self.store.swept_plans(sweep_id).await
    }

    /// Watches a plan from now on, whichever planner writes it.
    #[must_use]
    pub fn watch(&self, plan_id: PlanId) -> PlanWatcher {
        self.watchers.watch(plan_id)
    }

    async fn send(&self, job: writer::Job) -> Result<(), JournalError> {
        self.queue.send(job).await.map_err(|_| JournalError::Closed)
    }
}

/// Keeps the lease of a planner that has nothing to write.
async fn renew(queue: mpsc::WeakSender<writer::Job>) {
    let mut every = tokio::time::interval(lease::RENEW_EVERY);
    loop {
        every.tick().await;
        let Some(queue) = queue.upgrade() else { return };
        // A full queue renews by itself.
        let _ = queue.try_send(writer::Job::Progress { entries: Arc::default(), done: None });
    }
}

/// Why the journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database can't be opened or migrated.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be written.
    #[error("{url}: {cause}")]
    Journal {
        /// Where it is, for the operator.
        url: String,
        /// What is wrong.
        cause: JournalError,
    },
}
