//! The one connection: every call has a deadline and a cap on its answer; no redirect is followed.

use crate::Failure;
use crate::ask::{Body, segment};
use bytes::Bytes;
use http::{Method, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The largest answer that is read: the server's largest archive, 64 MiB, and then some.
const MAX_ANSWER: usize = 80 << 20;
/// Longer than the longest `wait` (60 s).
const CALL: Duration = Duration::from_secs(90);
/// The server says something at least every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// The longest line of the event stream.
const MAX_LINE: usize = 64 << 10;

pub struct Client {
    base: String,
    bearer: Option<String>,
    http: Hyper<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

pub struct Answer {
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.bytes).map_err(|e| Failure::Connection(format!("the answer is not JSON: {e}")))
    }
}

impl Client {
    /// Opens nothing yet. Errors: no absolute http(s) address; one with a password in it.
    pub fn new(url: &str, key: Option<&str>) -> Result<Client, Failure> {
        let usage = |why: &str| Failure::Usage(format!("--url {url:?}: {why}"));
        let uri: Uri = url.parse().map_err(|_| usage("not an address"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(usage("expected http://HOST[:PORT] or https://HOST[:PORT]"));
        }
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(usage("no user and password in it; use --key"));
        }
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = match HttpsConnectorBuilder::new().with_provider_and_native_roots(provider.clone()) {
            Ok(builder) => builder,
            // Without any root on the machine https fails at the handshake, with a message; http does not care.
            Err(_) => {
                let config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|e| Failure::Connection(e.to_string()))?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let http = Hyper::builder(TokioExecutor::new()).build(tls.https_or_http().enable_http1().wrap_connector(tcp));
        let base = format!("{}/api/v1", url.trim_end_matches('/'));
        Ok(Client { base, bearer: key.map(|k| format!("Bearer {k}")), http })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
        body: Body,
    ) -> Result<http::Request<Full<Bytes>>, Failure> {
        let pairs: Vec<String> = query.iter().map(|(k, v)| format!("{}={}", segment(k), segment(v))).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}{mark}{}", self.base, pairs.join("&")))
            .header(header::USER_AGENT, concat!("sentinel-cp-ctl/", env!("CARGO_PKG_VERSION")));
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let body = match body {
            Body::None => Bytes::new(),
            Body::Json(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
        };
        request.body(Full::new(body)).map_err(|e| Failure::Usage(e.to_string()))
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
        body: Body,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, query, body)?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|e| self.unreachable(&e))?;
            let (head, body) = answer.into_parts();
            let bytes = Limited::new(body, MAX_ANSWER).collect().await;
            let bytes = bytes.map_err(|e| Failure::Connection(format!("reading the answer: {e}")))?.to_bytes();
            if head.status.is_success() {
                return Ok(Answer { bytes });
            }
            let text = || Value::from(String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]));
            let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| serde_json::json!({"detail": text()}));
            Err(Failure::Refused { status: head.status.as_u16(), problem })
        };
        let late = || Failure::Connection(format!("no answer from {} within {CALL:?}", self.base));
        tokio::time::timeout(CALL, exchange).await.map_err(|_| late())?
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, &[], Body::None).await?.json()
    }

    /// Server-sent events, one `data` at a time. Ends with the connection: connect anew, then look yourself first.
    pub async fn events(&self, project: &str) -> Result<Events, Failure> {
        let query = [("project".to_string(), project.to_string())];
        let request = self.request(Method::GET, "/events/stream", &query, Body::None)?;
        let answer = tokio::time::timeout(CALL, self.http.request(request)).await;
        let answer = answer
            .map_err(|_| Failure::Connection("the event stream does not open".into()))?
            .map_err(|e| self.unreachable(&e))?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            return Err(Failure::Refused {
                status,
                problem: serde_json::json!({"detail": "the event stream was refused"}),
            });
        }
        Ok(Events { body: answer.into_body(), pending: Vec::new() })
    }

    fn unreachable(&self, e: &hyper_util::client::legacy::Error) -> Failure {
        let mut why = e.to_string();
        let mut source = std::error::Error::source(e);
        while let Some(inner) = source {
            why = inner.to_string();
            source = inner.source();
        }
        Failure::Connection(format!("{} cannot be reached: {why}", self.base))
    }
}

pub struct Events {
    body: Incoming,
    pending: Vec<u8>,
}

impl Events {
    /// The next event's data; `None` when the stream has ended or has been silent for too long.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let data = line.strip_prefix(b"data:").and_then(|d| serde_json::from_slice(d).ok());
                if data.is_some() {
                    return data;
                }
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await.ok()??.ok()?;
            if let Some(more) = frame.data_ref() {
                self.pending.extend_from_slice(more);
            }
            if self.pending.len() > MAX_LINE {
                return None;
            }
        }
    }
}
