//! A server in a temporary folder, on a free port of the loopback interface.

use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgConnectOptions};

use crate::{
    guard::Guard,
    installation::{Installation, skip},
    process::{Postmaster, TIMEOUT, pause},
};

/// Owner of the server's databases, a superuser.
pub const USER: &str = "phoenix";

/// Password of [`USER`], with characters that a URL has to encode. No message of the product may contain it.
pub const PASSWORD: &str = "open/sesame";

/// First port of the search: below the ephemeral ports, one of which could take the port of a server that is down, and above
/// those that other tests use for services.
const FIRST_PORT: u16 = 22_000;

/// A running server. It ends with its last clone, and with the test process.
#[derive(Debug, Clone)]
pub struct Server(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) installation: Installation,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    /// Absent while the server is down.
    pub(crate) postmaster: Mutex<Option<Postmaster>>,
    pub(crate) databases: AtomicU32,
    // Dropped last.
    pub(crate) _guard: Guard,
}

impl Server {
    /// The server that the tests of this process share; `None` when PostgreSQL is not installed, and the test is skipped.
    ///
    /// # Panics
    /// When it cannot be started, or `CI` is set and PostgreSQL is not installed.
    pub async fn shared() -> Option<Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        blocking(|| SHARED.get_or_init(|| Self::started(&[])).clone()).await
    }

    /// A server of its own, for a test that disturbs it; `None` as for [`shared`](Self::shared).
    ///
    /// # Panics
    /// As [`shared`](Self::shared).
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// Like [`start`](Self::start), with settings such as `("max_connections", "10")`.
    ///
    /// # Panics
    /// As [`shared`](Self::shared).
    pub async fn start_with(settings: &'static [(&'static str, &'static str)]) -> Option<Self> {
        blocking(|| Self::started(settings)).await
    }

    fn started(settings: &[(&str, &str)]) -> Option<Self> {
        let Some(installation) = Installation::newest() else {
            return skip("postgresql");
        };
        let folder = installation.folder();
        let guard = Guard::of(&folder, "data/postmaster.pid");
        initialise(&installation, &folder);
        let port = free_port();
        configure(&installation, &folder, port, settings);
        let (postmaster, databases) = (Mutex::new(None), AtomicU32::new(0));
        let inner = Inner { installation, folder, port, postmaster, databases, _guard: guard };
        inner.start();
        Some(Self(Arc::new(inner)))
    }

    /// URL of a new, empty database.
    ///
    /// # Panics
    /// When it cannot be created.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.0.databases.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    /// URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let password = PASSWORD.replace('/', "%2F");
        format!("postgres://{USER}:{password}@127.0.0.1:{}/{database}", self.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Its folder, with the socket for local connections.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Executes statements in `database`, whose name or URL is given.
    ///
    /// # Panics
    /// When one fails.
    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .expect("the statement succeeds");
        connection.close().await.expect("the connection ends");
    }

    /// The first column of the first row of a query in `database`, as text.
    ///
    /// # Panics
    /// When it fails or finds nothing.
    pub async fn text(&self, database: &str, sql: &str) -> String {
        let mut connection = self.connect(database).await;
        let sql = format!("SELECT ({sql})::text");
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut connection).await;
        row.expect("the query succeeds").get(0)
    }

    /// Waits until a query finds a row.
    ///
    /// # Panics
    /// When it fails, or finds none in time.
    pub(crate) async fn until(&self, sql: &str) {
        let started_at = Instant::now();
        while self.text("postgres", &format!("SELECT EXISTS ({sql})")).await != "true" {
            assert!(started_at.elapsed() < TIMEOUT, "{sql} finds nothing");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn installation(&self) -> &Installation {
        &self.0.installation
    }

    /// A connection that no proxy or full pool disturbs.
    async fn connect(&self, database: &str) -> PgConnection {
        let name = database.rsplit('/').next().unwrap_or(database);
        let options =
            PgConnectOptions::new_without_pgpass().socket(self.folder()).port(self.port()).username(USER);
        PgConnection::connect_with(&options.database(name))
            .await
            .expect("the server accepts a local connection")
    }

    /// Changes a setting of the whole server, and waits until connections see it. `None` is the default.
    ///
    /// # Panics
    /// When there is no such setting, or it needs a restart.
    pub async fn set(&self, setting: &str, value: Option<&str>) {
        let change = match value {
            Some(value) => format!("ALTER SYSTEM SET {setting} = '{value}'"),
            None => format!("ALTER SYSTEM RESET {setting}"),
        };
        self.execute("postgres", &change).await;
        self.execute("postgres", "SELECT pg_reload_conf()").await;
        let wanted = match value {
            Some(value) => value.to_owned(),
            None => {
                let boot = format!("SELECT boot_val FROM pg_settings WHERE name = '{setting}'");
                self.text("postgres", &boot).await
            }
        };
        let started_at = Instant::now();
        while self.text("postgres", &format!("current_setting('{setting}')")).await != wanted {
            assert!(started_at.elapsed() < TIMEOUT, "{setting} does not become {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Stops the server; transactions are rolled back.
    ///
    /// # Panics
    /// When it is down.
    pub async fn stop(&self) {
        self.end(Signal::SIGINT).await;
    }

    /// Kills every process of the server.
    ///
    /// # Panics
    /// When it is down.
    pub async fn kill(&self) {
        self.end(Signal::SIGKILL).await;
    }

    /// Starts the server again on the same data and port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&self) {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.start()).await;
    }

    /// Freezes every process of the server.
    ///
    /// # Panics
    /// When it is down.
    pub fn freeze(&self) {
        self.0.postmaster.lock().unwrap().as_ref().expect("it runs").signal_all(Signal::SIGSTOP);
    }

    /// Ends the freeze.
    ///
    /// # Panics
    /// When it is down.
    pub fn thaw(&self) {
        self.0.postmaster.lock().unwrap().as_ref().expect("it runs").signal_all(Signal::SIGCONT);
    }

    async fn end(&self, signal: Signal) {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let mut postmaster = inner.postmaster.lock().unwrap().take().expect("the server runs");
            match signal {
                Signal::SIGKILL => postmaster.signal_all(signal),
                signal => postmaster.signal(signal),
            }
            postmaster.wait();
        })
        .await;
    }
}

impl Inner {
    /// Starts the server and waits until it accepts connections.
    pub(crate) fn start(&self) {
        let mut postmaster = self.spawn();
        let started_at = Instant::now();
        while !self.is_ready() {
            assert!(started_at.elapsed() <= TIMEOUT, "the server does not start:\n{}", self.log());
            // A server refuses to start while a process of one that was killed still holds its shared memory.
            if postmaster.has_ended() {
                postmaster = self.spawn();
            }
            pause();
        }
        *self.postmaster.lock().unwrap() = Some(postmaster);
    }

    fn spawn(&self) -> Postmaster {
        let log = OpenOptions::new().append(true).create(true).open(self.folder.join("log"));
        let log = log.expect("the log can be written");
        let mut command = self.installation.command("postgres");
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            // Not interrupted together with the tests.
            .process_group(0);
        Postmaster(command.spawn().expect("postgres can be started"))
    }

    fn is_ready(&self) -> bool {
        let mut command = self.installation.command("pg_isready");
        command.args(["--quiet", "--port", &self.port.to_string(), "--host"]).arg(&self.folder);
        command.status().expect("pg_isready runs").success()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Its child could not end while this process has not waited for it.
        if let Some(mut postmaster) = self.postmaster.lock().unwrap().take() {
            postmaster.signal_all(Signal::SIGCONT);
            postmaster.signal(Signal::SIGQUIT);
            postmaster.wait();
        }
    }
}

/// Creates the data of a new server.
fn initialise(installation: &Installation, folder: &Path) {
    let password = folder.join("password");
    fs::write(&password, PASSWORD).expect("the password can be written");
    installation.give(&password);
    let mut command = installation.command("initdb");
    command
        .arg("--pgdata")
        .arg(folder.join("data"))
        .arg("--pwfile")
        .arg(&password)
        // Not SCRAM, whose thousands of hashes take a client that is not optimised half a second.
        .args(["--username", USER, "--auth-local=trust", "--auth-host=password"])
        .args(["--encoding=UTF8", "--locale=C", "--no-sync"]);
    let output = command.output().expect("initdb can be started");
    assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
}

fn configure(installation: &Installation, folder: &Path, port: u16, settings: &[(&str, &str)]) {
    use std::io::Write;
    let socket = folder.display().to_string();
    let port = port.to_string();
    let fixed = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &*port),
        ("unix_socket_directories", &*socket),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("shared_buffers", "32MB"),
    ];
    // After a crash the server would sync its thousand files one by one.
    let sync = (installation.version >= 14).then_some(&("recovery_init_sync_method", "syncfs"));
    let lines = fixed.iter().chain(sync).chain(settings).map(|(name, value)| format!("{name} = '{value}'\n"));
    let file = OpenOptions::new().append(true).open(folder.join("data/postgresql.conf"));
    file.and_then(|mut file| file.write_all(lines.collect::<String>().as_bytes()))
        .expect("the settings can be written");
}

/// A free port, different from those of concurrent tests.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(32_000 - FIRST_PORT);
    let seed = std::process::id().wrapping_mul(7919);
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + u16::try_from(seed.wrapping_add(step) % span).expect("below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Runs `work` without blocking the runtime of the test.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the server can be controlled")
}
