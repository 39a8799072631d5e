//! Limits and amounts, and whether a call fits.

use std::{fmt, ops};

use crate::usage::Money;

/// What a budget can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Money, in billionths of a dollar.
    Cost,
    /// Tokens of models, input and output.
    Tokens,
    /// Attempts of agents.
    Calls,
    /// Time of attempts, in milliseconds.
    Wall,
}

/// A value for each [`Resource`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Each<T>([T; 4]);

/// An amount of each resource.
pub type Amounts = Each<u64>;

/// The limit of each resource; `None` is unlimited.
pub type Limits = Each<Option<u64>>;

/// Whether a call fits into a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It fits, with these amounts. The time may be less than was wanted.
    Enough(Amounts),
    /// It does not fit beside the calls that run, and may fit when they have ended.
    Later(Resource),
    /// It does not fit.
    Exhausted(Resource),
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 4] = [Self::Cost, Self::Tokens, Self::Calls, Self::Wall];

    /// Name of the limit in configuration, requests and responses.
    #[must_use]
    pub const fn limit_name(self) -> &'static str {
        match self {
            Self::Cost => "max_cost_usd",
            Self::Tokens => "max_tokens",
            Self::Calls => "max_calls",
            Self::Wall => "max_wall_ms",
        }
    }

    /// An amount for people.
    #[must_use]
    pub fn display(self, amount: u64) -> String {
        match self {
            Self::Cost => format!("${}", Money::from_nanos(amount)),
            Self::Tokens if amount == 1 => "1 token".into(),
            Self::Tokens => format!("{amount} tokens"),
            Self::Calls if amount == 1 => "1 call".into(),
            Self::Calls => format!("{amount} calls"),
            Self::Wall => format!("{amount} ms"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.limit_name())
    }
}

impl<T> Each<T> {
    /// A value for each resource, in the order of [`Resource::ALL`].
    #[must_use]
    pub const fn new(values: [T; 4]) -> Self {
        Self(values)
    }

    /// The values by resource.
    #[must_use]
    pub fn map<U>(self, mut change: impl FnMut(Resource, T) -> U) -> Each<U> {
        let mut resources = Resource::ALL.into_iter();
        // As many as there are values.
        Each(self.0.map(|value| change(resources.next().unwrap_or(Resource::Wall), value)))
    }
}

impl<T: Copy> Each<T> {
    /// The values, in the order of [`Resource::ALL`].
    #[must_use]
    pub const fn values(&self) -> [T; 4] {
        self.0
    }
}

impl<T> ops::Index<Resource> for Each<T> {
    type Output = T;

    fn index(&self, resource: Resource) -> &T {
        &self.0[resource as usize]
    }
}

impl<T> ops::IndexMut<Resource> for Each<T> {
    fn index_mut(&mut self, resource: Resource) -> &mut T {
        &mut self.0[resource as usize]
    }
}

impl ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        for resource in Resource::ALL {
            self[resource] = self[resource].saturating_add(other[resource]);
        }
    }
}

impl ops::SubAssign for Amounts {
    fn sub_assign(&mut self, other: Self) {
        for resource in Resource::ALL {
            self[resource] = self[resource].saturating_sub(other[resource]);
        }
    }
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self([None; 4]);

    /// Whether anything is limited.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    /// These limits, and those of `default` where there are none.
    #[must_use]
    pub fn or(self, default: Self) -> Self {
        self.map(|resource, limit| limit.or(default[resource]))
    }

    /// The smaller limits of both.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.map(|resource, limit| match (limit, other[resource]) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        })
    }

    /// The amounts to reserve for a call that is expected to use `wanted`. A call may use more than a small budget has in
    /// all; then all of it is reserved.
    #[must_use]
    pub fn reservation(&self, wanted: Amounts) -> Amounts {
        wanted.map(|resource, amount| self[resource].map_or(amount, |limit| amount.min(limit)))
    }

    /// Whether a call with the amounts of a [reservation](Self::reservation) fits.
    #[must_use]
    pub fn room(&self, used: Amounts, reserved: Amounts, mut wanted: Amounts) -> Room {
        let mut busy = None;
        for resource in Resource::ALL {
            let Some(limit) = self[resource] else { continue };
            let unused = limit.saturating_sub(used[resource]);
            let free = unused.saturating_sub(reserved[resource]);
            // Any time will do: the call ends when it is over.
            let needed = if resource == Resource::Wall { 1 } else { wanted[resource].max(1) };
            let is_free = needed <= free;
            // Calls that run count for certain; what else they use may be less than is reserved.
            let may_be_freed = needed <= unused && resource != Resource::Calls;
            match (is_free, may_be_freed) {
                (true, _) => wanted[resource] = wanted[resource].min(free),
                (false, true) => busy = busy.or(Some(resource)),
                (false, false) => return Room::Exhausted(resource),
            }
        }
        busy.map_or(Room::Enough(wanted), Room::Later)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(cost: u64, tokens: u64, calls: u64, wall: u64) -> Limits {
        Limits::new([Some(cost), Some(tokens), Some(calls), Some(wall)])
    }

    #[test]
    fn room_depends_on_what_is_used_and_reserved() {
        let none = Amounts::default();
        let limits = limits(100, 100, 2, 1000);
        let wanted = limits.reservation(Amounts::new([40, 500, 1, 600]));
        assert_eq!(wanted, Amounts::new([40, 100, 1, 600]));
        assert_eq!(limits.room(none, none, wanted), Room::Enough(wanted));
        let cheap = Amounts::new([40, 10, 1, 600]);
        for (used, reserved, room) in [
            ([0, 0, 1, 0], [40, 10, 0, 600], Room::Enough(Amounts::new([40, 10, 1, 400]))),
            ([0, 0, 0, 0], [80, 0, 0, 0], Room::Later(Resource::Cost)),
            ([80, 0, 0, 0], [0, 0, 0, 0], Room::Exhausted(Resource::Cost)),
            ([0, 95, 0, 0], [80, 0, 0, 0], Room::Exhausted(Resource::Tokens)),
            ([0, 0, 1, 0], [0, 0, 1, 0], Room::Exhausted(Resource::Calls)),
            ([0, 0, 0, 400], [0, 0, 0, 600], Room::Later(Resource::Wall)),
            ([0, 0, 0, 2000], [0, 0, 0, 0], Room::Exhausted(Resource::Wall)),
        ] {
            let found = limits.room(Amounts::new(used), Amounts::new(reserved), cheap);
            assert_eq!(found, room, "{used:?} {reserved:?}");
        }
    }

    #[test]
    fn smaller_limit_of_each_resource_counts() {
        let one = Limits::new([Some(5), None, Some(7), None]);
        let other = Limits::new([Some(6), Some(1), Some(2), None]);
        assert_eq!(one.min(other), Limits::new([Some(5), Some(1), Some(2), None]));
        assert_eq!(one.min(Limits::NONE), one);
    }

    #[test]
    fn limit_of_zero_admits_no_call() {
        for resource in Resource::ALL {
            let mut limits = Limits::NONE;
            limits[resource] = Some(0);
            let wanted = limits.reservation(Amounts::new([1; 4]));
            let room = limits.room(Amounts::default(), Amounts::default(), wanted);
            assert_eq!(room, Room::Exhausted(resource));
        }
        assert_eq!(
            Limits::NONE.room(Amounts::new([9; 4]), Amounts::default(), Amounts::default()),
            Room::Enough(Amounts::default())
        );
    }

    proptest! {
        /// Whatever is reserved and settled, in whatever order, as long as no call uses more than was reserved for it.
        #[test]
        fn used_and_reserved_never_exceed_the_limit(
            limit in prop::array::uniform4(0_u64..50),
            steps in prop::collection::vec((prop::array::uniform4(0_u64..20), 0_u64..=100, any::<bool>()), 0..60),
        ) {
            let limits = Limits::new(limit.map(Some));
            let (mut used, mut reserved, mut running) = (Amounts::default(), Amounts::default(), Vec::new());
            for (wanted, share, ends) in steps {
                if let Room::Enough(amounts) = limits.room(used, reserved, limits.reservation(Amounts::new(wanted))) {
                    reserved += amounts;
                    running.push(amounts);
                }
                if ends && let Some(amounts) = running.pop() {
                    reserved -= amounts;
                    used += amounts.map(|_, amount| amount * share / 100);
                }
                for resource in Resource::ALL {
                    prop_assert!(used[resource] + reserved[resource] <= limit[resource as usize]);
                }
            }
        }
    }
}
