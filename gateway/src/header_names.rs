//! Names of headers that are not in the HTTP library.

use axum::http::HeaderName;

/// Preferences of the caller (RFC 7240).
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Preferences that the gateway has applied.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Key of a request that may be sent again.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks the response of an earlier request with the same key.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Plan of a response.
pub(crate) const X_PHOENIX_PLAN_ID: HeaderName = HeaderName::from_static("x-phoenix-plan-id");

/// Budget of a plan, a JSON object.
pub(crate) const X_PHOENIX_BUDGET: HeaderName = HeaderName::from_static("x-phoenix-budget");

/// Id of the last event that a reader of a stream has.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Version of the Model Context Protocol.
pub(crate) const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Method of a message of the Model Context Protocol.
pub(crate) const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// Tool, prompt or resource of a message of the Model Context Protocol.
pub(crate) const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Session of a client of the Model Context Protocol.
pub(crate) const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
