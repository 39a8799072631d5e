//! The beginning of a conversation with a server, in either era of the protocol, and requests whose refusal is the server's fault.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use phoenix_domain::{
    FailureClass,
    json::{Json, Object},
};

use super::{
    connection::{Connection, LostResponse},
    message::{RpcError, object},
    remote::{Agreed, DISCOVER},
    result,
};
use crate::{failure::AttemptFailure, redact::Redactor};

/// Newest version of the protocol with a handshake. A server answers with the version that it prefers.
const PROTOCOL_VERSION: &str = "2025-11-25";

/// Version of the protocol without a handshake, for servers at an address.
pub(super) const MODERN_VERSION: &str = "2026-07-28";

/// Begins conversations with one server.
pub(super) struct Handshake {
    /// Whether the server at the address has said that it needs a handshake.
    is_legacy: AtomicBool,
    redactor: Arc<Redactor>,
}

impl Handshake {
    pub(super) const fn new(redactor: Arc<Redactor>) -> Self {
        Self { is_legacy: AtomicBool::new(false), redactor }
    }

    /// What the server says about itself, after a handshake if it needs one. `agreed` is what requests over HTTP carry.
    ///
    /// # Errors
    /// When the server does not answer as it must.
    pub(super) async fn begin(
        &self,
        connection: &Arc<Connection>,
        agreed: Option<&Mutex<Agreed>>,
    ) -> Result<Json, AttemptFailure> {
        if let Some(agreed) = agreed
            && let Some(server) = self.discover(connection, agreed).await?
        {
            return Ok(server);
        }
        self.shake_hands(connection, agreed).await
    }

    /// What a server without a handshake says about itself; `None` for one that needs a handshake, which is remembered.
    async fn discover(
        &self,
        connection: &Arc<Connection>,
        agreed: &Mutex<Agreed>,
    ) -> Result<Option<Json>, AttemptFailure> {
        if self.is_legacy.load(Ordering::Relaxed) {
            return Ok(None);
        }
        agreed.lock().set_version(MODERN_VERSION, true);
        let meta = modern_meta();
        let lost = |LostResponse { failure, .. }| failure;
        let mut call =
            connection.call(DISCOVER, |_| object([("_meta", meta.clone().into())])).map_err(lost)?;
        let answer = call.response().await.map_err(lost)?;
        let is_modern = |server: &Json| {
            let versions = server["supportedVersions"].as_array().unwrap_or_default();
            versions.iter().any(|version| *version == MODERN_VERSION)
        };
        match answer {
            Ok(server) if is_modern(&server) => {
                let _ = connection.meta.set(meta);
                Ok(Some(server))
            }
            Ok(_) | Err(_) => {
                *agreed.lock() = Agreed::default();
                self.is_legacy.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    async fn shake_hands(
        &self,
        connection: &Arc<Connection>,
        agreed: Option<&Mutex<Agreed>>,
    ) -> Result<Json, AttemptFailure> {
        let params = object([
            ("protocolVersion", PROTOCOL_VERSION.into()),
            ("capabilities", Object::new().into()),
            ("clientInfo", client().into()),
        ]);
        let server = match self.request(connection, "initialize", params).await {
            Ok(server) => server,
            Err(failure) => {
                // It may speak the other era since its last start.
                self.is_legacy.store(false, Ordering::Relaxed);
                return Err(failure);
            }
        };
        if let Some(agreed) = agreed {
            let version = server["protocolVersion"].as_str().unwrap_or(PROTOCOL_VERSION);
            agreed.lock().set_version(version, false);
        }
        connection.notify("notifications/initialized", Object::new());
        Ok(server)
    }

    /// The result of a request.
    ///
    /// # Errors
    /// When there is none, or it is an error.
    pub(super) async fn request(
        &self,
        connection: &Arc<Connection>,
        method: &str,
        params: Object,
    ) -> Result<Json, AttemptFailure> {
        let lost = |LostResponse { failure, .. }| failure;
        let mut call = connection.call(method, |_| params).map_err(lost)?;
        call.response().await.map_err(lost)?.map_err(|error: RpcError| {
            let failure = result::failure(&error, &self.redactor);
            // What is wrong with these requests is not the caller's fault.
            let description =
                format!("refused `{method}`: {}", failure.description.trim_start_matches("answered: "));
            AttemptFailure::new(FailureClass::BackendFailure, description)
        })
    }
}

/// Name and version of this client.
fn client() -> Object {
    object([("name", "phoenix".into()), ("version", env!("CARGO_PKG_VERSION").into())])
}

/// What every request without a handshake has in `_meta`.
fn modern_meta() -> Object {
    object([
        ("io.modelcontextprotocol/protocolVersion", MODERN_VERSION.into()),
        ("io.modelcontextprotocol/clientInfo", client().into()),
        ("io.modelcontextprotocol/clientCapabilities", Object::new().into()),
    ])
}
