//! Idempotency keys: a repeated request receives the result of the first one.
//!
//! The journal decides which use of a key is the first ([`Entry::KeyUsed`]), so planners that share a journal agree. Within
//! one planner a key is held while its first request is in progress.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::{
    AgentName, CorrelationId, OrchestratorError,
    plan::Plan,
    rejections::{REPLAY_OF, key_in_use, key_used_otherwise},
};
use uuid::Uuid;

use crate::{
    journal::Journal,
    plan_run::active::PlanResult,
    store::entry::{Entry, IdempotencyKey, UsedKey},
};

/// The idempotency keys of one planner. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKeys {
    journal: Journal,
    /// Lifetime of a key.
    ttl: Duration,
    held: Arc<Mutex<HashSet<String>>>,
}

/// Result of looking up a request's key.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The key is unused, or the request has none.
    New(Reservation),
    /// The request repeats an earlier one.
    Replay(UsedKey),
}

/// A request's key, if it has one, held until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    keys: IdempotencyKeys,
    key: Option<IdempotencyKey>,
}

impl IdempotencyKeys {
    /// Keys with a lifetime of `ttl`.
    pub(crate) fn new(journal: Journal, ttl: Duration) -> Self {
        Self { journal, ttl, held: Arc::default() }
    }

    /// Looks a request's key up, and holds it when it is unused.
    ///
    /// # Errors
    /// `conflict` while the first request is in progress, `idempotency_mismatch` when the first request was a different one.
    pub(crate) async fn reserve(&self, key: Option<IdempotencyKey>) -> Result<Lookup, OrchestratorError> {
        if let Some(key) = &key {
            if let Some(used) = self.used(key).await? {
                let is_held = self.held().contains(&key.key);
                return if is_held { Err(key_in_use()) } else { Ok(Lookup::Replay(used)) };
            }
            if !self.held().insert(key.key.clone()) {
                return Err(key_in_use());
            }
        }
        Ok(Lookup::New(Reservation { keys: self.clone(), key }))
    }

    async fn used(&self, key: &IdempotencyKey) -> Result<Option<UsedKey>, OrchestratorError> {
        match self.journal.used_key(&key.key, self.not_before()).await? {
            Some(used) if used.digest != key.digest => Err(key_used_otherwise()),
            known => Ok(known),
        }
    }

    fn not_before(&self) -> Timestamp {
        Timestamp::now().checked_sub(self.ttl).unwrap_or(Timestamp::MIN)
    }

    // The set holds whole values, so it is consistent even after a panic.
    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock()
    }
}

impl Reservation {
    /// The entry that makes the key name `subject`; it is committed together with the subject.
    pub(crate) fn entry(&self, subject: Uuid) -> Option<Entry> {
        let not_before = self.keys.not_before();
        let used = |key| Entry::KeyUsed { key, subject, at: Timestamp::now(), not_before };
        self.key.clone().map(used)
    }

    /// The existing use of the key, after the journal found something of the request reserved; none when it was not the key.
    ///
    /// # Errors
    /// `idempotency_mismatch` when a different request used the key.
    pub(crate) async fn existing(&self) -> Result<Option<UsedKey>, OrchestratorError> {
        match &self.key {
            Some(key) => self.keys.used(key).await,
            None => Ok(None),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.keys.held().remove(&key.key);
        }
    }
}

/// The result that the earlier request `by` received for its plan.
pub(crate) fn replay_result(
    plan: Plan,
    by: Option<CorrelationId>,
    default_agent: &AgentName,
) -> Result<PlanResult, OrchestratorError> {
    let original = by.unwrap_or(plan.correlation_id);
    match PlanResult::stored(plan, default_agent) {
        Some(Ok(result)) => Ok(PlanResult { replay_of: Some(original), ..result }),
        Some(Err(error)) => Err(error.with_detail(REPLAY_OF, original)),
        None => Err(key_in_use()),
    }
}
