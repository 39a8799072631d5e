//! What happens to a plan, as it happens: the journal's events, first those that are there, then each new one.

use futures_util::Stream;
use phoenix_domain::PlanId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::Journal,
    store::{Event, JournalError},
};

/// Events read at once.
const PAGE: u32 = 256;

/// Events of `plan_id` after `position`. Ends after the plan's end and what has been decided about it since, or with
/// `shutdown`.
pub fn events(
    journal: Journal,
    plan_id: PlanId,
    position: u64,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<Event, JournalError>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(journal, plan_id, position, &sender) => {}
            () = sender.closed() => {}
            () = shutdown.cancelled() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn follow(
    journal: Journal,
    plan_id: PlanId,
    mut position: u64,
    reader: &mpsc::Sender<Result<Event, JournalError>>,
) {
    // Before the first look, so that nothing falls between the look and the wait.
    let mut watcher = journal.watch(plan_id);
    // The first look finds everything that is durable; the watcher is woken when there is more to be read.
    let mut found = journal.events(plan_id, position, PAGE).await;
    let mut ended = false;
    loop {
        let events = match found {
            Ok(events) => events,
            Err(error) => return drop(reader.send(Err(error)).await),
        };
        let full = events.len() == PAGE as usize;
        for event in events {
            position = event.position;
            ended |= event.kind == "plan_ended";
            if reader.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if !full {
            if ended {
                return;
            }
            watcher.changed().await;
        }
        found = journal.moved_events(plan_id, position, PAGE).await;
    }
}
