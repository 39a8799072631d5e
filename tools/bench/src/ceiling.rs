//! The spawn ceiling: the number of one-shot agent processes that an otherwise idle machine runs per second. No
//! orchestrator that starts a process per request can be faster.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use clap::Args;
use phoenix_domain::{
    CorrelationId, PlanId, TaskId,
    action::{API_VERSION, ActionMeta, ActionRequest, ActionResponse, ActionStatus, CHAT_ACTION},
};
use phoenix_load_tester::{Outcome, Tally};
use tokio::{io::AsyncWriteExt, process::Command, task::JoinSet};
use uuid::Uuid;

use crate::{
    failure::{Doing, Failure, Result},
    measure::{MESSAGE, Sample},
};

#[derive(Debug, Args)]
pub(crate) struct CeilingArgs {
    #[arg(long)]
    phoenix: PathBuf,
    #[arg(long)]
    concurrency: NonZeroUsize,
    #[arg(long)]
    millis: u64,
}

/// Measures in a separate process with the executor's kind of runtime.
pub(crate) async fn sample(phoenix: &Path, concurrency: NonZeroUsize, duration: Duration) -> Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("spawn-ceiling").arg("--phoenix").arg(phoenix);
    command.args(["--concurrency", &concurrency.to_string()]);
    command.args(["--millis", &duration.as_millis().to_string()]);
    let output = command.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(Failure::new("the spawn ceiling could not be measured"));
    }
    serde_json::from_slice(&output.stdout).doing("spawn ceiling")
}

/// Runs agents for a while and prints a [`Sample`].
pub(crate) async fn run(args: CeilingArgs) -> Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_millis(args.millis);
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency.get() {
        workers.spawn(run_agents(args.phoenix.clone(), end));
    }
    let mut total = Tally::default();
    for tally in workers.join_all().await {
        total.add(&tally?);
    }
    total.elapsed = start.elapsed();
    println!("{}", serde_json::to_string(&Sample::of(&total)?).doing("spawn ceiling")?);
    Ok(())
}

async fn run_agents(phoenix: PathBuf, end: Instant) -> Result<Tally> {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let began = Instant::now();
        run_agent(&phoenix).await?;
        tally.record(Outcome { status: None, code: Outcome::SUCCESS }, began.elapsed());
    }
    Ok(tally)
}

/// One attempt as the executor makes it: spawn, one line in, end of input, everything read, exit awaited, answer checked.
async fn run_agent(phoenix: &Path) -> Result<()> {
    let request = request()?;
    let mut line = serde_json::to_vec(&request).doing("request")?;
    line.push(b'\n');
    let mut command = Command::new(phoenix);
    command.args(["agent", "echo"]).env_clear().process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut agent = command.spawn().doing("cannot start the echo agent")?;
    if let Some(mut stdin) = agent.stdin.take() {
        stdin.write_all(&line).await?;
    }
    let output = agent.wait_with_output().await?;
    let response: ActionResponse = serde_json::from_slice(&output.stdout).doing("echo agent")?;
    if output.status.success()
        && response.request_id == request.request_id
        && response.status == ActionStatus::Success
    {
        Ok(())
    } else {
        Err(Failure::new("the echo agent failed"))
    }
}

fn request() -> Result<ActionRequest> {
    let payload = phoenix_domain::json::Object::from_iter([("message".to_owned(), MESSAGE.into())]);
    Ok(ActionRequest {
        request_id: Uuid::new_v4(),
        api_version: API_VERSION.into(),
        tool: "echo_agent".parse().doing("agent name")?,
        action: CHAT_ACTION.into(),
        context: String::new(),
        plan_id: PlanId::generate(),
        task_id: TaskId::generate(),
        correlation_id: CorrelationId::generate(),
        payload,
        meta: ActionMeta {
            traceparent: None,
            attempt: 1,
            deadline_ms: 30_000,
            idempotency_key: "bench".into(),
            stream: false,
        },
    })
}
