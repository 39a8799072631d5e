//! Constants of HTTP/2 and gRPC that clients and servers share.

/// Size limit of a gRPC message in bytes: an agent's 8 MiB answer, escaped as JSON.
pub const MAX_MESSAGE_BYTES: usize = 20 * 1024 * 1024;

/// Size limit of an HTTP/2 header list, trailers included, in bytes: the status of a failed call travels there.
pub(crate) const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Connection preface of an HTTP/2 client (<https://www.rfc-editor.org/rfc/rfc9113#section-3.4>).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
