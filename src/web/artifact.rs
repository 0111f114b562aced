//! Archives on their way out: by signed URL for nodes, by scope for operators; ranges, ETag, streamed.

use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use artifacts::{ArtifactStore, Asked, Key, UrlError, UrlParts, parse_range};
use bytes::Bytes;
use domain::bundle::BundleStatus;
use domain::node::Standing;
use domain::{ContentId, ProjectId, Scope};
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use warp::reply::{Reply, Response};

/// `GET /artifacts/:project/:file?node=&exp=&sig=`. The signature says who may have what and until when; whether the node and
/// the bundle are still in good standing is read from the database in this very request.
pub async fn signed(call: Call) -> Outcome<Response> {
    let store = call.app.plane.artifacts();
    let Some(signer) = store.url_signer() else {
        return Err(Refusal::not_found("artifacts are served by the object store: path"));
    };
    let (node, exp, sig) = (call.query.text("node"), call.query.text("exp"), call.query.text("sig"));
    let (Some(node), Some(exp), Some(sig)) = (node, exp, sig) else {
        return Err(Refusal::forbidden("this is not a valid artifact URL"));
    };
    let parts = UrlParts { project: call.param("project"), file: call.param("file"), node, exp, sig };
    let grant = signer.verify(&parts, call.app.plane.now()).map_err(|e| match e {
        UrlError::Expired => Refusal::gone("the artifact URL has expired"),
        UrlError::Malformed | UrlError::BadSignature => Refusal::forbidden("this is not a valid artifact URL"),
    })?;
    let rows = call.app.plane.store();
    let scope = Scope::Project(grant.project);
    let node = rows.node(scope, grant.node).await.map_err(|e| no_longer(e, "the node is gone"))?;
    if node.standing != Standing::Adopted {
        return Err(Refusal::forbidden("the node is revoked or not adopted"));
    }
    let wanted = store::BundleRef::Content(grant.bundle);
    let bundle = rows.bundle(scope, grant.project, wanted).await.map_err(|e| no_longer(e, "the bundle is gone"))?;
    match bundle.status {
        BundleStatus::Compiled | BundleStatus::Deprecated => {}
        BundleStatus::Revoked => return Err(Refusal::forbidden("the bundle is revoked")),
        BundleStatus::Compiling | BundleStatus::AwaitingSignature | BundleStatus::Failed => {
            return Err(Refusal::not_found("artifact"));
        }
    }
    send(store, grant.project, grant.bundle, &call.headers).await
}

fn no_longer(e: store::Error, what: &str) -> Refusal {
    match e {
        store::Error::NotFound => Refusal::forbidden(what),
        other => other.into(),
    }
}

/// The archive, or the part of it that the headers ask for.
pub async fn send(
    store: &ArtifactStore,
    project: ProjectId,
    bundle: ContentId,
    headers: &HeaderMap,
) -> Outcome<Response> {
    let key = Key::bundle(project, bundle);
    let head = store.head(&key).await?.ok_or_else(|| Refusal::not_found("artifact"))?;
    // What an archive holds is named by its content id, whichever store it lies in.
    let etag = format!("\"{bundle}\"");
    if unchanged(headers, &etag) {
        return Ok(about(StatusCode::NOT_MODIFIED, Response::new("".into()), &etag, bundle));
    }
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    // If-Range with another tag: the part asked for is of something else.
    let range = if text(header::IF_RANGE).is_none_or(|t| t == etag) { text(header::RANGE) } else { None };
    let (status, range) = match parse_range(range, head.size) {
        Asked::Whole => (StatusCode::OK, None),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
        Asked::Unsatisfiable => return Err(Refusal::range_not_satisfiable(head.size)),
    };
    let object = store.open(&key, range).await?;
    let length = object.range.end - object.range.start;
    let part = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| format!("bytes {}-{}/{}", object.range.start, object.range.end.saturating_sub(1), object.head.size));
    let body = Shared(Mutex::new(object.body));
    let mut response = about(status, warp::reply::stream(body).into_response(), &etag, bundle);
    let out = response.headers_mut();
    out.insert(header::CONTENT_LENGTH, length.into());
    if let Some(value) = part.and_then(|p| HeaderValue::from_str(&p).ok()) {
        out.insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

fn about(status: StatusCode, mut response: Response, etag: &str, bundle: ContentId) -> Response {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Content never changes under its id; but whether it may be had is asked every time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{bundle}.tar.zst\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// Does `If-None-Match` name what we have?
fn unchanged(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == etag)
}

/// warp wants bodies that can be shared between threads; this one is only ever used by one, so the lock is never taken.
pub struct Shared<T>(pub Mutex<BoxStream<'static, T>>);

impl<T> Stream for Shared<T> {
    type Item = T;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.0.get_mut() {
            Ok(stream) => stream.as_mut().poll_next(cx),
            Err(_) => Poll::Ready(None),
        }
    }
}

/// Only so that the type of the stream is checked here and not where it is used.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Shared<artifacts::Result<Bytes>>>();
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tags_are_compared_as_the_rfc_says() {
        let check = |value: &str, expect: bool| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().unwrap())]);
            assert_eq!(unchanged(&headers, "\"abc\""), expect, "{value}");
        };
        check("\"abc\"", true);
        check("W/\"abc\"", true);
        check("\"x\", \"abc\"", true);
        check("*", true);
        check("\"abd\"", false);
        assert!(!unchanged(&HeaderMap::new(), "\"abc\""));
    }
}
