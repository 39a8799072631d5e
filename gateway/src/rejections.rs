//! Requests that are rejected before authentication has passed: without a token, with a wrong one, or with a foreign host. Each
//! is counted; the log has a limited number of lines, because any client can send them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Request},
    http::Method,
    response::Response,
};
use parking_lot::Mutex;

use crate::{
    access_log::{elapsed_ms, record_duration},
    problem::Failure,
    request_scope::RequestScope,
};

/// Log lines per [`WINDOW`].
const MAX_LOGGED: u32 = 10;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// Method and address of a request.
pub(crate) struct Sender {
    method: &'static str,
    peer: Option<SocketAddr>,
}

impl Sender {
    /// The sender of `request`.
    pub(crate) fn of(request: &Request) -> Self {
        let method = match *request.method() {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            // A caller can send a method of any length.
            _ => "other",
        };
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        Self { method, peer }
    }
}

/// Records rejected requests. Clones share the limit of log lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rejections(Arc<Mutex<Window>>);

#[derive(Debug, Default)]
struct Window {
    started: Option<Instant>,
    logged: u32,
    /// Rejections since the last log line.
    suppressed: u64,
}

impl Rejections {
    /// Records `response` if it is a failure; another response, such as one to a CORS preflight, is not a rejection.
    pub(crate) fn record(&self, scope: &RequestScope, sender: &Sender, response: &Response) {
        let http_status = response.status().as_u16();
        if http_status < 400 {
            return;
        }
        record_duration(scope, http_status);
        let Some(suppressed) = self.admit(Instant::now()) else { return };
        let (endpoint, elapsed_ms) = (scope.endpoint().as_str(), elapsed_ms(scope));
        let Sender { method, peer } = sender;
        let peer = peer.map(tracing::field::display);
        let code = response.extensions().get::<Failure>().map(|failure| failure.error.code.as_str());
        scope.span().in_scope(|| {
            tracing::info!(
                endpoint,
                method,
                http_status,
                code,
                peer,
                suppressed,
                elapsed_ms,
                "request refused"
            );
        });
    }

    /// Admits a log line at `now`: the number of rejections that were not logged since the last line. `None` over the limit.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock();
        if window.started.is_none_or(|started| now.duration_since(started) >= WINDOW) {
            *window = Window { started: Some(now), logged: 0, suppressed: window.suppressed };
        }
        if window.logged == MAX_LOGGED {
            window.suppressed += 1;
            return None;
        }
        window.logged += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_line_counts_rejections_beyond_the_limit() {
        let (rejections, start) = (Rejections::default(), Instant::now());
        let logged: Vec<_> = (0..25).filter_map(|_| rejections.admit(start)).collect();
        assert_eq!(logged, [0; 10]);
        assert_eq!(rejections.admit(start + WINDOW), Some(15));
        assert_eq!(rejections.admit(start + WINDOW), Some(0));
    }
}
