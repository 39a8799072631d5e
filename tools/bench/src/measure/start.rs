//! Time until a stack is ready, and its memory before the first request.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::sample::{Scale, median};
use crate::{
    failure::Result,
    memory::{self, Memory},
    stack::{Home, Stack},
};

/// Idle time of a fresh stack before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Start {
    /// Time from the start of `phoenix up` on an empty folder to its ready line.
    pub(crate) ready_secs: f64,
    /// Of the four services.
    pub(crate) idle_memory: Memory,
}

pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<Start> {
    let mut ready = Vec::new();
    for start in 1..scale.starts {
        eprintln!("start {start} of {}", scale.starts);
        let home = Home::new("")?;
        let stack = Stack::start(phoenix, &home).await?;
        ready.push(stack.ready_after.as_secs_f64());
        stack.stop().await?;
    }
    eprintln!("start {} of {0}, left alone for {} s", scale.starts, SETTLE.as_secs());
    let home = Home::new("")?;
    let stack = Stack::start(phoenix, &home).await?;
    ready.push(stack.ready_after.as_secs_f64());
    tokio::time::sleep(SETTLE).await;
    let idle_memory = memory::of_children(stack.pid()?)?;
    stack.stop().await?;
    Ok(Start { ready_secs: median(ready), idle_memory })
}
