//! Circuit breakers of the providers: a chain passes over a provider that is down, and asks the next one at once.
//!
//! The rules are those of agents ([`phoenix_domain::health`]). The state belongs to this process: each worker learns which
//! providers are down from its own chats, and learns anew after a restart.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use phoenix_domain::health::{Admission, AgentHealth, BreakerPolicy, Outcome, Report};
use uuid::Uuid;

/// Time that a provider must have had for a timeout to be evidence against it: a caller may leave it less.
const FAIR_TIME: Duration = Duration::from_secs(10);

/// Time after which another chat may probe a provider although the first one has not ended.
const LEASE: Duration = Duration::from_secs(300);

/// The breakers by name of the provider. The settings name all providers, so there are few.
#[derive(Debug, Default)]
pub(super) struct Breakers(HashMap<String, AgentHealth>);

/// Permission to ask a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Admitted {
    /// Lease of the probe, if the chat is one.
    lease: Option<Uuid>,
}

/// Three failures in a row stop the chats of a provider for half a minute, and for up to five minutes while probes fail.
fn policy() -> BreakerPolicy {
    BreakerPolicy { cooldown: Duration::from_secs(30), ..BreakerPolicy::default() }
}

impl Breakers {
    /// Permission to ask `provider` at `now`.
    ///
    /// # Errors
    /// The time until the next probe, while its circuit is open.
    pub(super) fn admit(&mut self, provider: &str, now: Timestamp) -> Result<Admitted, Duration> {
        let Some(health) = self.0.get_mut(provider) else { return Ok(Admitted { lease: None }) };
        // The clock may have been set back.
        health.adjust_to_clock(now, &policy());
        let lease = Uuid::new_v4();
        match health.acquire_probe(lease, now, LEASE).0 {
            Admission::Refused { until } => {
                Err(Duration::try_from(until.duration_since(now)).unwrap_or_default())
            }
            Admission::Allowed | Admission::NeedsProbe | Admission::Isolated => {
                let is_probe = health.probe.is_some_and(|probe| probe.lease == lease);
                Ok(Admitted { lease: is_probe.then_some(lease) })
            }
        }
    }

    /// Records how a chat with `provider` ended at `now`: with an answer, or with an error of this code. It had `time` to begin.
    pub(super) fn record(
        &mut self,
        provider: &str,
        admitted: Admitted,
        ended: Result<(), u16>,
        time: Duration,
        now: Timestamp,
    ) {
        let outcome = match ended {
            Ok(()) => Outcome::Success,
            Err(408 | 504) if time < FAIR_TIME => Outcome::Neutral,
            Err(408 | 429 | 500..) => Outcome::Failure,
            // The request, the key or the model is wrong; the provider answers.
            Err(_) => Outcome::Neutral,
        };
        let report = Report { lease: admitted.lease, ..Report::new(outcome, now) };
        self.0.entry(provider.to_owned()).or_default().record(&report, &policy());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn provider_that_is_down_is_probed_ever_less_often() {
        let (mut breakers, free) = (Breakers::default(), Admitted { lease: None });
        let minute = Duration::from_secs(60);
        for code in [400, 401, 404, 424, 503, 400, 429] {
            assert_eq!(breakers.admit("lab", at(0)), Ok(free), "{code}");
            breakers.record("lab", free, Err(code), minute, at(0));
        }
        breakers.record("lab", free, Err(504), Duration::from_secs(1), at(0));
        assert_eq!(breakers.admit("lab", at(0)), Ok(free), "the caller left it a second");
        breakers.record("lab", free, Err(504), minute, at(0));
        assert_eq!(breakers.admit("lab", at(10)), Err(Duration::from_secs(20)));
        assert_eq!(breakers.admit("other", at(10)), Ok(free));

        let probe = breakers.admit("lab", at(30)).unwrap();
        assert!(probe.lease.is_some() && breakers.admit("lab", at(31)).is_err(), "one probe");
        breakers.record("lab", probe, Err(500), minute, at(32));
        assert_eq!(breakers.admit("lab", at(32)), Err(minute));
        let probe = breakers.admit("lab", at(92)).unwrap();
        breakers.record("lab", probe, Ok(()), minute, at(93));
        assert_eq!(breakers.admit("lab", at(93)), Ok(free));
    }
}
