//! Callers that chat all the time, and remember what was acknowledged.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use phoenix_testkit::{http::Rest, wait::until};
use serde_json::json;
use tokio::task::JoinSet;

/// Number of callers.
const CALLERS: usize = 8;

/// Refused requests that are printed.
const SHOWN: usize = 40;

/// Pause of a caller between two chats.
const PACE: Duration = Duration::from_millis(80);

/// Number of plans that are read at once in the end.
const READS: usize = 16;

/// Running callers. Dropping them stops them.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Chats that were sent.
    begun: AtomicUsize,
    /// Number of the newest chat that succeeded.
    newest: AtomicUsize,
    /// Requests that were answered with an error.
    refused: AtomicUsize,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

/// A plan that a caller knows of.
struct Acknowledged {
    plan_id: String,
    message: String,
}

impl Load {
    pub(crate) fn start(rest: &Rest) -> Self {
        let shared = Arc::<Shared>::default();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(call(rest.clone(), Arc::clone(&shared), caller % 2 == 0));
        }
        Self { shared, callers }
    }

    /// Waits until a chat succeeds that begins from now on.
    pub(crate) async fn until_more(&self) {
        let begun = self.shared.begun.load(Ordering::Relaxed);
        until("a chat succeeds", async || self.shared.newest.load(Ordering::Relaxed) > begun).await;
    }

    /// Number of requests that were answered with an error.
    pub(crate) fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Stops the callers, and checks that every acknowledged plan has succeeded, each attempt under a number of its own.
    pub(crate) async fn check(&mut self, rest: &Rest) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
        let acknowledged = std::mem::take(&mut *self.shared.acknowledged.lock().unwrap());
        eprintln!("{} plans were acknowledged, {} requests refused", acknowledged.len(), self.refused());
        assert!(!acknowledged.is_empty());
        let checks = acknowledged.iter().map(|plan| plan.check(rest));
        futures_util::stream::iter(checks).buffer_unordered(READS).count().await;
    }
}

impl Acknowledged {
    /// Waits for the plan's end, and checks it.
    async fn check(&self, rest: &Rest) {
        let plan = rest.wait_for_end(&self.plan_id).await;
        assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!(self.message)), "{plan}");
        let attempts = plan["tasks"][0]["attempts"].as_array().unwrap();
        let numbers: Vec<_> = attempts.iter().map(|attempt| attempt["number"].as_u64()).collect();
        assert!(numbers.is_sorted_by(|one, other| one < other), "{plan}");
    }
}

/// Chats until the end; an asynchronous caller only submits.
async fn call(rest: Rest, shared: Arc<Shared>, is_asynchronous: bool) {
    let rest = if is_asynchronous { rest.with_header("prefer", "respond-async") } else { rest };
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let message = format!("message {number}");
        let body = json!({"message": message, "agent": "echo_agent"});
        let answer = rest.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(body)).await;
        match answer {
            Some(answer) if answer.status.is_success() => {
                let plan_id = answer.str("plan_id").to_owned();
                shared.acknowledged.lock().unwrap().push(Acknowledged { plan_id, message });
                if !is_asynchronous {
                    shared.newest.fetch_max(number, Ordering::Relaxed);
                }
            }
            answer => {
                let refused = shared.refused.fetch_add(1, Ordering::Relaxed);
                if refused < SHOWN {
                    let answer = answer.map(|answer| (answer.status, answer.text));
                    eprintln!("refused: {message}: {answer:?}");
                }
            }
        }
        // Paces the callers, whose plans are all read in the end; the faults are to be met by chats, not by a full processor.
        tokio::time::sleep(PACE).await;
    }
}
