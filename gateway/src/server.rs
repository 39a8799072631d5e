//! Connections: HTTP/1.1 and HTTP/2 (prior knowledge) on one port, accepted and drained by [`phoenix_platform::connections`].

use phoenix_platform::connections::{self, Options};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{error::ServeError, router::App, unparsed::ErrorBodyStream};

/// Serves `app` on `listener` until `shutdown`.
pub(crate) async fn run(
    listener: TcpListener,
    app: App,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    tracing::info!(addr = %listener.local_addr()?, tls = options.tls.is_some(), "HTTP server listening");
    Ok(connections::serve_over(listener, options, ErrorBodyStream::new, app, shutdown).await?)
}
