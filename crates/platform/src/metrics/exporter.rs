//! The process's metrics recorder and the `/metrics` endpoint that Prometheus scrapes.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use phoenix_domain::llm::Secret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    metric::{DURATION_BUCKETS, Metric},
    process::{self, PROCESS},
};
use crate::{
    bearer,
    connections::{self, Options, RequestBody},
    loopback,
    readiness::Readiness,
};

/// Interval at which histogram samples are folded into buckets, which bounds their number.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

static RECORDER: OnceLock<Result<PrometheusHandle, MetricsError>> = OnceLock::new();

/// Error of installing the metrics recorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// Another recorder is installed in the process.
    #[error("another metrics recorder is installed in this process; install none before init_metrics")]
    ForeignRecorder,
    /// The histogram buckets are not valid.
    #[error("histograms have no buckets")]
    NoBuckets,
}

/// Installs the process's recorder once, and describes `metrics` and the metrics of [every process](PROCESS). A further call,
/// as in tests that run several services in one process, adds to the same recorder.
///
/// # Errors
/// When another recorder is installed in the process.
pub fn init_metrics(metrics: &[Metric]) -> Result<MetricsExporter, MetricsError> {
    let handle = RECORDER.get_or_init(install).clone()?;
    PROCESS.iter().chain(metrics).for_each(Metric::describe);
    process::record_build();
    Ok(MetricsExporter { handle, readiness: None })
}

fn install() -> Result<PrometheusHandle, MetricsError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), DURATION_BUCKETS)
        .map_err(|_| MetricsError::NoBuckets)?
        .build_recorder();
    let handle = recorder.handle();
    #[expect(clippy::disallowed_methods, reason = "the only place that installs the recorder")]
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::ForeignRecorder)?;
    Ok(handle)
}

/// The recorded metrics in the Prometheus text format, once there is a recorder.
#[must_use]
pub fn scrape() -> Option<String> {
    let handle = RECORDER.get()?.as_ref().ok()?;
    process::collect();
    Some(handle.render())
}

/// Serves the recorded metrics over HTTP, and probes beside them.
#[derive(Debug, Clone)]
pub struct MetricsExporter {
    handle: PrometheusHandle,
    readiness: Option<Readiness>,
}

impl MetricsExporter {
    /// Serves `readiness` as `GET /readyz`: 200, or 503 with the unmet conditions.
    #[must_use]
    pub fn with_readiness(self, readiness: Readiness) -> Self {
        Self { readiness: Some(readiness), ..self }
    }

    /// Serves `GET /livez` on `listener` until `stop`, and `GET /metrics` to callers that present `token` if there is one. Without a token, a
    /// listener on loopback serves only requests whose host is loopback; any other listener serves every request, since
    /// metrics hold no content.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        token: Option<Secret>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let addr = listener.local_addr()?;
        tracing::info!("Metrics exporter listening on {addr}");
        let access = match token.filter(|token| !token.is_empty()) {
            Some(token) => Access::Token(Arc::new(token)),
            None if addr.ip().is_loopback() => Access::Loopback,
            None => {
                tracing::warn!(%addr, "metrics are served without a token to all who reach this address; METRICS_TOKEN sets one");
                Access::Open
            }
        };
        let upkeep = self.handle.clone();
        let app =
            router(self, access).map_request(|request: http::Request<RequestBody>| request.map(Body::new));
        let tick = async {
            let mut every = tokio::time::interval(UPKEEP_EVERY);
            loop {
                every.tick().await;
                upkeep.run_upkeep();
            }
        };
        tokio::select! {
            served = connections::serve(listener, Options::metrics(), app, stop) => served,
            never = tick => never,
        }
    }
}

/// Access rule of `/metrics`.
#[derive(Debug, Clone)]
enum Access {
    Token(Arc<Secret>),
    Loopback,
    Open,
}

fn router(MetricsExporter { handle, readiness }: MetricsExporter, access: Access) -> Router {
    let render = move || render(handle.clone());
    let metrics = Router::new().route("/metrics", get(render)).layer(from_fn_with_state(access, check));
    // Probes need no token: they say only whether the process works.
    let probed = metrics.route("/livez", get(async || "ok\n"));
    match readiness {
        Some(readiness) => probed.route("/readyz", get(async move || report(&readiness))),
        None => probed,
    }
}

fn report(readiness: &Readiness) -> Response {
    let unmet = readiness.unmet();
    if readiness.is_ready() {
        "ready\n".into_response()
    } else if unmet.is_empty() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: shutting down\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", unmet.join(", "))).into_response()
    }
}

async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access {
        Access::Token(token) => {
            if let Err(problem) = bearer::check(request.headers(), &token) {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                return (StatusCode::UNAUTHORIZED, challenge, format!("{problem}\n")).into_response();
            }
        }
        // A browser always names a host.
        Access::Loopback
            if (request.headers().contains_key(header::HOST) || request.uri().authority().is_some())
                && !loopback::is_addressed(request.uri(), request.headers()) =>
        {
            let problem = "without METRICS_TOKEN only requests to localhost are served\n";
            return (StatusCode::MISDIRECTED_REQUEST, problem).into_response();
        }
        Access::Loopback | Access::Open => {}
    }
    next.run(request).await
}

#[expect(clippy::unused_async, reason = "axum handlers are async")]
async fn render(handle: PrometheusHandle) -> impl IntoResponse {
    process::collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::{record_counter, record_histogram},
        tls::CERTIFICATE_EXPIRES,
    };

    const CALLS: Metric = Metric::counter("test_calls_total", "Calls.");
    const TOOK: Metric = Metric::histogram("test_took_seconds", "How long it took.");

    /// The answer to `GET path` with these headers.
    async fn get(app: &Router, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The status of `GET /metrics` with these headers.
    async fn scrape(app: &Router, headers: &[(&str, &str)]) -> u16 {
        get(app, "/metrics", headers).await.0
    }

    fn app(access: Access) -> Router {
        router(init_metrics(&[]).unwrap(), access)
    }

    fn token() -> Access {
        Access::Token(Arc::new(Secret::from("sesame".to_owned())))
    }

    #[tokio::test]
    async fn probes_need_no_token_and_name_unmet_conditions() {
        let readiness = Readiness::starting();
        let app = router(init_metrics(&[]).unwrap().with_readiness(readiness.clone()), token());
        let probe = async |path| get(&app, path, &[("host", "10.0.0.1:9001")]).await;
        assert_eq!(probe("/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(probe("/readyz").await, (503, "not ready: start\n".to_owned()));
        readiness.require(&["journal", "executor"]);
        readiness.set("journal", true);
        assert_eq!(probe("/readyz").await, (503, "not ready: executor\n".to_owned()));
        readiness.set("executor", true);
        assert_eq!(probe("/readyz").await, (200, "ready\n".to_owned()));
        readiness.shut_down();
        assert_eq!(probe("/readyz").await, (503, "not ready: shutting down\n".to_owned()));
        assert_eq!(probe("/metrics").await.0, 401);
    }

    #[tokio::test]
    async fn metrics_on_loopback_with_foreign_host_are_421() {
        let app = app(Access::Loopback);
        for (host, status) in
            [("evil.example", 421), ("10.0.0.1:9000", 421), ("localhost:9000", 200), ("[::1]", 200)]
        {
            assert_eq!(scrape(&app, &[("host", host)]).await, status, "{host}");
        }
        assert_eq!(scrape(&app, &[]).await, 200, "HTTP/1.0 has no host");
    }

    #[tokio::test]
    async fn metrics_with_token_answer_its_bearer_only() {
        let app = app(token());
        assert_eq!(scrape(&app, &[("host", "planner:9001")]).await, 401);
        assert_eq!(scrape(&app, &[("authorization", "Bearer other")]).await, 401);
        assert_eq!(scrape(&app, &[("authorization", "Bearer sesame"), ("host", "planner:9001")]).await, 200);
    }

    #[test]
    fn metrics_exist_at_zero_and_histograms_have_buckets() {
        let exporter = init_metrics(&[CALLS, TOOK]).unwrap();
        let before = exporter.handle.render();
        assert!(before.contains("test_calls_total 0"), "{before}");
        assert!(before.contains("test_took_seconds_count 0"), "{before}");
        assert!(before.contains("# HELP test_calls_total Calls."), "{before}");
        record_counter(&CALLS, 2);
        record_histogram(&TOOK, 0.003);
        let after = exporter.handle.render();
        assert!(after.contains("test_calls_total 2"), "{after}");
        assert!(after.contains("test_took_seconds_bucket{le=\"0.0025\"} 0"), "{after}");
        assert!(after.contains("test_took_seconds_bucket{le=\"0.005\"} 1"), "{after}");
    }

    #[test]
    fn wait_of_hours_is_inside_the_buckets() {
        const WAITED: Metric = Metric::histogram("test_queue_wait_seconds", "How long it waited.");
        let exporter = init_metrics(&[WAITED]).unwrap();
        record_histogram(&WAITED, 3601.0);
        let text = exporter.handle.render();
        assert!(text.contains("test_queue_wait_seconds_bucket{le=\"3600\"} 0"), "{text}");
        assert!(text.contains("test_queue_wait_seconds_bucket{le=\"10800\"} 1"), "{text}");
        assert!(text.contains("test_queue_wait_seconds_bucket{le=\"86400\"} 1"), "{text}");
    }

    #[tokio::test]
    async fn every_scrape_has_process_metrics_and_the_build() {
        let exporter = init_metrics(&[]).unwrap();
        let response = render(exporter.handle).await.into_response();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} is missing from:\n{text}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        let age = jiff::Timestamp::now().as_second() as f64 - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.contains(&format!("phoenix_build_info{{version=\"{version}\",profile=\"")), "{text}");
        // Labelled, and absent without TLS.
        for metric in PROCESS.iter().filter(|metric| metric.name != CERTIFICATE_EXPIRES.name) {
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
        }
    }
}
