//! Plans with an entry that the database rejects for its data, as it would reject it for ever.
//!
//! The writer leaves the entry out and commits its neighbours. Later entries of the plan would build on one that is missing, so
//! they are left out, too, until the run of the plan has learnt of it and ends the plan.

use std::collections::HashMap;

use phoenix_domain::PlanId;
use phoenix_platform::metrics::record_counter;

use crate::{
    journal::batch::Job,
    metrics::RECORDS_QUARANTINED,
    store::{entry::Entry, error::JournalError},
};

/// Maximum number of plans that are remembered; one whose run has ended is never asked about again.
const MAX_PLANS: usize = 10_000;

/// The plans of one writer with a rejected entry, and why it was rejected.
#[derive(Debug, Default)]
pub(super) struct RejectedPlans(HashMap<PlanId, String>);

impl RejectedPlans {
    /// Logs and counts a job that the database rejects. Remembers its plans, unless the job creates them.
    pub(super) fn add(&mut self, job: &Job, error: &JournalError) -> String {
        let reason = error.rejection();
        let plan_id = job.entries().iter().find_map(Entry::plan_id).map(tracing::field::display);
        let (entries, bytes) = (job.entries().len(), job.size());
        tracing::error!(plan_id, reason, entries, bytes, "the database rejects a record; its plan fails");
        record_counter(&RECORDS_QUARANTINED, 1);
        if matches!(job, Job::Append { .. }) {
            if self.0.len() >= MAX_PLANS {
                self.0.clear();
            }
            let plans = job.entries().iter().filter_map(Entry::plan_id);
            self.0.extend(plans.map(|plan_id| (plan_id, reason.clone())));
        }
        reason
    }

    /// Why a job must be left out: it follows a rejected entry of its plan. The job that ends the plan may be written.
    pub(super) fn reason(&mut self, job: &Job) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let Job::Append { entries, ends_rejected, done: _ } = job else { return None };
        let mut plans = entries.iter().filter_map(Entry::plan_id);
        if *ends_rejected {
            plans.for_each(|plan_id| drop(self.0.remove(&plan_id)));
            return None;
        }
        plans.find_map(|plan_id| self.0.get(&plan_id).cloned())
    }
}
