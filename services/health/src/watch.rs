//! Agents' health as a stream: first every agent, then those that changed.
//!
//! Nothing is queued per reader. A slow reader gets the newest state of each agent that changed since its last message,
//! once.

use std::collections::BTreeMap;

use futures_util::{Stream, stream};
use phoenix_domain::AgentName;
use phoenix_proto::HealthSnapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::States;

/// One reader and its position.
struct Reader {
    states: watch::Receiver<States>,
    /// Revision last sent, by agent; `None` before the first message.
    sent: Option<BTreeMap<AgentName, u64>>,
}

/// The current states, then each change, until `shutdown`.
pub(crate) fn changes(
    states: watch::Receiver<States>,
    shutdown: CancellationToken,
) -> impl Stream<Item = Vec<HealthSnapshot>> {
    let reader = Reader { states, sent: None };
    stream::unfold((reader, shutdown), async |(mut reader, shutdown)| {
        let message = shutdown.run_until_cancelled(reader.next()).await??;
        Some((message, (reader, shutdown)))
    })
}

impl Reader {
    /// Waits for states that were not sent yet. `None` when the states can no longer change.
    async fn next(&mut self) -> Option<Vec<HealthSnapshot>> {
        loop {
            if let Some(unsent) = self.unsent() {
                return Some(unsent);
            }
            self.states.changed().await.ok()?;
        }
    }

    fn unsent(&mut self) -> Option<Vec<HealthSnapshot>> {
        let is_first = self.sent.is_none();
        let sent = self.sent.get_or_insert_default();
        let states = self.states.borrow_and_update();
        let unsent: Vec<_> = states
            .iter()
            .filter(|(agent, health)| sent.get(*agent) != Some(&health.revision))
            .map(|(agent, health)| HealthSnapshot::of(agent.clone(), health))
            .collect();
        sent.extend(unsent.iter().map(|snapshot| (snapshot.agent.clone(), snapshot.revision)));
        (is_first || !unsent.is_empty()).then_some(unsent)
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

    fn revisions(message: &[HealthSnapshot]) -> Vec<(&str, u64)> {
        message.iter().map(|snapshot| (snapshot.agent.as_str(), snapshot.revision)).collect()
    }

    #[tokio::test]
    async fn slow_reader_gets_the_newest_states_without_steps_between() {
        let (publish, receiver) = watch::channel(states([("a", 0), ("b", 5)]));
        let mut reader = pin!(changes(receiver, CancellationToken::new()));
        assert_eq!(revisions(&reader.next().await.unwrap()), [("a", 0), ("b", 5)]);
        for revision in 1..=100 {
            publish.send_replace(states([("a", revision), ("b", 5)]));
        }
        assert_eq!(revisions(&reader.next().await.unwrap()), [("a", 100)]);
        assert!(reader.next().now_or_never().is_none(), "nothing else has changed");
    }

    #[tokio::test]
    async fn first_message_without_agents_is_empty_and_shutdown_ends() {
        let (_publish, receiver) = watch::channel(States::new());
        let shutdown = CancellationToken::new();
        let mut reader = pin!(changes(receiver, shutdown.clone()));
        assert_eq!(reader.next().await, Some(Vec::new()));
        shutdown.cancel();
        assert_eq!(reader.next().await, None);
    }
}
