//! The callers of a soak. Each performs one operation, retries through faults, and records its observations.

use std::{cell::RefCell, time::Duration};

use phoenix_testkit::{
    http::{Answer, EventStream, Rest, ServerEvent},
    wait::until_some,
};
use serde_json::{Value, json};

use crate::random::Random;

/// Agents of the configuration; `bad` fails.
const AGENTS: [&str; 5] = ["quick", "once", "quick", "slow", "bad"];

/// A caller's observations about the request with this correlation id.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) correlation_id: String,
    pub(crate) facts: Vec<Fact>,
}

/// An observation that the journal must match.
#[derive(Debug)]
pub(crate) enum Fact {
    /// The plan with this id was accepted with `202`.
    Accepted(String),
    /// The plan ended in this state; a success with this output.
    Ended(&'static str, Option<String>),
    /// The plan was not cancelled, neither explicitly nor by a disconnect.
    NotCancelled,
    /// The first events of the plan, with their kinds; all events if the last is the end.
    Observed(Vec<(String, String)>),
    /// The plan has failed, or its output has these metres.
    Converted(u64),
    /// The agents' ledger has an execution with this message.
    Ran(String),
    /// It has none.
    NeverRan(String),
}

/// Retries until `attempt` returns a value. During fault injection this is unbounded; the soak limits the time afterwards.
pub(crate) async fn retry<T>(what: &str, id: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let mut report = tokio::time::interval(Duration::from_secs(30));
    report.tick().await;
    let tries = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            // Paces the retries, faster than `Retry-After` asks for.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::pin!(tries);
    loop {
        tokio::select! {
            done = &mut tries => return done,
            _ = report.tick() => eprintln!("soak: a caller still waits until {what}: {id}"),
        }
    }
}

/// Submits a plan, and returns its id.
pub(crate) async fn submit(rest: &Rest, random: &mut Random, correlation_id: &str, plan: &Value) -> String {
    // With one key for all retries, which makes one plan.
    let sender = rest
        .clone()
        .with_header("prefer", "respond-async")
        .with_header("idempotency-key", random.uuid())
        .with_header("x-correlation-id", correlation_id.to_owned());
    retry("a plan is acknowledged", correlation_id, async || {
        let answer = sender.try_send("POST".parse().unwrap(), "/api/v1/plans", Some(plan.clone())).await?;
        match answer.status.as_u16() {
            202 => Some(answer.str("plan_id").to_owned()),
            // The tools of an MCP server are not known before it has started.
            422 if answer.text.contains("units") => None,
            _ => {
                assert!(is_retryable(&answer), "{}: {}", answer.status, answer.text);
                None
            }
        }
    })
    .await
}

/// Submits a plan, and then polls, watches or cancels it.
pub(crate) async fn plan(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let plan = graph(&mut random);
    let plan_id = submit(&rest, &mut random, &correlation_id, &plan).await;
    let mut facts = vec![Fact::Accepted(plan_id.clone())];
    match random.below(4) {
        0 => facts.extend(cancel(&rest, &plan_id, &mut random).await),
        1 => facts.extend([watch(&rest, &plan_id).await, Fact::NotCancelled]),
        _ => {
            poll(&rest, &plan_id).await;
            facts.push(Fact::NotCancelled);
        }
    }
    Observation { correlation_id, facts }
}

/// Sends a chat and waits for the answer; half of the chats are retried under a key.
pub(crate) async fn chat(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let mut sender = rest.clone().with_header("x-correlation-id", correlation_id.clone());
    let (chat, message) = message(&mut random);
    let again = random.one_in(2);
    if again {
        sender = sender.with_header("idempotency-key", random.uuid());
    }
    let ask = async || sender.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(chat.clone())).await;
    let mut facts = Vec::new();
    if again {
        let ended = async || outcome(&rest, &ask().await?).await;
        let repeated = retry("it is answered again", &correlation_id, &ended);
        let ended = retry("a chat is answered", &correlation_id, &ended).await;
        let repeated = repeated.await;
        assert_eq!(ended, repeated, "the same key, the same answer: {correlation_id}");
        facts.push(Fact::Ended(ended.0, ended.1));
    } else if let Some(answer) = ask().await {
        facts.extend(outcome(&rest, &answer).await.map(|(status, output)| Fact::Ended(status, output)));
    }
    for fact in &facts {
        if let Fact::Ended("succeeded", output) = fact {
            assert_eq!(output.as_deref(), Some(message.as_str()), "the echo's answer: {correlation_id}");
        }
    }
    Observation { correlation_id, facts }
}

/// Sends a chat and disconnects after a random time.
pub(crate) async fn hang_up(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let continues = random.one_in(2);
    let path = if continues { "/api/v1/chat?on_disconnect=continue" } else { "/api/v1/chat" };
    let sender = rest.with_header("x-correlation-id", correlation_id.clone());
    let chat = message(&mut random).0;
    let limit = Duration::from_millis(random.below(400));
    let _ = tokio::time::timeout(limit, sender.try_send("POST".parse().unwrap(), path, Some(chat))).await;
    Observation { correlation_id, facts: if continues { vec![Fact::NotCancelled] } else { Vec::new() } }
}

/// Sends a chat and reads its events, to the answer or until it disconnects.
pub(crate) async fn stream(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let sender = rest
        .with_header("accept", "text/event-stream")
        .with_header("x-correlation-id", correlation_id.clone());
    let chat = message(&mut random).0;
    let limit =
        if random.one_in(3) { Duration::from_millis(random.below(400)) } else { Duration::from_secs(60) };
    let (mut observed, mut facts) = (Vec::new(), Vec::new());
    let read = async {
        let stream = sender.try_events("POST".parse().unwrap(), "/api/v1/chat", Some(chat)).await;
        let mut stream = stream.filter(|stream| stream.status == 200)?;
        while let Some(sent) = stream.next().await {
            if sent.event == "response" {
                return outcome_of(&sent.data);
            }
            observed.push((sent.id, sent.event));
        }
        None
    };
    if let Ok(Some((status, output))) = tokio::time::timeout(limit, read).await {
        facts.push(Fact::Ended(status, output));
        assert_eq!(
            observed.last().map(|(_, kind)| kind.as_str()),
            Some("plan_ended"),
            "the answer comes last: {correlation_id}"
        );
    }
    facts.push(Fact::Observed(observed));
    Observation { correlation_id, facts }
}

/// Cancels a plan after a random time, unless it has ended.
async fn cancel(rest: &Rest, plan_id: &str, random: &mut Random) -> Option<Fact> {
    tokio::time::sleep(Duration::from_millis(random.below(500))).await;
    let path = format!("/api/v1/plans/{plan_id}:cancel");
    retry("a cancel is answered", plan_id, async || {
        let answer = rest.try_send("POST".parse().unwrap(), &path, Some(json!({"reason": "soak"}))).await?;
        match answer.status.as_u16() {
            200 => Some(Some(Fact::Ended("cancelled", None))),
            // The plan had ended.
            409 => Some(None),
            _ => is_retryable(&answer).then_some(None)?,
        }
    })
    .await
}

/// Polls a plan until it has ended.
pub(crate) async fn poll(rest: &Rest, plan_id: &str) {
    let path = format!("/api/v1/plans/{plan_id}");
    retry("a plan has ended", plan_id, async || {
        let answer = rest.try_send("GET".parse().unwrap(), &path, None).await?;
        assert!(answer.status == 200 || is_retryable(&answer), "{}: {}", answer.status, answer.text);
        answer.json["ended_at"].is_string().then_some(())
    })
    .await;
}

/// Reads the events of a plan to its end, reconnecting after every fault.
async fn watch(rest: &Rest, plan_id: &str) -> Fact {
    let path = format!("/api/v1/plans/{plan_id}/events");
    let observed = RefCell::new(Vec::<(String, String)>::new());
    retry("a plan has ended before its watcher", plan_id, async || {
        let last = observed.borrow().last().map_or_else(|| "0".to_owned(), |(id, _)| id.clone());
        let reader = rest.clone().with_header("last-event-id", last);
        let mut stream = reader.try_events("GET".parse().unwrap(), &path, None).await?;
        if stream.status != 200 {
            assert!(matches!(stream.status.as_u16(), 503 | 504), "{}", stream.text().await);
            return None;
        }
        while let Some(ServerEvent { id, event, .. }) = stream.next().await {
            let ended = event == "plan_ended";
            observed.borrow_mut().push((id, event));
            if ended {
                return Some(());
            }
        }
        None
    })
    .await;
    Fact::Observed(observed.into_inner())
}

/// Every event of a plan that has ended.
pub(crate) async fn events(rest: &Rest, plan_id: &str) -> Vec<ServerEvent> {
    let path = format!("/api/v1/plans/{plan_id}/events");
    let mut stream: EventStream = until_some(&path, async || {
        let stream = rest.try_events("GET".parse().unwrap(), &path, None).await?;
        (stream.status == 200).then_some(stream)
    })
    .await;
    let mut events = Vec::new();
    while let Some(sent) = stream.next().await {
        events.push(sent);
    }
    events
}

/// A plan of one to four tasks; some fail, and some failures are tolerated.
fn graph(random: &mut Random) -> Value {
    let tasks: Vec<_> = (0..=random.below(4))
        .map(|n| {
            let depends_on: Vec<_> =
                (0..n).filter(|_| random.one_in(3)).map(|before| format!("t{before}")).collect();
            let on_failure = random.choose(&["fail", "continue"]);
            json!({"key": format!("t{n}"), "agent": random.choose(&AGENTS), "action": "chat",
                   "input": {"message": "hi"}, "depends_on": depends_on, "on_failure": on_failure})
        })
        .collect();
    json!({"tasks": tasks})
}

/// A chat and its message.
fn message(random: &mut Random) -> (Value, String) {
    let message = format!("hello {}", random.below(1_000_000));
    (json!({"message": message, "agent": random.choose(&AGENTS)}), message)
}

/// The outcome of a chat's plan, if it is known from the answer; an answer during a fault need not contain it.
async fn outcome(rest: &Rest, answer: &Answer) -> Option<(&'static str, Option<String>)> {
    let ended = outcome_of(&answer.json);
    if ended.is_none() {
        assert!(is_retryable(answer), "a chat is answered with {}: {}", answer.status, answer.text);
    }
    if ended.is_none() && answer.json["plan_id"].is_string() {
        // Either no executor was available, and the plan has failed, or its end could not be journaled or read.
        let path = format!("/api/v1/plans/{}", answer.str("plan_id"));
        let plan = rest.try_send("GET".parse().unwrap(), &path, None).await?.json;
        return (plan["error"]["code"] == "unavailable").then_some(("failed", None));
    }
    ended
}

fn outcome_of(answer: &Value) -> Option<(&'static str, Option<String>)> {
    match (answer["status"].as_str()?, answer["error"]["code"].as_str()) {
        ("success", None) => Some(("succeeded", answer["output"].as_str().map(str::to_owned))),
        (_, Some("execution_failed")) => Some(("failed", None)),
        (_, Some("cancelled")) => Some(("cancelled", None)),
        _ => None,
    }
}

/// Whether a service was unavailable, or the first of two requests with one key is still running.
pub(crate) fn is_retryable(answer: &Answer) -> bool {
    let code = answer.json["code"].as_str().or(answer.json["error"]["code"].as_str());
    matches!(
        (answer.status.as_u16(), code),
        (409, Some("conflict")) | (503, Some("unavailable")) | (504, Some("timeout"))
    )
}
