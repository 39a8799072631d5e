//! An agent whose work takes time and no processor: it waits, then answers.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use phoenix_domain::action::{ActionRequest, ActionResponse, ActionResult};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::failure::{Doing, Result};

/// Interval of the checks of a closed gate.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct SleeperArgs {
    /// Nothing is answered before this file exists
    #[arg(long)]
    gate: PathBuf,
    /// Time that the work for one line takes
    #[arg(long)]
    millis: u64,
}

/// Answers line by line until its input ends.
pub(crate) async fn run(args: SleeperArgs) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stdout = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        let request: ActionRequest = serde_json::from_str(&line).doing("request")?;
        while !args.gate.exists() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        tokio::time::sleep(Duration::from_millis(args.millis)).await;
        let response = ActionResponse::success(&request, ActionResult::text("slept"));
        let mut line = serde_json::to_vec(&response).doing("response")?;
        line.push(b'\n');
        stdout.write_all(&line).await?;
        stdout.flush().await?;
    }
    Ok(())
}
