//! What every request has, and the plain answers.

use domain::RequestId;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use warp::reply::Response;

/// Put beside a request when its head has been read.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub request_id: RequestId,
    /// The client's: the socket's, or what trusted proxies say.
    pub address: IpAddr,
    /// It came with a certificate that our authority signed.
    pub certified: bool,
    pub started: Instant,
}

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// On every answer, unless the answer says otherwise (pages have their own policy).
static SECURITY: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Adds what belongs on every answer; one for a node is complete already.
pub fn finish(headers: &mut HeaderMap, request_id: RequestId, https: bool) {
    if headers.contains_key(REQUEST_ID) {
        return;
    }
    headers.reserve(SECURITY.len() + 2);
    for (name, value) in &SECURITY {
        headers.entry(name).or_insert_with(|| value.clone());
    }
    if https {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HeaderValue::from_static("max-age=31536000"));
    }
    put_request_id(headers, request_id);
}

/// An answer to a node, which is no browser: what those are told costs more than the answer itself.
pub fn for_node(mut response: Response, request_id: RequestId) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    put_request_id(headers, request_id);
    response
}

fn put_request_id(headers: &mut HeaderMap, request_id: RequestId) {
    let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
    let text = request_id.as_uuid().hyphenated().encode_lower(&mut text);
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(REQUEST_ID, value);
    }
}

/// An answer that comes later, in the place of the one that carries it ([`held`]).
#[derive(Clone)]
pub struct Held(Arc<Mutex<Option<BoxFuture<'static, Response>>>>);

impl Held {
    /// What `response` stands for, if it is held.
    pub fn take(response: &mut Response) -> Option<BoxFuture<'static, Response>> {
        if response.extensions().is_empty() {
            return None;
        }
        let Held(later) = response.extensions_mut().remove()?;
        later.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Ends the filters' work at once: the door waits for `later` when they, the request and the buffer that it was read into are
/// gone. A parked poll is kept for a minute, 19,000 at a time.
pub fn held(later: impl Future<Output = Response> + Send + 'static) -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(Held(Arc::new(Mutex::new(Some(Box::pin(later))))));
    response
}

/// JSON that is already text.
pub fn raw_json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => raw_json(status, body),
        // Our own types: maps with text keys and numbers. Not reached; and if it were, no half answer.
        Err(_) => raw_json(StatusCode::INTERNAL_SERVER_ERROR, b"{}".to_vec()),
    }
}

pub fn ok(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}

/// `{"<noun>": {...}}`
pub fn one(status: StatusCode, noun: &str, body: &impl Serialize) -> Response {
    json(status, &serde_json::json!({ noun: body }))
}

/// `{"<noun>": {...}, "changed": ...}`
pub fn changed(noun: &str, body: &impl Serialize, changed: bool) -> Response {
    ok(&serde_json::json!({ noun: body, "changed": changed }))
}

pub fn no_content() -> Response {
    let mut response = Response::new("".into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_answer_gets_the_security_headers_and_may_set_its_own() {
        let mut response = no_content();
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'self'"));
        finish(response.headers_mut(), RequestId::NIL, true);
        let h = response.headers();
        assert_eq!(h["x-content-type-options"], "nosniff");
        assert_eq!(h["cache-control"], "no-store");
        assert_eq!(h["content-security-policy"], "default-src 'self'");
        assert_eq!(h["x-request-id"], "00000000-0000-0000-0000-000000000000");
        assert!(h.contains_key("strict-transport-security"));
    }

    #[test]
    fn an_answer_to_a_node_keeps_its_id_and_is_told_nothing_that_only_a_browser_heeds() {
        let mut response = for_node(no_content(), RequestId::NIL);
        finish(response.headers_mut(), RequestId(uuid::Uuid::from_u128(1)), true);
        let h = response.headers();
        assert_eq!((h.len(), &h["cache-control"]), (2, &HeaderValue::from_static("no-store")));
        assert_eq!(h["x-request-id"], "00000000-0000-0000-0000-000000000000");
    }
}
