//! The feed of a plan that another planner runs.
//!
//! It is the feed of that planner, events included, because only there is the order of events and output known. When the
//! planner cannot be reached or dies, the feed is that of the journal, until the plan's planner answers: the same one, the one
//! that has taken the plan over, or this one. Readers notice no seam: an event is skipped when its position was passed, and
//! output as far as it was passed on ([`SeenOutput`]).

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_platform::RequestContext;
use phoenix_proto::{
    InvalidField,
    live_output::{LiveOutput, SeenOutput},
    planner::WatchPlanResponse,
    required_timestamp,
};
use serde::Deserialize;
use tonic::Streaming;

use super::sources::{Selection, Sources};
use crate::{
    live::LocalFeed,
    peers::PeerPlanners,
    store::{error::JournalError, query::Event},
};

/// How long the first event waits for an answer of the plan's planner.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The pause before the plan's planner is looked up again; doubled from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The feed of a plan that does not run here. Dropping it ends the forwarded call.
pub(crate) struct RemoteFeed {
    sources: Sources,
    context: RequestContext,
    /// What is read next.
    selection: Selection,
    source: Source,
    pause: Duration,
    /// Output that was passed on.
    seen: SeenOutput,
    ended: EndedOutput,
    /// Events that were received and not returned yet.
    received: VecDeque<Event>,
    has_ended: bool,
}

/// Where events come from.
enum Source {
    /// The planner that runs the plan.
    Owner(Box<Streaming<WatchPlanResponse>>),
    /// The journal, while that planner is looked for. The output of this process is read, too: it may take the plan over.
    Journal(Box<LocalFeed>, Lookup),
}

/// The search for the planner that runs the plan: its feed, if it answers.
type Lookup = Pin<Box<dyn Future<Output = Option<Box<Streaming<WatchPlanResponse>>>> + Send>>;

/// Attempts and tasks whose end was passed on: what they said comes too late.
#[derive(Debug, Default)]
struct EndedOutput(HashMap<String, u32>);

#[derive(Deserialize)]
struct OfAttempt {
    attempt: u32,
}

impl RemoteFeed {
    /// Opens the feed, at its planner if that answers soon.
    pub(super) async fn open(sources: Sources, context: &RequestContext, selection: Selection) -> Self {
        // The feed ends with the caller's stream, not before.
        let context = RequestContext { deadline: None, ..context.clone() };
        let mut lookup =
            look_up(&sources.peers, &context, selection.plan_id, selection.after, Duration::ZERO);
        let source = match tokio::time::timeout(FIRST_ANSWER, &mut lookup).await {
            Ok(Some(owner)) => Source::Owner(owner),
            Ok(None) => journal(&sources, &context, &selection, FIRST_PAUSE),
            Err(_) => Source::Journal(Box::new(sources.local(selection.clone())), lookup),
        };
        Self {
            sources,
            context,
            selection,
            source,
            pause: FIRST_PAUSE,
            seen: SeenOutput::default(),
            ended: EndedOutput::default(),
            received: VecDeque::new(),
            has_ended: false,
        }
    }

    /// The next event; `None` at the end of the journaled ones. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<Event, JournalError>> {
        loop {
            if let Some(event) = self.received.pop_front() {
                return Some(Ok(event));
            }
            match &mut self.source {
                Source::Owner(owner) => {
                    let message = tokio::select! {
                        message = owner.message() => message,
                        () = self.selection.end.cancelled() => return None,
                    };
                    match message.map(|message| message.map(decode)) {
                        Ok(Some(Ok(event))) => self.receive(event),
                        Ok(None) | Err(_) if self.has_ended => return None,
                        // Its planner stops, or died, or sent something invalid.
                        Ok(None | Some(Err(_))) | Err(_) => self.use_journal(),
                    }
                }
                Source::Journal(feed, lookup) => tokio::select! {
                    event = feed.next() => match event {
                        Some(Ok(event)) => self.receive(event),
                        end => return end,
                    },
                    found = lookup => match found {
                        Some(owner) => self.source = Source::Owner(owner),
                        None => self.look_up_again(),
                    },
                },
            }
        }
    }

    fn use_journal(&mut self) {
        self.source = journal(&self.sources, &self.context, &self.selection, self.pause);
    }

    fn look_up_again(&mut self) {
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let (plan_id, after) = (self.selection.plan_id, self.selection.after);
        if let Source::Journal(_, lookup) = &mut self.source {
            *lookup = look_up(&self.sources.peers, &self.context, plan_id, after, self.pause);
        }
    }

    /// Takes what is new of an event.
    fn receive(&mut self, event: Event) {
        self.pause = FIRST_PAUSE;
        if event.is_live() {
            if let Err(error) = self.receive_output(event) {
                tracing::error!(%error, "the planner that runs the plan sent invalid output");
            }
        } else if event.position > self.selection.after {
            self.selection.after = event.position;
            self.has_ended |= event.kind == "plan_ended";
            self.ended.record(&event);
            let reset = self.seen.journaled(&event.kind, &event.task_key, &event.data);
            self.received.extend(reset.map(|reset| encode(reset, event.at)));
            self.received.push_back(event);
        }
    }

    fn receive_output(&mut self, event: Event) -> Result<(), InvalidField> {
        let Event { position: _, kind, at, task_key, data } = event;
        let attempt = attempt_of(&data).map_err(|problem| InvalidField::new("data_json", problem))?;
        if self.ended.has(&task_key, attempt) {
            return Ok(());
        }
        let news = self.seen.receive(&kind, task_key, data)?;
        self.received.extend(news.map(|news| encode(news, at)));
        Ok(())
    }
}

impl EndedOutput {
    fn record(&mut self, Event { kind, task_key, data, .. }: &Event) {
        let attempt = match kind.as_str() {
            "attempt_ended" => attempt_of(data).unwrap_or_default(),
            "task_ended" => u32::MAX,
            _ => return,
        };
        let ended = self.0.entry(task_key.clone()).or_default();
        *ended = attempt.max(*ended);
    }

    fn has(&self, task_key: &str, attempt: u32) -> bool {
        self.0.get(task_key).is_some_and(|ended| attempt <= *ended)
    }
}

fn journal(sources: &Sources, context: &RequestContext, selection: &Selection, pause: Duration) -> Source {
    let lookup = look_up(&sources.peers, context, selection.plan_id, selection.after, pause);
    Source::Journal(Box::new(sources.local(selection.clone())), lookup)
}

/// Looks the plan's planner up after a pause, and opens its feed.
fn look_up(
    peers: &PeerPlanners,
    context: &RequestContext,
    plan_id: PlanId,
    after: u64,
    pause: Duration,
) -> Lookup {
    let (peers, context) = (peers.clone(), context.clone());
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        let owner = peers.owner_of(plan_id).await?;
        owner.watch(&context, plan_id, after).await.ok().map(Box::new)
    })
}

fn decode(message: WatchPlanResponse) -> Result<Event, InvalidField> {
    let WatchPlanResponse { position, kind, at, task_key, data_json } = message;
    Ok(Event { position, kind, at: required_timestamp("at", at)?, task_key, data: data_json })
}

fn encode(output: LiveOutput, at: Timestamp) -> Event {
    let (kind, task_key, data) = output.into_parts();
    Event { position: 0, kind: kind.into(), at, task_key, data: Box::<str>::from(data).into() }
}

fn attempt_of(data: &str) -> serde_json::Result<u32> {
    serde_json::from_str(data).map(|OfAttempt { attempt }| attempt)
}
