//! The open connections of one listener, the oldest first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, futures::Notified};

use super::state::State;

/// The open connections of one listener. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Open>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<State>>,
}

/// A connection's place in the table, given back on drop.
#[derive(Debug)]
pub(super) struct Entry {
    id: u64,
    state: Arc<State>,
    table: Table,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection.
    pub(super) fn add(&self) -> Entry {
        let state = Arc::new(State::default());
        let mut open = self.lock();
        let id = open.next;
        open.next += 1;
        open.connections.insert(id, Arc::clone(&state));
        Entry { id, state, table: self.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Calls on all connections.
    pub(super) fn calls(&self) -> usize {
        self.lock().connections.values().map(|state| state.calls()).sum()
    }

    /// Closes the oldest connection that has said nothing, else the oldest without a call in flight; whether there is one.
    pub(super) fn close_one(&self) -> bool {
        let open = self.lock();
        let closable = || open.connections.values().filter(|state| !state.is_closing());
        let silent = closable().find(|state| !state.has_spoken());
        let victim = silent.or_else(|| closable().find(|state| !state.is_busy()));
        victim.inspect(|state| state.close()).is_some()
    }

    /// The next end of a connection.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }
}

impl Entry {
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.lock().connections.remove(&self.id);
        self.table.0.ended.notify_waiters();
    }
}
