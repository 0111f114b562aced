//! A real S3 server (s3s-fs, which checks signatures) on a free loopback port, with faults to order.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use artifacts::{ArtifactStore, S3Config, S3Store};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

pub const BUCKET: &str = "artifacts";

#[derive(Default)]
pub struct Faults {
    /// So many requests are answered 503 first.
    pub fail_first: AtomicUsize,
    /// Behave like a server that does not know conditional puts.
    pub ignore_if_none_match: AtomicBool,
    /// Requests wait while this is set.
    pub hang: AtomicBool,
    /// Requests seen.
    pub seen: AtomicUsize,
    /// S3 decides a conditional put atomically; s3s-fs looks and then writes, so puts go one by one.
    one_put: Mutex<()>,
}

pub struct Peer {
    pub addr: SocketAddr,
    pub faults: Arc<Faults>,
    root: tempfile::TempDir,
    service: S3Service,
    accept: tokio::task::JoinHandle<()>,
}

impl Peer {
    pub async fn start() -> Peer {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("access", "secret"));
        let service = service.build();
        let faults = Arc::new(Faults::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accept = tokio::spawn(serve(listener, service.clone(), faults.clone(), root.path().to_owned()));
        Peer { addr, faults, root, service, accept }
    }

    /// Connections are broken off and new ones refused; the objects stay.
    pub async fn stop(&mut self) {
        self.accept.abort();
        // The listener and the connections are the task's.
        let _ = (&mut self.accept).await;
    }

    /// The same server again, at the same address.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        let (service, faults) = (self.service.clone(), self.faults.clone());
        self.accept = tokio::spawn(serve(listener, service, faults, self.root.path().to_owned()));
    }

    pub fn config(&self) -> S3Config {
        config(self.addr)
    }

    pub fn store(&self) -> ArtifactStore {
        ArtifactStore::s3(S3Store::new(self.config()).unwrap())
    }

    /// Where the server keeps the object.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join("cp").join(key)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

pub fn config(addr: SocketAddr) -> S3Config {
    S3Config {
        endpoint: Some(format!("http://{addr}")),
        region: "us-east-1".into(),
        access_key: "access".into(),
        secret_key: "secret".into(),
        force_path_style: true,
        bucket: BUCKET.into(),
        prefix: "/cp/".into(),
        allow_plain_http: false,
    }
}

async fn serve(listener: TcpListener, service: S3Service, faults: Arc<Faults>, root: PathBuf) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (service, faults, root) = (service.clone(), faults.clone(), root.clone());
        let answering = service_fn(move |req| answer(service.clone(), faults.clone(), root.clone(), req));
        connections.spawn(async move {
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client may hang up.
            let _ = http.serve_connection(TokioIo::new(socket), answering).await;
        });
    }
}

async fn answer(
    service: S3Service,
    faults: Arc<Faults>,
    root: PathBuf,
    req: Request<Incoming>,
) -> Result<Response<s3s::Body>, s3s::HttpError> {
    faults.seen.fetch_add(1, Ordering::SeqCst);
    while faults.hang.load(Ordering::SeqCst) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let fail = faults.fail_first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
    if fail {
        let mut response = Response::new(s3s::Body::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    let _one = if req.method() == Method::PUT { Some(faults.one_put.lock().await) } else { None };
    if req.method() == Method::PUT && faults.ignore_if_none_match.load(Ordering::SeqCst) {
        // The header is signed and cannot be taken away; with the old object gone it has no effect.
        let _ = std::fs::remove_file(root.join(req.uri().path().trim_start_matches('/')));
    }
    service.call(req.map(s3s::Body::from)).await
}
