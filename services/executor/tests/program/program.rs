//! Programs that the tests run:
//!
//! - `agent BEHAVIOUR [ARGUMENT…]`: an agent with that behaviour,
//! - `executor HEALTH_URL TAG`: an executor in its own process, which a test can kill,
//! - `guard MARKER`: its orphan guard.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::zombie_processes
)]

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Read, Write},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use phoenix_domain::{AgentCatalog, AgentMode, AgentSpec, llm::LlmSettings};
use phoenix_executor::{ExecutorConfig, guard, serve};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["agent", behaviour @ ..] => behave(behaviour),
        ["executor", health_url, tag] => executor(health_url, tag),
        ["guard", marker] => guard::run(marker),
        other => panic!("{other:?}"),
    }
}

/// Serves several agents and prints the URL on standard output.
fn executor(health_url: &str, tag: &str) -> ExitCode {
    let exe = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let agent = |name: &str, behaviour: &[&str], mode: AgentMode, timeout_ms: u64| {
        let command =
            [exe.as_str(), "agent"].iter().chain(behaviour).map(|part| (*part).to_owned()).collect();
        let mut spec = AgentSpec::new(name.parse().unwrap(), command);
        spec.env = vec!["PATH".into(), "TEST_TAG".into()];
        spec.retry.max_attempts = 1;
        AgentSpec { mode, workers: 2, timeout: Duration::from_millis(timeout_ms), ..spec }
    };
    const LONG: u64 = 600_000;
    let agents = [
        agent("hanging", &["hang-with-children"], AgentMode::Oneshot, LONG),
        agent("oneshot", &["obey"], AgentMode::Oneshot, LONG),
        agent("worker", &["obey"], AgentMode::Workers, LONG),
        agent("short_oneshot", &["obey"], AgentMode::Oneshot, 1_000),
        agent("short_worker", &["obey"], AgentMode::Workers, 1_000),
        agent("helped_worker", &["obey-with-helpers", tag], AgentMode::Workers, LONG),
    ];
    let default = agents[0].name.clone();
    let environment =
        [("PATH".to_owned(), std::env::var("PATH").unwrap()), ("TEST_TAG".to_owned(), tag.to_owned())];
    let config = ExecutorConfig {
        agents: AgentCatalog::new(agents, default),
        labels: BTreeMap::new(),
        agent_nice: 10,
        llm: LlmSettings::default(),
        health_url: health_url.into(),
        identity: phoenix_platform::service_token::ServiceToken::new("of-the-test").unwrap().into(),
        environment: BTreeMap::from(environment),
        executable: None,
        guard: Some(vec![exe.clone(), "guard".into()]),
        adopts_orphans: true,
        readiness: phoenix_platform::readiness::Readiness::starting(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("http://{}", listener.local_addr().unwrap());
        let shutdown = phoenix_platform::shutdown::on_signal().unwrap();
        serve(config, listener, shutdown).await.unwrap();
    });
    ExitCode::SUCCESS
}

fn behave(behaviour: &[&str]) -> ExitCode {
    match behaviour {
        ["answer"] => each_request(|request| respond(&answer(request))),
        ["answer-without-newline"] => each_request(|request| out(answer(request).to_string().as_bytes())),
        ["exit", code] => {
            each_request(|request| respond(&answer(request)));
            print_error("boom\n");
            return ExitCode::from(code.parse::<u8>().unwrap());
        }
        ["die-by-signal"] => {
            print_error("boom\n");
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGABRT).unwrap();
        }
        ["hang"] => each_request(|_| hang()),
        ["hang-after-answer"] => each_request(|request| {
            respond(&answer(request));
            hang();
        }),
        ["ignore-sigterm"] => {
            nix::sys::signal::SigSet::all().thread_block().unwrap();
            each_request(|_| hang());
        }
        ["hang-with-children"] => {
            // One stays in the group, one leaves it.
            let _child = Command::new("sleep").arg("600").spawn().unwrap();
            let _escaped = Command::new("setsid").args(["sleep", "600"]).spawn().unwrap();
            each_request(|_| hang());
        }
        ["garbage"] => each_request(|_| out(b"Traceback (most recent call last):\n")),
        ["half"] => each_request(|request| {
            let line = answer(request).to_string();
            out(&line.as_bytes()[..line.len() / 2]);
            quit();
        }),
        ["nothing"] => each_request(|_| {
            print_error("no answer\n");
            quit();
        }),
        ["flood-stdout"] => each_request(|_| (0..1600).for_each(|_| out(&[b'x'; 64 * 1024]))),
        ["flood-stderr"] => each_request(|request| {
            (0..1600).for_each(|_| print_error(&"x".repeat(64 * 1024)));
            print_error("the end\n");
            respond(&answer(request));
        }),
        ["flood-stderr-and-fail"] => {
            (0..200).for_each(|_| print_error(&"x".repeat(64 * 1024)));
            print_error("the end\n");
            return ExitCode::from(9);
        }
        ["close-stdin"] => {
            // The process exits without reading; its end of the pipe closes with it.
            print_error("not reading\n");
        }
        ["keep-pipes-open"] => each_request(|request| {
            let _child = Command::new("sleep").arg("600").spawn().unwrap();
            respond(&answer(request));
        }),
        ["keep-pipes-open-and-fail"] => {
            let _child = Command::new("sleep").arg("600").spawn().unwrap();
            print_error("left a child\n");
            return ExitCode::from(4);
        }
        ["wrong-id"] => each_request(|request| {
            let mut answer = answer(request);
            answer["request_id"] = json!("0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f");
            respond(&answer);
        }),
        ["two-lines"] => each_request(|request| {
            // Short enough to be written and read at once.
            let mut answer = answer(request);
            answer["result"]["data"] = Value::Null;
            out((answer.to_string() + "\n").repeat(2).as_bytes());
        }),
        ["not-utf8"] => each_request(|_| out(b"\xff\xfe\n")),
        ["slow-start", millis] => {
            pause(Duration::from_millis(millis.parse().unwrap()));
            each_request(|request| respond(&answer(request)));
        }
        ["refuse", code, retry_after_ms @ ..] => each_request(|request| {
            let mut refusal = answer(request);
            refusal["status"] = json!("error");
            refusal["code"] = json!(code.parse::<u16>().unwrap());
            refusal["error"] = json!("that will not do");
            if let [millis] = retry_after_ms {
                refusal["retry_after_ms"] = serde_json::from_str(millis).unwrap();
            }
            respond(&refusal);
        }),
        ["print-settings"] => each_request(|request| {
            let settings = std::env::var("PHOENIX_LLM_SETTINGS").unwrap_or_default();
            print_error(&settings);
            let mut answer = answer(request);
            answer["result"]["data"] = json!(settings);
            respond(&answer);
        }),
        ["llm-router"] => {
            let settings = settings_from_socket();
            each_request(|request| {
                let mut answer = answer(request);
                answer["result"]["data"]["settings"] = json!(settings);
                respond(&answer);
            });
        }
        ["refuse-with-settings"] => each_request(|request| {
            let settings = std::env::var("PHOENIX_LLM_SETTINGS").unwrap_or_default();
            print_error(&settings);
            let mut refusal = answer(request);
            refusal["status"] = json!("error");
            refusal["code"] = json!(500);
            refusal["error"] = json!(settings);
            respond(&refusal);
        }),
        // With a byte-order mark and without metadata, as some writers emit it.
        ["write-data", data] => each_request(|request| {
            let mut answer = answer(request);
            answer["result"]["data"] = json!("DATA");
            answer["result"]["metadata"] = Value::Null;
            out(format!("\u{feff}{answer}\n").replace("\"DATA\"", data).as_bytes());
        }),
        ["crash-at-start", file] => {
            append_line(file, &Value::Null);
            print_error("cannot continue\n");
            return ExitCode::from(7);
        }
        ["slow-start-noted", file, millis] => {
            append_line(file, &Value::Null);
            pause(Duration::from_millis(millis.parse().unwrap()));
            each_request(|request| respond(&answer(request)));
        }
        ["obey"] => each_request(obey),
        ["stream", steps @ ..] => each_request(|request| steps.iter().for_each(|step| stream(step, request))),
        ["obey-with-helpers", name] => {
            leave_children(&format!("helper-{name}"), true);
            each_request(obey);
        }
        ["fail-until", file, times] => each_request(|request| {
            let made = append_line(file, request);
            if made < times.parse().unwrap() {
                print_error(&format!("failure {made}\n"));
                std::process::exit(1);
            }
            respond(&answer(request));
        }),
        other => panic!("no such behaviour: {other:?}"),
    }
    ExitCode::SUCCESS
}

/// One step of an agent that writes lines before its answer; `ID` stands for the id of the request.
fn stream(step: &str, request: &Value) {
    let id = request["request_id"].as_str().unwrap();
    let chunk = |data: &str| json!({ "type": "chunk", "request_id": id, "data": data }).to_string() + "\n";
    match step.split_once(':').unwrap_or((step, "")) {
        ("chunk", data) => out(chunk(data).as_bytes()),
        ("line", line) => out((line.replace("ID", id) + "\n").as_bytes()),
        // Chunks of 16 KiB, for ever or so many.
        ("flood", count) => {
            let line = chunk(&"x".repeat(16 * 1024));
            (0..count.parse().unwrap()).for_each(|_| out(line.as_bytes()));
        }
        ("report for ever", _) => loop {
            out((json!({ "type": "progress", "request_id": id }).to_string() + "\n").as_bytes());
        },
        ("wait", file) => {
            while !std::path::Path::new(file).exists() {
                pause(Duration::from_millis(2));
            }
        }
        ("die unless", file) if !std::path::Path::new(file).exists() => std::process::exit(5),
        ("die unless", _) => {}
        ("note", file) => drop(append_line(file, &Value::Null)),
        ("answer", _) => respond(&answer(request)),
        other => panic!("no such step: {other:?}"),
    }
}

/// Acts as the message says.
fn obey(request: &Value) {
    match request["payload"]["message"].as_str().unwrap() {
        "hang" => hang(),
        "die" => {
            print_error("last words\n");
            std::process::exit(5);
        }
        "answer and write more" => {
            respond(&answer(request));
            out(b"more output\n");
        }
        "answer and exit" => {
            respond(&answer(request));
            quit();
        }
        "answer and exit soon" => {
            respond(&answer(request));
            pause(Duration::from_millis(10));
            quit();
        }
        "answer and flood stderr" => {
            let file = request["payload"]["file"].as_str().unwrap().to_owned();
            let begin = request["payload"]["begin"].as_str().unwrap().to_owned();
            std::thread::spawn(move || {
                // Opening a FIFO blocks until it has a writer.
                std::fs::read(begin).unwrap();
                (0..400).for_each(|_| print_error(&format!("{}\n", "x".repeat(1023))));
                append_line(&file, &Value::Null);
            });
            respond(&answer(request));
        }
        "leave children" => {
            leave_children(request["payload"]["name"].as_str().unwrap(), false);
            match request["payload"]["then"].as_str().unwrap() {
                "answer" => respond(&answer(request)),
                "die" => std::process::exit(5),
                _ => hang(),
            }
        }
        "start fork chain" => {
            start_fork_chain(request["payload"]["fifo"].as_str().unwrap());
            respond(&answer(request));
        }
        "write stderr and refuse" => {
            print_error(&format!("about {}\n", request["payload"]["what"]));
            let mut refusal = answer(request);
            refusal["status"] = json!("error");
            refusal["code"] = json!(500);
            respond(&refusal);
        }
        _ => respond(&answer(request)),
    }
}

/// Starts processes that leave the group, with and without an environment, as children and as orphans; `name` is in the
/// command line of each. Returns once all run.
fn leave_children(name: &str, keep_environment: bool) {
    let without = if keep_environment { "" } else { "env -i" };
    for script in ["setsid", &format!("{without} setsid")] {
        let sleep = format!("exec {script} sh -c 'sleep 600; : {name}'");
        let script = format!("{sleep} >/dev/null 2>&1 </dev/null");
        Command::new("sh").args(["-c", &script]).spawn().unwrap();
        assert!(Command::new("sh").args(["-c", &format!("({script} &)")]).status().unwrap().success());
    }
    while sleeping_shells(name) < 4 {
        pause(Duration::from_millis(5));
    }
}

/// Number of shells with `name` in their command line that have executed `sleep`, without those that start them. A copy that such
/// a shell has made of itself, and that is about to become `sleep`, is none.
fn sleeping_shells(name: &str) -> usize {
    let read =
        |pid: &str, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let command = |pid: &str| read(pid, "cmdline");
    let is_copy = |pid: &str| {
        let stat = read(pid, "stat");
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent.is_some_and(|parent| command(parent) == command(pid))
    };
    let entries =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_shell = |pid: &String| {
        let command = command(pid);
        command.starts_with("sh\0-c\0sleep") && command.contains(name) && !is_copy(pid)
    };
    entries.filter(is_shell).count()
}

/// Starts a process that can only be attributed to this one by its parent, which exits at once, and which starts its
/// successor and exits, and so on. Each holds the write end of `fifo`; the first writes a line to it.
fn start_fork_chain(fifo: &str) {
    let script = format!("{fifo}.sh");
    std::fs::write(&script, "\"$0\" &\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let start = format!("exec 3>'{fifo}'; echo >&3; exec '{script}'");
    let mut first = Command::new("env");
    first.args(["-i", "setsid", "sh", "-c", &start]);
    first.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(first.status().unwrap().success());
}

/// The settings as the built-in language-model agent collects them.
fn settings_from_socket() -> String {
    use std::os::{linux::net::SocketAddrExt, unix::net};

    let name = std::env::var("PHOENIX_LLM_SETTINGS_SOCKET").unwrap();
    let address = net::SocketAddr::from_abstract_name(name).unwrap();
    let mut settings = String::new();
    net::UnixStream::connect_addr(&address).unwrap().read_to_string(&mut settings).unwrap();
    settings
}

/// Appends the request to `file`; returns the number of lines.
fn append_line(file: &str, request: &Value) -> usize {
    let mut notes = OpenOptions::new().create(true).append(true).read(true).open(file).unwrap();
    notes.write_all(format!("{request}\n").as_bytes()).unwrap();
    std::fs::read_to_string(file).unwrap().lines().count()
}

fn each_request(mut act: impl FnMut(&Value)) {
    for line in io::stdin().lines() {
        act(&serde_json::from_str(&line.unwrap()).unwrap());
    }
}

/// Success, with the request, the environment and the process id as data.
fn answer(request: &Value) -> Value {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let mut answer = json!({
        "api_version": "v1",
        "status": "success",
        "code": 0,
        "error": null,
        "result": {
            "output_type": "json",
            "data": { "request": request, "environment": environment, "pid": std::process::id() },
            "metadata": { "kind": "test" },
        },
    });
    for echoed in ["request_id", "plan_id", "task_id", "correlation_id"] {
        answer[echoed] = request[echoed].clone();
    }
    answer
}

fn respond(answer: &Value) {
    out((answer.to_string() + "\n").as_bytes());
}

/// Writes to standard output; exits when the reader is gone.
fn out(bytes: &[u8]) {
    let mut stdout = io::stdout();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        quit();
    }
}

fn print_error(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn quit() {
    std::process::exit(0);
}

fn hang() {
    loop {
        pause(Duration::from_secs(3600));
    }
}

fn pause(time: Duration) {
    std::thread::sleep(time);
}
