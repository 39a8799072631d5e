//! Identifiers. Each is a UUID with its own type, so that a plan id cannot be passed as a task id.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Error of an invalid identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID such as 0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $new:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Generates an identifier.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::$new())
            }

            /// The UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

id! {
    /// Identifier of a request in every process, log line, trace and database row. Set by the caller or, if absent, by the
    /// gateway. Version 7, as [`PlanId`].
    CorrelationId, now_v7
}
id! {
    /// Identifier of a plan. Version 7: ids sort by creation time, which keeps journal indexes compact.
    PlanId, now_v7
}
id! {
    /// Identifier of a task. Version 7, as [`PlanId`].
    TaskId, now_v7
}
id! {
    /// Identifier of a bulk redrive: a request that resolves many dead letters. Version 7, as [`PlanId`].
    BulkRedriveId, now_v7
}

impl PlanId {
    /// The smallest id of a plan created at `time` or later.
    #[must_use]
    pub fn first_at(time: Timestamp) -> Self {
        let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }

    /// Creation time by the clock of the creator; `None` for an id of another version.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_round_trips_through_text_and_plan_ids_sort_by_age() {
        let older = PlanId::generate();
        let newer = PlanId::generate();
        assert_eq!(older.to_string().parse(), Ok(older));
        assert!(older < newer);
        assert_eq!("not-a-uuid".parse::<PlanId>(), Err(InvalidId));
    }

    #[test]
    fn first_id_of_a_time_lies_between_earlier_and_later_ids() {
        let before = PlanId::generate();
        let created_at = before.created_at().unwrap();
        assert!(PlanId::first_at(created_at) <= before);
        let millisecond = std::time::Duration::from_millis(1);
        assert!(before < PlanId::first_at(created_at + millisecond));
        assert_eq!(PlanId::first_at(created_at).created_at(), Some(created_at));
        assert_eq!(PlanId::first_at(Timestamp::MIN), PlanId::first_at(Timestamp::UNIX_EPOCH));
        assert_eq!(PlanId::from(Uuid::nil()).created_at(), None);
    }

    #[test]
    fn ids_increase_when_the_clock_is_set_back() {
        // The context that `now_v7` uses.
        let context = uuid::ContextV7::new();
        let at = |seconds| Uuid::new_v7(uuid::Timestamp::from_unix(&context, seconds, 0));
        let (first, set_back, later) = (at(1_800_003_600), at(1_800_000_000), at(1_800_003_601));
        assert!(first < set_back && set_back < later);
    }
}
