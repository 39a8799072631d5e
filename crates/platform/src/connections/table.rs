//! The open connections of one listener, ordered by age.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

use super::state::ConnectionState;

/// The open connections of one listener. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Open>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<ConnectionState>>,
}

/// Entry of a connection, removed from the table on drop.
#[derive(Debug)]
pub(super) struct Entry {
    id: u64,
    state: Arc<ConnectionState>,
    table: ConnectionTable,
}

impl ConnectionTable {
    /// Adds a connection.
    pub(super) fn add(&self) -> Entry {
        let state = Arc::new(ConnectionState::default());
        let mut open = self.0.open.lock();
        let id = open.next;
        open.next += 1;
        open.connections.insert(id, Arc::clone(&state));
        Entry { id, state, table: self.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.0.open.lock().connections.len()
    }

    /// Number of calls on all connections.
    pub(super) fn calls(&self) -> usize {
        self.0.open.lock().connections.values().map(|state| state.calls()).sum()
    }

    /// Closes the oldest silent connection, else the oldest without a call in flight. Returns whether there is one.
    pub(super) fn close_one(&self) -> bool {
        let open = self.0.open.lock();
        let closable = || open.connections.values().filter(|state| !state.is_closing());
        let silent = closable().find(|state| !state.has_sent());
        let victim = silent.or_else(|| closable().find(|state| !state.is_busy()));
        victim.inspect(|state| state.close()).is_some()
    }

    /// Waits for the next connection to end.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }
}

impl Entry {
    pub(super) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.0.open.lock().connections.remove(&self.id);
        self.table.0.ended.notify_waiters();
    }
}
