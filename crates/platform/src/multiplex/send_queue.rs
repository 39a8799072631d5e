//! Queue of frames to be sent, in batches.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::limits::BATCH_BYTES;

/// Capacity in bytes. Beyond it, senders of responses wait for the peer to read.
const CAPACITY_BYTES: usize = 4 * 1024 * 1024;

/// Number of yields without a new frame after which a batch is sent.
const IDLE_YIELDS: usize = 2;

/// Frames that wait to be sent. Ends when its last [`Sender`] is dropped.
#[derive(Debug)]
struct SendQueue<F> {
    waiting: Mutex<Waiting<F>>,
    /// Notified when the first frame arrives, and at the end.
    arrived: Notify,
    /// Notified when capacity is released.
    released: Notify,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Waiting<F> {
    frames: Vec<(F, usize)>,
    bytes: usize,
}

/// Sending half of a queue. Cheap to clone.
#[derive(Debug)]
pub(super) struct Sender<F>(Arc<Handle<F>>);

impl<F> Clone for Sender<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Handle<F>(Arc<SendQueue<F>>);

impl<F> Drop for Handle<F> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.arrived.notify_one();
    }
}

impl<F> Sender<F> {
    /// Enqueues `frame`, which holds `bytes`.
    pub(super) fn send(&self, frame: F, bytes: usize) {
        let queue = &self.0.0;
        let mut waiting = queue.waiting.lock();
        waiting.bytes += bytes;
        waiting.frames.push((frame, bytes));
        let is_first = waiting.frames.len() == 1;
        drop(waiting);
        if is_first {
            queue.arrived.notify_one();
        }
    }

    /// Whether the queue is over its capacity, because the peer reads slowly.
    pub(super) fn is_full(&self) -> bool {
        self.0.0.waiting.lock().bytes > CAPACITY_BYTES
    }

    /// Removes the first frame for which `matches` is true and that has not been sent. Returns whether there was one.
    pub(super) fn retract(&self, matches: impl Fn(&F) -> bool) -> bool {
        let queue = &self.0.0;
        let mut waiting = queue.waiting.lock();
        let Some(index) = waiting.frames.iter().position(|(frame, _)| matches(frame)) else { return false };
        let (_, bytes) = waiting.frames.remove(index);
        waiting.bytes -= bytes;
        drop(waiting);
        queue.released.notify_waiters();
        true
    }

    /// Waits until the queue is below its capacity.
    pub(super) async fn capacity(&self) {
        let queue = &self.0.0;
        loop {
            let released = queue.released.notified();
            if queue.waiting.lock().bytes <= CAPACITY_BYTES {
                return;
            }
            released.await;
        }
    }
}

impl<F> SendQueue<F> {
    /// The next batch; `None` at the end.
    async fn batch(&self) -> Option<Vec<F>> {
        while self.waiting.lock().frames.is_empty() {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            self.arrived.notified().await;
        }
        self.coalesce().await;
        let mut waiting = self.waiting.lock();
        let sums = waiting.frames.iter().scan(0, |sum, (_, bytes)| {
            *sum += bytes;
            Some(*sum)
        });
        let count = sums.take_while(|sum| *sum <= BATCH_BYTES).count().max(1).min(waiting.frames.len());
        let later = waiting.frames.split_off(count);
        let batch = mem::replace(&mut waiting.frames, later);
        waiting.bytes -= batch.iter().map(|(_, bytes)| bytes).sum::<usize>();
        drop(waiting);
        self.released.notify_waiters();
        Some(batch.into_iter().map(|(frame, _)| frame).collect())
    }

    /// Yields while other tasks add frames, so that those frames share a packet and a wake-up of the peer.
    async fn coalesce(&self) {
        let (mut seen, mut idle) = (self.waiting.lock().frames.len(), 0);
        while idle < IDLE_YIELDS {
            tokio::task::yield_now().await;
            let now = self.waiting.lock().frames.len();
            idle = if now > seen { 0 } else { idle + 1 };
            seen = now;
        }
    }
}

/// Creates a queue: its sender, and the stream of its batches.
pub(super) fn send_queue<F: Send + 'static>() -> (Sender<F>, impl Stream<Item = Vec<F>> + Send + 'static) {
    let waiting = Mutex::new(Waiting { frames: Vec::new(), bytes: 0 });
    let queue = Arc::new(SendQueue {
        waiting,
        arrived: Notify::new(),
        released: Notify::new(),
        closed: AtomicBool::new(false),
    });
    let sender = Sender(Arc::new(Handle(Arc::clone(&queue))));
    let batches = stream::unfold(queue, async |queue| {
        let batch = queue.batch().await?;
        Some((batch, queue))
    });
    (sender, batches)
}
