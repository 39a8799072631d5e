//! What the executors offer, and what follows from it: the known agents and their capacity.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::{AgentMode, AgentName, AgentSpec};

use super::{choice::Candidate, executor::ExecutorPeer};

/// What one executor offers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Offer {
    /// Identifier of the executor process.
    pub(super) instance: String,
    /// Labels of the executor.
    pub(super) labels: BTreeMap<String, String>,
    /// Its agents.
    pub(super) agents: BTreeMap<AgentName, AgentSpec>,
}

/// Offers of all executors, by address.
#[derive(Debug, Default)]
pub(super) struct Offers {
    offers: BTreeMap<String, (Arc<ExecutorPeer>, Offer)>,
    absent: BTreeMap<AgentName, AbsentAgent>,
    was_reached: bool,
    /// Number of executors that are being followed, reached or not.
    followed: usize,
    /// Logged differences: agent, address, names of the fields.
    differences: BTreeMap<(AgentName, String), String>,
}

/// An agent that no executor offers any more.
#[derive(Debug)]
struct AbsentAgent {
    /// As it was last offered.
    spec: AgentSpec,
    /// Executor that offered it last.
    executor: Arc<ExecutorPeer>,
    since: Instant,
}

impl Offers {
    /// Replaces what `executor` offers; `None` when it is gone. Logs what changes.
    pub(super) fn set(&mut self, executor: &Arc<ExecutorPeer>, offer: Option<Offer>, now: Instant) {
        let address = executor.address();
        let before = match offer {
            Some(offer) => {
                self.was_reached = true;
                log_offer(address, self.offers.get(address).map(|(_, before)| before), &offer);
                self.offers.insert(address.to_owned(), (Arc::clone(executor), offer))
            }
            None => self.offers.remove(address),
        };
        let offers = &self.offers;
        let is_offered = |name: &AgentName| offers.values().any(|(_, offer)| offer.agents.contains_key(name));
        self.absent.retain(|name, _| !is_offered(name));
        for (name, spec) in before.into_iter().flat_map(|(_, offer)| offer.agents) {
            if !is_offered(&name) {
                let executor = Arc::clone(executor);
                self.absent.insert(name, AbsentAgent { spec, executor, since: now });
            }
        }
        self.log_differences();
    }

    /// Number of executors that are reached.
    pub(super) fn executors(&self) -> usize {
        self.offers.len()
    }

    /// Number of executors that are followed and cannot be reached.
    pub(super) fn unreachable(&self) -> usize {
        self.followed.saturating_sub(self.offers.len())
    }

    pub(super) const fn set_followed(&mut self, count: usize) {
        self.followed = count;
    }

    /// Whether an executor was reached so far.
    pub(super) const fn was_reached(&self) -> bool {
        self.was_reached
    }

    /// The agents that are offered, and those that have been absent for less than `grace`. The capacity of an agent is that
    /// of all its executors; everything else is as the first executor by address says, so that every reader agrees.
    pub(super) fn agents(&self, grace: Duration, now: Instant) -> BTreeMap<AgentName, AgentSpec> {
        let absent = self.absent.iter().filter(|(_, absent)| absent.is_within(grace, now));
        let mut agents: BTreeMap<_, _> =
            absent.map(|(name, absent)| (name.clone(), absent.spec.clone())).collect();
        for (name, spec) in self.offers.values().flat_map(|(_, offer)| &offer.agents) {
            match agents.get_mut(name) {
                Some(known) => add_offer(known, spec),
                None => drop(agents.insert(name.clone(), spec.clone())),
            }
        }
        agents
    }

    /// The executors that offer each agent. An agent that is absent may be back at the executor that offered it last.
    pub(super) fn candidates(&self) -> HashMap<AgentName, Vec<Candidate>> {
        let mut candidates: HashMap<AgentName, Vec<_>> = HashMap::new();
        for (executor, offer) in self.offers.values() {
            for (name, spec) in &offer.agents {
                candidates.entry(name.clone()).or_default().push(Candidate::new(executor, spec));
            }
        }
        for (name, AbsentAgent { spec, executor, .. }) in &self.absent {
            candidates.insert(name.clone(), vec![Candidate::new(executor, spec)]);
        }
        candidates
    }

    /// Agents that no executor offers any more, and since when.
    pub(super) fn absent(&self) -> BTreeMap<AgentName, Instant> {
        self.absent.iter().map(|(name, absent)| (name.clone(), absent.since)).collect()
    }

    /// When the next agent has been absent for `grace`.
    pub(super) fn next_expiry(&self, grace: Duration, now: Instant) -> Option<Instant> {
        let absent = self.absent.values().filter(|absent| absent.is_within(grace, now));
        absent.map(|absent| absent.since + grace).min()
    }

    /// Logs an agent that two executors specify differently, once per difference.
    fn log_differences(&mut self) {
        let mut differences = BTreeMap::new();
        let mut first: BTreeMap<&AgentName, (&str, &AgentSpec)> = BTreeMap::new();
        for (address, (_, offer)) in &self.offers {
            for (name, spec) in &offer.agents {
                let (other, known) = *first.entry(name).or_insert((address, spec));
                let fields = differing_fields(known, spec).join(", ");
                let key = (name.clone(), address.clone());
                if !fields.is_empty() && self.differences.get(&key) != Some(&fields) {
                    tracing::warn!(
                        agent = %name, executor = address, other_executor = other, fields,
                        "two executors specify an agent differently; the other executor's specification is used"
                    );
                }
                if !fields.is_empty() {
                    differences.insert(key, fields);
                }
            }
        }
        self.differences = differences;
    }
}

impl AbsentAgent {
    fn is_within(&self, grace: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < grace
    }
}

/// Adds the capacity of `other`, the same agent at another executor, and the actions that need an approval there: a task may run
/// at either.
fn add_offer(spec: &mut AgentSpec, other: &AgentSpec) {
    let concurrency = spec.concurrency().saturating_add(other.concurrency());
    match spec.mode {
        AgentMode::Oneshot | AgentMode::Mcp => spec.max_concurrency = concurrency,
        AgentMode::Workers => spec.workers = concurrency,
    }
    spec.max_queue = spec.max_queue.saturating_add(other.max_queue);
    spec.approval.add(&other.approval);
    if spec.listing.is_none() {
        spec.listing.clone_from(&other.listing);
    }
}

/// Names of the fields in which two specifications of an agent differ, apart from its capacity.
fn differing_fields(a: &AgentSpec, b: &AgentSpec) -> Vec<&'static str> {
    [
        ("description", a.description != b.description),
        ("route", a.route != b.route),
        ("actions", a.actions != b.actions),
        ("timeout", a.timeout != b.timeout),
        ("retry", a.retry != b.retry),
        ("circuit_breaker", a.breaker != b.breaker),
        ("approval", a.approval != b.approval),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

fn log_offer(address: &str, before: Option<&Offer>, offer: &Offer) {
    let agents = offer.agents.keys().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
    let labels = offer.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let labels = (!labels.is_empty()).then(|| labels.join(", "));
    match before {
        None => {
            tracing::info!(executor = address, instance = offer.instance, labels, agents, "executor joined");
        }
        Some(before) if before.agents.keys().ne(offer.agents.keys()) => {
            tracing::info!(
                executor = address,
                instance = offer.instance,
                agents,
                "executor offers other agents"
            );
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client, service_token::ServiceToken};

    const GRACE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn executor(address: &str) -> Arc<ExecutorPeer> {
        let channel = client::channel("http://127.0.0.1:1", ServiceToken::new("of-the-test").unwrap());
        ExecutorPeer::new(address.into(), channel.unwrap())
    }

    fn offer(agents: &[(&str, u32)]) -> Option<Offer> {
        let agent = |(name, max_concurrency): &(&str, u32)| {
            let name: AgentName = name.parse().unwrap();
            let spec = AgentSpec {
                max_concurrency: *max_concurrency,
                max_queue: 10,
                ..AgentSpec::new(name.clone(), Vec::new())
            };
            (name, spec)
        };
        Some(Offer { agents: agents.iter().map(agent).collect(), ..Offer::default() })
    }

    /// Name and concurrency of the known agents.
    fn known(offers: &Offers, now: Instant) -> Vec<(String, u32)> {
        let agents = offers.agents(GRACE, now);
        agents.values().map(|spec| (spec.name.to_string(), spec.concurrency())).collect()
    }

    fn named(agents: &[(&str, u32)]) -> Vec<(String, u32)> {
        agents.iter().map(|(name, concurrency)| ((*name).to_owned(), *concurrency)).collect()
    }

    #[tokio::test]
    async fn capacity_of_an_agent_is_that_of_all_its_executors() {
        let (mut offers, now) = (Offers::default(), Instant::now());
        let (a, b) = (executor("a"), executor("b"));
        offers.set(&a, offer(&[("both", 2), ("only_a", 1)]), now);
        offers.set(&b, offer(&[("both", 3), ("only_b", 4)]), now);
        assert_eq!(known(&offers, now), named(&[("both", 5), ("only_a", 1), ("only_b", 4)]));
        let both: AgentName = "both".parse().unwrap();
        assert_eq!(offers.agents(GRACE, now)[&both].max_queue, 20);
        offers.set(&b, offer(&[("both", 1)]), now);
        assert_eq!(
            known(&offers, now),
            named(&[("both", 3), ("only_a", 1), ("only_b", 4)]),
            "only_b is absent"
        );
        offers.set(&a, None, now);
        assert_eq!(known(&offers, now), named(&[("both", 1), ("only_a", 1), ("only_b", 4)]));
    }

    #[tokio::test]
    async fn mixed_modes_add_up() {
        let (mut offers, now) = (Offers::default(), Instant::now());
        let (a, b) = (executor("a"), executor("b"));
        offers.set(&a, offer(&[("x", 2)]), now);
        let mut other = offer(&[("x", 9)]).unwrap();
        let spec = other.agents.values_mut().next().unwrap();
        (spec.mode, spec.workers) = (AgentMode::Workers, 5);
        offers.set(&b, Some(other), now);
        assert_eq!(known(&offers, now), named(&[("x", 7)]));
    }

    #[tokio::test]
    async fn absent_agent_is_known_for_the_grace_period() {
        let (mut offers, start) = (Offers::default(), Instant::now());
        let (a, b) = (executor("a"), executor("b"));
        let x: AgentName = "x".parse().unwrap();
        offers.set(&a, offer(&[("x", 2)]), start);
        assert_eq!(offers.next_expiry(GRACE, start), None);
        offers.set(&a, None, start + SECOND);
        assert_eq!(offers.next_expiry(GRACE, start + SECOND), Some(start + SECOND + GRACE));
        assert_eq!(known(&offers, start + GRACE), named(&[("x", 2)]));
        assert!(Arc::ptr_eq(&offers.candidates()[&x][0].executor, &a), "it may be back");
        let later = start + SECOND + GRACE;
        assert_eq!((known(&offers, later), offers.next_expiry(GRACE, later)), (Vec::new(), None));
        assert_eq!(offers.absent(), [(x.clone(), start + SECOND)].into(), "how long is still known");
        offers.set(&b, offer(&[("x", 3)]), later);
        assert_eq!((known(&offers, later), offers.absent().len()), (named(&[("x", 3)]), 0));
        assert!(Arc::ptr_eq(&offers.candidates()[&x][0].executor, &b));
    }

    #[tokio::test]
    async fn first_executor_by_address_decides_capacity_does_not_count() {
        let (mut offers, now) = (Offers::default(), Instant::now());
        let (a, b) = (executor("a"), executor("b"));
        let (mut first, mut second) = (offer(&[("x", 1)]).unwrap(), offer(&[("x", 2)]).unwrap());
        offers.set(&b, Some(second.clone()), now);
        offers.set(&a, Some(first.clone()), now);
        assert!(offers.differences.is_empty());
        first.agents.values_mut().next().unwrap().description = "first".into();
        second.agents.values_mut().next().unwrap().description = "second".into();
        offers.set(&b, Some(second), now);
        offers.set(&a, Some(first), now);
        assert_eq!(offers.agents(GRACE, now).values().next().unwrap().description, "first");
        assert_eq!(offers.differences.values().collect::<Vec<_>>(), ["description"]);
    }
}
