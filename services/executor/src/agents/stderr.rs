//! Standard error of an agent process, shared by its watcher and its current exchange.

use std::{future::poll_fn, pin::pin, sync::Arc};

use crate::{output::StderrTail, pipes::OutputPipe, redact::Redactor};
use parking_lot::{Mutex, MutexGuard};

/// Standard error and the end of what was written to it. A worker's watcher reads it at all times, because a process that
/// writes to a full pipe blocks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stderr(Arc<Mutex<Inner>>);

struct Inner {
    pipe: OutputPipe,
    tail: StderrTail,
}

impl Stderr {
    pub(super) fn new(pipe: OutputPipe) -> Self {
        Self(Arc::new(Mutex::new(Inner { pipe, tail: StderrTail::default() })))
    }

    /// Reads once; false at the end of output. Cancel safe; supports one reader at a time.
    pub(super) async fn read(&self) -> bool {
        poll_fn(|cx| {
            let Inner { pipe, tail } = &mut *self.lock();
            pin!(tail.read(pipe)).poll(cx)
        })
        .await
    }

    /// The end of what was written until now, without secrets.
    pub(super) fn text(&self, redactor: &Redactor) -> String {
        let Inner { pipe, tail } = &mut *self.lock();
        tail.read_available(pipe);
        tail.text(redactor)
    }

    /// Discards what was written until now.
    pub(super) fn clear(&self) {
        let Inner { pipe, tail } = &mut *self.lock();
        tail.read_available(pipe);
        tail.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A reader that panicked leaves a valid, if incomplete, tail behind.
        self.0.lock()
    }
}
