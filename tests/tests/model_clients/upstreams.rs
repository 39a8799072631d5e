//! Upstreams of language models that others wrote, behind the whole stack: `@copilotkit/aimock` (npm) answers in the API of every
//! provider, `llmock` (PyPI) also breaks streams, and judges its client; the proxy of `litellm` (PyPI) answers as the gateways do that
//! many people have in front of their models.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use phoenix_testkit::{
    http::{Answer, Rest},
    sandbox::Sandbox,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{installed, llm, node, own};

/// Models of LiteLLM's proxy, each with its mock answer.
const LITELLM: &str = r#"
model_list:
  - model_name: m
    litellm_params: {model: openai/m, api_key: unused, mock_response: "an answer in some words"}
  - model_name: tool
    litellm_params:
      model: openai/m
      api_key: unused
      mock_response: ""
      mock_tool_calls: [{id: call_1, type: function, function: {name: weather, arguments: '{"city": "Bonn", "n": 123456789012345678901}'}}]
  - model_name: limited
    litellm_params: {model: openai/m, api_key: unused, mock_response: "litellm.RateLimitError"}
  - model_name: broken
    litellm_params: {model: openai/m, api_key: unused, mock_response: "litellm.InternalServerError"}
  - model_name: long
    litellm_params: {model: openai/m, api_key: unused, mock_response: "litellm.ContextWindowExceededError"}
router_settings: {num_retries: 0}
"#;

/// Time for the start of LiteLLM's proxy, which imports hundreds of modules.
const LITELLM_START: Duration = Duration::from_secs(180);

/// A process that serves models until it is dropped.
struct Upstream {
    url: String,
    process: Child,
}

impl Upstream {
    /// Starts a process, which prints its address.
    async fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("{command:?} ended"));
            // The banner of llmock has the port that it was given.
            let address = line.find("http://").map(|start| &line[start..]);
            let address = address.and_then(|address| address.split_whitespace().next());
            match address.filter(|address| !address.contains(":0") && !line.contains('│')) {
                Some(address) => break address.to_owned(),
                None => continue,
            }
        };
        // Its later lines must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { url, process }
    }

    /// Starts LiteLLM's proxy in `folder`.
    async fn litellm(program: &Path, folder: &Path) -> Self {
        std::fs::write(folder.join("config.yaml"), LITELLM).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["--config", "config.yaml", "--host", "127.0.0.1", "--port", &port.to_string()]);
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        // Nothing is looked up, and only this test has its address.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_LOG", "ERROR");
        command.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
        let mut upstream =
            Self { url: format!("http://127.0.0.1:{port}"), process: command.spawn().unwrap() };
        let rest = Rest::new(upstream.url.clone());
        let ready = async {
            while rest.try_send("GET".parse().unwrap(), "/health/liveliness", None).await.is_none() {
                assert_eq!(upstream.process.try_wait().unwrap(), None, "litellm ended");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LITELLM_START, ready).await.unwrap();
        upstream
    }

    /// A stack whose providers have these base URLs below the address.
    async fn sandbox(&self, providers: &[(&str, &str)]) -> Sandbox {
        self.sandbox_within(1, providers).await
    }

    /// The same with limits of so many seconds to the first token and between tokens.
    async fn sandbox_within(&self, limit_secs: u32, providers: &[(&str, &str)]) -> Sandbox {
        let url = &self.url;
        let providers = providers.iter().map(|(provider, path)| {
            format!("[llm.{provider}]\napi_key = \"k\"\nmodel_name = \"m\"\nbase_url = \"{url}{path}\"\n")
        });
        let config = format!(
            "[llm]\nmax_tokens = 64\nfirst_token_timeout_secs = {limit_secs}\nstall_timeout_secs = {limit_secs}\n{}\
             [agents.llm_router_agent.retry]\nmax_attempts = 1\n\
             [agents.llm_router_agent.circuit_breaker]\nfailure_threshold = 1000\n",
            providers.collect::<String>()
        );
        Sandbox::start_with(&config, &[]).await
    }
}

/// Completes a chat of one message with `provider`.
async fn complete(rest: &Rest, provider: &str, message: &str, more: &Value) -> Answer {
    complete_with(rest, &format!("{provider}/m"), message, more).await
}

/// Completes a chat of one message with a model.
async fn complete_with(rest: &Rest, model: &str, message: &str, more: &Value) -> Answer {
    let messages = json!([{"role": "user", "content": message}]);
    let mut body = json!({"model": model, "messages": messages});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rest.post("/v1/chat/completions", body).await
}

/// The chunks of a stream that ends as it should.
fn chunks(answer: &Answer) -> Vec<Value> {
    assert!(answer.text.trim_end().ends_with("data: [DONE]"), "{}", answer.text);
    let data = answer.text.lines().filter_map(|line| line.strip_prefix("data: ")?.parse().ok());
    data.collect()
}

/// The texts of the first choices' deltas at `pointer`, joined.
fn said(chunks: &[Value], pointer: &str) -> String {
    let delta =
        |chunk: &Value| Some(chunk.pointer("/choices/0/delta")?.pointer(pointer)?.as_str()?.to_owned());
    chunks.iter().filter_map(delta).collect()
}

/// Whole and streamed answers, and calls of a tool, of `provider`; `of_plain` checks the text of the answer.
async fn answers(rest: &Rest, provider: &str, message: &str, of_plain: impl Fn(&str) -> bool) {
    let whole = complete(rest, provider, message, &json!({})).await;
    assert_eq!(whole.status, 200, "{provider}: {}", whole.text);
    let choice = &whole.json["choices"][0];
    assert!(of_plain(choice["message"]["content"].as_str().unwrap()), "{provider}: {}", whole.text);
    assert_eq!(choice["finish_reason"], "stop", "{provider}");
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let streamed = chunks(&complete(rest, provider, message, &usage).await);
    assert!(of_plain(&said(&streamed, "/content")), "{provider}: {streamed:?}");
    let used = &streamed.last().unwrap()["usage"];
    assert!(used["total_tokens"].is_u64(), "{provider}: {used}");

    let function = json!({"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let tools = json!([{"type": "function", "function": function}]);
    let called = complete(rest, provider, "the weather in Bonn", &json!({ "tools": tools })).await;
    let choice = &called.json["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{provider}: {}", called.text);
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "weather", "{provider}");
    let more = json!({"tools": tools, "stream": true});
    let streamed = chunks(&complete(rest, provider, "the weather in Bonn", &more).await);
    let arguments = said(&streamed, "/tool_calls/0/function/arguments");
    for arguments in [function["arguments"].as_str().unwrap(), &arguments] {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(arguments["city"].is_string(), "{provider}: {arguments}");
    }
}

/// Asserts that an answer, streamed or not, ends with an error that says one of `expected`.
fn fails(answer: &Answer, what: &str, expected: &[&str]) {
    assert!(matches!(answer.status.as_u16(), 200 | 502 | 504), "{what}: {}", answer.text);
    let (_, error) =
        answer.text.split_once("{\"error\":").unwrap_or_else(|| panic!("{what}: {}", answer.text));
    assert!(expected.iter().any(|expected| error.contains(expected)), "{what}: {error}");
    assert!(!answer.text.contains("[DONE]"), "{what}: {}", answer.text);
}

#[tokio::test]
async fn providers_of_aimock_answer_in_every_api() {
    let Some((node, folder)) = node() else { return };
    let mut command = Command::new(node);
    command.arg(own("aimock.mjs")).arg(folder);
    let upstream = Upstream::start(command).await;
    let providers = [
        ("openai", "/v1"),
        ("anthropic", "/v1"),
        ("gemini", "/v1beta"),
        ("grok", "/v1"),
        ("openrouter", "/api/v1"),
        ("ollama", ""),
    ];
    let sandbox = upstream.sandbox(&providers).await;
    let rest = sandbox.rest();
    for (provider, _) in providers {
        answers(&rest, provider, "plain", |text| text == "an answer in some words").await;
        let whole = complete(&rest, provider, "plain", &json!({})).await.json;
        let used = (&whole["usage"]["prompt_tokens"], &whole["usage"]["completion_tokens"]);
        // This upstream reports no tokens as Ollama.
        let expected = if provider == "ollama" { (json!(0), json!(0)) } else { (json!(11), json!(7)) };
        assert_eq!(used, (&expected.0, &expected.1), "{provider}");
        for (theirs, ours) in [
            (400, 400),
            (401, 502),
            (403, 400),
            (404, 400),
            (408, 504),
            (409, 400),
            (413, 400),
            (422, 400),
            (429, 429),
            (500, 502),
            (503, 502),
            (529, 502),
        ] {
            let failed = complete(&rest, provider, &format!("status {theirs}"), &json!({})).await;
            assert_eq!(failed.status, ours, "{provider} {theirs}: {}", failed.text);
            let message = failed.json["error"]["message"].as_str().unwrap();
            let names = [provider.to_owned(), format!("({theirs}"), format!("said {theirs}")];
            assert!(names.iter().all(|name| message.contains(name.as_str())), "{provider}: {message}");
            let is_known = failed.header("retry-after") == "1";
            assert_eq!(is_known, theirs == 429, "{provider} {theirs}");
        }
        let streamed = json!({"stream": true});
        for (fault, expected) in [
            ("cut", "was interrupted"),
            ("dropped", "was interrupted"),
            ("garbage", "does not match its API"),
        ] {
            let answer = complete(&rest, provider, fault, &streamed).await;
            fails(&answer, &format!("{provider} {fault}"), &[expected, "without a finish reason"]);
        }
    }
    let message =
        json!({"model": "gemini/m", "max_tokens": 9, "messages": [{"role": "user", "content": "plain"}]});
    let message = rest.post("/v1/messages", message).await;
    assert_eq!(message.json["content"][0]["text"], "an answer in some words", "{}", message.text);
    let response = rest.post("/v1/responses", json!({"model": "anthropic/m", "input": "plain"})).await;
    let text = &response.json["output"][0]["content"][0]["text"];
    assert_eq!(text, "an answer in some words", "{}", response.text);
}

#[tokio::test]
async fn faults_of_llmock_are_errors_and_its_verdict_is_good() {
    let Some(llm) = llm() else { return };
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" serve -p 0 2>&1"]).arg(llm.with_file_name("llmock"));
    let upstream = Upstream::start(command).await;
    let providers = [
        ("openai", "/v1"),
        ("anthropic", "/anthropic/v1"),
        ("gemini", "/gemini/v1beta"),
        ("grok", "/xai/v1"),
    ];
    let sandbox = upstream.sandbox(&providers).await;
    let (rest, mock) = (sandbox.rest(), Rest::new(upstream.url.clone()));
    for (provider, _) in providers {
        answers(&rest, provider, "plain", |text| !text.is_empty()).await;
        let script = async |behavior: Value| {
            let scripted = mock.post("/_llmock/scenario", json!({"behaviors": [behavior]})).await;
            assert!(scripted.status.is_success(), "{}", scripted.text);
        };
        for (theirs, ours, retry_after) in [(401, 502, ""), (429, 429, "7"), (503, 429, "7"), (500, 502, "")]
        {
            let seconds = if retry_after.is_empty() { Value::Null } else { json!(7) };
            script(json!({"type": "fail", "status": theirs, "retry_after": seconds})).await;
            let failed = complete(&rest, provider, &format!("{provider} {theirs}"), &json!({})).await;
            assert_eq!(failed.status, ours, "{provider} {theirs}: {}", failed.text);
            assert_eq!(failed.header("retry-after"), retry_after, "{provider} {theirs}");
        }
        for (fault, expected) in [
            (json!({"type": "stream_fault", "kind": "disconnect"}), "was interrupted"),
            (json!({"type": "stream_fault", "kind": "truncate"}), "without a finish reason"),
            (json!({"type": "stream_fault", "kind": "malformed"}), "does not match its API"),
            (json!({"type": "stream_fault", "kind": "stall", "stall_seconds": 30}), "sent nothing"),
            (json!({"type": "slow_first_token", "seconds": 30}), "did not begin its answer"),
        ] {
            script(fault.clone()).await;
            let answer =
                complete(&rest, provider, &format!("{provider} {fault}"), &json!({"stream": true})).await;
            fails(&answer, &format!("{provider} {fault}"), &[expected, "did not begin its answer"]);
        }
    }
    let verdict = mock.get("/_llmock/verdict").await.json;
    // A slow first token is no fault to it, and it cannot see that half an answer was refused: nothing is repeated here.
    let is_unexpected =
        |finding: &&Value| finding["severity"] == "error" && finding["code"] != "truncated_stream_accepted";
    let unexpected: Vec<_> = verdict["findings"].as_array().unwrap().iter().filter(is_unexpected).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    assert!(verdict["faults_injected"].as_u64() >= Some(32), "{verdict:#}");
}

#[tokio::test]
async fn proxy_of_litellm_answers_and_fails_as_a_provider() {
    let Some(program) = installed("LITELLM_BIN") else { return };
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::litellm(&program, folder.path()).await;
    // It takes its time for an error.
    let sandbox = upstream.sandbox_within(25, &[("openai", "/v1")]).await;
    let rest = sandbox.rest();
    let whole = complete(&rest, "openai", "plain", &json!({})).await;
    assert_eq!(whole.json["choices"][0]["message"]["content"], "an answer in some words", "{}", whole.text);
    assert!(whole.json["usage"]["total_tokens"].as_u64() > Some(0), "{}", whole.text);
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let streamed = chunks(&complete(&rest, "openai", "plain", &usage).await);
    assert_eq!(said(&streamed, "/content"), "an answer in some words", "{streamed:?}");
    // Its last chunk has the usage beside a choice, unlike that of OpenAI.
    let used = &streamed.last().unwrap()["usage"];
    assert!(used["total_tokens"].as_u64() > Some(0), "{streamed:?}");

    let called = complete_with(&rest, "openai/tool", "the weather in Bonn", &json!({})).await;
    let function = &called.json["choices"][0]["message"]["tool_calls"][0]["function"];
    let expected = json!({"name": "weather", "arguments": r#"{"city": "Bonn", "n": 123456789012345678901}"#});
    assert_eq!(function, &expected, "{}", called.text);

    for (model, status, words) in [
        ("limited", 429, "mock rate limit error"),
        ("broken", 502, "mock internal server error"),
        ("long", 400, "mock context window exceeded error"),
        ("missing", 400, "Invalid model name"),
    ] {
        for more in [json!({}), json!({"stream": true})] {
            let failed = complete_with(&rest, &format!("openai/{model}"), "plain", &more).await;
            assert_eq!(failed.status, status, "{model} {more}: {}", failed.text);
            let message = failed.json["error"]["message"].as_str().unwrap();
            assert!(message.contains(words), "{model} {more}: {message}");
        }
    }
}
