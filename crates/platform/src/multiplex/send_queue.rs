//! Frames on their way to the wire.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{Stream, stream};
use tokio::sync::Notify;

use super::SHARED_BYTES;

/// What may wait for the peer to read before those who fill it wait, too.
const ROOM_BYTES: usize = 4 * 1024 * 1024;

/// How often a batch looks whether more has come, before it goes.
const LOOKS: usize = 2;

/// Frames that wait to be sent. Ends when its last [`Sender`] is gone.
#[derive(Debug)]
struct SendQueue<F> {
    waiting: Mutex<Waiting<F>>,
    /// Something is to be sent, or nothing will be any more.
    arrived: Notify,
    /// There is room again.
    room: Notify,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Waiting<F> {
    frames: Vec<(F, usize)>,
    bytes: usize,
}

/// Puts frames into an send_queue. Cheap to clone.
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
    /// Has `frame`, which holds `bytes`, sent.
    pub(super) fn send(&self, frame: F, bytes: usize) {
        let send_queue = &self.0.0;
        let mut waiting = send_queue.lock();
        waiting.bytes += bytes;
        waiting.frames.push((frame, bytes));
        let is_first = waiting.frames.len() == 1;
        drop(waiting);
        if is_first {
            send_queue.arrived.notify_one();
        }
    }

    /// Whether the peer reads so slowly that nothing more should be put in.
    pub(super) fn is_full(&self) -> bool {
        self.0.0.lock().bytes > ROOM_BYTES
    }

    /// Takes a frame out again that has not been sent: whether there was one.
    pub(super) fn retract(&self, is_it: impl Fn(&F) -> bool) -> bool {
        let send_queue = &self.0.0;
        let mut waiting = send_queue.lock();
        let Some(index) = waiting.frames.iter().position(|(frame, _)| is_it(frame)) else { return false };
        let (_, bytes) = waiting.frames.remove(index);
        waiting.bytes -= bytes;
        drop(waiting);
        send_queue.room.notify_waiters();
        true
    }

    /// Waits while the peer reads more slowly than frames are made.
    pub(super) async fn room(&self) {
        let send_queue = &self.0.0;
        loop {
            let room = send_queue.room.notified();
            if send_queue.lock().bytes <= ROOM_BYTES {
                return;
            }
            room.await;
        }
    }
}

impl<F> SendQueue<F> {
    fn lock(&self) -> MutexGuard<'_, Waiting<F>> {
        // Never held across anything that can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next frames, once there are some; `None` at the end.
    async fn batch(&self) -> Option<Vec<F>> {
        while self.lock().frames.is_empty() {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            self.arrived.notified().await;
        }
        self.gather().await;
        let mut waiting = self.lock();
        let fits = waiting.frames.iter().scan(0, |sum, (_, bytes)| {
            *sum += bytes;
            Some(*sum)
        });
        let fits = fits.take_while(|sum| *sum <= SHARED_BYTES).count().max(1).min(waiting.frames.len());
        let later = waiting.frames.split_off(fits);
        let batch = mem::replace(&mut waiting.frames, later);
        waiting.bytes -= batch.iter().map(|(_, bytes)| bytes).sum::<usize>();
        drop(waiting);
        self.room.notify_waiters();
        Some(batch.into_iter().map(|(frame, _)| frame).collect())
    }

    /// Lets those who are about to send something do so: one packet for all of it, and one wake-up of the peer.
    async fn gather(&self) {
        let (mut seen, mut looks) = (self.lock().frames.len(), 0);
        while looks < LOOKS {
            tokio::task::yield_now().await;
            let now = self.lock().frames.len();
            looks = if now > seen { 0 } else { looks + 1 };
            seen = now;
        }
    }
}

/// An send_queue: where frames are put in, and the batches that come out.
pub(super) fn send_queue<F: Send + 'static>() -> (Sender<F>, impl Stream<Item = Vec<F>> + Send + 'static) {
    let waiting = Mutex::new(Waiting { frames: Vec::new(), bytes: 0 });
    let send_queue = Arc::new(SendQueue {
        waiting,
        arrived: Notify::new(),
        room: Notify::new(),
        closed: AtomicBool::new(false),
    });
    let sender = Sender(Arc::new(Handle(Arc::clone(&send_queue))));
    let batches = stream::unfold(send_queue, async |send_queue| {
        let batch = send_queue.batch().await?;
        Some((batch, send_queue))
    });
    (sender, batches)
}
