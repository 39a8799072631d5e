//! Identifiers. Each is a UUID with a type of its own, so that a plan id can't be handed in as a task id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A string that should have been a UUID and is not.
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
            /// A fresh identifier.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::$new())
            }

            /// The UUID itself.
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
    /// Names one request through every process, log line, trace and database row. Chosen by the caller or, when
    /// absent, by the gateway. Version 7, as [`PlanId`].
    CorrelationId, now_v7
}
id! {
    /// Names one plan. Version 7: ids sort by the time of their making, which keeps journal indexes compact.
    PlanId, now_v7
}
id! {
    /// Names one task of a plan. Version 7, as [`PlanId`].
    TaskId, now_v7
}
id! {
    /// Names one sweep: a request that deals with many dead letters at once. Version 7, as [`PlanId`].
    SweepId, now_v7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form_and_plan_ids_sort_by_age() {
        let older = PlanId::generate();
        let newer = PlanId::generate();
        assert_eq!(older.to_string().parse(), Ok(older));
        assert!(older < newer);
        assert_eq!("not-a-uuid".parse::<PlanId>(), Err(InvalidId));
    }
}
