//! Those who use the stack while it is under fire. Each does one thing a caller may do, through whatever breaks
//! meanwhile, and remembers what it was told.

use std::{cell::RefCell, time::Duration};

use phoenix_testkit::http::{Answer, EventStream, Rest, Sent};
use serde_json::{Value, json};

use crate::random::Random;

/// Agents of the configuration that answer, and one that does not.
const AGENTS: [&str; 5] = ["quick", "once", "quick", "slow", "bad"];

/// What a caller was told, all about the request with this correlation id.
#[derive(Debug)]
pub(crate) struct Witness {
    pub(crate) correlation_id: String,
    pub(crate) facts: Vec<Fact>,
}

/// Something that the journal has to agree with, in the end.
#[derive(Debug)]
pub(crate) enum Fact {
    /// There is a plan of this name: `202`.
    Accepted(String),
    /// The plan ended in this state, a success with this output.
    Ended(&'static str, Option<String>),
    /// Nobody cancelled the plan, nor did its caller leave it to be cancelled.
    NobodyCancelled,
    /// These are the plan's first events, each with its kind; from the first to the end when the last is the end.
    Saw(Vec<(String, String)>),
}

/// Tries until it works. Under fire that may take any time; the soak limits what follows when the fire has ended.
pub(crate) async fn insist<T>(what: &str, id: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let mut patience = tokio::time::interval(Duration::from_secs(30));
    patience.tick().await;
    let tries = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            // As callers do, though `Retry-After` asks for more.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::pin!(tries);
    loop {
        tokio::select! {
            done = &mut tries => return done,
            _ = patience.tick() => eprintln!("soak: somebody still waits until {what}: {id}"),
        }
    }
}

/// A plan that is handed over. Its caller then asks for it now and then, watches it, or cancels it.
pub(crate) async fn plan(rest: Rest, mut random: Random) -> Witness {
    let correlation_id = random.uuid();
    let plan = graph(&mut random);
    // The same key however often it is sent: it is one plan.
    let sender = rest
        .clone()
        .with_header("prefer", "respond-async")
        .with_header("idempotency-key", random.uuid())
        .with_header("x-correlation-id", correlation_id.clone());
    let plan_id = insist("a plan is acknowledged", &correlation_id, async || {
        let answer = sender.try_send("POST".parse().unwrap(), "/api/v1/plans", Some(plan.clone())).await?;
        match answer.status.as_u16() {
            202 => Some(answer.str("plan_id").to_owned()),
            _ => may_be_sent_again(&answer).then_some(None)?,
        }
    })
    .await;
    let mut facts = vec![Fact::Accepted(plan_id.clone())];
    match random.below(4) {
        0 => facts.extend(cancel(&rest, &plan_id, &mut random).await),
        1 => facts.extend([watch(&rest, &plan_id).await, Fact::NobodyCancelled]),
        _ => {
            poll(&rest, &plan_id).await;
            facts.push(Fact::NobodyCancelled);
        }
    }
    Witness { correlation_id, facts }
}

/// A chat whose caller waits for the answer; half of them with a key, and again until there is an answer.
pub(crate) async fn chat(rest: Rest, mut random: Random) -> Witness {
    let correlation_id = random.uuid();
    let mut sender = rest.with_header("x-correlation-id", correlation_id.clone());
    let (chat, message) = message(&mut random);
    let again = random.once_in(2);
    if again {
        sender = sender.with_header("idempotency-key", random.uuid());
    }
    let ask = async || sender.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(chat.clone())).await;
    let mut facts = Vec::new();
    if again {
        let ended = insist("a chat is answered", &correlation_id, async || how_it_ended(&ask().await?)).await;
        let repeated =
            insist("it is answered again", &correlation_id, async || how_it_ended(&ask().await?)).await;
        assert_eq!(ended, repeated, "the same key, the same answer: {correlation_id}");
        facts.push(Fact::Ended(ended.0, ended.1));
    } else if let Some(answer) = ask().await {
        facts.extend(how_it_ended(&answer).map(|(status, output)| Fact::Ended(status, output)));
    }
    for fact in &facts {
        if let Fact::Ended("succeeded", output) = fact {
            assert_eq!(output.as_deref(), Some(message.as_str()), "the echo's answer: {correlation_id}");
        }
    }
    Witness { correlation_id, facts }
}

/// A chat whose caller hangs up before the answer, or with it.
pub(crate) async fn hang_up(rest: Rest, mut random: Random) -> Witness {
    let correlation_id = random.uuid();
    let goes_on = random.once_in(2);
    let path = if goes_on { "/api/v1/chat?on_disconnect=continue" } else { "/api/v1/chat" };
    let sender = rest.with_header("x-correlation-id", correlation_id.clone());
    let chat = message(&mut random).0;
    let patience = Duration::from_millis(random.below(400));
    let _ = tokio::time::timeout(patience, sender.try_send("POST".parse().unwrap(), path, Some(chat))).await;
    Witness { correlation_id, facts: if goes_on { vec![Fact::NobodyCancelled] } else { Vec::new() } }
}

/// A chat whose caller watches how it goes, up to the answer or until it hangs up.
pub(crate) async fn stream(rest: Rest, mut random: Random) -> Witness {
    let correlation_id = random.uuid();
    let sender = rest
        .with_header("accept", "text/event-stream")
        .with_header("x-correlation-id", correlation_id.clone());
    let chat = message(&mut random).0;
    let patience =
        if random.once_in(3) { Duration::from_millis(random.below(400)) } else { Duration::from_secs(60) };
    let (mut seen, mut facts) = (Vec::new(), Vec::new());
    let read = async {
        let stream = sender.try_events("POST".parse().unwrap(), "/api/v1/chat", Some(chat)).await;
        let mut stream = stream.filter(|stream| stream.status == 200)?;
        while let Some(sent) = stream.next().await {
            if sent.event == "response" {
                return ended_as(&sent.data);
            }
            seen.push((sent.id, sent.event));
        }
        None
    };
    if let Ok(Some((status, output))) = tokio::time::timeout(patience, read).await {
        facts.push(Fact::Ended(status, output));
        assert_eq!(
            seen.last().map(|(_, kind)| kind.as_str()),
            Some("plan_ended"),
            "the answer comes last: {correlation_id}"
        );
    }
    facts.push(Fact::Saw(seen));
    Witness { correlation_id, facts }
}

/// Ends a plan, unless it has ended.
async fn cancel(rest: &Rest, plan_id: &str, random: &mut Random) -> Option<Fact> {
    tokio::time::sleep(Duration::from_millis(random.below(500))).await;
    let path = format!("/api/v1/plans/{plan_id}:cancel");
    insist("a cancel is answered", plan_id, async || {
        let answer = rest.try_send("POST".parse().unwrap(), &path, Some(json!({"reason": "soak"}))).await?;
        match answer.status.as_u16() {
            200 => Some(Some(Fact::Ended("cancelled", None))),
            // It had ended.
            409 => Some(None),
            _ => may_be_sent_again(&answer).then_some(None)?,
        }
    })
    .await
}

/// Asks for a plan until it has ended.
pub(crate) async fn poll(rest: &Rest, plan_id: &str) {
    let path = format!("/api/v1/plans/{plan_id}");
    insist("a plan has ended", plan_id, async || {
        let answer = rest.try_send("GET".parse().unwrap(), &path, None).await?;
        assert!(answer.status == 200 || may_be_sent_again(&answer), "{}: {}", answer.status, answer.text);
        answer.json["ended_at"].is_string().then_some(())
    })
    .await;
}

/// Follows a plan to its end, through every connection that breaks.
async fn watch(rest: &Rest, plan_id: &str) -> Fact {
    let path = format!("/api/v1/plans/{plan_id}/events");
    let seen = RefCell::new(Vec::<(String, String)>::new());
    insist("a plan has ended before its watcher", plan_id, async || {
        let last = seen.borrow().last().map_or_else(|| "0".to_owned(), |(id, _)| id.clone());
        let reader = rest.clone().with_header("last-event-id", last);
        let mut stream = reader.try_events("GET".parse().unwrap(), &path, None).await?;
        if stream.status != 200 {
            assert!(matches!(stream.status.as_u16(), 503 | 504), "{}", stream.text().await);
            return None;
        }
        while let Some(Sent { id, event, .. }) = stream.next().await {
            let ended = event == "plan_ended";
            seen.borrow_mut().push((id, event));
            if ended {
                return Some(());
            }
        }
        None
    })
    .await;
    Fact::Saw(seen.into_inner())
}

/// Every event of a plan that has ended.
pub(crate) async fn events(rest: &Rest, plan_id: &str) -> Vec<Sent> {
    let path = format!("/api/v1/plans/{plan_id}/events");
    let mut stream: EventStream = rest.try_events("GET".parse().unwrap(), &path, None).await.unwrap();
    let mut events = Vec::new();
    while let Some(sent) = stream.next().await {
        events.push(sent);
    }
    events
}

/// One to four tasks; most succeed, some fail, some failures are survived.
fn graph(random: &mut Random) -> Value {
    let tasks: Vec<_> = (0..=random.below(4))
        .map(|n| {
            let depends_on: Vec<_> =
                (0..n).filter(|_| random.once_in(3)).map(|before| format!("t{before}")).collect();
            let on_failure = random.one_of(&["fail", "continue"]);
            json!({"key": format!("t{n}"), "agent": random.one_of(&AGENTS), "action": "chat",
                   "input": {"message": "hi"}, "depends_on": depends_on, "on_failure": on_failure})
        })
        .collect();
    json!({"tasks": tasks})
}

/// A chat, and what it says.
fn message(random: &mut Random) -> (Value, String) {
    let message = format!("hello {}", random.below(1_000_000));
    (json!({"message": message, "agent": random.one_of(&AGENTS)}), message)
}

/// How a chat's plan ended, if its answer tells; where somebody was down, it need not.
fn how_it_ended(answer: &Answer) -> Option<(&'static str, Option<String>)> {
    let ended = ended_as(&answer.json);
    if ended.is_none() {
        assert!(may_be_sent_again(answer), "a chat is answered with {}: {}", answer.status, answer.text);
    }
    ended
}

fn ended_as(answer: &Value) -> Option<(&'static str, Option<String>)> {
    match (answer["status"].as_str()?, answer["error"]["code"].as_str()) {
        ("success", None) => Some(("succeeded", answer["output"].as_str().map(str::to_owned))),
        (_, Some("execution_failed")) => Some(("failed", None)),
        (_, Some("cancelled")) => Some(("cancelled", None)),
        // The executor was down when the plan began, or for too long: an answer that names a plan is about its end.
        (_, Some("unavailable")) if answer["plan_id"].is_string() => Some(("failed", None)),
        _ => None,
    }
}

/// Whether somebody was down at the moment, or the first of two requests with one key still runs.
pub(crate) fn may_be_sent_again(answer: &Answer) -> bool {
    let code = answer.json["code"].as_str().or(answer.json["error"]["code"].as_str());
    matches!(
        (answer.status.as_u16(), code),
        (409, Some("conflict")) | (503, Some("unavailable")) | (504, Some("timeout"))
    )
}
