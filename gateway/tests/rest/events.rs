//! Streams of events, also when the stream of the planner breaks.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::planner::WatchPlanResponse;
use serde_json::json;

use crate::support::{FakePlanner, Sent, Stack, Watch, plans};

const CHAT: &str = r#"{"message":"hi"}"#;
const STREAM: &[(&str, &str)] = &[
    ("content-type", "application/json"),
    ("accept", "text/event-stream"),
    ("x-correlation-id", plans::CORRELATION),
];

fn path() -> String {
    format!("/api/v1/plans/{}/events", FakePlanner::PLAN)
}

/// The `at`-th and following events of a plan that succeeds.
fn from(at: usize) -> Vec<WatchPlanResponse> {
    plans::whole().split_off(at)
}

fn ids(events: &[Sent]) -> Vec<&str> {
    events.iter().map(|(id, _, _)| id.as_str()).collect()
}

#[tokio::test]
async fn event_has_position_kind_and_data() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    stack.planner.watches([Watch::Stays(plans::whole())]);
    let stream = stack.http.stream(Method::GET, &path(), &[], "").await;
    assert_eq!(stream.status, StatusCode::OK);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let events = stream.rest().await;
    assert_eq!(ids(&events), ["11", "13", "17", "19"], "the stream ends although the planner's stays open");
    let (_, kind, data) = &events[1];
    assert_eq!(kind, "attempt_started");
    let expected = json!({
        "position": 13, "kind": "attempt_started", "at": "2026-01-31T12:00:00.013Z", "task_key": "chat",
        "data": {"attempt": 1}
    });
    assert_eq!(*data, expected);
    assert_eq!((events[3].1.as_str(), &events[3].2["task_key"]), ("plan_ended", &json!(null)));
}

#[tokio::test]
async fn broken_stream_is_reopened_without_loss_or_repetition() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let whole = plans::whole;
    stack.planner.watches([
        Watch::Breaks(vec![whole()[0].clone(), whole()[1].clone()]),
        Watch::Fails,
        // Repeats an event.
        Watch::Ends(vec![whole()[1].clone(), whole()[2].clone()]),
        Watch::Breaks(vec![]),
        Watch::Stays(whole()),
    ]);
    let events = stack.http.stream(Method::GET, &path(), &[], "").await.rest().await;
    assert_eq!(ids(&events), ["11", "13", "17", "19"]);
    assert_eq!(stack.planner.watched(), [0, 13, 13, 17, 17]);
}

#[tokio::test]
async fn stream_resumes_after_last_event_id() {
    let stack = Stack::start().await;
    let header = [("last-event-id", "13")];
    let query = format!("{}?last_event_id=13", path());
    for (place, headers) in [(path(), &header[..]), (query.clone(), &[]), (query, &[("last-event-id", "17")])]
    {
        for (plan, watch) in [
            (plans::running(), Watch::Stays(plans::whole())),
            (plans::succeeded("done"), Watch::Ends(plans::whole())),
        ] {
            stack.planner.keep(plan);
            stack.planner.watches([watch]);
            let events = stack.http.stream(Method::GET, &place, headers, "").await.rest().await;
            let expected: &[&str] =
                if headers == [("last-event-id", "17")] { &["19"] } else { &["17", "19"] };
            assert_eq!(ids(&events), expected, "{place} {headers:?}");
        }
    }
    // 204 stops the reconnects of an EventSource.
    let answer = stack.http.send(Method::GET, &path(), &[("last-event-id", "19")], "").await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
    for id in ["-1", "x", "+5", "1.0", "9999999999999999999"] {
        let answer = stack.http.send(Method::GET, &path(), &[("last-event-id", id)], "").await;
        assert_eq!(answer.json()["details"]["field"], "Last-Event-ID", "{answer:?}");
    }
    // The header overrides the parameter, which must be valid all the same.
    let both = format!("{}?last_event_id=x", path());
    let answer = stack.http.send(Method::GET, &both, &[("last-event-id", "13")], "").await;
    assert_eq!(answer.json()["details"]["field"], "last_event_id", "{answer:?}");
}

/// What the task of the plan says in an attempt.
fn says(attempt: u32, offset: u64, text: &str) -> WatchPlanResponse {
    let facts = json!({"attempt": attempt, "offset": offset, "text": text});
    WatchPlanResponse { at: None, ..plans::event(0, "output", &facts) }
}

#[tokio::test]
async fn output_comes_between_events_and_is_reset_by_another_planner() {
    let stack = Stack::start().await;
    let whole = plans::whole();
    for (method, path, headers, body) in
        [(Method::GET, path().as_str(), &[][..], ""), (Method::POST, "/api/v1/chat", STREAM, CHAT)]
    {
        stack.planner.keep(plans::running());
        let progress = json!({"attempt": 101, "message": "thinks", "progress": 0.5});
        stack.planner.watches([
            Watch::Breaks(vec![whole[0].clone(), says(1, 0, "half "), whole[1].clone()]),
            // The same planner repeats what was said.
            Watch::Breaks(vec![says(1, 0, "half "), says(1, 5, "of")]),
            Watch::Breaks(vec![plans::event(0, "progress", &progress), says(101, 0, "whole")]),
        ]);
        let mut stream = stack.http.stream(method, path, headers, body).await;
        let mut events = Vec::new();
        while events.len() < 7 {
            events.push(stream.next().await.unwrap());
        }
        stack.planner.keep(plans::succeeded("whole"));
        stack.planner.watches([Watch::Ends(whole[2..].to_vec())]);
        events.extend(stream.rest().await);
        let found: Vec<_> = events.iter().map(|(id, kind, _)| (id.as_str(), kind.as_str())).collect();
        let expected = [
            ("11", "plan_accepted"),
            ("", "output"),
            ("13", "attempt_started"),
            ("", "output"),
            ("", "output_reset"),
            ("", "progress"),
            ("", "output"),
            ("17", "task_ended"),
            ("19", "plan_ended"),
        ];
        assert_eq!(found[..9], expected);
        let part =
            json!({"kind": "output", "task_key": "chat", "data": {"attempt": 1, "offset": 5, "text": "of"}});
        assert_eq!(events[3].2, part);
        assert_eq!(events[4].2["data"], json!({"attempt": 101}));
        assert_eq!(events[5].2["data"], progress);
    }
}

#[tokio::test]
async fn event_stream_ends_at_shutdown() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let mut stream = stack.http.stream(Method::GET, &path(), &[], "").await;
    assert_eq!(stream.next().await.unwrap().0, "11");
    let begun = std::time::Instant::now();
    stack.gateway.stop().await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "the drain ended early");
    assert_eq!(ids(&stream.rest().await), ["13"]);
}

#[tokio::test]
async fn streamed_chat_ends_with_its_response() {
    let stack = Stack::start().await;
    for (plan, error) in [(plans::succeeded("On branch main"), false), (plans::failed("it broke"), true)] {
        // The stream breaks after the last event; the resumed one has the result.
        stack.planner.keep(plan);
        stack.planner.watches([Watch::Breaks(plans::whole()[..3].to_vec()), Watch::Breaks(from(3))]);
        let stream = stack.http.stream(Method::POST, "/api/v1/chat", STREAM, CHAT).await;
        assert_eq!(
            (stream.status, &stream.headers["content-type"]),
            (StatusCode::OK, &"text/event-stream".parse().unwrap())
        );
        let mut events = stream.rest().await;
        let (id, kind, answer) = events.pop().unwrap();
        assert_eq!((id.as_str(), kind.as_str()), ("", "response"));
        assert_eq!(ids(&events), ["11", "13", "17", "19"]);
        let told = if error {
            json!({"code": "execution_failed", "message": "it broke", "details": {}})
        } else {
            json!(null)
        };
        let expected = json!({
            "api_version": "v1", "correlation_id": plans::CORRELATION, "plan_id": FakePlanner::PLAN,
            "status": if error { "error" } else { "success" },
            "output": if error { json!(null) } else { json!("On branch main") }, "error": told,
        });
        assert_eq!(answer, expected);
    }
    let mut partial = plans::succeeded("half");
    partial.tasks[0].output.as_mut().unwrap().metadata_json = r#"{"finish_reason":"max_tokens"}"#.into();
    stack.planner.keep(partial);
    stack.planner.watches([Watch::Breaks(plans::whole()[..3].to_vec()), Watch::Breaks(from(3))]);
    let stream = stack.http.stream(Method::POST, "/api/v1/chat", STREAM, CHAT).await;
    let (_, _, answer) = stream.rest().await.pop().unwrap();
    assert_eq!((&answer["output"], &answer["finish_reason"]), (&json!("half"), &json!("length")));
    assert_eq!(stack.planner.cancelled(), 0);
    assert_eq!(stack.planner.seen()[0].context.remaining(), None, "the limit of a request is not the plan's");

    stack.planner.fail(OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, "no such agent"));
    let answer = stack.http.send(Method::POST, "/api/v1/chat", STREAM, CHAT).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.json()["error"]["code"], "planning_failed");
}

#[tokio::test]
async fn disconnect_closes_the_stream_of_a_chat() {
    let stack = Stack::start().await;
    for (count, query) in [(1, "?on_disconnect=continue"), (2, "")] {
        stack.planner.keep(plans::running());
        let path = format!("/api/v1/chat{query}");
        let mut stream = stack.http.stream(Method::POST, &path, STREAM, CHAT).await;
        assert_eq!(stream.next().await.unwrap().1, "plan_accepted");
        drop(stream);
        // The planner cancels the plan of a stream that is closed, unless the request says otherwise.
        stack.planner.has_lost(count).await;
        let seen = stack.planner.seen();
        assert_eq!(seen.last().unwrap().request.continue_on_disconnect, !query.is_empty());
    }
    let planner = stack.planner.clone();
    stack.gateway.stop().await;
    assert_eq!(planner.cancelled(), 0);
}

/// Error code of the response of a streamed chat.
fn code_of(events: &[Sent]) -> &str {
    let (id, kind, answer) = events.last().unwrap();
    assert_eq!((id.as_str(), kind.as_str()), ("", "response"));
    assert_eq!(answer["plan_id"], FakePlanner::PLAN);
    answer["error"]["code"].as_str().unwrap()
}

#[tokio::test]
async fn streamed_chat_outlasts_the_time_limit_of_requests() {
    let limit = std::time::Duration::from_millis(100);
    let stack = Stack::start_with(|config| config.request_timeout = limit).await;
    stack.planner.keep(plans::succeeded("late"));
    // The planner is killed and comes back later.
    stack.planner.watches([Watch::Breaks(plans::whole()[..2].to_vec()), Watch::Fails, Watch::Fails]);
    stack.planner.watches([Watch::Ends(plans::whole())]);
    let begun = std::time::Instant::now();
    let events = stack.http.stream(Method::POST, "/api/v1/chat", STREAM, CHAT).await.rest().await;
    assert!(begun.elapsed() > limit);
    assert_eq!(ids(&events), ["11", "13", "17", "19", ""]);
    assert_eq!(events.last().unwrap().2["output"], "late");
    assert_eq!(stack.planner.cancelled(), 0);
}

#[tokio::test]
async fn streamed_chat_ends_at_shutdown_with_unavailable() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let mut stream = stack.http.stream(Method::POST, "/api/v1/chat", STREAM, CHAT).await;
    assert_eq!(stream.next().await.unwrap().0, "11");
    let begun = std::time::Instant::now();
    let (events, ()) = tokio::join!(stream.rest(), stack.gateway.stop());
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "the drain ended early");
    assert_eq!(code_of(&events), "unavailable");
    assert_eq!(stack.planner.first_cancelled().await.reason, "the gateway stopped");
}
