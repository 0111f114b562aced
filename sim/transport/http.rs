//! The node API over real HTTP: pooled connections, a cap on sockets, TLS by the system's roots (or `SSL_CERT_FILE`).

use super::{Reply, Request, Response};
use crate::SimError;
use crate::agent::Identity;
use crate::wire::{CallError, bundle_name};
use bytes::Bytes;
use domain::Span;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A process may hold 20,000 descriptors here; the rest is for files, pipes and connections being replaced.
pub const MAX_CONNECTIONS: usize = 18_000;
/// Calls other than held polls at once: at 5 ms each this is 100,000 a second, more than one process makes.
const SHORT_CALLS: usize = 512;
/// The largest JSON answer that is read; the contract's are below 10 kB.
const MAX_ANSWER: usize = 1 << 20;
/// Requests that one HTTP/2 connection carries at once: what hyper's server allows by default.
const STREAMS_PER_CONNECTION: usize = 200;

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// Sockets at most. Polls beyond it are not held: those nodes ask again when told to.
    pub max_connections: usize,
    /// Many calls on each connection (HTTP/2 with prior knowledge, or ALPN): 200 nodes a socket.
    pub http2: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions { max_connections: MAX_CONNECTIONS, http2: false }
    }
}

/// Cheap to clone; clones share the pool and its limits.
#[derive(Clone)]
pub struct Http(Arc<Shared>);

struct Shared {
    /// `http://host:port`, and the path before `/api/v1`, without a trailing slash.
    origin: String,
    prefix: String,
    way: Way,
    turn: AtomicUsize,
    short: Semaphore,
    held: Semaphore,
}

/// How a request leaves.
enum Way {
    Sockets(Vec<Pool>),
    /// To a server in this process, without a socket.
    Inside(Box<Inside>),
}

type Inside = dyn Fn(http::Request<Full<Bytes>>) -> BoxFuture<Result<http::Response<Bytes>, CallError>> + Send + Sync;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Http {
    /// The same requests, as `serve` answers them.
    pub fn inside<F, R>(serve: F) -> Http
    where
        F: Fn(http::Request<Full<Bytes>>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<http::Response<Bytes>, CallError>> + Send + 'static,
    {
        Http(Arc::new(Shared {
            origin: String::new(),
            prefix: String::new(),
            way: Way::Inside(Box::new(move |request| Box::pin(serve(request)))),
            turn: AtomicUsize::new(0),
            short: Semaphore::new(SHORT_CALLS),
            held: Semaphore::new(MAX_CONNECTIONS),
        }))
    }

    /// Opens nothing yet. Errors: `url` is not an absolute http or https address.
    pub fn new(url: &str, options: HttpOptions) -> Result<Http, SimError> {
        let uri: Uri = url.parse().map_err(|e| SimError::Bad(format!("--url {url:?}: {e}")))?;
        let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(SimError::Bad(format!("--url {url:?}: expected http://HOST[:PORT] or https://HOST[:PORT]")));
        };
        let calls = options.max_connections.max(2);
        let pools = if options.http2 { calls.min(calls.div_ceil(STREAMS_PER_CONNECTION).max(1)) } else { 1 };
        let short = SHORT_CALLS.min(calls / 2).max(1);
        let held = if options.http2 { calls * STREAMS_PER_CONNECTION } else { calls - short };
        Ok(Http(Arc::new(Shared {
            origin: format!("{}://{authority}", uri.scheme_str().unwrap_or("http")),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            way: Way::Sockets((0..pools).map(|_| pool(options.http2)).collect()),
            turn: AtomicUsize::new(0),
            short: Semaphore::new(short),
            held: Semaphore::new(held.min(Semaphore::MAX_PERMITS)),
        })))
    }

    pub(super) fn send(&self, request: Request) -> Reply {
        let http = self.0.clone();
        Box::pin(async move { http.call(request).await })
    }
}

fn pool(http2: bool) -> Pool {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Without any root on the machine https fails at the first handshake, with a message; http does not care.
    let tls = match HttpsConnectorBuilder::new().with_provider_and_native_roots(provider.clone()) {
        Ok(b) => b,
        Err(_) => HttpsConnectorBuilder::new().with_tls_config(no_roots(provider)),
    }
    .https_or_http();
    let connector = if http2 { tls.enable_http2().wrap_connector(tcp) } else { tls.enable_http1().wrap_connector(tcp) };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .http2_only(http2)
        .build(connector)
}

impl Shared {
    async fn call(&self, request: Request) -> Result<Response, CallError> {
        match request {
            Request::Register { project, token, body } => {
                let _permit = self.short.acquire().await;
                let path = format!("/projects/{}/nodes/register", escape(&project));
                let auth = token.map(|t| format!("Bearer {t}"));
                let auth = auth.as_deref().map(|a| (header::AUTHORIZATION.as_str(), a));
                self.json(Method::POST, &path, auth, Some(&*body)).await.map(|a| Response::Registered(Box::new(a)))
            }
            Request::Heartbeat { node, body } => {
                let _permit = self.short.acquire().await;
                let path = format!("/nodes/{}/heartbeat", node.node);
                self.json(Method::POST, &path, key(&node), Some(&*body)).await.map(Response::Heartbeat)
            }
            Request::Poll { node, wait_s } => {
                let (held, _short);
                if wait_s > 0
                    && let Ok(permit) = self.held.try_acquire()
                {
                    held = Some(permit);
                } else {
                    held = None;
                    _short = self.short.acquire().await;
                }
                let wait = if held.is_some() { format!("?wait={wait_s}") } else { String::new() };
                let path = format!("/nodes/{}/bundles/latest{wait}", node.node);
                let answer = self.json::<(), _>(Method::GET, &path, key(&node), None).await;
                answer.map(|a| Response::Poll(Box::new(a)))
            }
            Request::Report { node, bundle, report, body } => {
                let _permit = self.short.acquire().await;
                let path = format!("/nodes/{}/bundles/{}/{}", node.node, bundle_name(bundle), report.path());
                self.json(Method::POST, &path, key(&node), Some(&*body)).await.map(Response::Report)
            }
            Request::Download { url, max_bytes } => {
                let _permit = self.short.acquire().await;
                let url = if url.starts_with('/') { format!("{}{url}", self.origin) } else { url };
                let limit = usize::try_from(max_bytes).unwrap_or(usize::MAX);
                self.exchange(Method::GET, &url, None, None, limit).await.map(Response::Archive)
            }
        }
    }

    async fn json<B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        credential: Option<(&str, &str)>,
        body: Option<&B>,
    ) -> Result<A, CallError> {
        let url = format!("{}{}/api/v1{path}", self.origin, self.prefix);
        let malformed = |e: serde_json::Error| CallError::Malformed(e.to_string());
        let body = body.map(serde_json::to_vec).transpose().map_err(malformed)?;
        let answer = self.exchange(method, &url, credential, body, MAX_ANSWER).await?;
        serde_json::from_slice(&answer).map_err(malformed)
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        credential: Option<(&str, &str)>,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Bytes, CallError> {
        let mut request = http::Request::builder().method(method).uri(url);
        request = request.header(header::USER_AGENT, concat!("sentinel-cp-sim/", env!("CARGO_PKG_VERSION")));
        if let Some((name, value)) = credential {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| CallError::Malformed(format!("{url:?}: {e}")))?;
        let (head, body) = match &self.way {
            Way::Inside(serve) => serve(request).await?.into_parts(),
            Way::Sockets(pools) => {
                // Any pool does: they differ in nothing but their connections.
                let pool = &pools[self.turn.fetch_add(1, Ordering::Relaxed) % pools.len()];
                let answer = pool.request(request).await.map_err(|e| CallError::Connection(causes(&e)))?;
                let (head, body) = answer.into_parts();
                let limit = if head.status.is_success() { limit } else { MAX_ANSWER };
                let body = Limited::new(body, limit).collect().await.map_err(|e| {
                    if e.is::<LengthLimitError>() {
                        CallError::Malformed(format!("the answer has more than {limit} bytes"))
                    } else {
                        CallError::Connection(causes(&*e))
                    }
                })?;
                (head, body.to_bytes())
            }
        };
        if head.status.is_success() { Ok(body) } else { Err(refusal(head.status, &head.headers, &body)) }
    }
}

fn key(node: &Identity) -> Option<(&str, &str)> {
    Some(("x-sentinel-node-key", &node.key))
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> CallError {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let said = ["detail", "error", "title"].iter().find_map(|k| problem.get(k)?.as_str());
    let text = said.map_or_else(|| String::from_utf8_lossy(&body[..body.len().min(200)]).into(), str::to_owned);
    let seconds = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u32>().ok());
    CallError::Status { code: status.as_u16(), retry_after: seconds.map(|s| Span::secs(i64::from(s))), error: text }
}

/// An error with all its causes: hyper's own text says only "client error".
fn causes(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}

/// A slug or an id needs no escaping; whatever else was typed must not become another path.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for b in segment.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// A configuration that trusts nobody.
fn no_roots(provider: Arc<rustls::crypto::CryptoProvider>) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    match builder {
        Ok(b) => b.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
        // ring supports the default versions; without `tls12` or 1.3 compiled in nothing could be built at all.
        Err(_) => {
            rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        }
    }
}
