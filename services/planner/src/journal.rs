//! The journal: every plan, task, attempt and event, durable before any caller learns of it.
//!
//! Entries go to a writer, which commits everything that queued during the last commit, so that concurrent plans share one
//! fsync. A store across a network has several writers, which commit concurrently; all entries of a plan go to the same one.
//! Reads bypass the writers and see the committed state.

mod batch;
mod damage;
mod ownership;
mod reads;
mod registration;
mod rejected;
pub(crate) mod statistics;
mod watchers;
mod writer;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{AgentCatalog, PlanId, budget::Account, plan::PlanStatus};
use phoenix_platform::{postgres::Pooler, readiness::Readiness};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::watchers::PlanWatcher;
use self::{batch::Job, registration::Registration, statistics::Statistics, watchers::Watchers};
use crate::store::{
    self,
    approval::NewDecision,
    backend::Store,
    budget::{Balance, Call, Charge, Use, Verdict},
    entry::{BatchId, Entry},
    error::JournalError,
    query::{OldPlans, Purged},
    takeover::{PlanOwner, SkippedPlan, TakeoverScope, Unfinished},
    task_ref::TaskRef,
};

/// Pause before a budget is written again.
const BUDGET_RETRY_AFTER: Duration = Duration::from_millis(250);

/// Longest wait for the statistics at the end.
const LAST_STATISTICS: Duration = Duration::from_secs(1);

/// Capacity of a writer's queue; beyond it, appends wait.
const QUEUE: usize = 4096;

/// Access to the journal. Cheap to clone; the writers end with the last clone.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Queues of the writers.
    queues: Arc<[mpsc::Sender<Job>]>,
    store: Arc<dyn Store>,
    instance: Arc<str>,
    backlog: Arc<writer::Backlog>,
    peers: Arc<tokio::sync::Mutex<(ownership::PeerLiveness, ownership::SkippedPlans)>>,
    fenced: CancellationToken,
    watchers: Watchers,
    statistics: Statistics,
    damage: Arc<damage::DamageLog>,
    heartbeat: Arc<AbortOnDropHandle<()>>,
    publisher: Arc<AbortOnDropHandle<()>>,
    counting: Arc<AbortOnDropHandle<()>>,
    _writers: Arc<[AbortOnDropHandle<()>]>,
}

impl Journal {
    /// Opens the journal at `url`, or creates it, as a new owner of plans. Meets the condition `journal` of `readiness` while
    /// entries can be committed.
    ///
    /// # Errors
    /// When the database cannot be opened or was written by a newer version.
    pub async fn open(url: &str, readiness: Readiness) -> Result<Self, StartError> {
        Self::open_behind(url, Pooler::default(), readiness).await
    }

    /// As [`Self::open`], with a PostgreSQL database behind `pooler`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_behind(url: &str, pooler: Pooler, readiness: Readiness) -> Result<Self, StartError> {
        let store = store::open_behind(url, pooler).await?;
        let location = store.location();
        let registered = registration::register(&*store).await;
        let Registration { instance, position } =
            registered.map_err(|cause| StartError::Journal { location: location.clone(), cause })?;
        tracing::info!(database = location, planner = instance, "journal opened");
        let (watchers, statistics) = (Watchers::default(), Statistics::default());
        let fenced = CancellationToken::new();
        let backlog = Arc::new(writer::Backlog::none(readiness));
        let (mut queues, mut writers) = (Vec::new(), Vec::new());
        for number in 0..store.writers().max(1) {
            let (queue, jobs) = mpsc::channel(QUEUE);
            let (store, backlog) = (Arc::clone(&store), Arc::clone(&backlog));
            let batch = BatchId { planner: instance.clone(), writer: number, sequence: 0 };
            let committed = (watchers.clone(), statistics.clone());
            let writer = writer::Writer::new(store, batch, backlog, fenced.clone(), committed);
            writers.push(AbortOnDropHandle::new(tokio::spawn(writer::run(writer, jobs))));
            queues.push(queue);
        }
        let heartbeat = tokio::spawn(send_heartbeats(queues[0].downgrade()));
        let publisher = tokio::spawn(watchers::run(watchers.clone(), Arc::clone(&store), position));
        let counting = statistics::run(statistics.clone(), Arc::clone(&store), instance.clone());
        Ok(Self {
            queues: queues.into(),
            store,
            instance: instance.into(),
            backlog,
            peers: Arc::default(),
            fenced,
            watchers,
            statistics,
            damage: Arc::default(),
            heartbeat: Arc::new(AbortOnDropHandle::new(heartbeat)),
            publisher: Arc::new(AbortOnDropHandle::new(publisher)),
            counting: Arc::new(AbortOnDropHandle::new(tokio::spawn(counting))),
            _writers: writers.into(),
        })
    }

    /// Cancelled when another planner has taken over; this planner must stop then.
    #[must_use]
    pub const fn fenced(&self) -> &CancellationToken {
        &self.fenced
    }

    /// Takes over the unfinished work of planners that are gone. Plans with open tasks for agents other than `agents` are
    /// left to a planner that knows them, for `grace`; plans with a cancel request need no agent.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn take_over(
        &self,
        agents: &AgentCatalog,
        grace: Duration,
    ) -> Result<Unfinished, JournalError> {
        let alive = self.store.planners().await?;
        let mut peers = self.peers.lock().await;
        let (liveness, skipped) = &mut *peers;
        let dead = liveness.dead(&self.instance, alive, Instant::now());
        let mut regardless = skipped.overdue(grace);
        regardless.extend(self.store.cancel_requests().await?.into_iter().map(|(plan_id, _)| plan_id));
        let agents = agents.iter().map(|spec| spec.name.clone()).collect();
        let scope = TakeoverScope { agents: Some(agents), regardless };
        let taken = self.store.take_over(&self.instance, &dead, &scope, Timestamp::now()).await?;
        taken.unreadable.iter().for_each(|record| self.damage.report(record));
        for SkippedPlan { plan_id, agent } in skipped.update(&taken.skipped) {
            let grace_secs = grace.as_secs();
            tracing::warn!(%plan_id, agent, grace_secs, "plan left to a planner that knows its agent");
        }
        Ok(taken)
    }

    /// Reserves what a call needs, as soon as the database allows it.
    ///
    /// # Errors
    /// When the process ends first, or this planner was fenced.
    pub async fn reserve(&self, call: Call, charges: &[Charge]) -> Result<Vec<Verdict>, JournalError> {
        let mut is_logged = false;
        loop {
            match self.store.reserve(&self.instance, call, charges, Timestamp::now()).await {
                Err(error) if self.may_pass(&error, &mut is_logged) => {}
                done => return done,
            }
            tokio::time::sleep(BUDGET_RETRY_AFTER).await;
        }
    }

    /// Ends the reservation of a call, and counts what it used, as soon as the database allows it.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub async fn settle(&self, call: Call, used: &[Use]) -> Result<(), JournalError> {
        let mut is_logged = false;
        loop {
            match self.store.settle(&self.instance, call, used, Timestamp::now()).await {
                Err(error) if self.may_pass(&error, &mut is_logged) => {}
                done => return done,
            }
            tokio::time::sleep(BUDGET_RETRY_AFTER).await;
        }
    }

    /// The state of accounts of budgets.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn balances(&self, accounts: &[Account]) -> Result<Vec<Balance>, JournalError> {
        self.store.balances(accounts).await
    }

    /// Whether a write of a budget, which may be repeated, may succeed later. Logs the first failure.
    fn may_pass(&self, error: &JournalError, is_logged: &mut bool) -> bool {
        let may_pass = !self.fenced.is_cancelled()
            && matches!(
                error,
                JournalError::Database(_) | JournalError::InDoubt(_) | JournalError::FileGone(_)
            );
        if may_pass && !std::mem::replace(is_logged, true) {
            tracing::warn!(%error, "a budget cannot be written; retrying");
        }
        may_pass
    }

    /// Identity of this planner in the journal.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Records the URL at which other planners reach this one.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn advertise(&self, url: &str) -> Result<(), JournalError> {
        self.store.advertise(&self.instance, url).await
    }

    /// The planner that runs a plan, this one or another, if the plan is unfinished and its planner advertises a URL.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn owner(&self, plan_id: PlanId) -> Result<Option<PlanOwner>, JournalError> {
        self.store.owner(plan_id).await
    }

    /// Identities of every planner that is an owner of plans.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn planners(&self) -> Result<HashSet<String>, JournalError> {
        Ok(self.store.planners().await?.into_iter().map(|heartbeat| heartbeat.planner).collect())
    }

    /// Requests the cancel of a plan from the planner that owns it.
    ///
    /// # Errors
    /// When the request cannot be made durable.
    pub async fn request_cancel(&self, plan_id: PlanId, reason: &str) -> Result<(), JournalError> {
        self.store.request_cancel(&self.instance, plan_id, reason, Timestamp::now()).await
    }

    /// Pending cancel requests for plans of all planners, with their reasons.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError> {
        self.store.cancel_requests().await
    }

    /// Deletes the cancel requests for plans that have ended.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn delete_finished_cancel_requests(&self) -> Result<(), JournalError> {
        self.store.delete_finished_cancel_requests().await
    }

    /// Writes a decision about the approval of a task, unless there is one, the task does not wait, or its approval has expired.
    /// Returns whether it was written.
    ///
    /// # Errors
    /// When the decision cannot be made durable. It may have been written all the same.
    pub async fn decide(&self, task: TaskRef, decision: &NewDecision) -> Result<bool, JournalError> {
        self.store.decide(&self.instance, task, decision).await
    }

    /// Status of a plan as the tables have it; a change of the last moment may be missing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn applied_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
        self.store.applied_status(plan_id).await
    }

    /// Gives the ownership of plans up, so that a successor need not wait for the lease to expire, and closes the database.
    /// The journal cannot be used afterwards.
    pub async fn close(&self) {
        self.heartbeat.abort();
        self.publisher.abort();
        self.counting.abort();
        // A database that does not answer must not delay the shutdown.
        let stored = self.statistics.store(&*self.store, &self.instance);
        let _ = tokio::time::timeout(LAST_STATISTICS, stored).await;
        if let Err(error) = self.store.release(&self.instance).await {
            tracing::warn!(%error, "the lease could not be released; it expires on its own");
        }
        self.store.close().await;
    }

    /// Commits the creation of something new (a plan, with the entries that are known already), all of it or nothing.
    ///
    /// # Errors
    /// When it could not be made durable, or reserves what is reserved already ([`JournalError::AlreadyReserved`]); then
    /// nothing was created.
    pub async fn create(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        if self.backlog.exists() {
            return Err(JournalError::Behind);
        }
        let (done, committed) = oneshot::channel();
        self.send(Job::Create { entries: entries.into(), done }).await?;
        committed.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Appends progress of an accepted plan and waits until it is durable. While the database does not accept it, the commit
    /// is retried, in order: the history of an accepted plan has no gaps.
    ///
    /// # Errors
    /// When the process ends first, or the database rejects their content or that of earlier entries of the plan
    /// ([`JournalError::Rejected`]): the plan must end then.
    pub async fn append_durable(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        self.append_and_wait(entries, false).await
    }

    /// As [`Self::append_durable`], for the entries that end a plan of which the database rejected an entry.
    ///
    /// # Errors
    /// As [`Self::append_durable`].
    pub async fn append_end_of_rejected(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        self.append_and_wait(entries, true).await
    }

    async fn append_and_wait(&self, entries: Vec<Entry>, ends_rejected: bool) -> Result<(), JournalError> {
        let (done, committed) = oneshot::channel();
        self.send(Job::Append { entries: entries.into(), done: Some(done), ends_rejected }).await?;
        committed.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Appends an entry without waiting for its commit: for steps that no caller learns of before a later entry is durable.
    ///
    /// # Errors
    /// Only when the process ends first. An entry whose content the database rejects fails the next
    /// [`Self::append_durable`] of its plan.
    pub async fn append(&self, entry: Entry) -> Result<(), JournalError> {
        self.send(Job::Append { entries: [entry].into(), done: None, ends_rejected: false }).await
    }

    /// Deletes a batch of old plans.
    ///
    /// # Errors
    /// When the database cannot be used, or another planner has taken over.
    pub async fn purge_plans(&self, old: &OldPlans) -> Result<Purged, JournalError> {
        self.store.purge_plans(&self.instance, old).await
    }

    /// Deletes at most `limit` keys whose first use was before `before`. Returns their number.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn purge_keys(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.store.purge_keys(&self.instance, before, limit).await
    }

    /// Watches a plan from now on, whichever planner writes it.
    #[must_use]
    pub fn watch(&self, plan_id: PlanId) -> PlanWatcher {
        self.watchers.watch(plan_id)
    }

    async fn send(&self, job: Job) -> Result<(), JournalError> {
        let queue = &self.queues[batch::writer_of(job.entries(), self.queues.len())];
        queue.send(job).await.map_err(|_| JournalError::Closed)
    }
}

/// Sends heartbeats while the planner has nothing to write.
async fn send_heartbeats(queue: mpsc::WeakSender<Job>) {
    let mut ticks = tokio::time::interval(ownership::HEARTBEAT_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(queue) = queue.upgrade() else { return };
        // With a full queue, the writer sends them between its commits.
        let _ = queue.try_send(Job::Append { entries: Arc::default(), done: None, ends_rejected: false });
    }
}

/// Reasons why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened or migrated.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// The database cannot be written.
    #[error("{location}: {cause}")]
    Journal {
        /// The database, without a password.
        location: String,
        /// Reason.
        cause: JournalError,
    },
}
