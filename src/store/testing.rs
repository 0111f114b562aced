//! Throwaway databases for tests and benches of any crate.
//!
//! SQLite: a file in a temporary directory. PostgreSQL: one cluster per process, one database per test, copied from a migrated
//! template. A watcher process holds a pipe of ours: when it closes, however we ended, it stops the server and removes the files.

mod faults;
mod forger;
pub mod programs;
pub mod seed;

pub use faults::{At, Faults};
pub use forger::{remove_audit_head, rewrite_audit};

use crate::{Error, Store, StoreConfig};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    pub const ALL: [Backend; 2] = [Backend::Sqlite, Backend::Postgres];
}

/// A store on a fresh, migrated database. Derefs to [`Store`].
pub struct Opened {
    pub backend: Backend,
    pub store: Store,
    pub config: StoreConfig,
    /// Removed with the value.
    dir: Option<tempfile::TempDir>,
}

impl Deref for Opened {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Opened {
    /// Another store on the same database, as another process would have (PostgreSQL only: SQLite refuses a second).
    pub async fn again(&self) -> crate::Result<Store> {
        Store::open(self.config.clone(), &prometheus::Registry::new()).await
    }
    /// Where PostgreSQL answers. Panics on SQLite.
    pub fn url(&self) -> String {
        match &self.config.database {
            crate::Database::Postgres { url } => url.clone(),
            crate::Database::Sqlite { .. } => panic!("SQLite has no address"),
        }
    }
    /// Where the files of SQLite are.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(|d| d.path())
    }
}

/// A fresh database. Panics, saying what to install, when the programs of PostgreSQL are missing.
pub async fn open(backend: Backend) -> Opened {
    open_with(backend, |_| {}).await
}

/// A fresh database, opened with other settings.
pub async fn open_with(backend: Backend, change: impl FnOnce(&mut StoreConfig)) -> Opened {
    let (mut config, dir) = match backend {
        Backend::Sqlite => {
            let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary directory: {e}"));
            (StoreConfig::sqlite(dir.path().join("sentinel.db")), Some(dir))
        }
        Backend::Postgres => (StoreConfig::postgres(new_database().await), None),
    };
    // Many small databases at once: a pool of 16 for each would use up the server's connections.
    config.pool_size = 8;
    config.readers = 2;
    change(&mut config);
    let store = Store::open(config.clone(), &prometheus::Registry::new()).await;
    let store = store.unwrap_or_else(|e| panic!("cannot open the {backend:?} test database: {e}"));
    store.migrate().await.unwrap_or_else(|e| panic!("cannot migrate the {backend:?} test database: {e}"));
    Opened { backend, store, config, dir }
}

/// Whether the server looks at its tables now and then. Small databases that live for a second need no plans for large tables.
static STATISTICS: AtomicBool = AtomicBool::new(false);

/// As any server does by default. To be called before the first database is opened.
pub fn keep_statistics() {
    STATISTICS.store(true, Ordering::Relaxed);
}

/// Run a test on both databases, one after the other.
pub async fn for_each_backend<F, Fut>(test: F)
where
    F: Fn(Opened) -> Fut,
    Fut: Future<Output = ()>,
{
    for backend in Backend::ALL {
        test(open(backend).await).await;
    }
}

/// One server.
struct Cluster {
    socket_dir: PathBuf,
    port: u16,
    /// Holds the pipe whose end stops the server.
    _watcher: Child,
}

/// The one of this process.
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

const PORT: u16 = 5432;

impl Cluster {
    fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@{}:{}/{database}",
            self.socket_dir.display().to_string().replace('/', "%2F"),
            self.port
        )
    }
}

async fn new_database() -> String {
    let cluster = CLUSTER.get_or_init(start).await;
    let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let admin = admin(cluster).await;
    let made = admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE migrated")).await;
    made.unwrap_or_else(|e| panic!("cannot create a test database: {e}"));
    cluster.url(&name)
}

/// A connection for one statement; its task ends with it.
struct Admin(String);

async fn admin(cluster: &Cluster) -> Admin {
    Admin(cluster.url("postgres"))
}

impl Admin {
    async fn batch_execute(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.0, tokio_postgres::NoTls).await?;
        let work = client.batch_execute(sql);
        tokio::select! {
            done = work => done,
            broken = connection => broken,
        }
    }
}

async fn start() -> Cluster {
    let built = tokio::task::spawn_blocking(|| start_server(None)).await;
    let cluster = built.unwrap_or_else(|e| panic!("the test cluster could not be started: {e}"));
    wait_until_up(&cluster).await.unwrap_or_else(|log| panic!("the test cluster does not answer: {log}"));
    let admin = admin(&cluster).await;
    let made = admin.batch_execute("CREATE DATABASE migrated").await;
    made.unwrap_or_else(|e| panic!("cannot create the template database: {e}"));
    let template = Store::open(StoreConfig::postgres(cluster.url("migrated")), &prometheus::Registry::new()).await;
    let template = template.unwrap_or_else(|e| panic!("cannot open the template database: {e}"));
    template.migrate().await.unwrap_or_else(|e| panic!("cannot migrate the template database: {e}"));
    drop(template);
    // A template must have no connections; those of the pool end a moment after it.
    #[allow(clippy::disallowed_methods)] // gives up on a server that does not come
    let begun = Instant::now();
    loop {
        match admin.batch_execute("CREATE DATABASE probe TEMPLATE migrated; ").await {
            Ok(()) => return cluster,
            Err(e) if begun.elapsed() > Duration::from_secs(10) => panic!("the template database stays in use: {e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Errors: why not, with what the server wrote.
async fn wait_until_up(cluster: &Cluster) -> Result<(), String> {
    #[allow(clippy::disallowed_methods)] // gives up on a server that does not come
    let begun = Instant::now();
    let admin = admin(cluster).await;
    while let Err(e) = admin.batch_execute("SELECT 1").await {
        if begun.elapsed() > Duration::from_secs(30) {
            let log = std::fs::read_to_string(cluster.socket_dir.join("log")).unwrap_or_default();
            return Err(format!("{e}\n{log}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A server of its own that takes TCP connections at 127.0.0.1, and only with TLS. Ends with the value.
pub struct TlsServer(Cluster);

impl TlsServer {
    pub fn port(&self) -> u16 {
        self.0.port
    }
}

/// Errors are panics, as everywhere here.
pub async fn postgres_with_tls(cert_pem: String, key_pem: String) -> TlsServer {
    let mut why = String::new();
    for _ in 0..3 {
        // PostgreSQL cannot be told to choose: somebody else may take the port in between, then it is another one.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let port = free.unwrap_or_else(|e| panic!("no free port: {e}")).port();
        let tls = Some((port, cert_pem.clone(), key_pem.clone()));
        let built = tokio::task::spawn_blocking(|| start_server(tls)).await;
        let cluster = built.unwrap_or_else(|e| panic!("the server with TLS could not be started: {e}"));
        match wait_until_up(&cluster).await {
            Ok(()) => return TlsServer(cluster),
            Err(log) => why = log,
        }
    }
    panic!("the server with TLS does not answer: {why}");
}

/// Certificate and key where the server looks for them, and no way in by TCP without TLS.
fn prepare_tls(data: &Path, cert: &str, key: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for (name, text) in [
        ("server.crt", cert),
        ("server.key", key),
        ("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"),
    ] {
        let path = data.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        programs::give(&path);
    }
    Ok(())
}

/// `tls`: TCP port, certificate and key; else only the socket file.
fn start_server(tls: Option<(u16, String, String)>) -> Cluster {
    // Short: the path of a socket has at most 107 bytes.
    let dir = tempfile::Builder::new()
        .prefix("pg")
        .tempdir_in("/tmp")
        .unwrap_or_else(|e| panic!("no temporary directory: {e}"));
    let dir = dir.keep();
    programs::give(&dir);
    let data = dir.join("data");
    let out = programs::command("initdb")
        .args(["-A", "trust", "--no-sync", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"])
        .arg(&data)
        .current_dir("/tmp")
        .output()
        .unwrap_or_else(|e| panic!("cannot run initdb (as root it needs setpriv of util-linux): {e}"));
    assert!(out.status.success(), "initdb failed: {}", String::from_utf8_lossy(&out.stderr));
    let mut own = vec![format!("port={PORT}"), "listen_addresses=".into()];
    let mut port = PORT;
    if let Some((tcp, cert, key)) = tls {
        prepare_tls(&data, &cert, &key).unwrap_or_else(|e| panic!("cannot write the certificate: {e}"));
        own = vec![format!("port={tcp}"), "listen_addresses=127.0.0.1".into(), "ssl=on".into()];
        port = tcp;
    }
    let server = programs::command("postgres");
    let mut words: Vec<String> = vec![server.get_program().to_string_lossy().into_owned()];
    words.extend(server.get_args().map(|a| a.to_string_lossy().into_owned()));
    // The script's standard input is a pipe that this process holds: its end is the only signal.
    let script = r#"dir="$1"; shift
"$@" >"$dir/log" 2>&1 </dev/null &
pid=$!
trap '' INT TERM HUP
cat >/dev/null
kill -QUIT $pid 2>/dev/null
wait $pid 2>/dev/null
rm -rf "$dir""#;
    let socket = dir.to_string_lossy().into_owned();
    let mut watcher = Command::new("sh");
    watcher.args(["-c", script, "sh"]).arg(&dir).args(&words).arg("-D").arg(&data).arg("-k").arg(&socket);
    for setting in own.iter().map(String::as_str).chain([
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "max_connections=300",
        "shared_buffers=64MB",
        if STATISTICS.load(Ordering::Relaxed) { "autovacuum=on" } else { "autovacuum=off" },
    ]) {
        watcher.arg("-c").arg(setting);
    }
    // Where it is installed: benches count statements by it.
    if programs::has_library("pg_stat_statements") {
        watcher.arg("-c").arg("shared_preload_libraries=pg_stat_statements");
    }
    use std::os::unix::process::CommandExt as _;
    // A group of its own: an interrupt from the terminal must not kill the watcher before it has cleaned up.
    let watcher = watcher
        .process_group(0)
        .current_dir("/tmp")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let watcher = watcher.unwrap_or_else(|e| panic!("cannot start the test cluster: {e}"));
    Cluster { socket_dir: dir, port, _watcher: watcher }
}

/// The URL of a new, empty database of the test cluster (not migrated).
pub async fn empty_postgres() -> String {
    let cluster = CLUSTER.get_or_init(start).await;
    let name = format!("e{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let made = admin(cluster).await.batch_execute(&format!("CREATE DATABASE {name}")).await;
    made.unwrap_or_else(|e| panic!("cannot create a test database: {e}"));
    cluster.url(&name)
}

/// Any statements on any database, past the store: every value as text, NULL as nothing. Panics when they are refused.
pub async fn rows(url: &str, sql: &str) -> Vec<Vec<String>> {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap_or_else(|e| panic!("{e}"));
    let answer = tokio::select! {
        answer = client.simple_query(sql) => answer,
        broken = connection => panic!("the connection ended: {broken:?}"),
    };
    let messages = answer.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut rows = Vec::new();
    for message in messages {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_string()).collect());
        }
    }
    rows
}

impl Store {
    /// What a setting of PostgreSQL is in the session that an operation is given.
    pub async fn session_setting(&self, name: &'static str) -> crate::Result<String> {
        self.read("test.setting", name, |c, name| {
            Box::pin(async move { c.one(format!("SHOW {name}"), vec![], |r| r.get()).await })
        })
        .await
    }
}

/// Is this the error of a store that refuses?
pub fn is_conflict(e: &Error, what: &str) -> bool {
    matches!(e, Error::Conflict(w) if *w == what)
}
