//! Certificates in use, which follow their files.

use std::{fmt, io, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::RwLock;
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{
    files::{Fingerprint, TlsError, TlsFiles},
    material::Material,
    metrics::{CERTIFICATE_EXPIRES, RELOAD_FAILURES},
    pinned,
};
use crate::{config::Role, metrics::record_counter};

/// Interval at which the files are looked at. Changed files are read when they are the same at the next look, since several
/// files do not change at the same moment.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Certificate, key and CA of a service, for mutual TLS with other services. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceTls {
    reloaded: Arc<Reloaded>,
    /// Whether servers are recognised by the role of this service instead of by their host.
    calls_siblings: bool,
}

/// Certificate and key of the gateway, for HTTPS to its callers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PublicTls(Arc<Reloaded>);

/// TLS of a listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<Reloaded>);

/// Purpose of a certificate.
#[derive(Clone, Copy)]
enum Use {
    Service(Role),
    Gateway,
}

struct Reloaded {
    files: TlsFiles,
    purpose: Use,
    /// Of the files that `current` was made of.
    loaded: Fingerprint,
    current: RwLock<Arc<Material>>,
}

/// Recognition of changed files.
struct Changes {
    /// At the last reload, successful or not.
    loaded: Fingerprint,
    /// At the last look.
    seen: Fingerprint,
}

impl Changes {
    /// Whether files that are `found` are to be loaded: they differ from the loaded ones, and have not changed since the last look.
    fn are_complete(&mut self, found: Fingerprint) -> bool {
        let is_complete = found != self.loaded && found == self.seen;
        if is_complete {
            self.loaded.clone_from(&found);
        }
        self.seen = found;
        is_complete
    }
}

impl ServiceTls {
    /// Loads the files of a service with the role `role`.
    ///
    /// # Errors
    /// When a file cannot be used, the certificate names another role, or it has expired.
    pub fn load(files: TlsFiles, role: Role) -> Result<Self, TlsError> {
        let reloaded = Reloaded::load(files, Use::Service(role))?;
        Ok(Self { reloaded, calls_siblings: false })
    }

    /// Uses changed files as soon as they are complete, until `stop`.
    pub async fn follow(&self, stop: &CancellationToken) {
        self.reloaded.follow(stop).await;
    }

    /// End of the validity of the certificate.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.reloaded.current.read().expires
    }

    /// TLS of the service's listener.
    #[must_use]
    pub fn server(&self) -> ServerTls {
        ServerTls(Arc::clone(&self.reloaded))
    }

    /// The same for calls to other instances of this service: a server is recognised by its role, whatever host its certificate
    /// names.
    pub(crate) fn for_siblings(&self) -> Self {
        Self { reloaded: Arc::clone(&self.reloaded), calls_siblings: true }
    }

    /// Configuration of a new connection to another service.
    pub(crate) fn client_config(&self) -> Option<Arc<ClientConfig>> {
        let current = self.reloaded.current.read();
        if self.calls_siblings { current.siblings.clone() } else { current.client.clone() }
    }
}

impl PublicTls {
    /// Loads the files of the gateway.
    ///
    /// # Errors
    /// When a file cannot be used, or the certificate has expired.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        Reloaded::load(files, Use::Gateway).map(Self)
    }

    /// Uses changed files as soon as they are complete, until `stop`.
    pub async fn follow(&self, stop: &CancellationToken) {
        self.0.follow(stop).await;
    }

    /// End of the validity of the certificate.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.current.read().expires
    }

    /// Connects to this gateway over `stream`, whatever host its certificate names.
    ///
    /// # Errors
    /// When the handshake fails, or the peer has another certificate.
    pub async fn connect(
        &self,
        stream: TcpStream,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        let expected = self.0.current.read().certificate.clone();
        pinned::connect(expected, stream).await
    }

    /// TLS of the gateway's listener.
    #[must_use]
    pub fn server(&self) -> ServerTls {
        ServerTls(Arc::clone(&self.0))
    }
}

impl ServerTls {
    /// Configuration of a new connection.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current.read().server)
    }
}

impl Use {
    fn load(self, files: &TlsFiles) -> Result<Material, TlsError> {
        match self {
            Self::Service(role) => Material::of_service(files, role),
            Self::Gateway => Material::public(files),
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Service(_) => "service",
            Self::Gateway => "gateway",
        }
    }
}

impl Reloaded {
    fn load(files: TlsFiles, purpose: Use) -> Result<Arc<Self>, TlsError> {
        let loaded = files.fingerprint();
        let current =
            RwLock::new(Arc::new(purpose.load(&files).and_then(|material| unexpired(&files, material))?));
        Ok(Arc::new(Self { files, purpose, loaded, current }))
    }

    async fn follow(&self, stop: &CancellationToken) {
        self.record_expiry();
        let mut changes = Changes { loaded: self.loaded.clone(), seen: self.loaded.clone() };
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if changes.are_complete(self.files.fingerprint()) {
                self.reload();
            }
        }
    }

    /// Loads the files. The current pair stays in use when that fails.
    fn reload(&self) {
        match self.purpose.load(&self.files).and_then(|material| unexpired(&self.files, material)) {
            Ok(material) => {
                let expires = material.expires;
                *self.current.write() = Arc::new(material);
                self.record_expiry();
                tracing::info!(cert = %self.files.cert.display(), %expires, "certificate reloaded");
            }
            Err(error) => {
                record_counter(&RELOAD_FAILURES, 1);
                let expires = self.current.read().expires;
                tracing::error!(
                    %error,
                    %expires,
                    "changed certificate files cannot be used; the earlier ones stay in use until they are complete"
                );
            }
        }
    }

    fn record_expiry(&self) {
        let expires = self.current.read().expires.as_second();
        #[expect(clippy::cast_precision_loss, reason = "exact for times before the year 285 million")]
        metrics::gauge!(CERTIFICATE_EXPIRES.name, "use" => self.purpose.label()).set(expires as f64);
    }
}

fn unexpired(files: &TlsFiles, material: Material) -> Result<Material, TlsError> {
    if material.expires > Timestamp::now() {
        return Ok(material);
    }
    let problem = format!("the certificate expired at {}; renew it", material.expires);
    Err(TlsError::new(&files.cert, problem))
}

impl fmt::Debug for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl ServiceTls {
    /// As [`Self::load`], also with an expired certificate.
    pub(super) fn load_expired(files: TlsFiles, role: Role) -> Self {
        let purpose = Use::Service(role);
        let current = RwLock::new(Arc::new(purpose.load(&files).unwrap()));
        let reloaded = Reloaded { loaded: files.fingerprint(), files, purpose, current };
        Self { reloaded: Arc::new(reloaded), calls_siblings: false }
    }

    pub(super) fn reload(&self) {
        self.reloaded.reload();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_loaded_once_when_they_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let files = TlsFiles { cert: path("tls.crt"), key: path("tls.key"), ca: None };
        let first = files.fingerprint();
        let mut changes = Changes { loaded: first.clone(), seen: first };
        let mut look = || changes.are_complete(files.fingerprint());
        assert!(!look() && !look());
        std::fs::write(path("tls.crt"), "a").unwrap();
        assert!(!look(), "the other file may follow");
        std::fs::write(path("tls.key"), "b").unwrap();
        assert_eq!([look(), look(), look(), look()], [false, true, false, false]);
        // As Kubernetes swaps a mounted secret.
        std::fs::create_dir(path("data")).unwrap();
        std::fs::write(path("data/tls.crt"), "a").unwrap();
        std::fs::remove_file(path("tls.crt")).unwrap();
        std::os::unix::fs::symlink("data/tls.crt", path("tls.crt")).unwrap();
        assert_eq!([look(), look(), look()], [false, true, false]);
    }
}
