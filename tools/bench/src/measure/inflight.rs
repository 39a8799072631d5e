//! Thousands of plans in flight at once: the planner's memory, the number of plans that end, and the fairness of their order.
//!
//! The agent answers nothing before all plans are accepted, which guarantees that they are in flight at once.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use jiff::Timestamp;
use phoenix_platform::config::Role;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::sample::{MESSAGE, Scale};
use crate::{
    failure::{Doing, Failure, Result},
    memory,
    rest::Rest,
    stack::{Home, Stack},
};

/// Callers that submit plans concurrently.
const CALLERS: usize = 64;

/// Processes of the agent, and how long each works for one plan.
const WORKERS: usize = 16;
const WORK: Duration = Duration::from_millis(20);

/// Time after which unfinished plans count as lost, in addition to the time of the work itself.
const LIMIT: Duration = Duration::from_secs(120);

/// Interval of the checks whether they have.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Time between two progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct InFlight {
    /// Plans that were accepted, all of them before the first one ended.
    pub(crate) plans: usize,
    /// Those of them that ended well.
    pub(crate) succeeded: usize,
    /// The longest time from acceptance to end, of those that ended.
    pub(crate) longest_secs: f64,
    /// From the first acceptance to the last, and from then to the last end.
    pub(crate) accepting_secs: f64,
    pub(crate) ending_secs: f64,
    /// The most places that a plan lost between the order of acceptance and that of ends.
    pub(crate) places_lost: usize,
    /// Peak resident memory of the planner in bytes.
    pub(crate) planner_peak_bytes: u64,
    /// Peak resident memory of the executor in bytes.
    pub(crate) executor_peak_bytes: u64,
}

pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<InFlight> {
    let home = Home::new("")?;
    let gate = home.path().join("gate");
    std::fs::write(home.path().join("phoenix.toml"), config(&gate)?)?;
    let stack = Stack::start(phoenix, &home).await?;
    let measured = crowd(&stack, &gate, scale.in_flight).await.map_err(|failure| stack.blamed(failure))?;
    stack.stop().await?;
    Ok(measured)
}

/// The sleeper as an agent. Its queue is as long as any agent's: most plans wait in the planner.
fn config(gate: &Path) -> Result<String> {
    let exe = std::env::current_exe()?;
    let millis = WORK.as_millis().to_string();
    // A JSON array of strings is one of TOML, too.
    let command = json!([exe, "sleeper", "--gate", gate, "--millis", millis]);
    Ok(format!(
        "[agents.sleeper]\ncommand = {command}\nmode = \"workers\"\nworkers = {WORKERS}\n\
         timeout_secs = 600\n"
    ))
}

async fn crowd(stack: &Stack<'_>, gate: &Path, plans: usize) -> Result<InFlight> {
    let rest = Rest::new(&stack.url);
    let (planner, executor) = (stack.service(Role::Planner)?, stack.service(Role::Executor)?);
    let began = Instant::now();
    let accepted = submit(&rest, plans).await?;
    let accepting = began.elapsed();
    eprintln!("{plans} plans in flight after {:.1} s; now they may end", accepting.as_secs_f64());
    std::fs::write(gate, "")?;
    let opened = Instant::now();
    wait_for_ends(&rest, plans, opened).await?;
    let ending = opened.elapsed();
    let found = read(&rest).await?;
    let ended: Vec<_> = accepted.iter().filter_map(|plan_id| found.get(plan_id)).collect();
    let longest = ended.iter().map(|plan| plan.ended_at.duration_since(plan.created_at).as_secs_f64());
    Ok(InFlight {
        plans,
        succeeded: ended.iter().filter(|plan| plan.succeeded).count(),
        longest_secs: longest.fold(0.0, f64::max),
        accepting_secs: accepting.as_secs_f64(),
        ending_secs: ending.as_secs_f64(),
        places_lost: places_lost(&ended),
        planner_peak_bytes: memory::peak(planner)?,
        executor_peak_bytes: memory::peak(executor)?,
    })
}

/// Submits plans. Returns their ids.
async fn submit(rest: &Rest, plans: usize) -> Result<Vec<String>> {
    let task = json!({"key": "sleep", "agent": "sleeper", "action": "chat", "input": {"message": MESSAGE}});
    let plan = Bytes::from(json!({"tasks": [task]}).to_string());
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (rest, plan) = (rest.clone(), plan.clone());
        callers.spawn(async move {
            let mut names = Vec::new();
            for _ in (caller..plans).step_by(CALLERS) {
                names.push(rest.submit(plan.clone()).await?);
            }
            Ok::<_, Failure>(names)
        });
    }
    let names: Result<Vec<_>> = callers.join_all().await.into_iter().collect();
    Ok(names?.concat())
}

/// Waits until no plan is pending or running.
async fn wait_for_ends(rest: &Rest, plans: usize, since: Instant) -> Result<()> {
    let work = WORK.mul_f64(plans as f64 / WORKERS as f64);
    let mut next_line = PROGRESS_INTERVAL;
    loop {
        let mut open = 0;
        for status in ["pending", "running"] {
            let page = rest.get(&format!("/api/v1/plans?status={status}&page_size=1")).await?;
            open += page["plans"].as_array().map_or(0, Vec::len);
        }
        // What has not ended by then counts as lost.
        if open == 0 || since.elapsed() > LIMIT + work {
            return Ok(());
        }
        if since.elapsed() > next_line {
            eprintln!("{:.0} s: not all of them have ended", since.elapsed().as_secs_f64());
            next_line += PROGRESS_INTERVAL;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A plan that has ended.
struct Ended {
    created_at: Timestamp,
    ended_at: Timestamp,
    succeeded: bool,
}

/// Every plan of the journal that has ended, by name.
async fn read(rest: &Rest) -> Result<HashMap<String, Ended>> {
    let mut found = HashMap::new();
    let mut path = "/api/v1/plans?page_size=500".to_owned();
    loop {
        let page = rest.get(&path).await?;
        for plan in page["plans"].as_array().into_iter().flatten() {
            if let (Some(plan_id), Some(ended)) = (plan["plan_id"].as_str(), Ended::read(plan)?) {
                found.insert(plan_id.to_owned(), ended);
            }
        }
        match page["next_page_token"].as_str() {
            Some(token) => path = format!("/api/v1/plans?page_size=500&page_token={token}"),
            None => return Ok(found),
        }
    }
}

impl Ended {
    /// Nothing for a plan that has not ended.
    fn read(plan: &Value) -> Result<Option<Self>> {
        let time = |name: &str| plan[name].as_str().map(str::parse).transpose().doing(name);
        let succeeded = plan["status"] == "succeeded";
        Ok(match (time("created_at")?, time("ended_at")?) {
            (Some(created_at), Some(ended_at)) => Some(Self { created_at, ended_at, succeeded }),
            _ => None,
        })
    }
}

/// The plans are numbered in the order in which they were accepted, and again in that in which they ended. A plan whose
/// second number is larger has lost places: others that came later went before it.
fn places_lost(plans: &[&Ended]) -> usize {
    let mut by_acceptance: Vec<_> = plans.iter().collect();
    by_acceptance.sort_by_key(|plan| plan.created_at);
    let mut by_end: Vec<_> = by_acceptance.iter().enumerate().collect();
    // Stable: those that ended at the same time have lost nothing to each other.
    by_end.sort_by_key(|(_, plan)| plan.ended_at);
    let lost = by_end.iter().enumerate().map(|(end, (acceptance, _))| end.saturating_sub(*acceptance));
    lost.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(times: &[(i64, i64)]) -> Vec<Ended> {
        let at = |second| Timestamp::from_second(second).unwrap();
        let plan = |&(created, ended): &(i64, i64)| Ended {
            created_at: at(created),
            ended_at: at(ended),
            succeeded: true,
        };
        times.iter().map(plan).collect()
    }

    fn lost(times: &[(i64, i64)]) -> usize {
        places_lost(&plans(times).iter().collect::<Vec<_>>())
    }

    #[test]
    fn plan_that_waits_while_later_ones_end_loses_places() {
        assert_eq!(lost(&[]), 0);
        assert_eq!(lost(&[(1, 11), (2, 12), (3, 13)]), 0, "first come, first served");
        assert_eq!(lost(&[(3, 14), (1, 11), (2, 14)]), 0, "in any order of the list, and at the same time");
        assert_eq!(lost(&[(1, 19), (2, 12), (3, 13), (4, 14)]), 3, "the first waited for all others");
        assert_eq!(lost(&[(1, 14), (2, 13), (3, 12), (4, 11)]), 3, "the other way round");
    }
}
