//! Agents' health as a stream: first every agent, then those that changed.
//!
//! Nothing is queued per reader. A reader that comes back late finds the newest states in memory and is told of each
//! agent that is not as it was told before, once.

use std::collections::BTreeMap;

use futures_util::{Stream, stream};
use phoenix_domain::AgentName;
use phoenix_proto::HealthSnapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::States;

/// One reader, and what it was told.
struct Reader {
    states: watch::Receiver<States>,
    /// The revision last told, by agent; `None` before the first message.
    told: Option<BTreeMap<AgentName, u64>>,
}

/// The states now, then each change, until `shutdown`.
pub(crate) fn changes(
    states: watch::Receiver<States>,
    shutdown: CancellationToken,
) -> impl Stream<Item = Vec<HealthSnapshot>> {
    let reader = Reader { states, told: None };
    stream::unfold((reader, shutdown), async |(mut reader, shutdown)| {
        let news = shutdown.run_until_cancelled(reader.next()).await??;
        Some((news, (reader, shutdown)))
    })
}

impl Reader {
    /// What the reader has not been told; waits for it. `None` when nothing can change any more.
    async fn next(&mut self) -> Option<Vec<HealthSnapshot>> {
        loop {
            if let Some(news) = self.news() {
                return Some(news);
            }
            self.states.changed().await.ok()?;
        }
    }

    fn news(&mut self) -> Option<Vec<HealthSnapshot>> {
        let first = self.told.is_none();
        let told = self.told.get_or_insert_default();
        let states = self.states.borrow_and_update();
        let news: Vec<_> = states
            .iter()
            .filter(|(agent, health)| told.get(*agent) != Some(&health.revision))
            .map(|(agent, health)| HealthSnapshot::of(agent.clone(), health))
            .collect();
        told.extend(news.iter().map(|snapshot| (snapshot.agent.clone(), snapshot.revision)));
        (first || !news.is_empty()).then_some(news)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, StreamExt};
    use phoenix_domain::health::AgentHealth;

    use super::*;

    fn states(revisions: [(&str, u64); 2]) -> States {
        let health = |revision| AgentHealth { revision, ..AgentHealth::default() };
        revisions.into_iter().map(|(name, revision)| (name.parse().unwrap(), health(revision))).collect()
    }

    fn revisions(news: &[HealthSnapshot]) -> Vec<(&str, u64)> {
        news.iter().map(|snapshot| (snapshot.agent.as_str(), snapshot.revision)).collect()
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_state_of_what_changed_and_no_steps_between() {
        let (publish, receiver) = watch::channel(states([("a", 0), ("b", 5)]));
        let mut reader = pin!(changes(receiver, CancellationToken::new()));
        assert_eq!(revisions(&reader.next().await.unwrap()), [("a", 0), ("b", 5)]);
        for revision in 1..=100 {
            publish.send_replace(states([("a", revision), ("b", 5)]));
        }
        assert_eq!(revisions(&reader.next().await.unwrap()), [("a", 100)]);
        assert!(reader.next().now_or_never().is_none(), "there is nothing else to tell");
    }

    #[tokio::test]
    async fn without_agents_the_first_message_is_empty_and_shutdown_ends_the_stream() {
        let (_publish, receiver) = watch::channel(States::new());
        let shutdown = CancellationToken::new();
        let mut reader = pin!(changes(receiver, shutdown.clone()));
        assert_eq!(reader.next().await, Some(Vec::new()));
        shutdown.cancel();
        assert_eq!(reader.next().await, None);
    }
}
