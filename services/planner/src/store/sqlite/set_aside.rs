//! Commits that the tables do not take. One of them would keep every later one, and every reader, waiting for ever: so it
//! is set aside, where it is kept and told of, and the rest goes on.
//!
//! Only what is wrong with the commit itself counts. A file that is damaged elsewhere, or full, or locked, is not the
//! commit's fault; and entries of a kind that this version does not know are another version's, which may come back.

use jiff::Timestamp;
use phoenix_platform::metrics::record_counter;
use sqlx::SqlitePool;

use super::{
    JournalError,
    log::{Log, Oldest},
    recent::Commit,
    rows::micros,
};
use crate::metrics::COMMITS_SET_ASIDE;

/// In one transaction, unless somebody else has moved it meanwhile. The position changes, so that whoever has read this
/// part of the log reads it again.
const SET_ASIDE: &str = "
    BEGIN IMMEDIATE;
    INSERT INTO log_set_aside (at, reason, planner, entries) SELECT ?1, ?2, planner, entries FROM log WHERE seq = ?3;
    UPDATE journal SET position = position + changes();
    DELETE FROM log WHERE seq = ?3;
    COMMIT";

/// Whether a move that failed with `error` may have failed because of one commit.
pub(super) fn may_be_one_commit(error: &JournalError) -> bool {
    matches!(error, JournalError::Damaged(_)) || is_constraint(error)
}

/// The tables refuse a row, and will refuse it the next time.
fn is_constraint(error: &JournalError) -> bool {
    match error {
        JournalError::Database(sqlx::Error::Database(error)) => {
            error.is_foreign_key_violation()
                || error.is_unique_violation()
                || error.is_check_violation()
                || error.kind() == sqlx::error::ErrorKind::NotNullViolation
        }
        _ => false,
    }
}

impl Log {
    /// Moves the oldest commit alone, or sets it aside: its number.
    pub(super) async fn move_one(&self, readers: &SqlitePool) -> Result<Option<i64>, JournalError> {
        self.forget_recent();
        let oldest: Option<(i64, String, Vec<u8>, i64)> = sqlx::query_as(
            "SELECT seq, planner, CAST(entries AS BLOB), (SELECT position FROM journal) FROM log ORDER BY seq LIMIT 1",
        )
        .fetch_optional(readers)
        .await?;
        let Some((seq, planner, entries, position)) = oldest else { return Ok(None) };
        let reason = match serde_json::from_slice(&entries) {
            Ok(entries) => {
                let commit = Commit { planner, groups: vec![entries] };
                let oldest = Oldest::of(&mut *readers.acquire().await?, seq, vec![commit], position).await?;
                match self.apply(oldest.into_move()).await {
                    Err(error) if is_constraint(&error) => error.to_string(),
                    moved => return moved,
                }
            }
            Err(error) if error.is_data() => {
                let what = "log.entries holds what this version does not know".into();
                return Err(JournalError::Damaged(what));
            }
            Err(error) => format!("no JSON from character {} on", error.column()),
        };
        tracing::error!(seq, reason, "a commit of the journal cannot be used; it is kept in log_set_aside");
        record_counter(&COMMITS_SET_ASIDE, 1);
        let set_aside = sqlx::query(SET_ASIDE).bind(micros(Timestamp::now())).bind(reason).bind(seq);
        self.exclusively(async |connection| {
            set_aside.persistent(false).execute(connection).await?;
            Ok(())
        })
        .await?;
        Ok(Some(seq))
    }
}
