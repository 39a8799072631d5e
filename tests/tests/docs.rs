//! docs/agents.md matches the code: its program is the example, its lines follow the contract, its commands run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use phoenix_domain::{
    FailureClass,
    action::{ActionRequest, ActionResponse, ActionResult, ActionStatus, LineKind},
    limits::ALL,
};
use phoenix_platform::config::PhoenixConfig;
use phoenix_testkit::{phoenix_bin, sandbox::Sandbox};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of docs/agents.md in one language.
fn blocks(language: &str) -> Vec<String> {
    let text = read("docs/agents.md");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let blocks: Vec<_> = blocks.collect();
    assert!(!blocks.is_empty(), "docs/agents.md has no {language} block");
    blocks
}

#[test]
fn limits_page_lists_every_limit_with_its_value() {
    let page = read("docs/limits.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, value) = (cells.next()?.strip_suffix('`')?, cells.next()?);
        Some((name.to_owned(), value.parse::<usize>().ok()?))
    };
    let listed: Vec<_> = page.lines().filter_map(row).collect();
    let defined: Vec<_> = ALL.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(listed, defined);
}

fn example_request() -> ActionRequest {
    serde_json::from_str(&read("examples/agents/request.json")).unwrap()
}

/// The reviewer's answers to `requests`.
fn review(requests: &[ActionRequest]) -> Vec<ActionResponse> {
    let lines = lines_of("reviewer.py", requests);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the example writes for `requests`.
fn lines_of(example: &str, requests: &[ActionRequest]) -> String {
    let mut agent = Command::new("python3");
    agent.arg(root().join("examples/agents").join(example)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut agent = agent.spawn().expect("python3 is installed");
    let lines: String =
        requests.iter().map(|request| serde_json::to_string(request).unwrap() + "\n").collect();
    let mut stdin = agent.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let output = agent.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn program_on_the_page_is_the_example_of_twenty_lines() {
    let example = read("examples/agents/reviewer.py");
    assert_eq!(blocks("python"), [example.as_str()]);
    assert!(example.lines().filter(|line| !line.is_empty()).count() <= 20);
}

#[test]
fn lines_on_the_page_match_the_example() {
    let [request, response] = &blocks("json")[..] else { panic!("a request and a response") };
    let request: Value = serde_json::from_str(request).unwrap();
    assert_eq!(request, serde_json::from_str::<Value>(&read("examples/agents/request.json")).unwrap());
    assert_eq!(
        request,
        serde_json::to_value(example_request()).unwrap(),
        "the fields are exactly those of the contract"
    );
    let response: ActionResponse = serde_json::from_str(response).unwrap();
    assert_eq!(review(&[example_request()]), [response]);
}

#[test]
fn lines_before_the_answer_follow_the_contract() {
    let id = example_request().request_id;
    let kinds: Vec<_> = blocks("jsonl")[0].lines().map(|line| LineKind::of(line, id).unwrap()).collect();
    assert!(
        matches!(kinds[..], [LineKind::Chunk(_), LineKind::Chunk(_), LineKind::Progress(_)]),
        "{kinds:?}"
    );
    let mut request = example_request();
    request.payload.insert("message".into(), "any words".into());
    for (stream, said) in [(true, "1 any\n2 words\n"), (false, "")] {
        request.meta.stream = stream;
        let written = lines_of("counter.py", std::slice::from_ref(&request));
        let (mut chunks, mut answers) = (String::new(), Vec::new());
        for line in written.lines() {
            match LineKind::of(line, id).unwrap() {
                LineKind::Chunk(chunk) => chunks += &chunk.data,
                _ => answers.push(serde_json::from_str::<ActionResponse>(line).unwrap()),
            }
        }
        assert_eq!(chunks, said);
        assert_eq!(answers[0].result.as_ref().unwrap().to_text(), "1 any\n2 words\n");
    }
}

#[test]
fn every_field_of_the_contract_is_explained() {
    let text = read("docs/agents.md");
    let explained = |name: &str| {
        let tables = text.lines().filter(|line| line.starts_with('|'));
        tables.into_iter().any(|row| row.split('|').nth(1).unwrap().contains(&format!("`{name}`")))
    };
    let request = serde_json::to_value(example_request()).unwrap();
    let response = ActionResponse::success(&example_request(), ActionResult::text("done"));
    let response = serde_json::to_value(response).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for name in names(&request).into_iter().filter(|name| name != "_meta").chain(names(&response)) {
        assert!(explained(&name), "{name}");
    }
    for name in names(&request["_meta"]) {
        assert!(explained(&format!("_meta.{name}")), "_meta.{name}");
    }
    for class in FailureClass::ALL {
        assert!(text.contains(&format!(
            "| `{}` | {} |",
            class.as_str(),
            if class.is_retried() { "yes" } else { "no" }
        )));
    }
}

#[test]
fn example_answers_many_requests_with_their_ids_and_codes() {
    let diff = example_request();
    let mut no_diff = example_request();
    no_diff.request_id = diff.plan_id.to_string().parse().unwrap();
    no_diff.payload.insert("message".into(), "hello".into());
    let mut unknown = example_request();
    unknown.action = "bless".into();
    let answers = review(&[diff.clone(), no_diff.clone(), unknown, diff.clone()]);
    let codes: Vec<_> = answers.iter().map(|answer| (answer.status, answer.code)).collect();
    let failed = |code| (ActionStatus::Error, code);
    assert_eq!(codes, [(ActionStatus::Success, 0), failed(400), failed(501), (ActionStatus::Success, 0)]);
    assert_eq!((answers[0].request_id, answers[1].request_id), (diff.request_id, no_diff.request_id));
}

#[test]
fn settings_on_the_page_are_valid_and_defaults_match() {
    let parse = |text: &str| {
        PhoenixConfig::parse(text, "phoenix", &|_| None)
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    };
    let blocks = blocks("toml");
    let configs: Vec<_> = blocks.iter().map(|text| parse(text)).collect();
    let agent = |config: &PhoenixConfig, name: &str| config.agents.get(&name.parse().unwrap()).cloned();
    for config in &configs {
        assert_eq!(agent(config, "reviewer").unwrap().route, ["review", "diff"]);
    }
    let last = configs.last().unwrap();
    assert_eq!(
        agent(last, "git_agent"),
        agent(&parse(""), "git_agent"),
        "the documented defaults are the defaults"
    );
    assert!(agent(last, "echo_agent").is_err());
}

#[tokio::test]
async fn chat_reaches_the_example_as_the_page_says() {
    let config =
        blocks("toml")[0].replace("examples/agents", root().join("examples/agents").to_str().unwrap());
    let path = std::env::var("PATH").unwrap();
    let sandbox = Sandbox::start_with(&config, &[("PATH", path.as_str())]).await;
    let message = &example_request().payload["message"];
    let answer = sandbox.rest().post("/api/v1/chat", json!({ "message": message })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for line in answer.str("output").lines() {
        assert!(read("docs/agents.md").contains(&format!("{line}\n")), "{line} is not on the page");
    }
}

#[test]
fn commands_on_the_page_run() {
    let phoenix = phoenix_bin();
    let path = format!("{}:{}", phoenix.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for script in blocks("sh") {
        let mut shell = Command::new("sh");
        let output = shell.args(["-ec", &script]).current_dir(root()).env("PATH", &path).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{script}\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(stdout.contains(&example_request().request_id.to_string()), "{script}\n{stdout}");
    }
}
