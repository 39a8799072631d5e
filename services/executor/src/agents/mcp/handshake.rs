//! The beginning of a conversation with a server, in either era of the protocol, and requests whose refusal is the server's fault.
//!
//! A server without a handshake answers `server/discover`. Any other answer, and an exit, is that of a server that needs a
//! handshake. So is silence, but a server that starts slowly is silent, too, and may still answer when the handshake has begun. What a
//! server turned out to be is remembered for its next start.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use phoenix_domain::{
    FailureClass,
    json::{Json, Object},
    mcp::{HANDSHAKE_VERSIONS, MODERN_VERSION},
};
use tokio::time::timeout;

use super::{
    connection::{Call, Connection, LostResponse, Response},
    message::{RpcError, UNSUPPORTED_VERSION, object},
    remote::{Agreed, DISCOVER},
    result,
};
use crate::{failure::AttemptFailure, redact::Redactor};

/// Longest time that a process has for the answer to `server/discover` before the handshake is tried, too.
const LONGEST_PROBE: Duration = Duration::from_secs(3);

/// Versions that an error lists.
const MAX_LISTED: usize = 10;

/// Begins conversations with one server.
pub(super) struct Handshake {
    /// Version that the configuration wants.
    wanted: Option<String>,
    /// Time that a process has for the answer to the probe.
    probe_time: Duration,
    state: Mutex<State>,
    redactor: Arc<Redactor>,
}

#[derive(Debug, Default)]
struct State {
    era: Era,
    /// Whether a process has the probe, and has answered nothing.
    is_probing: bool,
}

/// Era of the protocol that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Era {
    #[default]
    Unknown,
    /// Without a handshake.
    Modern,
    /// With one.
    Legacy,
}

/// What the answer to the probe says.
enum Discovered {
    Modern(Json),
    Legacy,
    /// The server speaks no version that this client speaks.
    Neither(AttemptFailure),
}

impl Handshake {
    /// For a server that has `start_timeout` to start. `wanted` is the version in the configuration, if it has one.
    pub(super) fn new(wanted: Option<String>, start_timeout: Duration, redactor: Arc<Redactor>) -> Self {
        let era = match wanted.as_deref() {
            None => Era::Unknown,
            Some(MODERN_VERSION) => Era::Modern,
            Some(_) => Era::Legacy,
        };
        let state = Mutex::new(State { era, is_probing: false });
        Self { wanted, probe_time: LONGEST_PROBE.min(start_timeout / 3), state, redactor }
    }

    /// What the server says about itself, after a handshake if it needs one. `agreed` is what requests over HTTP carry; a process has
    /// none.
    ///
    /// # Errors
    /// When the server does not answer as it must.
    pub(super) async fn begin(
        &self,
        connection: &Arc<Connection>,
        agreed: Option<&Mutex<Agreed>>,
    ) -> Result<Json, AttemptFailure> {
        let era = self.state.lock().era;
        if era == Era::Legacy {
            return self.shake_hands(connection, agreed).await;
        }
        if let Some(agreed) = agreed {
            agreed.lock().set_version(MODERN_VERSION, true);
        }
        let params = |_| object([("_meta", modern_meta().into())]);
        let mut probe = connection.call(DISCOVER, params).map_err(lost)?;
        // A server over HTTP answers with a status whatever it is, and what was modern at the last start is likely to be it now.
        let answer = if agreed.is_some() || era == Era::Modern {
            Some(probe.response().await)
        } else {
            self.state.lock().is_probing = true;
            timeout(self.probe_time, probe.response()).await.ok()
        };
        let Some(answer) = answer else {
            let server = self.shake_hands_beside(connection, probe).await;
            self.state.lock().is_probing = false;
            return server;
        };
        self.state.lock().is_probing = false;
        match judge(answer.map_err(lost)?) {
            Discovered::Modern(server) => Ok(self.begin_modern(connection, server)),
            Discovered::Legacy if era == Era::Modern && self.wanted.is_some() => {
                let description =
                    format!("does not speak version {MODERN_VERSION}, which `mcp.protocol` asks for");
                Err(AttemptFailure::new(FailureClass::BackendFailure, description))
            }
            Discovered::Legacy => {
                if let Some(agreed) = agreed {
                    *agreed.lock() = Agreed::default();
                }
                self.shake_hands(connection, agreed).await
            }
            Discovered::Neither(failure) => Err(failure),
        }
    }

    /// The handshake with a process that has not answered `probe` yet. What it answers to the handshake counts, because a server that
    /// speaks both eras speaks the older one from then on.
    async fn shake_hands_beside(
        &self,
        connection: &Arc<Connection>,
        mut probe: Call,
    ) -> Result<Json, AttemptFailure> {
        let mut hello = std::pin::pin!(self.shake_hands(connection, None));
        let answer = tokio::select! {
            biased;
            answer = probe.response() => answer,
            server = &mut hello => {
                if server.is_ok() {
                    probe.forget();
                    return server;
                }
                // What refuses a handshake may need none.
                match timeout(self.probe_time, probe.response()).await {
                    Ok(answer) => return self.modern_or(connection, answer, server),
                    Err(_) => return server,
                }
            }
        };
        if !matches!(&answer, Ok(answer) if is_modern(answer)) {
            return hello.await;
        }
        let refused =
            || Err(AttemptFailure::new(FailureClass::BackendFailure, "does not answer `initialize`"));
        let server = timeout(self.probe_time, hello).await.unwrap_or_else(|_| refused());
        self.modern_or(connection, answer, server)
    }

    /// The conversation that `server` begins after a handshake; without one, that of `answer` to the probe.
    fn modern_or(
        &self,
        connection: &Connection,
        answer: Response,
        server: Result<Json, AttemptFailure>,
    ) -> Result<Json, AttemptFailure> {
        match (server, answer.map(judge)) {
            (Err(_), Ok(Discovered::Modern(server))) => Ok(self.begin_modern(connection, server)),
            (Err(_), Ok(Discovered::Neither(failure))) => Err(failure),
            (server, _) => server,
        }
    }

    /// From here on every request says what a handshake would have said.
    fn begin_modern(&self, connection: &Connection, server: Json) -> Json {
        let _ = connection.meta.set(modern_meta());
        self.remember(Era::Modern);
        server
    }

    async fn shake_hands(
        &self,
        connection: &Arc<Connection>,
        agreed: Option<&Mutex<Agreed>>,
    ) -> Result<Json, AttemptFailure> {
        let version = self.wanted.as_deref().filter(|version| HANDSHAKE_VERSIONS.contains(version));
        let version = version.unwrap_or(HANDSHAKE_VERSIONS[0]);
        let params = object([
            ("protocolVersion", version.into()),
            // Without further members, which older servers do not know, it means forms.
            ("capabilities", object([("elicitation", Object::new().into())]).into()),
            ("clientInfo", client().into()),
        ]);
        let server = match self.request(connection, "initialize", params).await {
            Ok(server) => server,
            Err(failure) => {
                // It may speak the other era since its last start.
                self.remember(Era::Unknown);
                return Err(failure);
            }
        };
        self.remember(Era::Legacy);
        if let Some(agreed) = agreed {
            let version = server["protocolVersion"].as_str().unwrap_or(version);
            agreed.lock().set_version(version, false);
        }
        connection.notify("notifications/initialized", Object::new());
        Ok(server)
    }

    fn remember(&self, era: Era) {
        if self.wanted.is_none() {
            self.state.lock().era = era;
        }
    }

    /// Whether a process that has failed has exited because of the probe, as some servers do that need a handshake. From then on they
    /// get one.
    pub(super) fn ended_by_probe(&self, failure: &AttemptFailure) -> bool {
        let mut state = self.state.lock();
        let ended = std::mem::take(&mut state.is_probing) && failure.exit_code.is_some();
        if ended {
            state.era = Era::Legacy;
        }
        ended
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

/// Whether an answer to `server/discover` is that of a server that needs no handshake.
fn is_modern(answer: &Result<Json, RpcError>) -> bool {
    let supported = answer.as_ref().ok().and_then(|server| server["supportedVersions"].as_array());
    supported.is_some_and(|supported| supported.iter().any(|version| *version == MODERN_VERSION))
}

/// What an answer to `server/discover` says about the server.
fn judge(answer: Result<Json, RpcError>) -> Discovered {
    let supported = match &answer {
        Ok(server) => server["supportedVersions"].as_array(),
        Err(error) if error.code == UNSUPPORTED_VERSION => error.data["supported"].as_array(),
        Err(_) => return Discovered::Legacy,
    };
    let Some(supported) = supported else { return Discovered::Legacy };
    let supported: Vec<_> = supported.iter().filter_map(Json::as_str).collect();
    match answer {
        Ok(server) if supported.contains(&MODERN_VERSION) => Discovered::Modern(server),
        _ if supported.iter().any(|version| HANDSHAKE_VERSIONS.contains(version)) => Discovered::Legacy,
        _ => {
            let listed: Vec<_> =
                supported.iter().take(MAX_LISTED).map(|version| version.escape_debug().to_string()).collect();
            let description = format!(
                "speaks only the versions {} of the protocol; this executor speaks {MODERN_VERSION} and {}",
                listed.join(", "),
                HANDSHAKE_VERSIONS.join(", ")
            );
            Discovered::Neither(AttemptFailure::new(FailureClass::BackendFailure, description))
        }
    }
}

fn lost(LostResponse { failure, .. }: LostResponse) -> AttemptFailure {
    failure
}

/// Name and version of this client.
fn client() -> Object {
    object([("name", "phoenix".into()), ("version", env!("CARGO_PKG_VERSION").into())])
}

/// What this client can do for a server without a handshake: have its questions answered.
fn capabilities() -> Object {
    let form = object([("form", Object::new().into())]);
    object([("elicitation", form.into())])
}

/// What every request without a handshake has in `_meta`.
fn modern_meta() -> Object {
    object([
        ("io.modelcontextprotocol/protocolVersion", MODERN_VERSION.into()),
        ("io.modelcontextprotocol/clientInfo", client().into()),
        ("io.modelcontextprotocol/clientCapabilities", capabilities().into()),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(answer: Result<Value, (i64, Value)>) -> &'static str {
        let error = |(code, data): (i64, Value)| RpcError { code, message: "no".into(), data: data.into() };
        match judge(answer.map(Json::from).map_err(error)) {
            Discovered::Modern(_) => "modern",
            Discovered::Legacy => "legacy",
            Discovered::Neither(failure) => {
                assert!(
                    failure.description.starts_with("speaks only the versions 2031-01-01"),
                    "{}",
                    failure.description
                );
                "neither"
            }
        }
    }

    #[test]
    fn only_an_answer_of_the_modern_era_is_one() {
        let unsupported = |supported: Value| Err((UNSUPPORTED_VERSION, json!({"supported": supported})));
        for (answer, expected) in [
            (Ok(json!({"supportedVersions": ["2026-07-28", "2025-11-25"]})), "modern"),
            (Ok(json!({"supportedVersions": ["2031-01-01", "2025-06-18"]})), "legacy"),
            (Ok(json!({"supportedVersions": ["2031-01-01"]})), "neither"),
            (unsupported(json!(["2031-01-01"])), "neither"),
            (unsupported(json!(["2031-01-01", "2025-11-25"])), "legacy"),
            (unsupported(json!("2031-01-01")), "legacy"),
            (Ok(json!({})), "legacy"),
            (Ok(json!("hello")), "legacy"),
            (Err((-32601, Value::Null)), "legacy"),
            (Err((-32602, json!({"supported": ["2031-01-01"]}))), "legacy"),
        ] {
            assert_eq!(judged(answer.clone()), expected, "{answer:?}");
        }
    }
}
