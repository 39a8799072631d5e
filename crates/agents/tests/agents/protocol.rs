//! The protocol loop: one line of output for every line of input.

use std::io::{self, BufReader, Write};

use phoenix_agents::{
    ActionError, ActionRequest, ActionResponse, ActionResult, Agent, Output, Payload,
    echo::EchoAgent,
    protocol::{MAX_LINE_BYTES, MAX_REQUEST_LINE_BYTES},
    serve,
};
use phoenix_domain::{
    action::{ActionStatus, LineKind, ProgressReport},
    json::Object,
    limits::{MAX_OUTPUT_BYTES, MAX_OUTPUT_LINE_BYTES},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::request;

fn answers(agent: impl Agent, input: &[u8]) -> Vec<ActionResponse> {
    let mut output = Vec::new();
    // A small buffer, so that lines arrive in parts, as through a pipe.
    serve(agent, BufReader::with_capacity(7, input), &mut output).unwrap();
    let output = String::from_utf8(output).unwrap();
    assert!(output.is_empty() || output.ends_with('\n'));
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(request: &ActionRequest) -> String {
    serde_json::to_string(request).unwrap()
}

#[test]
fn every_line_is_answered_in_order() {
    let requests = [request("chat", json!({"message": "a"})), request("work", json!({"n": [1, null]}))];
    let input = format!("{}\n{}", line(&requests[0]), line(&requests[1]));
    let answers = answers(EchoAgent, input.as_bytes());
    assert_eq!(answers.len(), 2);
    for (answer, request) in answers.iter().zip(&requests) {
        assert_eq!(answer.request_id, request.request_id);
        assert_eq!(answer.plan_id, request.plan_id);
        assert_eq!(answer.task_id, request.task_id);
        assert_eq!(answer.correlation_id, request.correlation_id);
        assert_eq!((answer.status, answer.code), (ActionStatus::Success, 0));
    }
    assert_eq!(answers[0].result.as_ref().unwrap().data, "a");
    assert_eq!(answers[1].result.as_ref().unwrap().data, json!({"n": [1, null]}));
}

#[test]
fn empty_input_has_no_output() {
    assert!(answers(EchoAgent, b"").is_empty());
}

#[test]
fn invalid_lines_are_answered_with_their_ids() {
    let good = line(&request("chat", json!({"message": "still here"})));
    let id = Uuid::new_v4();
    let half = json!({"request_id": id, "plan_id": "not a uuid", "payload": []}).to_string();
    let mut input = Vec::new();
    for bad in [&b"{"[..], b"", b"[1]", b"\xff\xfe{}", b"null", half.as_bytes()] {
        input.extend_from_slice(bad);
        input.push(b'\n');
    }
    input.extend_from_slice(good.as_bytes());
    let answers = answers(EchoAgent, &input);
    assert_eq!(answers.len(), 7);
    for bad in &answers[..6] {
        assert_eq!((bad.status, bad.code), (ActionStatus::Error, 400));
        assert!(bad.error.as_ref().unwrap().starts_with("the line is not an action request"));
        assert!(bad.plan_id.as_uuid().is_nil());
    }
    assert!(answers[0].request_id.is_nil());
    assert_eq!(answers[5].request_id, id);
    assert_eq!(answers[6].code, 0);
}

#[test]
fn overlong_line_is_skipped_entirely() {
    let mut input = vec![b'x'; MAX_REQUEST_LINE_BYTES + 3];
    input.push(b'\n');
    input.extend_from_slice(line(&request("chat", json!({"message": "next"}))).as_bytes());
    let codes: Vec<u16> = answers(EchoAgent, &input).iter().map(|answer| answer.code).collect();
    assert_eq!(codes, [413, 0]);
}

#[test]
fn overlong_answer_becomes_an_error() {
    let request = request("chat", json!({"message": "m"}));
    let agent = |_: &ActionRequest| Ok(ActionResult::text("x".repeat(MAX_LINE_BYTES)));
    let answers = answers(agent, line(&request).as_bytes());
    assert_eq!((answers[0].code, answers[0].request_id), (413, request.request_id));
    assert!(answers[0].result.is_none());
}

/// Sends the message in chunks, and answers with it.
struct Streamer;

impl Agent for Streamer {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        self.stream(request, &mut Output::none())
    }

    fn stream(
        &mut self,
        request: &ActionRequest,
        output: &mut Output<'_>,
    ) -> Result<ActionResult, ActionError> {
        let text = Payload::of(request).text("message")?;
        let repeats = Payload::of(request).count("repeats", 1, 100)?;
        output.progress(ProgressReport { message: Some("starts".into()), ..ProgressReport::default() });
        for _ in 0..repeats {
            output.chunk(text);
        }
        output.delta("", Object::parse(r#"{"reasoning_content":"why"}"#).unwrap());
        Ok(ActionResult::text(text))
    }
}

/// The lines that the agent writes for a request.
fn written(stream: bool, payload: Value) -> (ActionRequest, Vec<String>) {
    let mut request = request("chat", payload);
    request.meta.stream = stream;
    let mut output = Vec::new();
    serve(Streamer, line(&request).as_bytes(), &mut output).unwrap();
    (request, String::from_utf8(output).unwrap().lines().map(String::from).collect())
}

#[test]
fn chunks_precede_the_answer_when_they_are_wanted() {
    let text = "\u{1}ö".repeat(40_000);
    let (request, lines) = written(true, json!({"message": text}));
    let (answer, before) = lines.split_last().unwrap();
    assert_eq!(serde_json::from_str::<ActionResponse>(answer).unwrap().code, 0);
    let (mut said, mut deltas, mut reports) = (String::new(), 0, 0);
    for line in before {
        assert!(line.len() < MAX_OUTPUT_LINE_BYTES);
        match LineKind::of(line, request.request_id).unwrap() {
            LineKind::Chunk(chunk) => {
                said.push_str(&chunk.data);
                deltas += usize::from(chunk.delta.is_some());
            }
            LineKind::Progress(_) => reports += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((said == text, deltas, reports), (true, 1, 1));
    assert_eq!(written(false, json!({"message": text})).1.len(), 1, "only the answer");
}

#[test]
fn output_over_the_limit_ends_without_a_gap() {
    let text = "x".repeat(MAX_OUTPUT_BYTES / 10 * 3);
    let (request, lines) = written(true, json!({"message": text, "repeats": 5}));
    let kinds = lines.iter().map(|line| LineKind::of(line, request.request_id).unwrap());
    let sizes = kinds.map(|kind| if let LineKind::Chunk(chunk) = kind { chunk.size() } else { 0 });
    let size: usize = sizes.sum();
    assert!(size <= MAX_OUTPUT_BYTES && size > MAX_OUTPUT_BYTES - MAX_OUTPUT_LINE_BYTES, "{size}");
    assert_eq!(serde_json::from_str::<ActionResponse>(lines.last().unwrap()).unwrap().code, 0);
}

#[test]
fn unsupported_api_version_is_rejected() {
    let mut request = request("chat", json!({"message": "m"}));
    request.api_version = "v2".into();
    let answers = answers(EchoAgent, line(&request).as_bytes());
    assert_eq!((answers[0].code, answers[0].request_id), (400, request.request_id));
}

#[test]
fn panic_affects_one_answer_only() {
    let mut handled = 0;
    let agent = |request: &ActionRequest| {
        handled += 1;
        match request.action.as_str() {
            "panic" => panic!("as asked"),
            _ => Ok(ActionResult::text(handled.to_string())),
        }
    };
    let input = format!("{}\n{}\n", line(&request("panic", json!({}))), line(&request("chat", json!({}))));
    let answers = answers(agent, input.as_bytes());
    assert_eq!(answers[0].code, 500);
    assert_eq!(answers[1].result.as_ref().unwrap().data, "2");
}

#[test]
fn closed_output_ends_the_loop_without_an_error() {
    struct Broken(io::ErrorKind);
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let input = line(&request("chat", json!({"message": "m"})));
    assert!(serve(EchoAgent, input.as_bytes(), Broken(io::ErrorKind::BrokenPipe)).is_ok());
    assert!(serve(EchoAgent, input.as_bytes(), Broken(io::ErrorKind::StorageFull)).is_err());
}

#[test]
fn handler_error_is_the_answer() {
    let agent = |request: &ActionRequest| -> Result<ActionResult, ActionError> {
        Err(ActionError::unknown_action(&request.action, &["chat", "other"]))
    };
    let answers = answers(agent, line(&request("dance", json!({}))).as_bytes());
    assert_eq!(answers[0].code, 501);
    assert_eq!(answers[0].error.as_deref(), Some("unknown action `dance`; known actions: chat, other"));
}

#[test]
fn payload_error_names_the_field() {
    fn problem<T>(payload: &Value, read: impl Fn(Payload<'_>) -> Result<T, ActionError>) -> Option<String> {
        let request = request("chat", payload.clone());
        let error = read(Payload::of(&request)).err()?;
        assert_eq!(error.code, 400);
        Some(error.message)
    }
    for payload in [json!({}), json!({"f": null}), json!({"f": 1}), json!({"f": "a\u{0}b"})] {
        assert!(problem(&payload, |p| p.text("f").map(drop)).unwrap().contains("payload.f"), "{payload}");
    }
    for payload in [json!({}), json!({"f": []}), json!({"f": "x"}), json!({"f": ["x", 1]})] {
        assert!(problem(&payload, |p| p.texts("f").map(drop)).unwrap().contains("payload.f"), "{payload}");
    }
    for payload in [json!({"f": 0}), json!({"f": 11}), json!({"f": -1}), json!({"f": 1.5}), json!({"f": "3"})]
    {
        assert!(problem(&payload, |p| p.count("f", 5, 10)).unwrap().contains("from 1 to 10"), "{payload}");
    }
    assert!(problem(&json!({"f": "yes"}), |p| p.flag("f")).unwrap().contains("payload.f"));
    assert!(problem(&json!({"g": 1}), |p| p.only(&["f"]).map(drop)).unwrap().contains("`g`"));
    assert!(problem(&json!({"f": 10}), |p| p.count("f", 5, 10)).is_none());
}
