//! Approvals, as rows of a plan and as rows of a listing.

use phoenix_domain::{
    approval::{Approval, ApprovalKind, ApprovalState, Decision, OnExpiry, WaitingApproval},
    json::Object,
};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use crate::store::{
    approval::ApprovalCursor,
    error::JournalError,
    listing::Listed,
    stored::{
        text::Text,
        value::{damaged, parse, time, unreadable},
    },
    task_ref::TaskRef,
};

/// The approval of a task.
#[derive(FromRow)]
pub(in crate::store) struct ApprovalRow {
    pub(in crate::store) plan_id: String,
    pub(in crate::store) ordinal: i64,
    kind: String,
    requested_at: i64,
    expires_at: i64,
    reason: Text,
    approver: Text,
    on_expiry: String,
    input: Text,
    input_hash: String,
    state: String,
    decided_at: Option<i64>,
    actor: Option<Text>,
    decision_reason: Option<Text>,
    decided_by: Option<String>,
    new_input: Option<Text>,
}

impl ApprovalRow {
    pub(in crate::store) fn read(self) -> Result<Approval, JournalError> {
        let Self {
            plan_id: _,
            ordinal: _,
            kind,
            requested_at,
            expires_at,
            reason,
            approver,
            on_expiry,
            input,
            input_hash,
            state,
            decided_at,
            actor,
            decision_reason,
            decided_by,
            new_input,
        } = self;
        let decision = decided_at.map(|at| -> Result<_, JournalError> {
            Ok(Decision {
                at: time(at)?,
                actor: actor.unwrap_or_default().0,
                reason: decision_reason.unwrap_or_default().0,
                by: decided_by.map(|by| parse("approvals.decided_by", &by)).transpose()?,
                input: new_input.map(|text| object("approvals.new_input", &text.0)).transpose()?,
            })
        });
        Ok(Approval {
            kind: read_kind(&kind)?,
            requested_at: time(requested_at)?,
            expires_at: time(expires_at)?,
            reason: reason.0,
            approver: approver.0,
            on_expiry: read_expiry(&on_expiry)?,
            input: object("approvals.input", &input.0)?,
            input_hash,
            state: ApprovalState::from_name(&state).ok_or_else(|| damaged("approvals.state", &state))?,
            decision: decision.transpose()?,
        })
    }
}

fn object(column: &str, text: &str) -> Result<Object, JournalError> {
    Object::parse_stored(text).map_err(|error| unreadable(column, &error))
}

fn read_kind(name: &str) -> Result<ApprovalKind, JournalError> {
    ApprovalKind::from_name(name).ok_or_else(|| damaged("approvals.kind", name))
}

fn read_expiry(name: &str) -> Result<OnExpiry, JournalError> {
    OnExpiry::from_name(name).ok_or_else(|| damaged("approvals.on_expiry", name))
}

/// A row of a listing of approvals that wait.
pub(in crate::store) fn listed<'r, R>(row: &'r R) -> Listed<WaitingApproval, ApprovalCursor>
where
    R: Row,
    WaitingRow: FromRow<'r, R>,
    &'r str: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    &'static str: ColumnIndex<R>,
{
    let cursor = || {
        let plan_id = row.try_get::<&str, _>("plan_id").ok()?.parse().ok()?;
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal").ok()?).ok()?;
        let at = time(row.try_get("requested_at").ok()?).ok()?;
        Some(ApprovalCursor { at, task: TaskRef { plan_id, ordinal } })
    };
    let item = WaitingRow::from_row(row).map_err(JournalError::from).and_then(WaitingRow::read);
    Listed::of(row, cursor(), item)
}

#[derive(FromRow)]
pub(in crate::store) struct WaitingRow {
    plan_id: String,
    correlation_id: String,
    key: Text,
    agent: String,
    action: Text,
    requested_at: i64,
    expires_at: i64,
    on_expiry: String,
    reason: Text,
    approver: Text,
    input_hash: String,
    kind: String,
    input_preview: Text,
}

impl WaitingRow {
    fn read(self) -> Result<WaitingApproval, JournalError> {
        let Self {
            plan_id,
            correlation_id,
            key,
            agent,
            action,
            requested_at,
            expires_at,
            on_expiry,
            reason,
            approver,
            input_hash,
            kind,
            input_preview,
        } = self;
        Ok(WaitingApproval {
            kind: read_kind(&kind)?,
            plan_id: parse("approvals.plan_id", &plan_id)?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            key: key.0,
            agent: parse("tasks.agent", &agent)?,
            action: action.0,
            requested_at: time(requested_at)?,
            expires_at: time(expires_at)?,
            on_expiry: read_expiry(&on_expiry)?,
            reason: reason.0,
            approver: approver.0,
            input_hash,
            input_preview: input_preview.0,
        })
    }
}
