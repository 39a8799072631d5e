//! One id, one span and one deadline per request, from its first byte to its last log line.
//!
//! The id is the body's, else the header's, else a new one. Which it is may be known only once the body has been read, so
//! the span that carries it is made on first use: after [`Scope::adopt`], before the first call or line.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::HeaderValue,
    middleware::Next,
    response::Response,
};
use phoenix_domain::CorrelationId;
use phoenix_platform::{
    RequestContext, correlation_span,
    propagation::{CORRELATION_HEADER, TraceContext, correlation_header_value, correlation_id},
};
use phoenix_proto::InvalidField;
use tracing::Span;

use crate::{
    bodies::BodyBudget,
    delivery::IDEMPOTENT_REPLAYED,
    metrics::Endpoint,
    observe::{Refusals, Sender},
    problem::{self, Failure, Shape},
};

/// What is known of one request, shared by everything that handles it.
#[derive(Debug, Clone)]
pub(crate) struct Scope(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    endpoint: Endpoint,
    started: Instant,
    deadline: Instant,
    id: Mutex<CorrelationId>,
    invalid_header: Option<InvalidField>,
    /// The caller's, if it has begun one.
    trace: TraceContext,
    span: OnceLock<Span>,
    /// How long agents worked for it, once they have.
    agent_time: OnceLock<Duration>,
    bodies: BodyBudget,
    /// Whether it came as far as [`crate::observe`].
    is_let_in: AtomicBool,
    /// The request whose answer it is given again, once the planner has said so.
    replay_of: OnceLock<CorrelationId>,
}

impl Scope {
    fn of(request: &Request, timeout: Duration, bodies: BodyBudget) -> Self {
        let started = Instant::now();
        let (id, invalid_header) = match correlation_id(request.headers()) {
            Ok(id) => (id, None),
            Err(invalid) => (None, Some(invalid)),
        };
        Self(Arc::new(Facts {
            endpoint: Endpoint::of(request),
            started,
            deadline: started + timeout,
            id: Mutex::new(id.unwrap_or_else(CorrelationId::generate)),
            invalid_header,
            trace: TraceContext::of(request.headers()).unwrap_or_else(TraceContext::generate),
            span: OnceLock::new(),
            agent_time: OnceLock::new(),
            bodies,
            is_let_in: AtomicBool::new(false),
            replay_of: OnceLock::new(),
        }))
    }

    /// What the bodies of all requests may take while they are read.
    pub(crate) fn bodies(&self) -> &BodyBudget {
        &self.0.bodies
    }

    /// What the request was sent to.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.0.endpoint
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Agents have worked for it.
    pub(crate) fn agents_worked(&self, time: Duration) {
        // Once for each request.
        let _ = self.0.agent_time.set(time);
    }

    /// How long agents worked for it, if its caller waited for them and they did well.
    pub(crate) fn agent_time(&self) -> Option<Duration> {
        self.0.agent_time.get().copied()
    }

    /// It has passed whatever may refuse it before anything is done for it.
    pub(crate) fn let_in(&self) {
        self.0.is_let_in.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub(crate) fn is_let_in(&self) -> bool {
        self.0.is_let_in.load(Ordering::Relaxed)
    }

    /// When its caller is answered, whatever has been done by then.
    pub(crate) fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Its name everywhere.
    pub(crate) fn id(&self) -> CorrelationId {
        *self.0.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the id that the body names: it wins over the header's.
    pub(crate) fn adopt(&self, id: CorrelationId) {
        *self.0.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Its answer is the one that the request `original` was given.
    pub(crate) fn repeats(&self, original: CorrelationId) {
        // Once for each request.
        let _ = self.0.replay_of.set(original);
    }

    /// The request whose answer it is given again, if it was sent before under the same idempotency key.
    pub(crate) fn replay_of(&self) -> Option<CorrelationId> {
        self.0.replay_of.get().copied()
    }

    /// The name that its answer carries: its own, or that of the request whose answer it is given again.
    pub(crate) fn answer_id(&self) -> CorrelationId {
        self.replay_of().unwrap_or_else(|| self.id())
    }

    /// The span of everything done and said for this request.
    pub(crate) fn span(&self) -> &Span {
        self.0.span.get_or_init(|| correlation_span(self.endpoint().as_str(), &self.context()))
    }

    /// What goes along with calls to other services.
    pub(crate) fn context(&self) -> RequestContext {
        self.context_without_deadline().with_deadline(self.deadline())
    }

    /// The same for what may take longer than the request.
    pub(crate) fn context_without_deadline(&self) -> RequestContext {
        RequestContext::in_trace(self.id(), self.0.trace.clone())
    }

    /// That the caller's own id, if there is one, is an id.
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

/// Gives the request its [`Scope`], and every answer its correlation id: in the header, and in the body of a failure. A request
/// that another layer refuses is recorded here, because it comes no further.
pub(crate) async fn correlate(
    State((timeout, refusals, bodies)): State<(Duration, Refusals, BodyBudget)>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = Scope::of(&request, timeout, bodies);
    let shape = Shape::of(request.uri().path());
    request.extensions_mut().insert(scope.clone());
    let sender = Sender::of(&request);
    let mut response = next.run(request).await;
    if !scope.is_let_in() {
        refusals.record(&scope, &sender, &response);
    }
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        problem::render(&failure, shape, scope.answer_id(), &mut response);
    }
    response.headers_mut().insert(CORRELATION_HEADER, correlation_header_value(scope.answer_id()));
    if scope.replay_of().is_some() {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
