//! One executor: its calls, and what is known about its load.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use phoenix_domain::AgentName;

use crate::{client::PeerChannel, multiplex::MultiplexClient};

/// An executor at one address.
#[derive(Debug)]
pub struct ExecutorPeer {
    address: String,
    channel: PeerChannel,
    calls: MultiplexClient,
    loads: Mutex<HashMap<AgentName, Load>>,
}

/// Tasks of one agent at an executor.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Tasks of this process.
    own: u32,
    /// Tasks of other processes, as of the executor's last report.
    others: u32,
}

/// A task of this process at an executor, until it is dropped.
#[derive(Debug)]
pub struct TaskInFlight {
    executor: Arc<ExecutorPeer>,
    agent: AgentName,
}

impl ExecutorPeer {
    /// The executor behind `channel`. `address` is its address in log lines.
    pub(super) fn new(address: String, channel: PeerChannel) -> Arc<Self> {
        let calls = MultiplexClient::new(channel.clone());
        Arc::new(Self { address, channel, calls, loads: Mutex::default() })
    }

    /// Address in log lines.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Channel to the executor, for calls that do not share a stream.
    #[must_use]
    pub fn channel(&self) -> PeerChannel {
        self.channel.clone()
    }

    /// Calls to the executor.
    #[must_use]
    pub const fn calls(&self) -> &MultiplexClient {
        &self.calls
    }

    /// Counts a task of `agent` that is dispatched here.
    #[must_use]
    pub fn start(self: &Arc<Self>, agent: &AgentName) -> TaskInFlight {
        self.loads.lock().entry(agent.clone()).or_default().own += 1;
        TaskInFlight { executor: Arc::clone(self), agent: agent.clone() }
    }

    /// Number of tasks of `agent` that run or wait here, as far as this process knows.
    pub(super) fn load(&self, agent: &AgentName) -> u32 {
        self.loads.lock().get(agent).map_or(0, |load| load.own.saturating_add(load.others))
    }

    /// Takes over what the executor reports: the number of tasks of each agent, of all processes.
    pub(super) fn report(&self, tasks: impl IntoIterator<Item = (AgentName, u32)>) {
        let mut loads = self.loads.lock();
        for (agent, tasks) in tasks {
            let load = loads.entry(agent).or_default();
            load.others = tasks.saturating_sub(load.own);
        }
    }
}

impl Drop for TaskInFlight {
    fn drop(&mut self) {
        if let Some(load) = self.executor.loads.lock().get_mut(&self.agent) {
            load.own = load.own.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client, service_token::ServiceToken};

    #[tokio::test]
    async fn load_is_that_of_this_process_and_of_the_last_report() {
        let channel = client::channel("http://127.0.0.1:1", ServiceToken::new("of-the-test").unwrap());
        let executor = ExecutorPeer::new("x".into(), channel.unwrap());
        let agent: AgentName = "a".parse().unwrap();
        let first = executor.start(&agent);
        assert_eq!(executor.load(&agent), 1);
        executor.report([(agent.clone(), 4)]);
        assert_eq!(executor.load(&agent), 4, "three of others");
        let second = executor.start(&agent);
        drop(first);
        drop(second);
        assert_eq!(executor.load(&agent), 3);
        executor.report([(agent.clone(), 0)]);
        assert_eq!(executor.load(&agent), 0);
    }
}
