//! The three static files, and the policy that lets pages use nothing else.

use crate::problem::{Outcome, Refusal};
use domain::Digest;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::sync::LazyLock;
use warp::reply::Response;

/// Own style, own script, own answers; no inline anything, no frames, no other site.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                          form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 3] = [
    ("app.css", "text/css; charset=utf-8", include_str!("static/app.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("static/app.js")),
    ("icon.svg", "image/svg+xml", include_str!("static/icon.svg")),
];

/// Digits of a version: 48 bits, for files that change with the program.
const VERSION_DIGITS: usize = 12;

/// Changes with the content of any file.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let all: String = FILES.iter().map(|(_, _, text)| *text).collect();
        Digest::of(all.as_bytes()).to_string().chars().take(VERSION_DIGITS).collect()
    });
    VERSION.as_str()
}

/// A file. Asked for with its version it may be kept for ever, else it is asked for again.
pub fn file(name: &str, query: &str, headers: &HeaderMap) -> Outcome<Response> {
    let found = FILES.iter().find(|(n, _, _)| *n == name);
    let (_, kind, text) = found.ok_or_else(|| Refusal::not_found("There is no such file."))?;
    let tag = format!("\"{}\"", version());
    let unchanged = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if unchanged { Response::new("".into()) } else { Response::new((*text).into()) };
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, tag);
    }
    let keep = match query.strip_prefix("v=") {
        Some(v) if v == version() => "public, max-age=31536000, immutable",
        _ => "no-cache",
    };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    Ok(response)
}
