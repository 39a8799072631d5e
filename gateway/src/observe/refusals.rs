//! Requests that are refused before anything is done for them: without a token, with a wrong one, or addressed to somebody
//! else. Each is counted; as anybody can send any number of them, only some leave a line.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Request},
    http::Method,
    response::Response,
};

use super::{millis, record};
use crate::{correlation::Scope, problem::Failure};

/// So many refusals are logged
const LOGGED: u32 = 10;

/// in each span of time of this length.
const EVERY: Duration = Duration::from_secs(10);

/// Who sent a request, and how.
pub(crate) struct Sender {
    method: &'static str,
    peer: Option<SocketAddr>,
}

impl Sender {
    pub(crate) fn of(request: &Request) -> Self {
        let method = match *request.method() {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            // A caller can name one of any length.
            _ => "other",
        };
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        Self { method, peer }
    }
}

/// Records refusals. Clones share the limit of what is logged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Window>>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    logged: u32,
    /// Refusals that no line tells of, since the last that does.
    suppressed: u64,
}

impl Refusals {
    /// Records the refusal that `response` is; another answer, such as one to a CORS preflight, is none.
    pub(crate) fn record(&self, scope: &Scope, sender: &Sender, response: &Response) {
        let http_status = response.status().as_u16();
        if http_status < 400 {
            return;
        }
        record(scope, http_status);
        let Some(suppressed) = self.admit(Instant::now()) else { return };
        let (endpoint, elapsed_ms) = (scope.endpoint().as_str(), millis(scope));
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

    /// Whether a refusal at `now` is logged: the number of those before it that were not.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.duration_since(began) >= EVERY) {
            *window = Window { began: Some(now), logged: 0, suppressed: window.suppressed };
        }
        if window.logged == LOGGED {
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
    fn refusals_beyond_the_limit_are_told_of_by_the_next_line() {
        let (refusals, begun) = (Refusals::default(), Instant::now());
        let logged: Vec<_> = (0..25).filter_map(|_| refusals.admit(begun)).collect();
        assert_eq!(logged, [0; 10]);
        assert_eq!(refusals.admit(begun + EVERY), Some(15));
        assert_eq!(refusals.admit(begun + EVERY), Some(0));
    }
}
