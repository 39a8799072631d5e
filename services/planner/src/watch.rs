//! What happens to a plan, as it happens: the journal's events, first those that are there, then each new one.

use std::time::Duration;

use futures_util::Stream;
use phoenix_domain::PlanId;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::Journal,
    store::{Event, JournalError},
};

/// Events read at once.
const PAGE: u32 = 256;

/// How often the journal is looked at when nobody tells of a change: another planner may have written it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    let mut changes = journal.changes();
    let mut ended = false;
    loop {
        let found = match journal.events(plan_id, position, PAGE).await {
            Ok(found) => found,
            Err(error) => return drop(reader.send(Err(error)).await),
        };
        let full = found.len() == PAGE as usize;
        for event in found {
            position = event.position;
            ended |= event.kind == "plan_ended";
            if reader.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if full {
            continue;
        }
        if ended {
            return;
        }
        changed(&mut changes, plan_id).await;
    }
}

/// Waits until the plan has changed, or may have.
async fn changed(
    changes: &mut broadcast::Receiver<std::sync::Arc<std::collections::HashSet<PlanId>>>,
    plan_id: PlanId,
) {
    let told = async {
        loop {
            match changes.recv().await {
                Ok(plans) if !plans.contains(&plan_id) => {}
                // Changed, or too many changes to have heard of all.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    let _ = tokio::time::timeout(LOOK_EVERY, told).await;
}
