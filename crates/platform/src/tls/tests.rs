//! Handshakes between real certificates.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::OrchestratorErrorCode;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    problem::{Class, TlsFailure},
    test_certificates::Authority,
    *,
};
use crate::{
    client::{self, PeerChannel, call_error, was_sent},
    config::Role,
    identity::ServiceIdentity,
    readiness::Readiness,
    server::GrpcServer,
    service_token::ServiceToken,
};

/// Time limit of every wait.
const LIMIT: Duration = Duration::from_secs(15);

/// A CA, and the TLS of a planner on this machine.
struct Setup {
    dir: TempDir,
    authority: Authority,
    planner: ServiceTls,
}

const PLANNER: &[&str] = &["planner", "localhost", "127.0.0.1"];

impl Setup {
    fn new() -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let files = authority.issue(&dir.path().join("planner"), PLANNER);
        let planner = ServiceTls::load(files, Role::Planner).unwrap();
        Self { dir, authority, planner }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn gateway(&self) -> ServiceTls {
        load(&self.authority, &self.path("gateway"), &["gateway"], Role::Gateway)
    }
}

fn load(authority: &Authority, dir: &Path, names: &[&str], role: Role) -> ServiceTls {
    ServiceTls::load(authority.issue(dir, names), role).unwrap()
}

fn class(result: std::io::Result<()>) -> Option<Class> {
    result.err().map(|error| TlsFailure::of(&error).class)
}

async fn serve_one(server: &ServerTls, stream: DuplexStream) -> std::io::Result<()> {
    let mut stream = TlsAcceptor::from(server.config()).accept(stream).await?;
    stream.write_all(b"x").await?;
    stream.shutdown().await
}

async fn call_one(
    client: Arc<ClientConfig>,
    name: &'static str,
    stream: DuplexStream,
) -> std::io::Result<()> {
    let name = ServerName::try_from(name).unwrap();
    let mut stream = TlsConnector::from(client).connect(name, stream).await?;
    stream.read_u8().await.map(drop)
}

/// What each side finds in a handshake: the server, and the client.
async fn handshake(
    server: &ServerTls,
    client: Arc<ClientConfig>,
    name: &'static str,
) -> (Option<Class>, Option<Class>) {
    let (one, other) = duplex(64 * 1024);
    let (served, called) = tokio::join!(serve_one(server, one), call_one(client, name, other));
    (class(served), class(called))
}

#[tokio::test]
async fn refused_certificate_has_the_same_class_on_both_sides() {
    let setup = Setup::new();
    let server = setup.planner.server();
    let files = |name: &str, names: &[&str], change: fn(&mut CertificateParams)| {
        setup.authority.issue_with(&setup.path(name), names, change)
    };
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let server_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let clients = [
        (setup.gateway(), None),
        (load(&setup.authority, &setup.path("id"), &["spiffe://phoenix/gateway"], Role::Gateway), None),
        (
            load(&setup.authority, &setup.path("executor"), &["executor"], Role::Executor),
            Some(Class::WrongRole),
        ),
        (
            load(&Authority::new(), &setup.path("stranger"), &["gateway"], Role::Gateway),
            Some(Class::UnknownCa),
        ),
        (
            ServiceTls::load_expired(files("expired", &["gateway"], expired), Role::Gateway),
            Some(Class::Expired),
        ),
        (
            ServiceTls::load(files("usage", &["gateway"], server_only), Role::Gateway).unwrap(),
            Some(Class::WrongUsage),
        ),
    ];
    for (number, (client, expected)) in clients.into_iter().enumerate() {
        // A client of another CA does not know the server's, either.
        let config = if expected == Some(Class::UnknownCa) {
            let roots = TlsFiles::roots(&setup.path("planner/ca.crt")).unwrap();
            with_roots(&client, roots)
        } else {
            client.client_config().unwrap()
        };
        let classes = handshake(&server, config, "localhost").await;
        assert_eq!(classes, (expected, expected), "client {number}");
    }
    let config = setup.gateway().client_config().unwrap();
    let wrong_name = handshake(&server, config, "executor").await;
    assert_eq!(wrong_name, (Some(Class::WrongName), Some(Class::WrongName)));
    let anonymous = handshake(&server, anonymous(&setup), "localhost").await;
    assert_eq!(anonymous, (Some(Class::NoCertificate), Some(Class::NoCertificate)));
}

/// The configuration of `client` with other roots.
fn with_roots(client: &ServiceTls, roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&client.client_config().unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
    config.dangerous().set_certificate_verifier(verifier.unwrap());
    config.into()
}

fn anonymous(setup: &Setup) -> Arc<ClientConfig> {
    let roots = TlsFiles::roots(&setup.path("planner/ca.crt")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth().into()
}

#[tokio::test]
async fn peer_without_tls_is_recognised_on_both_sides() {
    let setup = Setup::new();
    let server = setup.planner.server();
    for text in ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (one, mut other) = duplex(1024);
        other.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(class(serve_one(&server, one).await), Some(Class::PeerWithoutTls), "{text}");
    }
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]] {
        let (mut one, other) = duplex(64 * 1024);
        one.write_all(answer).await.unwrap();
        let config = setup.gateway().client_config().unwrap();
        assert_eq!(class(call_one(config, "localhost", other).await), Some(Class::PeerWithoutTls));
    }
}

#[test]
fn files_that_do_not_fit_are_rejected_with_the_file() {
    let setup = Setup::new();
    let files = setup.authority.issue(&setup.path("one"), &["planner"]);
    let error = |files: &TlsFiles| ServiceTls::load(files.clone(), Role::Planner).unwrap_err().to_string();
    let other = setup.authority.issue(&setup.path("two"), &["planner"]);
    let mismatch = error(&TlsFiles { key: other.key, ..files.clone() });
    assert!(mismatch.contains("two/tls.key: is not the key of the certificate in"), "{mismatch}");
    let role = error(&setup.authority.issue(&setup.path("three"), &["gateway"]));
    assert!(role.contains("not of a planner: it names gateway"), "{role}");
    let expired = error(&setup.authority.issue_with(&setup.path("four"), &["planner"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    }));
    assert!(expired.contains("expired at 2020-01-01T00:00:00Z"), "{expired}");
    let missing = error(&TlsFiles { ca: Some(setup.path("absent")), ..files.clone() });
    assert!(missing.contains("absent: there is no such file"), "{missing}");
    std::fs::write(&files.key, "secret\n").unwrap();
    let garbage = error(&files);
    assert!(garbage.contains("holds no private key") && !garbage.contains("secret"), "{garbage}");
}

fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

fn identity(tls: &ServiceTls) -> ServiceIdentity {
    ServiceIdentity { token: token(), tls: Some(tls.clone()) }
}

/// The port of a planner's server, and its end.
async fn server(identity: ServiceIdentity) -> (u16, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, stop) = (listener.local_addr().unwrap().port(), CancellationToken::new());
    let server = GrpcServer::new(Readiness::needing(&[]), identity);
    tokio::spawn(server.serve(listener, stop.clone()));
    (port, stop)
}

async fn check(channel: &PeerChannel) -> Result<(), tonic::Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(drop)
}

#[tokio::test]
async fn calls_over_mutual_tls_work_by_name_and_by_address() {
    let setup = Setup::new();
    let (port, _stop) = server(identity(&setup.planner)).await;
    for host in ["localhost", "127.0.0.1"] {
        let channel = client::channel(&format!("https://{host}:{port}"), identity(&setup.gateway())).unwrap();
        check(&channel).await.unwrap();
    }
}

#[tokio::test]
async fn sibling_is_recognised_by_its_role_at_any_address() {
    let setup = Setup::new();
    let shared = load(&setup.authority, &setup.path("shared"), &["planner.internal"], Role::Planner);
    let (port, _stop) = server(identity(&shared)).await;
    let url = format!("https://127.0.0.1:{port}");
    check(&client::sibling(&url, &identity(&setup.planner)).unwrap()).await.unwrap();
    let by_host = check(&client::channel(&url, identity(&setup.planner)).unwrap()).await.unwrap_err();
    assert!(format!("{by_host:?}").contains("does not name the host"), "{by_host:?}");

    let executor = load(&setup.authority, &setup.path("executor"), &["executor"], Role::Executor);
    let (one, other) = duplex(64 * 1024);
    let config = setup.planner.for_siblings().client_config().unwrap();
    let server = executor.server();
    let (_, called) = tokio::join!(serve_one(&server, one), call_one(config, "localhost", other));
    assert_eq!(class(called), Some(Class::WrongRole), "a certificate of the same CA for another role");
    let stranger = load(&Authority::new(), &setup.path("stranger"), &["planner"], Role::Planner);
    let config = stranger.for_siblings().client_config().unwrap();
    let classes = handshake(&shared.server(), config, "localhost").await;
    assert_eq!(classes, (Some(Class::UnknownCa), Some(Class::UnknownCa)));
}

#[tokio::test]
async fn call_without_the_right_certificate_is_unavailable() {
    let setup = Setup::new();
    let (port, _stop) = server(identity(&setup.planner)).await;
    let executor = load(&setup.authority, &setup.path("executor"), &["executor"], Role::Executor);
    let (plain_port, _stop_plain) = server(token().into()).await;
    for (url, caller, reason) in [
        (format!("https://127.0.0.1:{port}"), identity(&executor), "does not serve the role"),
        (format!("http://127.0.0.1:{port}"), token().into(), "the peer speaks TLS here"),
        (format!("https://127.0.0.1:{plain_port}"), identity(&setup.gateway()), "does not speak TLS here"),
    ] {
        let channel = client::channel(&url, caller).unwrap();
        let status = check(&channel).await.unwrap_err();
        assert!(!was_sent(&status), "{url}: {status:?}");
        assert_eq!(call_error("the planner", &status).code, OrchestratorErrorCode::Unavailable, "{url}");
        assert!(format!("{status:?}").contains(reason), "{url}: {status:?}");
    }
}

#[tokio::test]
async fn renewed_certificate_is_used_while_calls_run() {
    let setup = Setup::new();
    let (port, stop) = server(identity(&setup.planner)).await;
    let (planner, until) = (setup.planner.clone(), stop.clone());
    tokio::spawn(async move { planner.follow(&until).await });
    let channel = client::channel(&format!("https://127.0.0.1:{port}"), identity(&setup.gateway())).unwrap();
    let before = setup.planner.server().config();
    setup.authority.issue(&setup.path("planner"), PLANNER);
    let asked = Instant::now();
    while Arc::ptr_eq(&before, &setup.planner.server().config()) {
        check(&channel).await.unwrap();
        assert!(asked.elapsed() < LIMIT, "the certificate is not reloaded");
    }
    check(&channel).await.unwrap();
    let later = client::channel(&format!("https://127.0.0.1:{port}"), identity(&setup.gateway())).unwrap();
    check(&later).await.unwrap();
    stop.cancel();
}

#[tokio::test]
async fn broken_files_leave_the_last_good_pair_in_use() {
    let setup = Setup::new();
    let before = setup.planner.server().config();
    std::fs::write(setup.path("planner/tls.key"), "broken").unwrap();
    setup.planner.reload();
    assert!(Arc::ptr_eq(&before, &setup.planner.server().config()));
    let classes =
        handshake(&setup.planner.server(), setup.gateway().client_config().unwrap(), "localhost").await;
    assert_eq!(classes, (None, None));
    setup.authority.issue(&setup.path("planner"), PLANNER);
    setup.planner.reload();
    assert!(!Arc::ptr_eq(&before, &setup.planner.server().config()));
}

#[tokio::test]
async fn changed_ca_is_used_for_new_connections() {
    let setup = Setup::new();
    let gateway = load(&Authority::new(), &setup.path("other"), &["gateway"], Role::Gateway);
    let roots = TlsFiles::roots(&setup.path("planner/ca.crt")).unwrap();
    let config = with_roots(&gateway, roots);
    let refused = handshake(&setup.planner.server(), Arc::clone(&config), "localhost").await;
    assert_eq!(refused.0, Some(Class::UnknownCa));
    let both =
        ["planner/ca.crt", "other/ca.crt"].map(|file| std::fs::read(setup.path(file)).unwrap()).concat();
    std::fs::write(setup.path("planner/ca.crt"), both).unwrap();
    setup.planner.reload();
    assert_eq!(handshake(&setup.planner.server(), config, "localhost").await, (None, None));
}

#[tokio::test]
async fn unfinished_handshakes_do_not_stop_other_callers() {
    let setup = Setup::new();
    let (port, _stop) = server(identity(&setup.planner)).await;
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a ClientHello.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        silent.push(stream);
    }
    let channel = client::channel(&format!("https://127.0.0.1:{port}"), identity(&setup.gateway())).unwrap();
    timeout(LIMIT, check(&channel)).await.unwrap().unwrap();
}
