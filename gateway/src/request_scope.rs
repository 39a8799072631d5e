//! The scope of one request: its correlation id, span and deadline.
//!
//! The correlation id is the body's, else the header's, else a generated one. It is final once the body has been read, so the
//! span that carries it is created on first use, after [`RequestScope::set_id`].

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
};
use parking_lot::Mutex;
use phoenix_domain::{CorrelationId, OrchestratorError, ids::InvalidId};
use phoenix_platform::{
    RequestContext, correlation_span,
    propagation::{TraceContext, correlation_id},
    semconv,
    spans::{self, Attribute},
};
use phoenix_proto::InvalidField;
use tracing::Span;

use crate::{bodies::BodyBudget, metrics::Endpoint, problem::Failure};

/// Facts about one request, shared by everything that handles it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RequestScope(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    endpoint: Endpoint,
    target: RequestTarget,
    started: Instant,
    deadline: Instant,
    id: Mutex<CorrelationId>,
    invalid_header: Option<InvalidField>,
    /// The trace context of the caller, or a new one.
    trace: Mutex<TraceContext>,
    span: OnceLock<Span>,
    /// Time during which agents worked for the request.
    agent_time: OnceLock<Duration>,
    bodies: BodyBudget,
    /// Whether the request has passed authentication.
    is_admitted: AtomicBool,
    /// The request whose response is replayed.
    replay_of: OnceLock<CorrelationId>,
}

/// What is the same for all requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSettings {
    /// Time until a caller gets a response at the latest.
    pub(crate) timeout: Duration,
    /// Whether the gateway serves HTTPS.
    pub(crate) is_tls: bool,
}

/// What a request was sent to, for its span.
#[derive(Debug)]
struct RequestTarget {
    method: Method,
    path: Option<String>,
    route: Option<MatchedPath>,
    is_tls: bool,
}

impl RequestTarget {
    fn of(request: &Request, is_tls: bool) -> Self {
        Self {
            is_tls,
            method: request.method().clone(),
            path: spans::is_exporting().then(|| request.uri().path().to_owned()),
            route: request.extensions().get().cloned(),
        }
    }

    /// Method of the convention: a closed set.
    fn method(&self) -> &str {
        match self.method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE"
            | "PATCH") => known,
            _ => "_OTHER",
        }
    }

    fn span_name(&self) -> String {
        let method = if self.method() == "_OTHER" { "HTTP" } else { self.method() };
        match &self.route {
            Some(route) => format!("{method} {}", route.as_str()),
            None => method.to_owned(),
        }
    }

    fn attributes(&self) -> Vec<Attribute> {
        let mut attributes = vec![Attribute::new(semconv::HTTP_REQUEST_METHOD, self.method().to_owned())];
        if self.method() == "_OTHER" {
            let sent = self.method.as_str().to_owned();
            attributes.push(Attribute::new(semconv::HTTP_REQUEST_METHOD_ORIGINAL, sent));
        }
        let scheme = if self.is_tls { "https" } else { "http" };
        attributes.push(Attribute::new(semconv::URL_SCHEME, scheme));
        let route = self.route.as_ref().map(|route| route.as_str().to_owned());
        let named = [(semconv::HTTP_ROUTE, route), (semconv::URL_PATH, self.path.clone())];
        attributes.extend(named.into_iter().filter_map(|(name, value)| Some(Attribute::new(name, value?))));
        attributes
    }
}

impl RequestScope {
    /// The scope of `request`, which begins now.
    pub(crate) fn of(request: &Request, settings: RequestSettings, bodies: BodyBudget) -> Self {
        let started = Instant::now();
        let (id, invalid_header) = match correlation_id(request.headers()) {
            Ok(id) => (id, None),
            Err(invalid) => (None, Some(invalid)),
        };
        Self(Arc::new(Facts {
            endpoint: Endpoint::of(request),
            target: RequestTarget::of(request, settings.is_tls),
            started,
            deadline: started + settings.timeout,
            id: Mutex::new(id.unwrap_or_else(CorrelationId::generate)),
            invalid_header,
            trace: Mutex::new(TraceContext::of(request.headers()).unwrap_or_else(TraceContext::generate)),
            span: OnceLock::new(),
            agent_time: OnceLock::new(),
            bodies,
            is_admitted: AtomicBool::new(false),
            replay_of: OnceLock::new(),
        }))
    }

    /// Memory budget of the bodies of all requests.
    pub(crate) fn bodies(&self) -> &BodyBudget {
        &self.0.bodies
    }

    /// The endpoint that the request was routed to.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.0.endpoint
    }

    /// Time since the request arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Records for how long agents worked. The first call counts.
    pub(crate) fn set_agent_time(&self, time: Duration) {
        let _ = self.0.agent_time.set(time);
    }

    /// Time during which agents worked, of a request that waited for them and succeeded.
    pub(crate) fn agent_time(&self) -> Option<Duration> {
        self.0.agent_time.get().copied()
    }

    /// Records that the request has passed authentication.
    pub(crate) fn set_admitted(&self) {
        self.0.is_admitted.store(true, Ordering::Relaxed);
    }

    /// Whether the request has passed authentication.
    pub(crate) fn is_admitted(&self) -> bool {
        self.0.is_admitted.load(Ordering::Relaxed)
    }

    /// When the caller gets a response at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// The correlation id.
    pub(crate) fn id(&self) -> CorrelationId {
        *self.0.id.lock()
    }

    /// Sets the correlation id of the body, which overrides the header's.
    pub(crate) fn set_id(&self, id: CorrelationId) {
        *self.0.id.lock() = id;
    }

    /// Sets the correlation id that a body names, if it names one. Called first, so that every later error carries the id.
    ///
    /// # Errors
    /// `validation_failed` that names the member.
    pub(crate) fn set_id_of_body(&self, named: Option<&str>) -> Result<(), OrchestratorError> {
        if let Some(text) = named {
            let id: Result<CorrelationId, InvalidId> = text.parse();
            self.set_id(id.map_err(|problem| OrchestratorError::invalid("correlation_id", problem))?);
        }
        Ok(())
    }

    /// Sets the trace that the body names, which overrides the header's. Called before the span is used.
    pub(crate) fn set_trace(&self, trace: TraceContext) {
        *self.0.trace.lock() = trace;
    }

    /// Records that the response is the one of the request `original`. The first call counts.
    pub(crate) fn set_replay_of(&self, original: CorrelationId) {
        let _ = self.0.replay_of.set(original);
    }

    /// The request whose response is replayed, if this one was sent before under the same idempotency key.
    pub(crate) fn replay_of(&self) -> Option<CorrelationId> {
        self.0.replay_of.get().copied()
    }

    /// The correlation id in the response: the request's own, or that of the request whose response is replayed.
    pub(crate) fn response_id(&self) -> CorrelationId {
        self.replay_of().unwrap_or_else(|| self.id())
    }

    /// The span of the request.
    pub(crate) fn span(&self) -> &Span {
        self.0.span.get_or_init(|| {
            if !spans::is_exporting() {
                return correlation_span(self.endpoint().as_str(), &self.context());
            }
            let span = correlation_span(&self.0.target.span_name(), &self.context());
            spans::describe(&span, || self.0.target.attributes());
            spans::describe(&span, || [Attribute::new(semconv::own::ENDPOINT, self.endpoint().as_str())]);
            span
        })
    }

    /// The context of calls to other services, with the request's deadline.
    pub(crate) fn context(&self) -> RequestContext {
        self.context_without_deadline().with_deadline(self.deadline())
    }

    /// The context of calls that may take longer than the request.
    pub(crate) fn context_without_deadline(&self) -> RequestContext {
        RequestContext::in_trace(self.id(), self.0.trace.lock().clone())
    }

    /// Checks the correlation id of the header.
    ///
    /// # Errors
    /// `validation_failed` that names the header.
    pub(crate) fn check_header(&self) -> Result<(), Failure> {
        match &self.0.invalid_header {
            Some(invalid) if self.endpoint().is_api() => Err(Failure::from(invalid.clone())),
            _ => Ok(()),
        }
    }
}
