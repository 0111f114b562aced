//! The same control plane behind a real socket.

use super::*;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Serialize;
use sim::agent::Identity;
use sim::transport::{Http, HttpOptions, Request, Response};
use sim::wire::CallError;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

#[derive(Default)]
struct Sockets {
    open: AtomicUsize,
    most: AtomicUsize,
}

/// Serves `fake` until the test ends.
async fn serve(fake: Arc<Fake>) -> (SocketAddr, Arc<Sockets>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, sockets) = (listener.local_addr().unwrap(), Arc::new(Sockets::default()));
    let counted = sockets.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (fake, counted) = (fake.clone(), counted.clone());
            tokio::spawn(async move {
                let open = counted.open.fetch_add(1, Ordering::SeqCst) + 1;
                counted.most.fetch_max(open, Ordering::SeqCst);
                let service = service_fn(move |r| route(fake.clone(), r));
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                counted.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (addr, sockets)
}

fn json(value: &impl Serialize) -> (StatusCode, Vec<u8>) {
    (StatusCode::OK, serde_json::to_vec(value).unwrap())
}

async fn route(fake: Arc<Fake>, r: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = r.into_parts();
    let body = body.collect().await?.to_bytes();
    let parts: Vec<&str> = head.uri.path().trim_start_matches("/cp/api/v1/").split('/').collect();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let identity = |id: &str| {
        let key = header("x-sentinel-node-key").unwrap_or_default().into();
        Arc::new(Identity { node: id.parse().unwrap(), key })
    };
    let request = match (&head.method, parts.as_slice()) {
        (&Method::POST, ["projects", project, "nodes", "register"]) => Request::Register {
            project: (*project).into(),
            token: header("authorization").map(|t| t.trim_start_matches("Bearer ").into()),
            body: serde_json::from_slice(&body).unwrap(),
        },
        (&Method::POST, ["nodes", id, "heartbeat"]) => {
            Request::Heartbeat { node: identity(id), body: serde_json::from_slice(&body).unwrap() }
        }
        (&Method::GET, ["nodes", id, "bundles", "latest"]) => {
            let wait = head.uri.query().and_then(|q| q.strip_prefix("wait="));
            Request::Poll { node: identity(id), wait_s: wait.map_or(0, |w| w.parse().unwrap()) }
        }
        (&Method::POST, ["nodes", id, "bundles", bundle, kind]) => {
            let kinds = [Report::Downloaded, Report::Staged, Report::Activated, Report::Verified, Report::Failed];
            Request::Report {
                node: identity(id),
                bundle: Digest::parse(bundle),
                report: kinds.into_iter().find(|r| r.path() == *kind).unwrap(),
                body: serde_json::from_slice(&body).unwrap(),
            }
        }
        _ if head.uri.path().starts_with("/artifacts/") => {
            assert_eq!(header("x-sentinel-node-key"), None, "downloads carry no credential");
            Request::Download { url: head.uri.path().into(), max_bytes: u64::MAX }
        }
        other => panic!("{other:?}"),
    };
    let (status, body) = match fake.handle(request).await {
        Ok(Response::Registered(a)) => json(&a),
        Ok(Response::Heartbeat(a)) => json(&a),
        Ok(Response::Poll(a)) => json(&a),
        Ok(Response::Report(a)) => json(&a),
        Ok(Response::Archive(bytes)) => (StatusCode::OK, bytes.to_vec()),
        Err(CallError::Status { code, error, .. }) => {
            let status = StatusCode::from_u16(code).unwrap();
            (status, serde_json::to_vec(&api::Problem::new(code, "refused", error)).unwrap())
        }
        Err(e) => panic!("{e}"),
    };
    let answer = http::Response::builder().status(status).header("retry-after", "1");
    Ok(answer.body(Full::new(body.into())).unwrap())
}

async fn http_fleet(nodes: u32, options: HttpOptions) -> (Arc<Fake>, Fleet, Arc<Sockets>) {
    let fake = Arc::new(Fake::new());
    let (addr, sockets) = serve(fake.clone()).await;
    let transport = Transport::Http(Http::new(&format!("http://{addr}/cp/"), options).unwrap());
    let fleet = Fleet::start(config(nodes), transport).await.unwrap();
    within(fleet.until_all(|n| n.id.is_some())).await.unwrap();
    (fake, fleet, sockets)
}

#[tokio::test]
async fn a_fleet_over_http_is_woken_by_its_long_polls() {
    let (fake, fleet, _) = http_fleet(50, HttpOptions::default()).await;
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(runs(1))).await.unwrap();
    let report = fleet.stop().await.unwrap();
    assert_eq!((report.count("activated"), report.error_count()), (50, 0), "{:?}", report.errors);
}

#[tokio::test]
async fn http_2_carries_the_fleet_on_a_few_sockets() {
    let options = HttpOptions { max_connections: 300, http2: true };
    let (fake, fleet, sockets) = http_fleet(60, options).await;
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(runs(1))).await.unwrap();
    assert!(sockets.most.load(Ordering::SeqCst) <= 8, "{}", sockets.most.load(Ordering::SeqCst));
    assert_eq!(fleet.stop().await.unwrap().error_count(), 0);
}

#[tokio::test]
async fn a_cap_on_sockets_holds_and_the_polls_beyond_it_are_not_held() {
    let (fake, fleet, sockets) = http_fleet(40, HttpOptions { max_connections: 10, http2: false }).await;
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(runs(1))).await.unwrap();
    let most = sockets.most.load(Ordering::SeqCst);
    assert!(most <= 20, "{most} sockets");
    fleet.stop().await.unwrap();
}

#[tokio::test]
async fn refusals_over_http_keep_their_status_and_their_words() {
    let fake = Arc::new(Fake::new());
    let (addr, _) = serve(fake.clone()).await;
    let http = Http::new(&format!("http://{addr}/cp"), HttpOptions::default()).unwrap();
    let body = Box::new(api::node::RegisterRequest { name: "x".into(), ..Default::default() });
    let request = Request::Register { project: "demo".into(), token: Some("wrong".into()), body };
    let e = Transport::Http(http).send(request).await.unwrap_err();
    let want =
        CallError::Status { code: 401, retry_after: Some(Span::secs(1)), error: "unknown enrolment token".into() };
    assert_eq!(e, want);
}

#[tokio::test]
async fn an_unreachable_control_plane_is_a_connection_error_that_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let http = Http::new(&url, HttpOptions::default()).unwrap();
    let request = Request::Download { url: "/x".into(), max_bytes: 1 };
    let e = Transport::Http(http).send(request).await.unwrap_err();
    assert!(matches!(&e, CallError::Connection(why) if why.contains("refused")), "{e:?}");
}

#[test]
fn only_absolute_http_addresses_are_taken() {
    for bad in ["127.0.0.1:4000", "ftp://x", "/x", "http://"] {
        assert!(Http::new(bad, HttpOptions::default()).is_err(), "{bad}");
    }
}
