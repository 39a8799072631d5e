//! Export of log lines to a collector, beside standard error.
//!
//! The lines are those of the JSON format. They wait in a queue of bounded size, which never blocks: lines beyond it are counted as lost to
//! the collector. A task sends them in batches.

use std::sync::Arc;

use opentelemetry_proto::tonic::resource::v1::Resource;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::{
    log_records,
    report::{self, Exported, Failures},
    settings::LogExport,
    transport::{Batch, Sender},
};
use crate::logging::LineSink;

/// Capacity of the queue in bytes.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// Size limit of one batch in bytes of its lines.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Lines that wait for their export. Clones share one queue.
#[derive(Debug, Clone)]
pub(super) struct LogQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Notified when a batch is full.
    is_full: Notify,
    queue_lines: usize,
    batch_lines: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: usize,
}

impl LogQueue {
    /// An empty queue.
    pub(super) fn new(export: &LogExport) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            is_full: Notify::new(),
            queue_lines: export.queue_lines,
            batch_lines: export.batch_lines.min(export.queue_lines),
        }))
    }

    /// Sends the lines as they arrive, until `stop`, and then those that are left.
    pub(super) async fn run(
        self,
        sender: Sender,
        resource: Resource,
        export: LogExport,
        stop: CancellationToken,
    ) {
        let mut failures = Failures::new(Exported::LogLines);
        loop {
            tokio::select! {
                () = sleep(export.delay) => {}
                () = self.0.is_full.notified() => {}
                () = stop.cancelled() => {}
            }
            let is_last = stop.is_cancelled();
            let waiting = std::mem::take(&mut *self.0.waiting.lock());
            for batch in batches(&waiting.bytes, self.0.batch_lines) {
                let (request, lines) = log_records::request(&resource, batch);
                if lines == 0 {
                    continue;
                }
                match sender.send(&Batch::Logs(request), &stop).await {
                    Ok(rejected) if rejected.items == 0 => failures.end(),
                    Ok(rejected) => failures.add(rejected.items, &rejected.reason),
                    Err(error) => failures.add(lines, &error),
                }
            }
            if is_last {
                return;
            }
        }
    }
}

impl LineSink for LogQueue {
    fn line(&self, _: Level, line: &[u8]) {
        let Shared { waiting, is_full, queue_lines, batch_lines } = &*self.0;
        let mut waiting = waiting.lock();
        if waiting.lines >= *queue_lines || waiting.bytes.len() + line.len() > MAX_WAITING_BYTES {
            drop(waiting);
            report::count_lost(Exported::LogLines, 1);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        if waiting.lines == *batch_lines {
            is_full.notify_one();
        }
    }
}

/// Splits lines into batches of bounded number and size. A longer line is a batch.
fn batches(bytes: &[u8], batch_lines: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let mut end = 0;
        for line in rest.split_inclusive(|byte| *byte == b'\n').take(batch_lines) {
            if end > 0 && end + line.len() > MAX_BATCH_BYTES {
                break;
            }
            end += line.len();
        }
        let (batch, after) = rest.split_at(end);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_into_bounded_batches() {
        let long = "x".repeat(MAX_BATCH_BYTES - 2) + "\n";
        let text = format!("a\nb\nc\n{long}d\ne\n");
        let sizes: Vec<_> = batches(text.as_bytes(), 2).map(<[u8]>::len).collect();
        assert_eq!(sizes, [4, 2, long.len(), 4]);
        assert_eq!(batches(text.as_bytes(), 2).flatten().copied().collect::<Vec<_>>(), text.as_bytes());
        assert_eq!(batches(b"", 2).count(), 0);
    }

    #[test]
    fn full_queue_keeps_the_earlier_lines() {
        let shared =
            Shared { waiting: Mutex::default(), is_full: Notify::new(), queue_lines: 2, batch_lines: 2 };
        let queue = LogQueue(Arc::new(shared));
        for line in ["a\n", "b\n", "c\n"] {
            queue.line(Level::INFO, line.as_bytes());
        }
        assert_eq!(queue.0.waiting.lock().bytes, b"a\nb\n");
    }
}
