//! The mark of a call that one instance of a service forwards to another.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Metadata key of the mark; its value is the instance that the call is for.
const FORWARDED_TO: HeaderName = HeaderName::from_static("x-phoenix-forwarded-to");

/// Mark of a forwarded call: the identity of the instance that it is for. That instance answers from what it has itself and
/// never forwards the call again; any other instance at the same address refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedTo(pub String);

impl ForwardedTo {
    /// The mark of an incoming call, if it is a forwarded one.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().cloned()
    }

    /// Marks an outgoing call.
    #[must_use]
    pub fn mark<T>(self, mut request: tonic::Request<T>) -> tonic::Request<T> {
        request.extensions_mut().insert(self);
        request
    }

    /// Writes the mark into the headers of a call.
    pub(super) fn inject(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.0) {
            headers.insert(FORWARDED_TO, value);
        }
    }

    /// Reads the mark of a call from its headers.
    pub(super) fn extract(headers: &HeaderMap) -> Option<Self> {
        // A value that is not text names no instance, so every instance refuses it.
        headers.get(FORWARDED_TO).map(|value| Self(value.to_str().unwrap_or_default().to_owned()))
    }
}
