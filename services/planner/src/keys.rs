//! Requests that are sent twice. A key stands for what it was first used for; whoever comes with it again is told the same.
//!
//! Which use of a key is the first is for the journal to say ([`Entry::KeyUsed`]), so two planners on one journal agree.
//! Within one planner a second request is kept away while the first is on its way.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId,
    action::ActionResult,
    plan::PlanStatus,
    rejections::{REPLAY_OF, key_in_use, key_used_otherwise},
};
use uuid::Uuid;

use crate::{
    journal::Journal,
    planner::{Answer, Planner},
    store::{Entry, IdempotencyKey, UsedKey},
};

/// The keys of one planner. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    journal: Journal,
    /// How long a key stands for what it was used for.
    life: Duration,
    held: Arc<Mutex<HashSet<String>>>,
}

/// What a request's key says of it.
#[derive(Debug)]
pub(crate) enum Use {
    /// It is the first, as far as is known here.
    First(Claim),
    /// It was sent before.
    Again(UsedKey),
}

/// A key on its way to the journal, if the request has one. Kept from others until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    keys: Keys,
    key: Option<IdempotencyKey>,
}

impl Keys {
    /// Keys that count for `life`.
    pub(crate) fn new(journal: Journal, life: Duration) -> Self {
        Self { journal, life, held: Arc::default() }
    }

    /// Whether the request that is named `key` is the first of its name.
    ///
    /// # Errors
    /// `conflict` while the first is being dealt with, `idempotency_mismatch` when the first was another request.
    pub(crate) async fn take(&self, key: Option<IdempotencyKey>) -> Result<Use, OrchestratorError> {
        if let Some(key) = &key {
            if let Some(used) = self.used(key).await? {
                let is_held = self.held().contains(&key.key);
                return if is_held { Err(key_in_use()) } else { Ok(Use::Again(used)) };
            }
            if !self.held().insert(key.key.clone()) {
                return Err(key_in_use());
            }
        }
        Ok(Use::First(Claim { keys: self.clone(), key }))
    }

    async fn used(&self, key: &IdempotencyKey) -> Result<Option<UsedKey>, OrchestratorError> {
        match self.journal.subject_of_key(&key.key, self.not_before()).await? {
            Some(used) if used.digest != key.digest => Err(key_used_otherwise()),
            known => Ok(known),
        }
    }

    fn not_before(&self) -> Timestamp {
        Timestamp::now().checked_sub(self.life).unwrap_or(Timestamp::MIN)
    }

    // A set of whole values: what a panicking thread leaves behind is still consistent.
    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// What makes the key stand for `subject`, when it is written together with it.
    pub(crate) fn entry(&self, subject: Uuid) -> Option<Entry> {
        let not_before = self.keys.not_before();
        let used = |key| Entry::KeyUsed { key, subject, at: Timestamp::now(), not_before };
        self.key.clone().map(used)
    }

    /// What the key stands for after the journal has said that something of the request is taken; nothing when it was not
    /// the key.
    ///
    /// # Errors
    /// `idempotency_mismatch` when it was taken for another request.
    pub(crate) async fn winner(&self) -> Result<Option<UsedKey>, OrchestratorError> {
        match &self.key {
            Some(key) => self.keys.used(key).await,
            None => Ok(None),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.keys.held().remove(&key.key);
        }
    }
}

impl Planner {
    /// What the caller of an earlier request, `by`, was told.
    pub(crate) async fn answer_again(
        &self,
        plan_id: PlanId,
        by: Option<CorrelationId>,
    ) -> Result<Answer, OrchestratorError> {
        let plan = self.journal().plan(plan_id).await?;
        let plan = plan.ok_or_else(|| OrchestratorError::internal("the plan of this key is gone"))?;
        let agent =
            plan.tasks.last().map_or_else(|| self.default_agent().clone(), |task| task.spec.agent.clone());
        let original = by.unwrap_or(plan.correlation_id);
        match (plan.status, plan.error) {
            (PlanStatus::Succeeded, _) => {
                let last = plan.tasks.last().and_then(|task| task.output.as_ref());
                let finish_reason = last.and_then(ActionResult::finish_reason);
                let (output, replay_of) = (plan.output, Some(original));
                Ok(Answer { plan_id, output, finish_reason, agent, agent_time: Duration::ZERO, replay_of })
            }
            (status, Some(error)) if status.is_terminal() => Err(error.with_detail(REPLAY_OF, original)),
            (status, None) if status.is_terminal() => {
                Err(OrchestratorError::internal("the plan of this key has no result"))
            }
            _ => Err(key_in_use()),
        }
    }
}
