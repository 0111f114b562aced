//! Connections: our own accept loop around `warp::service`, with limits on how many and how slow, and an orderly end.
//!
//! Owns: the connections. On shutdown it stops accepting, has what is held answered, and waits for the rest a while.

use crate::app::{App, Settings};
use crate::peer::{self, Network};
use crate::problem::Refusal;
use crate::reply::{self, Held, Meta};
use crate::tls::{Tls, TlsFiles};
use crate::{router, system};
use actors::ControlPlane;
use bytes::Bytes;
use domain::{RequestId, Timestamp};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at once: of 20,000 file descriptors that a process may have, 1,000 are for the database, files and others.
pub const MAX_CONNECTIONS: usize = 19_000;
/// Connections to the address of the metrics.
const MAX_SCRAPERS: usize = 64;
/// For the head of a request; it also ends connections that are idle for so long. Nodes come back every
/// `STALE_AFTER / 3` = 40 s at the latest, so theirs stay open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// From the connection to its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// For what is under way when the shutdown begins. What is held is answered at once; this is for slow readers.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// When there are no file descriptors left, accepting at once would only fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2: requests at once on one connection.
const MAX_STREAMS: u32 = 128;

pub struct WebConfig {
    /// Bound already, so that the caller knows the port.
    pub listener: TcpListener,
    /// Nodes and people reach us by https, here or at a proxy: cookies are only for that.
    pub https: bool,
    pub max_body_bytes: usize,
    /// Requests a minute of one credential; 0 is no limit.
    pub rate_limit_per_key: u32,
    /// Requests a minute of one node; 0 is no limit.
    pub rate_limit_per_node: u32,
    /// Requests a minute of one address without a good credential; 0 is no limit.
    pub rate_limit_per_address: u32,
    /// `None`: plain HTTP, for behind a proxy.
    pub tls: Option<TlsFiles>,
    /// Serve `/metrics` here; `false` when [`serve_metrics`] has an address of its own.
    pub metrics_here: bool,
    pub metrics_token: Option<String>,
    pub trusted_proxies: Vec<Network>,
    /// For how long connections are still taken, and `/ready` answers 503, once the shutdown began.
    pub linger: Duration,
}

/// Serves until `shutdown` is ready, then drains. Errors: the metrics cannot be registered, or the socket is gone.
pub async fn serve(
    config: WebConfig,
    plane: ControlPlane,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let (drain, draining) = watch::channel(false);
    let tls = config.tls.map(Tls::load).transpose().map_err(std::io::Error::other)?.map(Arc::new);
    let https = config.https || tls.is_some();
    let settings = Settings {
        https,
        max_body_bytes: config.max_body_bytes,
        rate_limit_per_key: config.rate_limit_per_key,
        rate_limit_per_node: config.rate_limit_per_node,
        rate_limit_per_address: config.rate_limit_per_address,
        nodes_need_certificates: tls.as_ref().is_some_and(|t| t.asks_for_client_certificates()),
        metrics_here: config.metrics_here,
        metrics_token: config.metrics_token,
    };
    let app = App::new(plane, settings, draining).map_err(std::io::Error::other)?;
    let clock = app.clone();
    let door = Door {
        service: warp::service(router::routes(app)),
        ids: RequestIds::new(),
        now: Box::new(move || clock.plane.now()),
        https,
        trusted: config.trusted_proxies,
    };
    let watched = tls.clone();
    let announced = async {
        shutdown.await;
        // Readiness, long polls and streams look at this.
        drain.send_replace(true);
        // Who distributes requests sees by it that no new ones are wanted, while they are still taken.
        tokio::time::sleep(config.linger).await;
    };
    let serving = accept(config.listener, MAX_CONNECTIONS, tls, door, announced, || {});
    match watched {
        None => serving.await,
        Some(tls) => tokio::select! {
            served = serving => served,
            failed = tls.watch() => failed.map(drop),
        },
    }
}

type Calls = dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, http::Response<Bytes>> + Send + Sync;

/// The front door without a socket: for simulations, where a request is a call. Cheap to clone.
#[derive(Clone)]
pub struct Inside(Arc<Calls>);

impl Inside {
    /// Errors: the metrics cannot be registered.
    pub fn open(plane: ControlPlane, settings: Settings) -> std::io::Result<Inside> {
        let (drain, draining) = watch::channel(false);
        let https = settings.https;
        let app = App::new(plane.clone(), settings, draining).map_err(std::io::Error::other)?;
        let service = warp::service(router::routes(app));
        let now = Box::new(move || plane.now());
        let door = Door { service, ids: RequestIds::new(), now, https, trusted: Vec::new() };
        // The sender is kept: a door that nobody drains.
        let shared = Arc::new((door, drain));
        Ok(Inside(Arc::new(move |request| {
            let shared = shared.clone();
            async move {
                let here = Peer { socket: SocketAddr::from(([127, 0, 0, 1], 0)), certified: false };
                let answer = match shared.0.handle(here, request).await {
                    Ok(answer) => answer,
                    Err(never) => match never {},
                };
                let (head, body) = answer.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                http::Response::from_parts(head, body)
            }
            .boxed()
        })))
    }

    /// The whole answer to one request from this machine.
    pub async fn call(&self, request: Request<Full<Bytes>>) -> http::Response<Bytes> {
        (self.0)(request).await
    }
}

/// `/metrics` on an address of its own.
pub async fn serve_metrics(
    listener: TcpListener,
    plane: ControlPlane,
    token: Option<String>,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    use warp::Filter;
    let registry = plane.registry().clone();
    let metrics =
        warp::path("metrics").and(warp::path::end()).and(warp::get()).and(warp::header::headers_cloned()).map(
            move |headers: http::HeaderMap| {
                let outcome = system::check_token(&headers, token.as_deref())
                    .and_then(|()| system::metrics_text(&registry, system::Told::Everything));
                outcome.unwrap_or_else(|r| r.into_response(RequestId::NIL))
            },
        );
    let recover = |r: warp::Rejection| async move {
        Ok::<_, Infallible>(crate::problem::of_rejection(&r).into_response(RequestId::NIL))
    };
    let door = Door {
        service: warp::service(metrics.recover(recover).unify().boxed()),
        ids: RequestIds::new(),
        now: Box::new(move || plane.now()),
        https: false,
        trusted: Vec::new(),
    };
    accept(listener, MAX_SCRAPERS, None, door, shutdown, || {}).await
}

/// What stands between a connection and the filters.
struct Door<S> {
    service: S,
    ids: RequestIds,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    https: bool,
    trusted: Vec<Network>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy)]
struct Peer {
    socket: SocketAddr,
    certified: bool,
}

impl<S> Door<S> {
    async fn handle<B>(&self, peer: Peer, mut request: Request<B>) -> Result<warp::reply::Response, Infallible>
    where
        S: tower_service::Service<Request<B>, Response = warp::reply::Response, Error = Infallible> + Clone,
    {
        let request_id = self.ids.next((self.now)());
        let address = peer::client(peer.socket.ip(), request.headers(), &self.trusted);
        #[allow(clippy::disallowed_methods)] // how long it took, for a metric: nothing is decided by it
        let meta = Meta { request_id, address, certified: peer.certified, started: Instant::now() };
        request.extensions_mut().insert(meta);
        let mut service = self.service.clone();
        let mut response = match AssertUnwindSafe(service.call(request)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => panicked(request_id),
        };
        if let Some(later) = Held::take(&mut response) {
            response = AssertUnwindSafe(later).catch_unwind().await.unwrap_or_else(|_| panicked(request_id));
        }
        reply::finish(response.headers_mut(), request_id, self.https);
        Ok(response)
    }
}

/// The panic itself was printed by its hook; this ties it to the request.
fn panicked(request_id: RequestId) -> warp::reply::Response {
    Refusal::internal("a handler panicked").into_response(request_id)
}

/// Ids of requests: UUIDv7 from a counter that starts somewhere random. They are only told apart, so no random bytes are
/// drawn for each of them.
struct RequestIds {
    start: u64,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> RequestIds {
        let mut start = [0u8; 8];
        // Without chance, ids of two instances might meet in the same millisecond; nothing else.
        let _ = getrandom::fill(&mut start);
        RequestIds { start: u64::from_le_bytes(start), count: AtomicU64::new(0) }
    }

    fn next(&self, now: Timestamp) -> RequestId {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        // An odd factor: different for every count, and spread over all bits.
        let spread = self.start.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let millis = (now.0 / 1_000) as u64;
        let high = (millis << 16) | 0x7000 | (n & 0xfff);
        let low = (spread >> 2) | 0x8000_0000_0000_0000;
        RequestId(uuid::Uuid::from_u64_pair(high, low))
    }
}

/// Takes connections until `shutdown`; then `drain` is called and what is under way may end.
async fn accept<S>(
    listener: TcpListener,
    max_connections: usize,
    tls: Option<Arc<Tls>>,
    door: Door<S>,
    shutdown: impl Future<Output = ()> + Send,
    drain: impl FnOnce(),
) -> std::io::Result<()>
where
    S: tower_service::Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let door = Arc::new(door);
    let builder = Arc::new(connection_builder());
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(max_connections.max(1)));
    // Owned here, so that none outlives the server.
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            permit = free.clone().acquire_owned() => permit.map_err(std::io::Error::other)?,
        };
        let accepted = loop {
            tokio::select! {
                () = &mut shutdown => break None,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => break Some(accepted),
            }
        };
        let (stream, socket) = match accepted {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(e)) if is_of_one_connection(&e) => continue,
            Some(Err(e)) => {
                tracing::warn!(error = %e, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and written at once.
        let _ = stream.set_nodelay(true);
        let (builder, door, watcher) = (builder.clone(), door.clone(), graceful.watcher());
        match &tls {
            None => {
                let peer = Peer { socket, certified: false };
                connections.spawn(requests(builder, door, stream, peer, watcher, permit))
            }
            // The configuration is taken now: certificates may be others for the next.
            Some(tls) => connections.spawn(over_tls(builder, door, stream, socket, tls.config(), watcher, permit)),
        };
    }
    drop(listener);
    drain();
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
    connections.shutdown().await;
    Ok(())
}

/// Of one connection only: the next may work.
fn is_of_one_connection(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn connection_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(HEAD_TIMEOUT))
        .keep_alive_timeout(FIRST_REQUEST_TIMEOUT);
    builder
}

/// The handshake, then the requests.
async fn over_tls<S>(
    builder: Arc<Builder<TokioExecutor>>,
    door: Arc<Door<S>>,
    stream: TcpStream,
    socket: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    watcher: Watcher,
    permit: OwnedSemaphorePermit,
) where
    S: tower_service::Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    match tokio::time::timeout(FIRST_REQUEST_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            // The handshake has checked whatever certificate came along.
            let certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
            requests(builder, door, stream, Peer { socket, certified }, watcher, permit).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
        Err(_) => tracing::debug!("TLS handshake takes too long"),
    }
}

/// Until the connection ends.
async fn requests<S, T>(
    builder: Arc<Builder<TokioExecutor>>,
    door: Arc<Door<S>>,
    stream: T,
    peer: Peer,
    watcher: Watcher,
    _permit: OwnedSemaphorePermit,
) where
    S: tower_service::Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let seen = asked.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        let door = door.clone();
        async move { door.handle(peer, request).await }
    });
    let served = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let mut served = std::pin::pin!(watcher.watch(served));
    let first = tokio::time::sleep(FIRST_REQUEST_TIMEOUT);
    tokio::select! {
        done = &mut served => return log(done.err()),
        () = first => {}
    }
    // Not even one request in all this time: whoever it is, it is not a client.
    if asked.load(Ordering::Relaxed) {
        log(served.await.err());
    }
}

/// Connections break all the time; it is only worth a line when looking for it.
fn log(error: Option<Box<dyn std::error::Error + Send + Sync>>) {
    if let Some(error) = error {
        tracing::debug!(%error, "connection");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::tests::{Authority, files};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use warp::Filter;

    fn door<F>(
        filter: F,
    ) -> Door<
        impl Clone
        + Send
        + Sync
        + tower_service::Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible, Future: Send>,
    >
    where
        F: Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone + Send + Sync + 'static,
        F::Future: Send,
    {
        Door {
            service: warp::service(filter),
            ids: RequestIds::new(),
            now: Box::new(|| Timestamp(1_795_296_900_000_000)),
            https: false,
            trusted: Vec::new(),
        }
    }

    /// The whole answer to one request on a connection of its own.
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn size<A, F>(_: impl FnOnce(A) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn a_connection_keeps_little() {
        type Given = (Arc<Builder<TokioExecutor>>, TcpStream, SocketAddr, Watcher, OwnedSemaphorePermit);
        let door = Arc::new(door(warp::any().map(reply::no_content)));
        let bytes = size(|(builder, stream, socket, watcher, permit): Given| {
            requests(builder, door, stream, Peer { socket, certified: false }, watcher, permit)
        });
        assert!(bytes <= 2_560, "{bytes} bytes");
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn answers_carry_a_request_id_and_a_panic_is_a_500_that_has_it_too() {
        let filter = warp::ext::get::<Meta>()
            .and(warp::header::optional::<String>("x-break"))
            .map(|meta: Meta, broken: Option<String>| {
                assert!(broken.is_none(), "asked to break");
                reply::ok(&serde_json::json!({"id": meta.request_id}))
            })
            .recover(|_| async { Ok::<_, Infallible>(reply::no_content()) })
            .unify();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = accept(listener, 4, None, door(filter), async { drop(stopped.await) }, || {});
        let asking = async {
            let good = ask(address, REQUEST).await;
            assert!(good.starts_with("HTTP/1.1 200") && good.contains("x-content-type-options: nosniff"), "{good}");
            let id = good.lines().find_map(|l| l.strip_prefix("x-request-id: ")).unwrap().to_string();
            assert!(good.contains(&format!("{{\"id\":\"{id}\"}}")), "{good}");
            let broken = ask(address, &REQUEST.replace("host", "x-break: 1\r\nhost")).await;
            let id = broken.lines().find_map(|l| l.strip_prefix("x-request-id: ")).unwrap();
            assert!(
                broken.starts_with("HTTP/1.1 500") && broken.contains(&format!("\"request_id\":\"{id}\"")),
                "{broken}"
            );
            assert!(!broken.contains("asked to break"), "{broken}");
            drop(stop);
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_comes_later_takes_the_place_of_the_one_that_carries_it() {
        let filter = warp::header::optional::<String>("x-break").map(|broken: Option<String>| {
            reply::held(async move {
                tokio::task::yield_now().await;
                assert!(broken.is_none(), "asked to break");
                reply::for_node(reply::ok(&"later"), RequestId(uuid::Uuid::from_u128(7)))
            })
        });
        let filter = filter.recover(|_| async { Ok::<_, Infallible>(reply::no_content()) }).unify();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = accept(listener, 4, None, door(filter), async { drop(stopped.await) }, || {});
        let asking = async {
            let good = ask(address, REQUEST).await;
            assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("\"later\""), "{good}");
            assert!(good.contains("x-request-id: 00000000-0000-0000-0000-000000000007"), "its own: {good}");
            assert!(!good.contains("x-frame-options"), "a node is no browser: {good}");
            let broken = ask(address, &REQUEST.replace("host", "x-break: 1\r\nhost")).await;
            assert!(broken.starts_with("HTTP/1.1 500") && broken.contains("x-request-id: "), "{broken}");
            drop(stop);
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }

    #[tokio::test]
    async fn a_held_request_is_answered_when_the_server_shuts_down() {
        let (drain, draining) = watch::channel(false);
        let (held, mut is_held) = watch::channel(false);
        let filter = warp::any().then(move || {
            let mut draining = draining.clone();
            held.send_replace(true);
            async move {
                let _ = draining.wait_for(|d| *d).await;
                reply::no_content()
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = accept(listener, 4, None, door(filter), async { drop(stopped.await) }, || {
            drain.send_replace(true);
        });
        let asking = async {
            // A connection that is idle does not hold up the end.
            let _idle = TcpStream::connect(address).await.unwrap();
            let stopping = async {
                is_held.wait_for(|h| *h).await.unwrap();
                drop(stop);
            };
            let request = REQUEST.replace("close", "keep-alive");
            let (answer, ()) = tokio::join!(ask(address, &request), stopping);
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }

    #[tokio::test]
    async fn no_more_connections_are_served_at_once_than_allowed() {
        let filter = warp::any().map(reply::no_content);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = accept(listener, 1, None, door(filter), async { drop(stopped.await) }, || {});
        let asking = async {
            let mut first = TcpStream::connect(address).await.unwrap();
            first.write_all(REQUEST.replace("close", "keep-alive").as_bytes()).await.unwrap();
            let mut head = [0u8; 12];
            first.read_exact(&mut head).await.unwrap();
            // The second is taken by the kernel, but served only when the first is gone.
            let second = ask(address, REQUEST);
            let mut second = std::pin::pin!(second);
            assert!(futures_util::poll!(&mut second).is_pending());
            drop(first);
            assert!(second.await.starts_with("HTTP/1.1 204"));
            drop(stop);
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }

    async fn over_tls(
        address: SocketAddr,
        ca: &Authority,
        protocols: &[&[u8]],
        identity: Option<(String, String)>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("cp.example").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// One request on a connection that stays open; the head of its answer.
    async fn asked_again<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T) -> String {
        stream.write_all(REQUEST.replace("close", "keep-alive").as_bytes()).await.unwrap();
        let (mut head, mut byte) = (Vec::new(), [0u8]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn new_certificates_are_served_without_dropping_a_connection() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
        let tls = Arc::new(Tls::load(files(dir.path(), &ca.sign("cp.example"))).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let filter = warp::any().map(reply::no_content);
        let serving = accept(listener, 8, Some(tls.clone()), door(filter), async { drop(stopped.await) }, || {});
        let asking = async {
            let shown =
                |s: &tokio_rustls::client::TlsStream<TcpStream>| s.get_ref().1.peer_certificates().unwrap()[0].clone();
            let mut first = over_tls(address, &ca, &[b"http/1.1"], None).await.unwrap();
            assert!(asked_again(&mut first).await.starts_with("HTTP/1.1 204"));
            files(dir.path(), &ca.sign("cp.example"));
            assert_eq!(tls.reload(), Ok(true));
            let mut second = over_tls(address, &ca, &[b"http/1.1"], None).await.unwrap();
            assert_ne!(shown(&first), shown(&second));
            assert!(asked_again(&mut second).await.starts_with("HTTP/1.1 204"));
            assert!(asked_again(&mut first).await.starts_with("HTTP/1.1 204"), "the open connection goes on");
            let newest = over_tls(address, &ca, &[b"h2", b"http/1.1"], None).await.unwrap();
            assert_eq!(newest.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            assert!(over_tls(address, &Authority::new(), &[], None).await.is_err(), "another authority");
            drop(stop);
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }

    #[tokio::test]
    async fn a_client_certificate_is_seen_when_our_authority_signed_it_and_refused_when_another_did() {
        let (dir, ca, clients) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
        let mut paths = files(dir.path(), &ca.sign("cp.example"));
        let root = dir.path().join("clients.pem");
        std::fs::write(&root, clients.pem()).unwrap();
        paths.client_ca = Some(root);
        let tls = Arc::new(Tls::load(paths).unwrap());
        assert!(tls.asks_for_client_certificates());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let filter = warp::ext::get::<Meta>()
            .map(|meta: Meta| if meta.certified { reply::ok(&true) } else { reply::no_content() })
            .recover(|_| async { Ok::<_, Infallible>(reply::no_content()) })
            .unify();
        let serving = accept(listener, 8, Some(tls), door(filter), async { drop(stopped.await) }, || {});
        let asking = async {
            let mut without = over_tls(address, &ca, &[b"http/1.1"], None).await.unwrap();
            assert!(asked_again(&mut without).await.starts_with("HTTP/1.1 204"));
            let mut with = over_tls(address, &ca, &[b"http/1.1"], Some(clients.sign("node"))).await.unwrap();
            assert!(asked_again(&mut with).await.starts_with("HTTP/1.1 200"));
            // The client learns of the refusal when it reads.
            let stranger = over_tls(address, &ca, &[b"http/1.1"], Some(Authority::new().sign("node"))).await;
            if let Ok(mut stranger) = stranger {
                let _ = stranger.write_all(REQUEST.as_bytes()).await;
                assert!(stranger.read(&mut [0u8; 16]).await.map_or(true, |n| n == 0));
            }
            drop(stop);
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }

    #[test]
    fn request_ids_are_uuid_v7_and_differ() {
        let ids = RequestIds::new();
        let made: Vec<RequestId> = (0..1_000).map(|_| ids.next(Timestamp(1_795_296_900_000_000))).collect();
        assert!(made.iter().all(|id| id.as_uuid().get_version_num() == 7));
        let different: std::collections::HashSet<_> = made.iter().collect();
        assert_eq!(different.len(), 1_000);
    }
}
