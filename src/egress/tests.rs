#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers every connection with the same bytes, and counts them.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn saying(answer: impl Into<Vec<u8>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections, answer) =
            (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default(), answer.into());
        let count = connections.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut head = [0u8; 2048];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Server { address, connections }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn inside() -> Policy {
    Policy { allow: vec!["127.0.0.0/8".parse().unwrap()], own: Vec::new() }
}

fn egress(policy: Policy) -> Egress {
    Egress::trusting(policy, rustls::RootCertStore::empty())
}

async fn get(egress: &Egress, url: &str) -> Result<Answer, EgressError> {
    egress.send(Ask::get(url, PATIENCE)).await
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nhealthy";

#[tokio::test]
async fn a_probe_says_match_or_no_match_and_nothing_more() {
    let server = Server::saying(FINE).await;
    let egress = egress(inside());
    let expect = |status, text: Option<&str>| Expect { status, body_contains: text.map(Into::into) };
    for (wanted, matches) in [
        (expect(200, None), true),
        (expect(200, Some("health")), true),
        (expect(200, Some("sick")), false),
        (expect(204, None), false),
    ] {
        let found = egress.probe(Ask::get(server.url("/health"), PATIENCE), &wanted).await.unwrap();
        assert_eq!(found, matches, "{wanted:?}");
    }
}

#[tokio::test]
async fn tries_to_get_around_the_check_never_connect() {
    let server = Server::saying(FINE).await;
    let port = server.address.port();
    let egress = egress(Policy::default());
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[::127.0.0.1]",
        "[2002:7f00:1::]",
    ] {
        let refused = get(&egress, &format!("http://{host}:{port}/")).await.unwrap_err();
        // A spelling that the system does not resolve is as good as forbidden.
        assert!(
            matches!(refused, EgressError::Forbidden | EgressError::Resolve | EgressError::Url(_)),
            "{host}: {refused}"
        );
    }
    assert_eq!(server.asked(), 0);
    assert!(!EgressError::Forbidden.to_string().contains("127"), "the refusal does not say what is where");
}

#[tokio::test]
async fn one_forbidden_address_forbids_the_name() {
    let server = Server::saying(FINE).await;
    let inner = server.address;
    let mut egress = egress(Policy::default());
    egress.resolver = Resolver::Scripted(Arc::new(move |_, _| vec!["1.1.1.1:80".parse().unwrap(), inner]));
    assert!(matches!(get(&egress, "http://both.example/").await, Err(EgressError::Forbidden)));
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_looked_up_once() {
    let (good, bad) = (Server::saying(FINE).await, Server::saying(FINE).await);
    let (first, second, looks) = (good.address, bad.address, Arc::<AtomicUsize>::default());
    let count = looks.clone();
    let mut egress = egress(inside());
    egress.resolver = Resolver::Scripted(Arc::new(move |_, _| {
        vec![if count.fetch_add(1, Ordering::SeqCst) == 0 { first } else { second }]
    }));
    assert_eq!(get(&egress, "http://rebinding.example/").await.unwrap().status, 200);
    assert_eq!((looks.load(Ordering::SeqCst), good.asked(), bad.asked()), (1, 1, 0));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let inner = Server::saying(FINE).await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", inner.url("/secret"));
    let server = Server::saying(answer).await;
    let answer = get(&egress(inside()), &server.url("/")).await.unwrap();
    assert_eq!((answer.status.as_u16(), server.asked(), inner.asked()), (302, 1, 0));
}

#[tokio::test]
async fn our_own_listeners_are_not_reached_even_where_their_network_is_allowed() {
    let server = Server::saying(FINE).await;
    let own = Policy { own: vec![server.address], ..inside() };
    assert!(matches!(get(&egress(own), &server.url("/")).await, Err(EgressError::Forbidden)));
    let everywhere = Policy { own: everywhere(server.address.port()).to_vec(), ..inside() };
    assert!(matches!(get(&egress(everywhere), &server.url("/")).await, Err(EgressError::Forbidden)));
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    long.extend(std::iter::repeat_n(b'x', 3 * MAX_BODY));
    long.extend(b"needle");
    let server = Server::saying(long).await;
    let egress = egress(inside());
    let answer = get(&egress, &server.url("/")).await.unwrap();
    assert_eq!((answer.body.len(), answer.cut), (MAX_BODY, true));
    let needle = Expect { status: 200, body_contains: Some("needle".into()) };
    assert!(!egress.probe(Ask::get(server.url("/"), PATIENCE), &needle).await.unwrap());
    let mut head = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
    head.extend(std::iter::repeat_n(b'x', 4 * MAX_HEAD));
    let server = Server::saying(head).await;
    assert!(matches!(get(&egress, &server.url("/")).await, Err(EgressError::Http(_))));
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_timeout_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = egress(inside()).send(Ask::get(url, Duration::from_millis(50))).await;
    assert!(matches!(asked, Err(EgressError::Timeout)));
}

#[tokio::test]
async fn a_certificate_must_be_of_the_host_and_of_a_trusted_root() {
    let made = rcgen::generate_simple_self_signed(["good.example".to_string()]).unwrap();
    let (cert, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], rustls::pki_types::PrivateKeyDer::try_from(key).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut head = [0u8; 2048];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(FINE.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let mut trusting = Egress::trusting(inside(), roots);
    trusting.resolver = Resolver::Scripted(Arc::new(move |_, _| vec![address]));
    assert_eq!(get(&trusting, "https://good.example/").await.unwrap().status, 200);
    assert!(matches!(get(&trusting, "https://other.example/").await, Err(EgressError::Tls(_))));
    let mut strange = egress(inside());
    strange.resolver = trusting.resolver.clone();
    assert!(matches!(get(&strange, "https://good.example/").await, Err(EgressError::Tls(_))));
}
