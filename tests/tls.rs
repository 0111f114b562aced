//! The whole server behind TLS: both versions of HTTP by ALPN, certificates of nodes, and how much one node may ask.

use crate::harness::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;

both!(
    an_api_call_is_answered_over_http_2_and_http_1_1,
    nodes_need_a_certificate_where_there_is_an_authority_for_them,
    one_node_that_asks_too_much_is_told_when_to_come_back_and_others_are_not,
);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, in PEM.
fn signed_by(ca: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, ca).unwrap();
    (cert.pem(), key.serialize_pem())
}

fn files(dir: &Path, ca: &Authority, clients: Option<&Authority>) -> web::TlsFiles {
    let (cert, key) = signed_by(ca, "localhost");
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    web::TlsFiles {
        cert: write("cert.pem", &cert),
        key: write("key.pem", &key),
        client_ca: clients.map(|ca| write("clients.pem", &ca.pem())),
    }
}

/// Who asks, over TLS.
struct Caller<'a> {
    ca: &'a Authority,
    identity: Option<(String, String)>,
    headers: Vec<(&'static str, String)>,
}

impl Caller<'_> {
    /// One request on a connection of its own. Answers the protocol that ALPN settled on, the status and the body.
    async fn ask(
        &self,
        url: &str,
        protocol: &[u8],
        method: &str,
        path: &str,
        body: Value,
    ) -> (http::Version, u16, Value) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let host = url.rsplit('/').next().unwrap();
        let stream = TcpStream::connect(host).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = http::Request::builder().method(method).header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if protocol == b"h2" {
            let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut send, link) = made.unwrap();
            let request = request.uri(format!("https://localhost{path}")).body(Full::new(bytes)).unwrap();
            tokio::select! { answer = whole(send.send_request(request)) => answer, ended = link => panic!("{ended:?}") }
        } else {
            let (mut send, link) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let request = request.uri(path).header("host", "localhost").body(Full::new(bytes)).unwrap();
            tokio::select! { answer = whole(send.send_request(request)) => answer, ended = link => panic!("{ended:?}") }
        }
    }
}

async fn whole(
    sent: impl Future<Output = hyper::Result<hyper::Response<hyper::body::Incoming>>>,
) -> (http::Version, u16, Value) {
    let (parts, body) = sent.await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.version, parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn bearer() -> Vec<(&'static str, String)> {
    vec![("authorization", format!("Bearer {KEY}"))]
}

const PROJECTS: &str = "/api/v1/projects";

async fn an_api_call_is_answered_over_http_2_and_http_1_1(ground: Ground) {
    let (dir, ca) = (tempfile::tempdir().unwrap(), authority());
    let tls = Some(files(dir.path(), &ca, None));
    let w = World::empty(ground, Options { tls, ..Options::default() }).await;
    let nobody = Caller { ca: &ca, identity: None, headers: Vec::new() };
    let me = Caller { ca: &ca, identity: None, headers: bearer() };
    for (protocol, version, name) in
        [(&b"h2"[..], http::Version::HTTP_2, "two"), (&b"http/1.1"[..], http::Version::HTTP_11, "one")]
    {
        let (spoken, status, made) = me.ask(&w.one.url, protocol, "POST", PROJECTS, json!({"name": name})).await;
        assert_eq!((spoken, status, &made["project"]["slug"]), (version, 201, &json!(name)), "{made:#}");
        let (spoken, status, refused) = nobody.ask(&w.one.url, protocol, "GET", PROJECTS, Value::Null).await;
        assert_eq!((spoken, status, &refused["status"]), (version, 401, &json!(401)), "{refused:#}");
    }
    let (_, _, all) = me.ask(&w.one.url, b"h2", "GET", PROJECTS, Value::Null).await;
    assert_eq!(all["total"], 2, "{all:#}");
    w.stop().await;
}

async fn nodes_need_a_certificate_where_there_is_an_authority_for_them(ground: Ground) {
    let (dir, ca, clients) = (tempfile::tempdir().unwrap(), authority(), authority());
    let tls = Some(files(dir.path(), &ca, Some(&clients)));
    let w = World::empty(ground, Options { tls, ..Options::default() }).await;
    let operator = Caller { ca: &ca, identity: None, headers: bearer() };
    let settings = json!({"open_registration": true, "adopt_on_registration": true});
    let project = json!({"name": "p", "slug": "p", "settings": settings});
    // People and pipelines come without a certificate.
    assert_eq!(operator.ask(&w.one.url, b"h2", "POST", PROJECTS, project).await.1, 201);

    let register = "/api/v1/projects/p/nodes/register";
    let bare = Caller { ca: &ca, identity: None, headers: Vec::new() };
    let certified = Caller { ca: &ca, identity: Some(signed_by(&clients, "n-1")), headers: Vec::new() };
    let name = || json!({"name": "n-1"});
    assert_eq!(bare.ask(&w.one.url, b"http/1.1", "POST", register, name()).await.1, 403);
    let (_, status, node) = certified.ask(&w.one.url, b"http/1.1", "POST", register, name()).await;
    assert_eq!(status, 201, "{node:#}");

    let at = format!("/api/v1/nodes/{}", node["node_id"].as_str().unwrap());
    let headers = vec![("x-sentinel-node-key", node["node_key"].as_str().unwrap().to_string())];
    let bare = Caller { headers: headers.clone(), ..bare };
    let certified = Caller { headers, ..certified };
    for protocol in [&b"h2"[..], b"http/1.1"] {
        for (method, path, body) in [
            ("POST", format!("{at}/heartbeat"), json!({})),
            ("GET", format!("{at}/bundles/latest"), Value::Null),
            ("POST", format!("{at}/token"), json!({})),
        ] {
            let (_, status, said) = bare.ask(&w.one.url, protocol, method, &path, body.clone()).await;
            assert_eq!(status, 403, "the right key alone is not enough: {method} {path} {said:#}");
            let (_, status, said) = certified.ask(&w.one.url, protocol, method, &path, body).await;
            assert_eq!(status, 200, "{method} {path} {said:#}");
        }
    }
    w.stop().await;
}

async fn one_node_that_asks_too_much_is_told_when_to_come_back_and_others_are_not(ground: Ground) {
    let w = World::on(ground, Options { rate_limit_per_node: 12, ..Options::default() }).await;
    let (greedy, modest) = (Hand::register(&w.at, "p", "greedy").await, Hand::register(&w.at, "p", "modest").await);
    let path = format!("/api/v1/nodes/{}/heartbeat", greedy.id);
    let mut refused = None;
    for _ in 0..30 {
        let answer = greedy.http.post(&path, json!({})).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a limit of 12 in a minute");
    is_problem(&refused, 429, None);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    modest.beat(json!({})).await;
    w.end().await;
}
