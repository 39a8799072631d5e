//! Standard error of an agent's process, read by whoever has the time.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{output::Tail, pipes::Output, redact::Redactor};

/// Standard error, and the end of what was written to it. A worker's is read by its watcher at all times, since a process
/// that writes to a full pipe stands still. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stderr(Arc<Mutex<Inner>>);

struct Inner {
    output: Output,
    tail: Tail,
}

impl Stderr {
    pub(super) fn new(output: Output) -> Self {
        Self(Arc::new(Mutex::new(Inner { output, tail: Tail::default() })))
    }

    /// Reads once; false at the end. May be dropped and called again, but by one reader at a time.
    pub(super) async fn read(&self) -> bool {
        poll_fn(|cx| {
            let Inner { output, tail } = &mut *self.lock();
            pin!(tail.read(output)).poll(cx)
        })
        .await
    }

    /// The end of what was written until now, without secrets.
    pub(super) fn text(&self, redactor: &Redactor) -> String {
        let Inner { output, tail } = &mut *self.lock();
        tail.read_what_is_there(output);
        tail.text(redactor)
    }

    /// Forgets what was written until now.
    pub(super) fn clear(&self) {
        let Inner { output, tail } = &mut *self.lock();
        tail.read_what_is_there(output);
        tail.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panicking reader leaves behind is still the end of a text.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
