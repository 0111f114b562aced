//! The node API from this side, and downloads: every call has a deadline and a cap, no redirect is followed.

use crate::connect::Dial;
use crate::state::Identity;
use api::node::{
    HeartbeatAnswer, HeartbeatRequest, NodeEvent, NodeEventsRequest, PollAnswer, RegisterAnswer, RegisterRequest,
    ReportAnswer, ReportRequest,
};
use bytes::Bytes;
use domain::Digest;
use http::{Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The largest JSON answer that is read; the contract's are below 10 kB, a trust document with 100 keys has as much.
const MAX_ANSWER: usize = 1 << 20;
const CALL: Duration = Duration::from_secs(20);
/// What a held poll may take longer than it was asked to.
const POLL_LEEWAY: Duration = Duration::from_secs(15);
/// A download must bring `MIN_BYTES_PER_SECOND` in every such window. Slower is a server that wants to hold us.
const WINDOW: Duration = Duration::from_secs(15);
const MIN_BYTES_PER_SECOND: u64 = 1 << 10;
/// Times a broken download is resumed within one attempt.
const RESUMES: u32 = 5;
/// Times it may be too slow within one attempt: 3 attempts hold a node for 90 s at most.
const MAX_SLOW: u32 = 2;

#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    #[error("no answer in time")]
    Timeout,
    #[error("connection: {0}")]
    Connection(String),
    #[error("HTTP {code}: {error}")]
    Status { code: u16, retry_after: Option<u64>, error: String },
    #[error("answer not understood: {0}")]
    Malformed(String),
}

impl CallError {
    /// A refusal that no repetition changes.
    pub fn is_final(&self) -> bool {
        matches!(self, CallError::Status { code, .. } if (400..500).contains(code) && !matches!(code, 408 | 425 | 429))
    }

    /// The node was revoked, deleted or replaced.
    pub fn is_dismissal(&self) -> bool {
        matches!(self, CallError::Status { code: 401 | 403, .. })
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Status { retry_after, .. } => retry_after.map(|s| Duration::from_secs(s.min(300))),
            CallError::Timeout | CallError::Connection(_) | CallError::Malformed(_) => None,
        }
    }
}

/// Why a download brought nothing. The bytes so far are kept unless they are wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("slow_retrieval: slower than 1 KiB/s")]
    Slow,
    /// Of this host: the disk is full, say.
    #[error("writing the download: {0}")]
    Disk(String),
    /// Nothing that the same URL could do better.
    #[error("{0}")]
    Refused(String),
}

/// A poll answer with what newer servers may add to it.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    pub answer: PollAnswer,
    /// An envelope or a list of them: trust documents newer than ours.
    pub trust: Option<Value>,
    /// The release statement of an offline bundle key.
    pub release: Option<Value>,
}

pub struct Client {
    /// How long a download may be too slow.
    pub window: Duration,
    origin: String,
    prefix: String,
    http: Hyper<HttpsConnector<Dial>, Full<Bytes>>,
}

/// `scheme://host[:port]` of an address, lower case, without the scheme's own port.
pub fn origin_of(uri: &Uri) -> Option<String> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let host = uri.host()?.to_ascii_lowercase();
    let usual = if scheme == "https" { 443 } else { 80 };
    Some(match uri.port_u16().filter(|p| *p != usual) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

pub fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Client {
    /// Opens nothing yet. Errors: no absolute http(s) address, plain http off loopback.
    pub fn new(url: &str) -> Result<Client, String> {
        let uri: Uri = url.parse().map_err(|e| format!("--url {url:?}: {e}"))?;
        let Some(origin) = origin_of(&uri).filter(|o| o.starts_with("http://") || o.starts_with("https://")) else {
            return Err(format!("--url {url:?}: expected http://HOST[:PORT] or https://HOST[:PORT]"));
        };
        if uri.scheme_str() == Some("http") && !is_loopback(&uri) {
            return Err(format!("--url {url:?}: plain http is only for this host itself; use https"));
        }
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err("--url: no user and password in it".into());
        }
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = HttpsConnectorBuilder::new();
        let tls = match builder.with_provider_and_native_roots(provider.clone()) {
            Ok(b) => b,
            // Without any root on the machine https fails at the first handshake, with a message; http does not care.
            Err(_) => {
                let config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|e| e.to_string())?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let connector = tls.https_or_http().enable_http1().wrap_connector(Dial::new(tcp, Matcher::from_env()));
        let http = Hyper::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Client { window: WINDOW, origin, prefix: uri.path().trim_end_matches('/').to_string(), http })
    }

    pub async fn register(
        &self,
        project: &str,
        token: Option<&str>,
        body: &RegisterRequest,
    ) -> Result<RegisterAnswer, CallError> {
        let path = format!("/projects/{}/nodes/register", escape(project));
        let bearer = token.map(|t| format!("Bearer {t}"));
        let auth = bearer.as_deref().map(|b| (header::AUTHORIZATION.as_str(), b));
        self.json(Method::POST, &path, auth, Some(body), CALL).await
    }

    pub async fn heartbeat(&self, who: &Identity, body: &HeartbeatRequest) -> Result<HeartbeatAnswer, CallError> {
        let path = format!("/nodes/{}/heartbeat", who.node_id);
        self.json(Method::POST, &path, key(who), Some(body), CALL).await
    }

    /// `wait` in seconds, 0 for an answer at once. `trust`: the version of the trust document that we have.
    pub async fn poll(&self, who: &Identity, wait: u32, trust: Option<u64>) -> Result<Polled, CallError> {
        let trust = trust.map(|v| format!("&trust={v}")).unwrap_or_default();
        let path = format!("/nodes/{}/bundles/latest?wait={wait}{trust}", who.node_id);
        let limit = Duration::from_secs(u64::from(wait)) + POLL_LEEWAY;
        let mut value: Value = self.json::<(), _>(Method::GET, &path, key(who), None, limit).await?;
        let take = |v: &mut Value, k: &str| v.as_object_mut().and_then(|o| o.remove(k)).filter(|v| !v.is_null());
        let (trust, release) = (take(&mut value, "trust"), take(&mut value, "release"));
        let answer = serde_json::from_value(value).map_err(|e| CallError::Malformed(e.to_string()))?;
        Ok(Polled { answer, trust, release })
    }

    /// `what` is the last part of the path: `downloaded`, ... `failed`.
    pub async fn report(
        &self,
        who: &Identity,
        bundle: &str,
        what: &str,
        body: &ReportRequest,
    ) -> Result<ReportAnswer, CallError> {
        let path = format!("/nodes/{}/bundles/{bundle}/{what}", who.node_id);
        self.json(Method::POST, &path, key(who), Some(body), CALL).await
    }

    /// Lines of the node's own log. What the answer says is of no use here.
    pub async fn events(&self, who: &Identity, events: &[NodeEvent]) -> Result<(), CallError> {
        let path = format!("/nodes/{}/events", who.node_id);
        let body = NodeEventsRequest { events: events.to_vec() };
        self.json::<_, Value>(Method::POST, &path, key(who), Some(&body), CALL).await.map(drop)
    }

    async fn json<B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        credential: Option<(&str, &str)>,
        body: Option<&B>,
        limit: Duration,
    ) -> Result<A, CallError> {
        let malformed = |e: serde_json::Error| CallError::Malformed(e.to_string());
        let body = body.map(serde_json::to_vec).transpose().map_err(malformed)?;
        let mut request =
            http::Request::builder().method(method).uri(format!("{}{}/api/v1{path}", self.origin, self.prefix));
        request = request.header(header::USER_AGENT, AGENT);
        if let Some((name, value)) = credential {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
        let request = request.map_err(|e| CallError::Malformed(e.to_string()))?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|e| CallError::Connection(causes(&e)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|e| CallError::Connection(causes(&*e)))?.to_bytes();
            if head.status.is_success() { Ok(body) } else { Err(refusal(head.status, &head.headers, &body)) }
        };
        let body = tokio::time::timeout(limit, exchange).await.map_err(|_| CallError::Timeout)??;
        serde_json::from_slice(&body).map_err(malformed)
    }

    /// Where an archive may come from: the control plane itself, or an origin that the trust document names. Never plain http
    /// off loopback, never with credentials.
    pub fn artifact_uri(&self, url: &str, allowed: &[String]) -> Result<Uri, String> {
        let full = if url.starts_with('/') { format!("{}{url}", self.origin) } else { url.to_string() };
        let uri: Uri = full.parse().map_err(|_| "the download address is not one".to_string())?;
        let origin = origin_of(&uri).ok_or("the download address has no origin")?;
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err("the download address carries credentials".into());
        }
        let listed =
            allowed.iter().any(|a| a.parse::<Uri>().ok().and_then(|u| origin_of(&u)).is_some_and(|a| a == origin));
        if origin != self.origin && !listed {
            return Err(format!("{origin} is not an origin that archives may come from"));
        }
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if is_loopback(&uri) => Ok(uri),
            _ => Err(format!("{origin}: archives come by https")),
        }
    }

    /// Brings `size` bytes into `path`, going on where an earlier try has stopped. What is there in the end has the right
    /// length; its hash is checked by the caller, who removes it when that is wrong.
    pub async fn download(&self, uri: &Uri, path: &Path, size: u64) -> Result<(), FetchError> {
        let (mut tries, mut slow) = (0, 0);
        loop {
            match self.fetch(uri, path, size).await {
                Err(FetchError::Slow) if slow + 1 < MAX_SLOW => slow += 1,
                Err(FetchError::Call(e)) if !e.is_final() && tries < RESUMES => {
                    tries += 1;
                    tracing::info!("the download broke off ({e}) and is resumed");
                    tokio::time::sleep(e.retry_after().unwrap_or(Duration::from_millis(250 << tries))).await;
                }
                other => return other,
            }
        }
    }

    async fn fetch(&self, uri: &Uri, path: &Path, size: u64) -> Result<(), FetchError> {
        let disk = |e: std::io::Error| FetchError::Disk(e.to_string());
        let mut file: File =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(disk)?;
        let mut have = file.metadata().map_err(disk)?.len();
        if have > size {
            file.set_len(0).map_err(disk)?;
            have = 0;
        }
        if have == size && size > 0 {
            return Ok(());
        }
        let mut request = http::Request::get(uri.clone()).header(header::USER_AGENT, AGENT);
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|e| FetchError::Refused(e.to_string()))?;
        let answer = tokio::time::timeout(CALL, self.http.request(request)).await.map_err(|_| CallError::Timeout)?;
        let answer = answer.map_err(|e| CallError::Connection(causes(&e)))?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(FetchError::Refused(format!("HTTP {status}: archives are not redirected")));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            file.set_len(0).map_err(disk)?;
            return Err(FetchError::Call(CallError::Connection(
                "the archive is shorter than what we have of it".into(),
            )));
        }
        if !status.is_success() {
            return Err(FetchError::Call(CallError::Status {
                code: status.as_u16(),
                retry_after: None,
                error: "download".into(),
            }));
        }
        // A server may ignore the range; what it then sends begins at the beginning.
        let begins = answer.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let resumed =
            status == StatusCode::PARTIAL_CONTENT && begins.is_some_and(|b| b.starts_with(&format!("bytes {have}-")));
        if !resumed {
            file.set_len(0).map_err(disk)?;
            have = 0;
        }
        file.seek(SeekFrom::Start(have)).map_err(disk)?;
        let mut body = answer.into_body();
        let (mut until, mut window) = (tokio::time::Instant::now() + self.window, 0u64);
        let least = MIN_BYTES_PER_SECOND * self.window.as_secs().max(1);
        loop {
            let frame = tokio::time::timeout_at(until, body.frame()).await;
            match frame {
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(FetchError::Call(CallError::Connection(causes(&e)))),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    have += data.len() as u64;
                    window += data.len() as u64;
                    if have > size {
                        let _ = file.set_len(0);
                        return Err(FetchError::Refused("too_large: more bytes come than were assigned".into()));
                    }
                    file.write_all(&data).map_err(disk)?;
                }
                Err(_) => {}
            }
            if tokio::time::Instant::now() >= until {
                if window < least {
                    return Err(FetchError::Slow);
                }
                (until, window) = (tokio::time::Instant::now() + self.window, 0);
            }
        }
        file.sync_all().map_err(disk)?;
        if have < size {
            return Err(FetchError::Call(CallError::Connection(format!("{have} of {size} bytes came"))));
        }
        Ok(())
    }

    /// A small page of the proxy on this host, with its status. `Err` in words.
    pub async fn get(&self, url: &str, limit: Duration, most: usize) -> Result<(StatusCode, Bytes), String> {
        let request = http::Request::get(url).header(header::USER_AGENT, AGENT).header(header::CONNECTION, "close");
        let request = request.body(Full::new(Bytes::new())).map_err(|e| e.to_string())?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|e| causes(&e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), most).collect().await.map_err(|e| causes(&*e))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(limit, exchange).await.map_err(|_| "no answer in time".to_string())?
    }
}

const AGENT: &str = concat!("sentinel-cp-agent/", env!("CARGO_PKG_VERSION"));

fn key(who: &Identity) -> Option<(&'static str, &str)> {
    Some(("x-sentinel-node-key", &who.node_key))
}

fn refusal(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> CallError {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = ["detail", "error", "title"].iter().find_map(|k| problem.get(k)?.as_str());
    let error = said.map_or_else(|| String::from_utf8_lossy(&body[..body.len().min(200)]).into(), str::to_owned);
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    CallError::Status { code: status.as_u16(), retry_after, error }
}

/// An error with all its causes: hyper's own text says only "client error". Never the URL: its query is a credential.
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
    segment.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

/// The whole of a finished download, if it is what was assigned.
pub fn read_archive(path: &Path, expected: Digest) -> Result<Vec<u8>, FetchError> {
    let bytes = std::fs::read(path).map_err(|e| FetchError::Disk(e.to_string()))?;
    if Digest::of(&bytes) != expected {
        let _ = std::fs::remove_file(path);
        return Err(FetchError::Refused("artifact_hash: the archive's hash is not the assigned one".into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_control_plane_is_reached_by_https_or_on_this_host() {
        for good in ["https://cp.example.org", "http://127.0.0.1:4000/base/", "http://[::1]:1", "http://localhost:1"] {
            assert!(Client::new(good).is_ok(), "{good}");
        }
        for bad in ["http://cp.example.org", "ftp://x", "cp.example.org", "https://u:p@x", "http://127.0.0.1.evil.org"]
        {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn archives_come_from_allowed_origins_only() {
        let c = Client::new("https://cp.example.org").unwrap();
        let allowed = vec!["https://s3.example.org".to_string()];
        for good in ["/artifacts/x?sig=1", "https://cp.example.org:443/x", "https://S3.example.org/b/x"] {
            assert!(c.artifact_uri(good, &allowed).is_ok(), "{good}");
        }
        for bad in [
            "https://evil.org/x",
            "http://cp.example.org/x",
            "https://s3.example.org:8443/x",
            "https://s3.example.org@evil.org/x",
            "https://user@s3.example.org/x",
            "http://127.0.0.1:1/x",
        ] {
            assert!(c.artifact_uri(bad, &allowed).is_err(), "{bad}");
        }
    }
}
