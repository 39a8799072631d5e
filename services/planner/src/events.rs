//! Event streams: the journaled events of a plan, then each new one.

use futures_util::Stream;
use phoenix_domain::PlanId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::Journal,
    store::{error::JournalError, query::Event},
};

/// Events that are read at once.
const PAGE: u32 = 256;

/// Events that wait for a slow reader.
const BUFFER: usize = 64;

/// Streams the events of a plan after `position`. Ends after the plan's end and everything decided about it since, or with
/// `shutdown`.
pub fn stream(
    journal: Journal,
    plan_id: PlanId,
    position: u64,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<Event, JournalError>> {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        tokio::select! {
            () = send_events(journal, plan_id, position, &sender) => {}
            () = sender.closed() => {}
            () = shutdown.cancelled() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn send_events(
    journal: Journal,
    plan_id: PlanId,
    mut position: u64,
    reader: &mpsc::Sender<Result<Event, JournalError>>,
) {
    // Registered before the first read, so that no event falls between the read and the wait.
    let mut watcher = journal.watch(plan_id);
    // The first read returns everything that is durable; the watcher is notified when more can be read.
    let mut found = journal.events(plan_id, position, PAGE).await;
    let mut has_ended = false;
    loop {
        let events = match found {
            Ok(events) => events,
            Err(error) => return drop(reader.send(Err(error)).await),
        };
        let is_full = events.len() == PAGE as usize;
        for event in events {
            position = event.position;
            has_ended |= event.kind == "plan_ended";
            if reader.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if !is_full {
            if has_ended {
                return;
            }
            watcher.changed().await;
        }
        found = journal.applied_events(plan_id, position, PAGE).await;
    }
}
