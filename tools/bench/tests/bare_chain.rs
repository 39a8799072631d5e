//! The bare chain answers chats as Phoenix does, and ends with the process that started it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{num::NonZeroUsize, process::Stdio, sync::Arc, time::Duration};

use phoenix_load_tester::{Engine, Live, Load, Pace, Target};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const TIME_LIMIT: Duration = Duration::from_secs(30);

async fn start(role: &str, next: Option<&str>) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phoenix-bench"));
    command.args(["bare-server", role]).args(next.map(|url| ["--next", url]).iter().flatten());
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut url = String::new();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    timeout(TIME_LIMIT, stdout.read_line(&mut url)).await.expect("prints its URL").unwrap();
    (server, url.trim().to_owned())
}

#[tokio::test]
async fn three_processes_answer_a_chat_and_end_with_their_input() {
    let (executor, executor_url) = start("executor", None).await;
    let (planner, planner_url) = start("planner", Some(&executor_url)).await;
    let (gateway, url) = start("gateway", Some(&planner_url)).await;

    let load = Load {
        pace: Pace::Closed,
        connections: NonZeroUsize::new(2).unwrap(),
        requests: Some(20),
        duration: None,
        timeout: TIME_LIMIT,
    };
    let mut engine = Engine::new(Target::new(&url, "hi", Some("echo_agent"), None).unwrap());
    let tally = engine.run(&load, &Arc::new(Live::default()), &CancellationToken::new()).await.unwrap();
    assert_eq!((tally.sent(), tally.ok()), (20, 20), "{:?}", tally.outcomes().collect::<Vec<_>>());

    for mut server in [gateway, planner, executor] {
        drop(server.stdin.take());
        let status = timeout(TIME_LIMIT, server.wait()).await.expect("ends with its input").unwrap();
        assert!(status.success(), "{status}");
    }
}
