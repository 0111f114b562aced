//! Download URLs, fetched the way a node does: a plain GET without credentials.

use crate::{Place, key, long, now};
use artifacts::{Error, MAX_URL_TTL, UrlError, UrlParts};
use bytes::Bytes;
use domain::{ContentId, NodeId, ProjectId, Span};
use http_body_util::{BodyExt, Empty};
use hyper::header::{CONTENT_RANGE, HOST, RANGE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

/// Status, `Content-Range` and body.
async fn get(url: &str, range: Option<&str>) -> (StatusCode, Option<String>, Bytes) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let socket = tokio::net::TcpStream::connect(host).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    let running = tokio::spawn(connection);
    let mut request = Request::get(format!("/{path}")).header(HOST, host);
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    let response = send.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let content_range = response.headers().get(CONTENT_RANGE).map(|v| v.to_str().unwrap().to_owned());
    let got = (response.status(), content_range, response.into_body().collect().await.unwrap().to_bytes());
    running.abort();
    got
}

fn bundle(n: u8) -> ContentId {
    ContentId::of(&[n])
}

#[tokio::test]
async fn a_presigned_url_serves_a_plain_get_whole_and_in_ranges() {
    let place = Place::s3().await;
    let bytes = long();
    place.store.put_if_absent(&key(1), bytes.clone(), None).await.unwrap();
    let sign = place.store.download_url(NodeId::NIL, ProjectId::NIL, bundle(1), now(), Span::secs(60));
    let url = sign.await.unwrap();
    assert_eq!(get(&url, None).await, (StatusCode::OK, None, bytes.clone()));
    let (status, content_range, part) = get(&url, Some("bytes=1000-70000")).await;
    assert_eq!((status, part), (StatusCode::PARTIAL_CONTENT, bytes.slice(1000..70_001)));
    assert_eq!(content_range, Some(format!("bytes 1000-70000/{}", bytes.len())));
    assert!(place.store.url_signer().is_none(), "S3 serves it, not we");
}

#[tokio::test]
async fn an_expired_or_changed_presigned_url_is_refused() {
    let place = Place::s3().await;
    for n in [1, 2] {
        place.store.put_if_absent(&key(n), long(), None).await.unwrap();
    }
    let sign =
        |ago: Span| place.store.download_url(NodeId::NIL, ProjectId::NIL, bundle(1), now() - ago, Span::secs(60));
    let (fresh, stale) = (sign(Span::ZERO).await.unwrap(), sign(Span::secs(120)).await.unwrap());
    assert_eq!(get(&fresh, None).await.0, StatusCode::OK, "else the refusals below prove nothing");
    assert_eq!(get(&stale, None).await.0, StatusCode::FORBIDDEN, "expired");
    for (what, changed) in [
        ("another object", fresh.replace(&bundle(1).to_string(), &bundle(2).to_string())),
        ("a longer life", fresh.replace("X-Amz-Expires=60", "X-Amz-Expires=600")),
        ("no signature", fresh.split("&X-Amz-Signature").next().unwrap().to_owned()),
        ("no query", fresh.split('?').next().unwrap().to_owned()),
    ] {
        assert_ne!(changed, fresh, "{what}");
        let status = get(&changed, None).await.0;
        assert!(status.is_client_error(), "{what} was answered {status}");
    }
}

#[tokio::test]
async fn a_url_of_the_directory_store_verifies_and_names_the_object_it_is_for() {
    let place = Place::dir();
    place.store.put_if_absent(&key(1), long(), None).await.unwrap();
    let at = now();
    let sign = |bundle| place.store.download_url(NodeId::NIL, ProjectId::NIL, bundle, at, Span::secs(60));
    let (url, other) = (sign(bundle(1)).await.unwrap(), sign(bundle(2)).await.unwrap());
    let path = url.strip_prefix("http://cp.test").unwrap();
    let signer = place.store.url_signer().unwrap();
    let parts = UrlParts::from_path_and_query(path).unwrap();
    let grant = signer.verify(&parts, at).unwrap();
    let key = artifacts::Key::bundle(grant.project, grant.bundle);
    assert_eq!(place.store.get(&key, 1 << 20).await.unwrap(), long());
    assert_eq!(signer.verify(&parts, at + Span::secs(62)), Err(UrlError::Expired));
    let sig = other.rsplit_once("sig=").unwrap().1;
    assert_eq!(signer.verify(&UrlParts { sig, ..parts }, at), Err(UrlError::BadSignature));
}

#[tokio::test]
async fn no_store_signs_for_ever() {
    for place in &crate::both().await {
        for ttl in [Span::ZERO, MAX_URL_TTL + Span::secs(1)] {
            let url = place.store.download_url(NodeId::NIL, ProjectId::NIL, bundle(1), now(), ttl).await;
            assert!(matches!(url, Err(Error::Invalid(_))), "{} {ttl:?}", place.name);
        }
    }
}
