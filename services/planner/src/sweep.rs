//! Sweeps: many dead letters dealt with at once, and how many there are.
//!
//! A sweep begins in the journal, with the dead letters that it is about: those are discarded by that very entry, or marked
//! to be redriven. Redriving goes on in the background, plan by plan at the rate that was asked for. What is left of it when
//! the planner stops is taken over by the next one, as unfinished plans are; a plan that was redriven meanwhile, by whomever,
//! is passed over, for a plan can be taken up once.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId, dead_letter::check_reason,
};
use phoenix_platform::{RequestContext, correlation_span, metrics::record_counter};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    journal::Journal,
    keys::{Claim, Use},
    metrics::{DEAD_LETTERS_DISCARDED, DEAD_LETTERS_OLDEST, DEAD_LETTERS_OPEN},
    planner::Planner,
    redrive::RedriveWish,
    store::{
        DeadLetterFilter, Entry, IdempotencyKey, JournalError, OpenDeadLetters, Sweep, SweepAction, UsedKey,
    },
};

/// Plans per second that a sweep may redrive.
pub const RATES: RangeInclusive<f64> = 0.001..=1000.0;

/// The wait before something is tried again that failed for reasons which will pass.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often the gauges are brought up to date.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Many dead letters to deal with, unchecked.
#[derive(Debug, Clone)]
pub struct SweepWish {
    /// What to do with them.
    pub action: SweepAction,
    /// Which.
    pub filter: DeadLetterFilter,
    /// At most so many, the oldest first.
    pub limit: u32,
    /// Why. Must be given to discard them.
    pub reason: String,
    /// The caller's name for this request.
    pub key: Option<IdempotencyKey>,
}

/// A sweep that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Swept {
    /// The sweep.
    pub sweep: Sweep,
    /// How many dead letters it is about.
    pub selected: u64,
    /// The earlier request that was told of it first.
    pub replay_of: Option<CorrelationId>,
}

impl Planner {
    /// Begins a sweep, and answers as soon as that is durable: with the sweep and how many dead letters it is about.
    ///
    /// # Errors
    /// A reason that is missing or too long, or a journal that can't be written.
    pub async fn sweep(&self, context: RequestContext, wish: SweepWish) -> Result<Swept, OrchestratorError> {
        let SweepWish { action, filter, limit, reason, key } = wish;
        check_reason(&reason)?;
        if action == SweepAction::Discard && reason.trim().is_empty() {
            return Err(OrchestratorError::invalid("reason", "must say why they are discarded"));
        }
        let claim = match self.keys().take(key).await? {
            Use::First(claim) => claim,
            Use::Again(used) => return self.swept_before(used).await,
        };
        let (sweep_id, at, by) = (BulkRedriveId::generate(), Timestamp::now(), context.correlation_id);
        let sweep = Sweep { sweep_id, action, at, by, reason };
        let begun = Entry::SweepBegun { sweep: Box::new(sweep.clone()), filter: Box::new(filter), limit };
        // In a task of its own: a caller that leaves now must not leave a sweep behind that nobody works off.
        let (planner, span) = (self.clone(), tracing::Span::current());
        let begun =
            self.tasks().spawn(async move { planner.begin(sweep, begun, claim).await }.instrument(span));
        begun.await.unwrap_or_else(|_| Err(OrchestratorError::internal("the sweep ended unexpectedly")))
    }

    async fn begin(&self, sweep: Sweep, begun: Entry, claim: Claim) -> Result<Swept, OrchestratorError> {
        let entries = [begun].into_iter().chain(claim.entry(*sweep.sweep_id.as_uuid())).collect();
        match self.journal().accept(entries).await {
            // Another planner was sent the same request in the same instant, and was first.
            Err(JournalError::Taken) => {
                let winner = claim.winner().await?.ok_or(JournalError::Taken)?;
                return self.swept_before(winner).await;
            }
            written => written?,
        }
        let (sweep_id, action) = (sweep.sweep_id, sweep.action);
        self.work_off(sweep);
        let (sweep, selected) = self.known_sweep(sweep_id).await?;
        match action {
            SweepAction::Redrive { rate } => {
                tracing::info!(%sweep_id, dead_letters = selected, rate, "sweep begun");
            }
            SweepAction::Discard => {
                record_counter(&DEAD_LETTERS_DISCARDED, selected);
                tracing::info!(%sweep_id, dead_letters = selected, "dead letters discarded");
            }
        }
        Ok(Swept { sweep, selected, replay_of: None })
    }

    /// What the caller of an earlier request was told.
    async fn swept_before(&self, used: UsedKey) -> Result<Swept, OrchestratorError> {
        let (sweep, selected) = self.known_sweep(used.subject.into()).await?;
        Ok(Swept { replay_of: Some(used.by.unwrap_or(sweep.by)), sweep, selected })
    }

    async fn known_sweep(&self, sweep_id: BulkRedriveId) -> Result<(Sweep, u64), OrchestratorError> {
        let known = self.journal().sweep(sweep_id).await?;
        known.ok_or_else(|| OrchestratorError::internal("the sweep of this request is gone"))
    }

    /// Goes on with a sweep in the background, until it is worked off or this planner stops.
    pub(crate) fn work_off(&self, sweep: Sweep) {
        let SweepAction::Redrive { rate } = sweep.action else { return };
        let context = RequestContext::new(sweep.by);
        let span = correlation_span("redrive_dead_letters", &context);
        let planner = self.clone();
        let work = async move {
            let stopping = planner.stopping().clone();
            let worked_off = stopping.run_until_cancelled(planner.redrive_all(&context, &sweep, rate)).await;
            if let Some(Err(error)) = worked_off {
                tracing::warn!(sweep_id = %sweep.sweep_id, %error, "sweep left to the next planner");
            }
        };
        self.tasks().spawn(work.instrument(span));
    }

    async fn redrive_all(
        &self,
        context: &RequestContext,
        sweep: &Sweep,
        rate: f64,
    ) -> Result<(), JournalError> {
        let sweep_id = sweep.sweep_id;
        let plans = loop {
            match self.journal().swept_plans(sweep_id).await {
                Err(JournalError::Database(_)) => tokio::time::sleep(TRY_AGAIN_AFTER).await,
                read => break read?,
            }
        };
        let mut every =
            tokio::time::interval(Duration::from_secs_f64(1.0 / rate.clamp(*RATES.start(), *RATES.end())));
        // Plans that waited for a full queue are not made up for all at once.
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (begun, mut redriven) = (Instant::now(), 0_u64);
        for plan_id in &plans {
            every.tick().await;
            redriven += u64::from(self.redrive_one(context, sweep, *plan_id).await);
        }
        self.journal().record(vec![Entry::SweepEnded { sweep_id, at: Timestamp::now() }]).await?;
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(%sweep_id, plans = plans.len(), redriven, elapsed_ms, "sweep worked off");
        Ok(())
    }

    /// Redrives one plan of a sweep, as soon as there is room for it: whether it was.
    async fn redrive_one(&self, context: &RequestContext, sweep: &Sweep, plan_id: PlanId) -> bool {
        use OrchestratorErrorCode::{Conflict, NotFound, Overloaded, Unavailable};
        let (inputs, reason) = (BTreeMap::new(), sweep.reason.clone());
        let wish = RedriveWish { plan_id, inputs, reason, continue_on_disconnect: true, key: None };
        loop {
            match self.redrive_swept(context.clone(), wish.clone(), sweep.sweep_id).await {
                Ok(_) => return true,
                Err(error) if matches!(error.code, Unavailable | Overloaded) => {
                    tokio::time::sleep(error.retry_after.unwrap_or(TRY_AGAIN_AFTER)).await;
                }
                // Redriven, discarded or deleted since the sweep began.
                Err(error) if matches!(error.code, Conflict | NotFound) => return false,
                Err(error) => {
                    tracing::warn!(redrive_of = %plan_id, %error, "a plan cannot be redriven; its dead letters stay open");
                    return false;
                }
            }
        }
    }
}

/// Keeps the gauges of dead letters true, until `stop`.
pub(crate) async fn measure(journal: Journal, stop: CancellationToken) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        // A journal that can't be read is told of by others; what was last known stays.
        let Ok(OpenDeadLetters { count, oldest }) = journal.open_dead_letters().await else { continue };
        let age = oldest.map_or(0.0, |oldest| Timestamp::now().duration_since(oldest).as_secs_f64().max(0.0));
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 dead letters")]
        metrics::gauge!(DEAD_LETTERS_OPEN.name).set(count as f64);
        metrics::gauge!(DEAD_LETTERS_OLDEST.name).set(age);
    }
}
