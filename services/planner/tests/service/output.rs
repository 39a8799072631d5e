//! Output of running tasks: what they say before they end.

use phoenix_proto::planner::{
    ExecutePlanRequest, PlanAndExecuteRequest, TaskSpec, WatchPlanRequest, WatchPlanResponse,
    execute_plan_request::Subject, execute_plan_response::Step,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::support::{PATIENCE, Script, TestPlanner, failed, finished, says, started};

pub(super) fn chat() -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: "hello".into(), ..Default::default() }
}

pub(super) async fn submit(planner: &TestPlanner) -> String {
    planner.client.clone().submit_plan(chat()).await.unwrap().into_inner().plan_id
}

pub(super) async fn watch(
    planner: &TestPlanner,
    plan_id: &str,
    with_output: bool,
) -> Streaming<WatchPlanResponse> {
    let request =
        WatchPlanRequest { plan_id: plan_id.into(), after_position: 0, with_output, ..Default::default() };
    planner.client.clone().watch_plan(request).await.unwrap().into_inner()
}

pub(super) async fn next(events: &mut Streaming<WatchPlanResponse>) -> Option<WatchPlanResponse> {
    tokio::time::timeout(PATIENCE, events.message()).await.expect("an event comes in time").unwrap()
}

/// The next output.
pub(super) async fn said(events: &mut Streaming<WatchPlanResponse>) -> WatchPlanResponse {
    loop {
        let event = next(events).await.expect("the plan has not ended");
        if event.position == 0 {
            return event;
        }
    }
}

pub(super) async fn rest(mut events: Streaming<WatchPlanResponse>) -> Vec<WatchPlanResponse> {
    let mut found = Vec::new();
    while let Some(event) = next(&mut events).await {
        found.push(event);
    }
    found
}

pub(super) fn facts(event: &WatchPlanResponse) -> Value {
    serde_json::from_str(&event.data_json).unwrap()
}

pub(super) fn text(events: &[WatchPlanResponse]) -> String {
    let outputs = events.iter().filter(|event| event.kind == "output");
    outputs.map(|event| facts(event)["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn late_reader_first_gets_what_was_said_so_far() {
    let planner = TestPlanner::new().await;
    let more = CancellationToken::new();
    let first = vec![started(1), says(1, "one "), says(1, "two ")];
    let later = vec![says(1, "three"), finished(1, Ok("one two three"))];
    planner.script("model", Script::SaysMoreLater(first, more.clone(), later));
    let plan_id = submit(&planner).await;
    let mut early = watch(&planner, &plan_id, true).await;
    let mut heard = String::new();
    while heard != "one two " {
        let event = said(&mut early).await;
        assert_eq!((event.kind.as_str(), event.task_key.as_str()), ("output", "chat"));
        assert_eq!(facts(&event)["offset"], heard.len());
        heard += facts(&event)["text"].as_str().unwrap();
    }
    let mut late = watch(&planner, &plan_id, true).await;
    let event = said(&mut late).await;
    assert_eq!(facts(&event), serde_json::json!({"attempt": 1, "offset": 0, "text": "one two "}));
    let without = watch(&planner, &plan_id, false).await;
    more.cancel();
    for events in [rest(early).await, rest(late).await] {
        assert_eq!(text(&events), "three");
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        let (output, ended) = (kinds.iter().position(|kind| *kind == "output"), kinds.len() - 1);
        assert!(output < kinds.iter().position(|kind| *kind == "task_ended"), "{kinds:?}");
        assert_eq!(kinds[ended], "plan_ended");
    }
    assert!(rest(without).await.iter().all(|event| event.position > 0));
    assert!(rest(watch(&planner, &plan_id, true).await).await.iter().all(|event| event.position > 0));
}

#[tokio::test]
async fn attempt_after_a_partial_answer_is_a_reset() {
    let planner = TestPlanner::new().await;
    let more = CancellationToken::new();
    let first = vec![started(1), says(1, "half of")];
    let later = vec![failed(1, Some(1)), started(2), says(2, "the whole"), finished(2, Ok("the whole"))];
    planner.script("model", Script::SaysMoreLater(first, more.clone(), later));
    let plan_id = submit(&planner).await;
    let mut events = watch(&planner, &plan_id, true).await;
    assert_eq!(facts(&said(&mut events).await)["text"], "half of");
    more.cancel();
    let events = rest(events).await;
    let live: Vec<_> = events.iter().filter(|event| event.position == 0).collect();
    assert_eq!((live[0].kind.as_str(), facts(live[0])), ("output_reset", serde_json::json!({"attempt": 2})));
    assert_eq!(text(&events), "the whole");
}

#[tokio::test]
async fn output_is_wanted_unless_only_the_result_is() {
    let planner = TestPlanner::new().await;
    planner.chat("hello").await.unwrap();
    planner.ended(&submit(&planner).await).await;
    for with_output in [true, false] {
        let request = ExecutePlanRequest { subject: Some(Subject::Plan(chat())), with_output };
        let mut steps = planner.client.clone().execute_plan(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(step) = steps.message().await.unwrap() {
            last = step.step;
        }
        assert!(matches!(last, Some(Step::Result(_))), "{last:?}");
    }
    let wanted: Vec<_> =
        planner.executor.log.lock().unwrap().calls.iter().map(|call| call.with_output).collect();
    assert_eq!(wanted, [false, true, true, false]);
}

#[tokio::test]
async fn slow_readers_delay_neither_plan_nor_other_readers() {
    let planner = TestPlanner::new().await;
    let more = CancellationToken::new();
    let chunk = "x".repeat(60_000);
    // 7.2 MB: more than the buffers on the way hold.
    let flood: Vec<_> = (0..120).map(|_| says(1, &chunk)).chain([finished(1, Ok("done"))]).collect();
    planner.script("model", Script::SaysMoreLater(vec![started(1), says(1, "begin")], more.clone(), flood));
    let plan_id = submit(&planner).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut reader = watch(&planner, &plan_id, true).await;
        said(&mut reader).await;
        slow.push(reader);
    }
    let mut reader = watch(&planner, &plan_id, true).await;
    said(&mut reader).await;
    more.cancel();
    assert_eq!(text(&rest(reader).await).len(), 120 * 60_000, "eight others do not read");
    planner.ended(&plan_id).await;
    for reader in slow {
        assert_eq!(text(&rest(reader).await).len(), 120 * 60_000);
    }
}

#[tokio::test]
async fn recorded_output_is_journaled_in_few_events() {
    let planner = TestPlanner::new().await;
    let more = CancellationToken::new();
    let first = vec![started(1), says(1, "one "), says(1, "two "), says(1, "three ")];
    let later = vec![failed(1, Some(1)), started(2), says(2, "all of it"), finished(2, Ok("all of it"))];
    planner.script("model", Script::SaysMoreLater(first, more.clone(), later));
    let request = PlanAndExecuteRequest { record_output: true, ..chat() };
    let plan_id = planner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    let recorded =
        WatchPlanRequest { plan_id: plan_id.clone(), with_recorded_output: true, ..Default::default() };
    let watch_recorded = || {
        let (mut client, request) = (planner.client.clone(), recorded.clone());
        async move { client.watch_plan(request).await.unwrap().into_inner() }
    };
    let (mut early, without) = (watch_recorded().await, watch(&planner, &plan_id, false).await);
    let (mut heard, mut entries) = (String::new(), 0);
    while heard != "one two three " {
        let event = next(&mut early).await.expect("the plan has not ended");
        if event.kind == "task_output" {
            assert!(event.position > 0 && event.task_key == "chat", "{event:?}");
            let parts = facts(&event)["parts"].clone();
            heard.extend(
                parts.as_array().unwrap().iter().map(|part| part["text"].as_str().unwrap().to_owned()),
            );
            entries += 1;
        }
    }
    assert!(entries <= 2, "the first part, and the others together");
    more.cancel();
    let kinds = |events: &[WatchPlanResponse]| -> Vec<String> {
        events.iter().map(|event| event.kind.clone()).collect()
    };
    let rest_of_early = rest(early).await;
    let expected =
        ["attempt_ended", "attempt_started", "task_output", "attempt_ended", "task_ended", "plan_ended"]
            .map(str::to_owned);
    assert_eq!(kinds(&rest_of_early), expected);
    let late = rest(watch_recorded().await).await;
    assert!(late.ends_with(&rest_of_early), "the same events for every reader");
    assert!(!kinds(&rest(without).await).contains(&"task_output".to_owned()));

    let [key, agent, action, input_json] = ["a", "model", "chat", "{}"].map(str::to_owned);
    let tasks = vec![TaskSpec { key, agent, action, input_json, ..Default::default() }];
    let graph = PlanAndExecuteRequest { tasks, record_output: true, ..Default::default() };
    let refused = planner.client.clone().submit_plan(graph).await.unwrap_err();
    assert!(refused.message().contains("record_output"), "{refused}");
}
