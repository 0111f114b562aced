//! PostgreSQL over TLS: a real server that takes nothing else, and one that has none.

use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::PathBuf;
use std::time::Duration;
use store::testing::{TlsServer, postgres_with_tls};
use store::{Error, Store, StoreConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server named `localhost`, the file of its authority, and that of another one.
struct Ground {
    server: TlsServer,
    dir: tempfile::TempDir,
}

impl Ground {
    async fn new() -> Ground {
        let (ours, other) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &ours).unwrap();
        let server = postgres_with_tls(cert.pem(), key.serialize_pem()).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ours.pem"), ours.pem()).unwrap();
        std::fs::write(dir.path().join("other.pem"), other.pem()).unwrap();
        Ground { server, dir }
    }

    fn ca(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn open(&self, host: &str, mode: &str, ca: Option<&str>) -> store::Result<Store> {
        let ca = ca.map_or(String::new(), |name| format!("&sslrootcert={}", self.ca(name).display()));
        let url = format!("postgres://postgres@{host}:{}/postgres?sslmode={mode}{ca}", self.server.port());
        open(&url).await
    }
}

async fn open(url: &str) -> store::Result<Store> {
    let mut config = StoreConfig::from_url(url)?;
    config.pool_size = 2;
    // What is refused is tried again until this.
    config.op_timeout = Duration::from_secs(3);
    Store::open(config, &Registry::new()).await
}

/// Why the server was not spoken to.
fn refused(tried: store::Result<Store>) -> String {
    match tried.err() {
        Some(Error::Unavailable(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_spoken_to_over_tls_with_whom_the_url_asks_for() {
    let g = Ground::new().await;
    // This server takes no connection in clear, so whatever opens is encrypted.
    assert!(refused(g.open("localhost", "disable", None).await).contains("no encryption"));

    // Everything a control plane does: migrations, transactions, listening for changes.
    let store = g.open("localhost", "verify-full", Some("ours.pem")).await.unwrap();
    store.migrate().await.unwrap();
    store.ready().await.unwrap();
    let mut listener = store.listen();
    let hour = Duration::from_secs(3_600);
    // It listens, by a connection of its own: else only the hour would end this.
    tokio::time::timeout(Duration::from_secs(30), listener.wait(hour)).await.unwrap();
    let second = g.open("localhost", "verify-full", Some("ours.pem")).await.unwrap();
    let org = store::testing::seed::org();
    second.insert_org(org, store::testing::seed::write()).await.unwrap();

    for (host, mode, ca) in [
        ("localhost", "prefer", None),
        ("localhost", "require", None),
        ("127.0.0.1", "require", Some("ours.pem")),
        ("127.0.0.1", "verify-ca", Some("ours.pem")),
    ] {
        g.open(host, mode, ca).await.unwrap_or_else(|e| panic!("{host} {mode} {ca:?}: {e}")).ready().await.unwrap();
    }
    for (host, mode, ca, why) in [
        ("localhost", "verify-full", Some("other.pem"), "invalid peer certificate"),
        ("localhost", "verify-ca", Some("other.pem"), "invalid peer certificate"),
        // A root certificate is there to be looked at, as in libpq.
        ("localhost", "require", Some("other.pem"), "invalid peer certificate"),
        // Nobody among the authorities of this host signed it.
        ("localhost", "verify-full", None, "invalid peer certificate"),
        ("127.0.0.1", "verify-full", Some("ours.pem"), "not valid for name"),
    ] {
        let said = refused(g.open(host, mode, ca).await);
        assert!(said.contains(why), "{host} {mode} {ca:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_told_nothing_where_tls_is_required() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Answers as a server without TLS does and tells what it heard after that.
    let server = async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut asked = [0; 8];
        socket.read_exact(&mut asked).await.unwrap();
        socket.write_all(b"N").await.unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard).await;
        (asked, heard)
    };
    let url = format!("postgres://postgres:secret@127.0.0.1:{port}/postgres?sslmode=require");
    let ((asked, heard), tried) = tokio::join!(server, open(&url));
    assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47], "the request for TLS");
    assert!(heard.is_empty(), "not a byte in clear: {heard:?}");
    let why = refused(tried);
    assert!(why.contains("TLS") || why.contains("refused") || why.contains("timed out"), "{why}");
}
