//! How connections are opened: directly to this host, elsewhere through the proxy that the environment names.
//!
//! Owns: the reading of `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` (and their lower-case spellings), once at start, by curl's rules.
//! Plain http is only ever spoken with this host, so whatever goes through a proxy goes through a tunnel: the proxy sees a name and
//! a port, never a key.

use crate::client::is_loopback;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub struct Dial {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Dial {
    pub fn new(tcp: HttpConnector, proxies: Matcher) -> Dial {
        Dial { tcp, proxies: Arc::new(proxies) }
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let via = if is_loopback(&to) { None } else { self.proxies.intercept(&to) };
        let Some(via) = via else {
            let direct = self.tcp.call(to);
            return Box::pin(async { Ok(direct.await?) });
        };
        if via.uri().scheme_str() != Some("http") {
            // Never the address itself: it may carry a password.
            let scheme = via.uri().scheme_str().unwrap_or_default().to_string();
            return Box::pin(async move {
                Err(format!("the proxy of the environment is {scheme}://; only http:// is spoken").into())
            });
        }
        let mut tunnel = Tunnel::new(via.uri().clone(), self.tcp.clone());
        if let Some(auth) = via.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        let through = tunnel.call(to);
        Box::pin(async { Ok(through.await?) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every connection with `answer`; gives what the first one asked.
    async fn once(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        #[allow(clippy::disallowed_methods)] // a test's own task
        let asked = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 2_000];
            let n = socket.read(&mut head).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..n]).into_owned()
        });
        (at, asked)
    }

    fn dial(https: &str, no: &str) -> Dial {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        Dial::new(tcp, Matcher::builder().https(https).http(https).no(no).build())
    }

    #[tokio::test]
    async fn what_is_elsewhere_is_reached_through_a_tunnel_with_the_proxys_own_credentials() {
        let (at, asked) = once("HTTP/1.1 200 OK\r\n\r\n").await;
        let mut d = dial(&format!("http://me:secret@{at}"), "");
        d.call("https://cp.example.org/x?sig=1".parse().unwrap()).await.unwrap();
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("CONNECT cp.example.org:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Basic bWU6c2VjcmV0") && !asked.contains("sig="), "{asked}");
    }

    #[tokio::test]
    async fn this_host_and_what_the_environment_excepts_are_reached_directly() {
        let (at, asked) = once("hello").await;
        let mut d = dial("http://127.0.0.1:1", "");
        d.call(format!("http://{at}/").parse().unwrap()).await.unwrap();
        drop(asked);
        let mut d = dial("http://127.0.0.1:1", "nowhere.invalid");
        let refused = d.call("https://nowhere.invalid/".parse().unwrap()).await.unwrap_err();
        assert!(!refused.to_string().contains("tunnel"), "asked the name service, not the proxy: {refused}");
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_plain_http_is_named_without_its_password() {
        let mut d = dial("socks5://me:secret@127.0.0.1:1", "");
        let why = d.call("https://cp.example.org/".parse().unwrap()).await.unwrap_err().to_string();
        assert!(why.contains("socks5") && !why.contains("secret"), "{why}");
    }
}
