//! Callers that read a response in the background to its end, and continue its stream after every fault.

use std::cell::RefCell;

use phoenix_testkit::http::{Rest, ServerEvent};
use serde_json::{Value, json};

use crate::{
    callers::{Fact, Observation, retry},
    random::Random,
};

const RESPONSES: &str = "/v1/responses";

/// Creates a response, and reads its events, each once and in order, to the last one.
pub(crate) async fn response(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let message = format!("hello {} there", random.below(1_000_000));
    let agent = random.choose(&["talk", "talk", "slow", "bad"]);
    let body = json!({"model": agent, "input": message, "background": true, "stream": true});
    let sender = rest
        .clone()
        .with_header("idempotency-key", random.uuid())
        .with_header("x-correlation-id", correlation_id.clone());
    let events = RefCell::new(Vec::<Value>::new());
    retry("a response has ended", &correlation_id, async || {
        let known = events.borrow().first().map(|created| created["response"]["id"].clone());
        let stream = match known {
            None => sender.try_events("POST".parse().unwrap(), RESPONSES, Some(body.clone())).await,
            Some(id) => {
                let (id, last) = (id.as_str().unwrap(), events.borrow().len() - 1);
                let path = format!("{RESPONSES}/{id}?stream=true&starting_after={last}");
                rest.try_events("GET".parse().unwrap(), &path, None).await
            }
        };
        let mut stream = stream?;
        if stream.status != 200 {
            assert!(matches!(stream.status.as_u16(), 409 | 503 | 504), "{}", stream.text().await);
            return None;
        }
        while let Some(ServerEvent { event, data, .. }) = stream.next().await {
            let mut events = events.borrow_mut();
            let number = data["sequence_number"].as_u64().unwrap() as usize;
            if event == "error" && (number < events.len() || events.is_empty()) {
                // The gateway stops.
                return None;
            }
            assert_eq!(number, events.len(), "each event once: {correlation_id}: {data}");
            events.push(data);
            if matches!(event.as_str(), "response.completed" | "response.failed") {
                return Some(());
            }
        }
        None
    })
    .await;
    let events = events.into_inner();
    let (id, end) = (events[0]["response"]["id"].as_str().unwrap(), &events[events.len() - 1]["response"]);
    let mut facts = vec![Fact::Accepted(id.trim_start_matches("resp_").to_owned()), Fact::NotCancelled];
    if end["status"] == "completed" {
        let items = end["output"].as_array().unwrap();
        let text: Vec<_> = items.iter().filter_map(|item| item["content"][0]["text"].as_str()).collect();
        assert_eq!(text, [message.as_str()], "the answer of one attempt: {correlation_id}");
        facts.push(Fact::Ended("succeeded", Some(message)));
    } else {
        facts.push(Fact::Ended("failed", None));
    }
    Observation { correlation_id, facts }
}
