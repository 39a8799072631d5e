//! Streams of responses in the background.

use http::Method;
use phoenix_proto::planner::{Plan, WatchPlanResponse};
use serde_json::{Value, json};

use crate::support::{Answer, FakePlanner, Stack, Watch, plans};

const RESPONSES: &str = "/v1/responses";

fn path(query: &str) -> String {
    format!("{RESPONSES}/resp_{}{query}", FakePlanner::PLAN)
}

/// The plan of a response in the background, after its end.
fn recorded(output: &str) -> Plan {
    Plan { records_output: true, ..plans::succeeded(output) }
}

/// The journal of a plan whose first attempt was lost with its planner.
fn journal() -> Vec<WatchPlanResponse> {
    let said = |attempt: u32, texts: &[&str]| {
        let parts: Vec<_> = texts.iter().map(|text| json!({"text": text})).collect();
        json!({"attempt": attempt, "parts": parts})
    };
    [
        ("plan_accepted", json!({})),
        ("task_dispatched", json!({})),
        ("attempt_started", json!({"attempt": 1})),
        ("task_output", said(1, &["On ", "bran"])),
        ("attempt_ended", json!({"attempt": 1, "outcome": "cancelled", "retried": true})),
        ("attempt_started", json!({"attempt": 101})),
        ("task_output", said(101, &["On branch"])),
        // Of an attempt that a later one has replaced.
        ("task_output", said(1, &["ch"])),
        ("task_ended", json!({"status": "succeeded"})),
        ("plan_ended", json!({"status": "succeeded"})),
    ]
    .into_iter()
    .zip(1..)
    .map(|((kind, data), position)| plans::event(position, kind, &data))
    .collect()
}

fn events(answer: &Answer) -> Vec<Value> {
    let data = |text: &str| Some(serde_json::from_str(text.split_once("\ndata: ")?.1).unwrap());
    answer.text.split("\n\n").filter_map(data).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().trim_start_matches("response.")).collect()
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn lost_attempt_ends_its_item_before_the_next_one_begins() {
    let stack = Stack::start().await;
    stack.planner.keep(recorded("On branch main"));
    stack.planner.watches([Watch::Ends(journal())]);
    let body = json!({"model": "phoenix", "input": "git status", "background": true, "stream": true});
    let answer = stack.http.post(RESPONSES, &body).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-phoenix-plan-id")), (200, FakePlanner::PLAN));
    let request = stack.planner.seen().remove(0).request;
    assert!(request.record_output && request.continue_on_disconnect);
    let events = events(&answer);
    assert_eq!(
        kinds(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    );
    assert_eq!(numbers(&events), (0..16).collect::<Vec<_>>());
    assert_eq!(events[0]["response"]["status"], "queued");
    let (lost, kept) = (&events[8], &events[14]);
    assert_eq!((&lost["item"]["status"], &lost["output_index"]), (&json!("incomplete"), &json!(0)));
    assert_eq!((&kept["item"]["status"], &kept["output_index"]), (&json!("completed"), &json!(1)));
    assert_ne!(lost["item"]["id"], kept["item"]["id"]);
    assert_eq!(events[15]["response"]["output"], json!([kept["item"]]));
}

#[tokio::test]
async fn stream_continues_after_any_number_with_the_same_events() {
    let stack = Stack::start().await;
    stack.planner.keep(recorded("On branch main"));
    let read = async |query: &str| {
        let (first, rest) = (journal()[..4].to_vec(), journal());
        stack.planner.watches([Watch::Breaks(first), Watch::Fails, Watch::Ends(rest)]);
        let answer = stack.http.get(&path(query)).await;
        assert_eq!(answer.header("content-type"), "text/event-stream", "{}", answer.text);
        events(&answer)
    };
    let whole = read("?stream=true").await;
    assert_eq!(numbers(&whole), (0..16).collect::<Vec<_>>());
    for after in [0, 4, 8, 14] {
        let rest = read(&format!("?stream=true&starting_after={after}")).await;
        assert_eq!(rest, whole[after + 1..], "{after}");
    }
    for after in ["15", "18446744073709551615"] {
        assert!(read(&format!("?stream=true&starting_after={after}")).await.is_empty());
    }
}

#[tokio::test]
async fn end_of_the_gateway_is_no_event_of_the_response() {
    let stack = Stack::start().await;
    stack.planner.keep(Plan { records_output: true, ..plans::running() });
    stack.planner.watches([Watch::Stays(journal()[..4].to_vec())]);
    let mut stream = stack.http.stream(Method::GET, &path("?stream=true&starting_after=2"), &[], "").await;
    assert_eq!(stream.next().await.unwrap().1, "response.content_part.added");
    for _ in 0..2 {
        assert_eq!(stream.next().await.unwrap().1, "response.output_text.delta");
    }
    stack.gateway.stop().await;
    let (_, name, error) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &error["sequence_number"]), ("error", &json!(5)));
    assert_eq!(error["code"], "unavailable");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn stream_of_another_response_is_refused() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("clean"));
    for (query, param) in [
        ("?stream=true", "stream"),
        ("?stream=yes", "stream"),
        ("?starting_after=1", "starting_after"),
        ("?stream=true&starting_after=-1", "starting_after"),
        ("?stream=true&starting_after=99999999999999999999", "starting_after"),
        ("?stream=true&after=1", "after"),
    ] {
        let answer = stack.http.get(&path(query)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{query}"
        );
    }
    assert_eq!(stack.http.get(&path("?stream=false")).await.json()["status"], "completed");
}

#[tokio::test]
async fn failed_response_in_the_background_ends_with_its_error() {
    let stack = Stack::start().await;
    stack.planner.keep(Plan { records_output: true, ..plans::failed("boom") });
    let mut journal = journal();
    journal.truncate(4);
    journal.push(plans::event(5, "plan_ended", &json!({"status": "failed"})));
    stack.planner.watches([Watch::Ends(journal)]);
    let events = events(&stack.http.get(&path("?stream=true")).await);
    assert_eq!(
        kinds(&events)[6..],
        ["output_text.done", "content_part.done", "output_item.done", "error", "failed"]
    );
    assert_eq!(numbers(&events), (0..11).collect::<Vec<_>>());
    assert_eq!(events[10]["response"]["error"]["code"], "execution_failed");
}
