//! What the browser of the gateway's tests needs.

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use phoenix_testkit::http::Rest;
use serde_json::Value;

#[path = "../../../gateway/tests/support/browser.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "the tests of the gateway use all of it")]
pub(crate) mod browser;

/// Time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// An HTTP client of one server.
#[derive(Debug)]
pub(crate) struct Http {
    rest: Rest,
    patience: Duration,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Http {
    pub(crate) fn patient(addr: SocketAddr, patience: Duration) -> Self {
        Self { rest: Rest::new(format!("http://{addr}")), patience }
    }

    /// Sends JSON, as every command of a browser is.
    pub(crate) async fn send(&self, method: Method, path: &str, _: &[(&str, &str)], body: String) -> Answer {
        let answer = self.rest.try_send_text(method, path, Some(body));
        let answer = tokio::time::timeout(self.patience, answer).await.expect("an answer in time").unwrap();
        Answer { status: answer.status, text: answer.text }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let asked = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}
