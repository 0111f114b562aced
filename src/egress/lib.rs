//! THE ONLY WAY OUT for requests whose address somebody else chose: probes, webhooks, git.
//!
//! A control plane that fetches what it is told to is a way into the network it stands in. So: every address that a name resolves
//! to is checked, the connection is made to one that was checked and not looked up again, nothing is followed, no proxy of the
//! environment is asked, and an answer is read up to a limit.
//!
//! Architecture Invariant: nothing else in the server opens a connection to an address from a request or a project's settings.

mod network;
mod policy;
mod target;

pub use network::Network;
pub use policy::{Policy, everywhere};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Of an answer's body that is read; what comes after it is as if it were not there.
pub const MAX_BODY: usize = 64 * 1024;
/// Of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum EgressError {
    #[error("the URL {0}")]
    Url(&'static str),
    #[error("the name cannot be resolved")]
    Resolve,
    /// One of the addresses must not be reached. Which one is not said: that would map our network for whoever asks.
    #[error("the address must not be reached from here (see PROBE_ALLOW)")]
    Forbidden,
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("no HTTP answer: {0}")]
    Http(String),
    #[error("no answer in time")]
    Timeout,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From the look-up of the name to the last byte.
    pub timeout: Duration,
}

impl Ask {
    pub fn get(url: impl Into<String>, timeout: Duration) -> Ask {
        Ask { method: Method::GET, url: url.into(), headers: HeaderMap::new(), body: Bytes::new(), timeout }
    }

    pub fn head(url: impl Into<String>, timeout: Duration) -> Ask {
        Ask { method: Method::HEAD, ..Ask::get(url, timeout) }
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Up to [`MAX_BODY`].
    pub body: Bytes,
    /// There was more.
    pub cut: bool,
}

/// What a probe expects. Nothing of the answer leaves but whether it did: a probe is no way to read what is inside a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    pub status: u16,
    pub body_contains: Option<String>,
}

#[cfg(test)]
type Script = dyn Fn(&str, u16) -> Vec<SocketAddr> + Send + Sync;

/// How names become addresses.
#[derive(Clone)]
enum Resolver {
    System,
    #[cfg(test)]
    Scripted(Arc<Script>),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Egress {
    policy: Arc<Policy>,
    tls: Arc<rustls::ClientConfig>,
    resolver: Resolver,
}

impl Egress {
    /// Certificates are checked against those that the system trusts.
    pub fn new(policy: Policy) -> Egress {
        let mut roots = rustls::RootCertStore::empty();
        // Without any, https fails and says so; the rest of the product does not need them.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Egress::trusting(policy, roots)
    }

    fn trusting(policy: Policy, roots: rustls::RootCertStore) -> Egress {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        // The provider has both versions; without it there would be no TLS at all, here or anywhere.
        let config = config.map(|c| c.with_root_certificates(roots).with_no_client_auth());
        let tls = config.unwrap_or_else(|_| {
            rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        });
        Egress { policy: Arc::new(policy), tls: Arc::new(tls), resolver: Resolver::System }
    }

    /// Is this an address that could be asked, as far as can be told without looking the name up? For checking settings.
    pub fn check_url(url: &str) -> Result<(), EgressError> {
        Target::parse(url).map(drop)
    }

    /// Did the answer match? Errors only say why there was none.
    pub async fn probe(&self, ask: Ask, expect: &Expect) -> Result<bool, EgressError> {
        let answer = self.send(ask).await?;
        let said = expect.body_contains.as_ref().is_none_or(|text| contains(&answer.body, text.as_bytes()));
        Ok(answer.status.as_u16() == expect.status && said)
    }

    pub async fn send(&self, ask: Ask) -> Result<Answer, EgressError> {
        let target = Target::parse(&ask.url)?;
        let timeout = ask.timeout;
        tokio::time::timeout(timeout, self.exchange(ask, target)).await.map_err(|_| EgressError::Timeout)?
    }

    async fn exchange(&self, ask: Ask, target: Target) -> Result<Answer, EgressError> {
        let request = request(ask, &target)?;
        let stream = self.connect(&target).await?;
        if !target.https {
            return converse(stream, request).await;
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|e| EgressError::Tls(e.to_string()))?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| EgressError::Tls(e.to_string()))?;
        converse(stream, request).await
    }

    /// To an address that was checked. One that must not be reached forbids the whole name: who controls it would otherwise only
    /// have to answer often enough.
    async fn connect(&self, target: &Target) -> Result<TcpStream, EgressError> {
        let addresses = self.resolve(&target.host, target.port).await?;
        if addresses.iter().any(|a| !self.policy.permits(*a)) {
            return Err(EgressError::Forbidden);
        }
        let mut last = EgressError::Resolve;
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = EgressError::Connect(e),
            }
        }
        Err(last)
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, EgressError> {
        match &self.resolver {
            Resolver::System => {
                let found = tokio::net::lookup_host((host, port)).await.map_err(|_| EgressError::Resolve)?;
                Ok(found.collect())
            }
            #[cfg(test)]
            Resolver::Scripted(script) => Ok(script(host, port)),
        }
    }
}

fn request(ask: Ask, target: &Target) -> Result<Request<Full<Bytes>>, EgressError> {
    let http = |e: &dyn std::fmt::Display| EgressError::Http(e.to_string());
    let host = HeaderValue::from_str(&target.authority).map_err(|e| http(&e))?;
    let mut request = Request::builder()
        .method(ask.method)
        .uri(target.path.as_str())
        .body(Full::new(ask.body))
        .map_err(|e| http(&e))?;
    let headers = request.headers_mut();
    *headers = ask.headers;
    headers.insert(header::HOST, host);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("sentinel-cp"));
    Ok(request)
}

/// One request and its answer on a connection of its own.
async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, EgressError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |e: hyper::Error| EgressError::Http(e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let (parts, mut body) = response.into_parts();
        let (mut read, mut cut) = (Vec::new(), false);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(http)?.into_data() else { continue };
            let room = MAX_BODY - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                cut = true;
                break;
            }
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body: read.into(), cut })
    };
    // The connection is driven here and not by a task: when this future is dropped, so is it.
    let (mut answer, mut connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
    let mut open = true;
    loop {
        tokio::select! {
            done = &mut answer => return done,
            _ = &mut connection, if open => open = false,
        }
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|w| w == text)
}

#[cfg(test)]
mod tests;
