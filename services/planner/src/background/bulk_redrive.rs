//! Bulk operations: many dead letters redriven or discarded by one request.
//!
//! An operation starts in the journal, with the dead letters that it selects: the entry itself discards them, or marks them
//! for redrive. Redrives run in the background, plan by plan at the requested rate. When the planner stops, the next one
//! continues, as for unfinished plans; a plan that was redriven in between is skipped, because a plan can be redriven once.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId, dead_letter::check_reason,
};
use phoenix_platform::{RequestContext, metrics::record_counter, propagation::background_span};
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

use crate::{
    deps::Deps,
    idempotency::{IdempotencyKeys, Lookup, Reservation},
    metrics::DEAD_LETTERS_DISCARDED,
    plan_run::registry::CancelHandle,
    planning::request::{RedriveRequest, WaitMode},
    redrive::Redrives,
    store::{
        dead_letter::{BulkAction, BulkOperation, DeadLetterFilter},
        entry::{Entry, IdempotencyKey, UsedKey},
        error::JournalError,
    },
};

/// Allowed rates of a bulk redrive, in plans per second.
pub const RATES: RangeInclusive<f64> = 0.001..=1000.0;

/// Pause before a step that failed temporarily is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request for a bulk operation, not validated yet.
#[derive(Debug, Clone)]
pub struct BulkRequest {
    /// Action on the selected dead letters.
    pub action: BulkAction,
    /// Dead letters to select.
    pub filter: DeadLetterFilter,
    /// Maximum number to select, oldest first.
    pub limit: u32,
    /// Reason. Required to discard.
    pub reason: String,
    /// Idempotency key of the request.
    pub key: Option<IdempotencyKey>,
}

/// A bulk operation that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct StartedBulk {
    /// The operation.
    pub operation: BulkOperation,
    /// Number of selected dead letters.
    pub selected: u64,
    /// The earlier request with the same key that started the operation.
    pub replay_of: Option<CorrelationId>,
}

/// Runs bulk operations. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BulkOperations {
    deps: Arc<Deps>,
    keys: IdempotencyKeys,
    redrives: Redrives,
}

impl BulkOperations {
    pub(crate) const fn new(deps: Arc<Deps>, keys: IdempotencyKeys, redrives: Redrives) -> Self {
        Self { deps, keys, redrives }
    }

    /// Starts an operation, and returns as soon as it is durable.
    ///
    /// # Errors
    /// A reason that is missing or too long, or a journal that cannot be written.
    pub(crate) async fn start(
        &self,
        context: RequestContext,
        request: BulkRequest,
    ) -> Result<StartedBulk, OrchestratorError> {
        let BulkRequest { action, filter, limit, reason, key } = request;
        check_reason(&reason)?;
        if action == BulkAction::Discard && reason.trim().is_empty() {
            return Err(OrchestratorError::invalid("reason", "must say why they are discarded"));
        }
        let reservation = match self.keys.reserve(key).await? {
            Lookup::New(reservation) => reservation,
            Lookup::Replay(used) => return self.replay(used).await,
        };
        let (sweep_id, at, by) = (BulkRedriveId::generate(), Timestamp::now(), context.correlation_id);
        let operation = BulkOperation { sweep_id, action, at, by, reason };
        let (boxed, filter) = (Box::new(operation.clone()), Box::new(filter));
        let started = Entry::BulkStarted { operation: boxed, filter, limit };
        // In a task of its own: an operation that is durable runs, also when its caller disconnects now.
        let (this, span) = (self.clone(), tracing::Span::current());
        let create = async move { this.create(operation, started, reservation).await }.instrument(span);
        let created = self.deps.tasks.spawn(create).await;
        created.unwrap_or_else(|_| Err(OrchestratorError::internal("the sweep ended unexpectedly")))
    }

    async fn create(
        &self,
        operation: BulkOperation,
        started: Entry,
        reservation: Reservation,
    ) -> Result<StartedBulk, OrchestratorError> {
        let (sweep_id, action) = (operation.sweep_id, operation.action);
        let entries = [started].into_iter().chain(reservation.entry(*sweep_id.as_uuid())).collect();
        match self.deps.journal.create(entries).await {
            // Another planner received the same request concurrently and came first.
            Err(JournalError::AlreadyReserved) => {
                let existing = reservation.existing().await?.ok_or(JournalError::AlreadyReserved)?;
                return self.replay(existing).await;
            }
            created => created?,
        }
        self.resume(operation);
        let (operation, selected) = self.read(sweep_id).await?;
        match action {
            BulkAction::Redrive { rate } => {
                tracing::info!(%sweep_id, dead_letters = selected, rate, "sweep begun");
            }
            BulkAction::Discard => {
                record_counter(&DEAD_LETTERS_DISCARDED, selected);
                tracing::info!(%sweep_id, dead_letters = selected, "dead letters discarded");
            }
        }
        Ok(StartedBulk { operation, selected, replay_of: None })
    }

    /// The result that an earlier request received.
    async fn replay(&self, used: UsedKey) -> Result<StartedBulk, OrchestratorError> {
        let (operation, selected) = self.read(used.subject.into()).await?;
        Ok(StartedBulk { replay_of: Some(used.by.unwrap_or(operation.by)), operation, selected })
    }

    async fn read(&self, sweep_id: BulkRedriveId) -> Result<(BulkOperation, u64), OrchestratorError> {
        let known = self.deps.journal.bulk_operation(sweep_id).await?;
        known.ok_or_else(|| OrchestratorError::internal("the sweep of this request is gone"))
    }

    /// Runs a bulk redrive in the background, until it is finished or this planner stops.
    pub(crate) fn resume(&self, operation: BulkOperation) {
        let BulkAction::Redrive { rate } = operation.action else { return };
        let context = RequestContext::new(operation.by);
        let span = background_span("redrive_dead_letters", &context);
        let this = self.clone();
        let work = async move {
            let redrive = this.redrive_all(&context, &operation, rate);
            if let Some(Err(error)) = this.deps.stopping.run_until_cancelled(redrive).await {
                tracing::warn!(sweep_id = %operation.sweep_id, %error, "sweep left to the next planner");
            }
        };
        self.deps.tasks.spawn(work.instrument(span));
    }

    async fn redrive_all(
        &self,
        context: &RequestContext,
        operation: &BulkOperation,
        rate: f64,
    ) -> Result<(), JournalError> {
        let sweep_id = operation.sweep_id;
        let journal = &self.deps.journal;
        let plans = loop {
            match journal.bulk_plans(sweep_id).await {
                Err(JournalError::Database(_)) => tokio::time::sleep(RETRY_AFTER).await,
                read => break read?,
            }
        };
        let interval = Duration::from_secs_f64(1.0 / rate.clamp(*RATES.start(), *RATES.end()));
        let mut ticks = tokio::time::interval(interval);
        // Time that was lost to a full queue is not caught up with a burst.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (started, mut redriven) = (Instant::now(), 0_u64);
        for plan_id in &plans {
            ticks.tick().await;
            redriven += u64::from(self.redrive_one(context, operation, *plan_id).await);
        }
        journal.append_durable(vec![Entry::BulkEnded { sweep_id, at: Timestamp::now() }]).await?;
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(%sweep_id, plans = plans.len(), redriven, elapsed_ms, "sweep worked off");
        Ok(())
    }

    /// Redrives one plan of the operation as soon as there is capacity. Returns whether it was redriven.
    async fn redrive_one(
        &self,
        context: &RequestContext,
        operation: &BulkOperation,
        plan_id: PlanId,
    ) -> bool {
        use OrchestratorErrorCode::{Conflict, NotFound, Overloaded, Unavailable};
        let (inputs, reason) = (BTreeMap::new(), operation.reason.clone());
        let request = RedriveRequest { plan_id, inputs, reason, continue_on_disconnect: true, key: None };
        loop {
            match self.redrive(context.clone(), request.clone(), operation.sweep_id).await {
                Ok(()) => return true,
                Err(error) if matches!(error.code, Unavailable | Overloaded) => {
                    tokio::time::sleep(error.retry_after.unwrap_or(RETRY_AFTER)).await;
                }
                // Redriven, discarded or deleted since the operation started.
                Err(error) if matches!(error.code, Conflict | NotFound) => return false,
                Err(error) => {
                    tracing::warn!(redrive_of = %plan_id, %error, "a plan cannot be redriven; its dead letters stay open");
                    return false;
                }
            }
        }
    }

    #[tracing::instrument(name = "redrive_swept", skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty, redrive_of = %request.plan_id))]
    async fn redrive(
        &self,
        context: RequestContext,
        request: RedriveRequest,
        sweep_id: BulkRedriveId,
    ) -> Result<(), OrchestratorError> {
        let cancel = CancelHandle::default();
        self.redrives.start(context, request, WaitMode::Async, Some(sweep_id), cancel).await.map(drop)
    }
}
