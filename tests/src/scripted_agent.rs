//! An agent whose behaviour is set by its arguments:
//!
//! ```text
//! scripted_agent MODE [STARTS_FILE] [SWITCH_FILE]
//! ```
//!
//! Each start appends a line with its process id to STARTS_FILE. While SWITCH_FILE exists, or when there is none, it
//! behaves as MODE says; otherwise it answers with the message. With the variable `LEDGER` it keeps a ledger of executions.
//!
//! | MODE | behaviour |
//! |---|---|
//! | `echo` | answers |
//! | `meta` | answers with the request's `_meta` |
//! | `fail` | answers with an error, code 500, and writes `boom` to stderr |
//! | `quote CODE` | answers with an error of this code that quotes the message; CODE replaces SWITCH_FILE |
//! | `large` | answers with the number of bytes in the message |
//! | `deep` | answers with the number of nested lists in the message |
//! | `loud` | fails, with 64 KiB on stderr |
//! | `hang` | never answers |
//! | `fork` | starts a child that never exits, then never answers |
//! | `slow` | answers after 1.5 s |
//! | `talk` | says the first word, and the others once SWITCH_FILE is removed; then answers |
//! | `gate` | answers once SWITCH_FILE is removed |
//! | `stubborn` | ignores SIGTERM and never answers |
//! | `snoop` | answers with the processes whose environment or memory it can open |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod ledger;

use std::{
    fs::OpenOptions,
    io::{BufRead, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::Duration,
};

use phoenix_domain::action::{ActionRequest, ActionResponse, ActionResult, Chunk, OutputLine};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mode = args.get(1).map_or("echo", String::as_str);
    if let Some(starts) = args.get(2).filter(|path| !path.is_empty()) {
        let mut file = OpenOptions::new().create(true).append(true).open(starts).unwrap();
        writeln!(file, "{}", std::process::id()).unwrap();
    }
    let switched_on = || args.get(3).is_none_or(|switch| Path::new(switch).exists());
    let misbehaves = mode == "quote" || switched_on();
    for line in std::io::stdin().lock().lines() {
        let request: ActionRequest = serde_json::from_str(&line.unwrap()).unwrap();
        let _execution = ledger::enter(&request);
        while mode == "gate" && switched_on() {
            pause(Duration::from_millis(10));
        }
        if mode == "talk" {
            talk(&request, switched_on);
        }
        let response = if misbehaves { misbehave(mode, &request) } else { echo(&request) };
        println!("{}", serde_json::to_string(&response).unwrap());
    }
}

fn echo(request: &ActionRequest) -> ActionResponse {
    let message = request.payload.get("message").and_then(|message| message.as_str()).unwrap_or_default();
    ActionResponse::success(request, ActionResult::text(message))
}

fn talk(request: &ActionRequest, is_held: impl Fn() -> bool) {
    let message = echo(request).result.unwrap().to_text();
    let (first, others) = message.split_at(message.find(' ').unwrap_or(message.len()));
    let say = |data: &str| {
        let chunk = Chunk { data: data.into(), delta: None };
        let line = OutputLine::Chunk { request_id: request.request_id, chunk };
        println!("{}", serde_json::to_string(&line).unwrap());
    };
    say(first);
    while is_held() {
        pause(Duration::from_millis(10));
    }
    say(others);
}

fn misbehave(mode: &str, request: &ActionRequest) -> ActionResponse {
    match mode {
        "meta" => {
            let meta = serde_json::to_string(&request.meta).unwrap();
            ActionResponse::success(request, ActionResult::text(meta))
        }
        "fail" => {
            eprintln!("boom");
            ActionResponse::failure(request, 500, "fails on purpose")
        }
        "quote" => {
            let code = std::env::args().nth(3).unwrap().parse().unwrap();
            let message = echo(request).result.unwrap().to_text();
            ActionResponse::failure(request, code, format!("cannot do `{message}`"))
        }
        "fork" => {
            Command::new("sleep").arg("600").status().unwrap();
            forever()
        }
        "large" => ActionResponse::success(request, ActionResult::text("x".repeat(count(request)))),
        "deep" => {
            let levels = count(request);
            let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let mut result = ActionResult::text("");
            result.data = phoenix_domain::json::Json::parse_stored(&text).unwrap();
            ActionResponse::success(request, result)
        }
        "loud" => {
            eprint!("{}", "e".repeat(64 * 1024));
            ActionResponse::failure(request, 500, "fails on purpose")
        }
        "hang" => forever(),
        "stubborn" => {
            // An ignored signal stays ignored after `exec`.
            let error = Command::new("sh").args(["-c", "trap '' TERM; exec sleep 600"]).exec();
            panic!("{error}");
        }
        "snoop" => ActionResponse::success(request, ActionResult::text(snoop())),
        "slow" => {
            pause(Duration::from_millis(1500));
            echo(request)
        }
        _ => echo(request),
    }
}

/// The message as a number.
fn count(request: &ActionRequest) -> usize {
    echo(request).result.unwrap().to_text().parse().unwrap()
}

/// A line for each file of another process that can be opened: its command line, and the file.
fn snoop() -> String {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = pids.filter(|name| *name != own && name.chars().all(|c| c.is_ascii_digit()));
    let mut seen = String::new();
    for pid in pids {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        for file in ["environ", "mem"] {
            if std::fs::File::open(format!("/proc/{pid}/{file}")).is_ok() {
                seen += &format!("{command}: {file}\n");
            }
        }
    }
    seen
}

fn forever() -> ! {
    loop {
        pause(Duration::from_secs(600));
    }
}

#[expect(clippy::disallowed_methods, reason = "a process without a runtime")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
