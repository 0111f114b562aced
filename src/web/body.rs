//! Reading bodies: bytes are counted while they come, JSON is told from nonsense, and a wrong field is named.

use crate::problem::{Outcome, Refusal};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::str::FromStr;
use std::time::Duration;

/// Longest name of a field that is repeated to the client.
const MAX_FIELD_CHARS: usize = 100;

/// Most bytes of a body whose sender is not known: to sign in, to register, to accept an invitation.
pub const MAX_OPEN: usize = 64 * 1024;
/// A body that is not here by then is given up: 4 MiB at 140 KB a second. Without this whoever stalls holds memory for ever.
const WITHIN: Duration = Duration::from_secs(30);

/// Of a body that is too long so many more bytes are read and thrown away, for at most [`LINGER`]: a connection that is closed on
/// bytes nobody read is reset, and whoever still writes would hear of that and not of the 413.
const DISCARDED: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// The whole body, 408 when it takes longer than [`WITHIN`].
pub async fn read<B: Buf, E>(stream: impl Stream<Item = Result<B, E>>, limit: usize) -> Outcome<Bytes> {
    let mut stream = std::pin::pin!(stream);
    let gathered = tokio::time::timeout(WITHIN, gather(&mut stream, limit)).await;
    if let Some(body) = gathered.unwrap_or_else(|_| Err(Refusal::too_slow()))? {
        return Ok(body);
    }
    // Whether it ends in time or not: the answer is the same.
    let _ = tokio::time::timeout(LINGER, discard(&mut stream)).await;
    Err(Refusal::too_large(limit))
}

async fn discard<B: Buf, E>(stream: &mut (impl Stream<Item = Result<B, E>> + Unpin)) {
    let mut size = 0usize;
    while size <= DISCARDED
        && let Some(Ok(piece)) = stream.next().await
    {
        size = size.saturating_add(piece.remaining());
    }
}

/// Chunked bodies are counted like others; `None` as soon as it is longer than `limit` bytes.
async fn gather<B: Buf, E>(
    stream: &mut (impl Stream<Item = Result<B, E>> + Unpin),
    limit: usize,
) -> Outcome<Option<Bytes>> {
    let mut first: Option<Bytes> = None;
    let mut all: Option<BytesMut> = None;
    let mut size = 0usize;
    while let Some(piece) = stream.next().await {
        let mut piece = piece.map_err(|_| Refusal::bad_request("the body ended before its time"))?;
        size = size.saturating_add(piece.remaining());
        if size > limit {
            return Ok(None);
        }
        // Nearly every body comes in one piece, which is kept as it is.
        let piece = piece.copy_to_bytes(piece.remaining());
        match (&mut all, first.take()) {
            (Some(all), _) => all.extend_from_slice(&piece),
            (None, None) => first = Some(piece),
            (None, Some(before)) => {
                let mut joined = BytesMut::with_capacity((size * 2).min(limit));
                joined.extend_from_slice(&before);
                joined.extend_from_slice(&piece);
                all = Some(joined);
            }
        }
    }
    Ok(Some(all.map(BytesMut::freeze).or(first).unwrap_or_default()))
}

/// Parses an object. 400: not JSON. 422: a field has the wrong type, is missing or unknown.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Outcome<T> {
    let start = body.iter().find(|b| !b.is_ascii_whitespace());
    match start {
        None => return Err(Refusal::bad_request("a JSON body is needed")),
        Some(b'{') => {}
        Some(_) => {
            return Err(match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
                Ok(_) => Refusal::invalid("body", "must be a JSON object"),
                Err(e) => Refusal::bad_request(format!("the body is not JSON: {e}")),
            });
        }
    }
    if has_nul(body) {
        return Err(Refusal::invalid("body", "text must not have NUL characters"));
    }
    // The names of fields are only looked for when there is something wrong.
    serde_json::from_slice(body).map_err(|e| explain::<T>(body, &e))
}

/// As [`json`], where no body means an object without fields.
pub fn json_or_empty<T: DeserializeOwned>(body: &[u8]) -> Outcome<T> {
    if body.iter().all(u8::is_ascii_whitespace) { json(b"{}") } else { json(body) }
}

/// As [`json`], where a bare list means an object with that list under `field`.
pub fn json_or_list<T: DeserializeOwned>(body: &[u8], field: &str) -> Outcome<T> {
    match body.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => json(&[b"{\"", field.as_bytes(), b"\":", body, b"}"].concat()),
        Some(_) | None => json(body),
    }
}

#[cold]
fn explain<T: DeserializeOwned>(body: &[u8], first: &serde_json::Error) -> Refusal {
    if first.classify() != Category::Data {
        return Refusal::bad_request(format!("the body is not JSON: {first}"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Err(e) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return Refusal::bad_request(format!("the body is not JSON: {first}"));
    };
    let text = e.inner().to_string();
    let text = text.split(" at line ").next().unwrap_or("is wrong").to_string();
    let path = e.path().to_string();
    let path = if path == "." { String::new() } else { path };
    let join = |name: &str| match path.as_str() {
        "" => name.to_string(),
        p if p == name || p.ends_with(&format!(".{name}")) => p.to_string(),
        p => format!("{p}.{name}"),
    };
    let quoted = |prefix: &str| text.strip_prefix(prefix).and_then(|t| t.split('`').next());
    let (field, message) = if let Some(name) = quoted("unknown field `") {
        (join(name), "is not a known field".to_string())
    } else if let Some(name) = quoted("missing field `") {
        (join(name), "is required".to_string())
    } else if let Some(name) = quoted("duplicate field `") {
        (join(name), "is given twice".to_string())
    } else {
        (if path.is_empty() { "body".to_string() } else { path.clone() }, text.clone())
    };
    Refusal::invalid(&field.chars().take(MAX_FIELD_CHARS).collect::<String>(), message)
}

/// Is there an escaped NUL (`\u0000`)? A text column of PostgreSQL cannot hold one.
fn has_nul(body: &[u8]) -> bool {
    if !body.contains(&b'\\') {
        return false;
    }
    let mut rest = body;
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        if rest[at + 1..].starts_with(b"u0000") {
            return true;
        }
        // The escaped character itself may be a backslash: skip both.
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    false
}

/// May a body of this content type be JSON? None given counts as JSON.
pub fn is_json(content_type: Option<&http::HeaderValue>) -> bool {
    let Some(value) = content_type else { return true };
    value.to_str().is_ok_and(|text| text.parse::<Json>().is_ok())
}

/// The value of a `Content-Type` that may be JSON.
pub struct Json;

impl FromStr for Json {
    type Err = ();
    fn from_str(text: &str) -> Result<Json, ()> {
        let kind = text.split(';').next().unwrap_or("").trim();
        // Of every heartbeat: without a copy of the text.
        if kind.eq_ignore_ascii_case("application/json") {
            return Ok(Json);
        }
        let kind = kind.to_ascii_lowercase();
        if kind.starts_with("application/") && kind.ends_with("+json") { Ok(Json) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use api::project::{EnrolmentTokenRequest, ProjectRequest};
    use api::rollout::RolloutRequest;

    fn refused<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> (u16, Vec<String>) {
        let r = json::<T>(body.as_bytes()).unwrap_err();
        (r.problem.status, r.problem.errors.into_keys().collect())
    }

    #[test]
    fn text_that_is_not_json_is_400() {
        for body in ["", "  ", "{", "nonsense", "{\"name\": }", "{\"name\":\"a\"} x", "[1,", "\u{fffd}"] {
            assert_eq!(refused::<ProjectRequest>(body).0, 400, "{body:?}");
        }
        let deep = format!("{{\"settings\":{}{}}}", "[".repeat(300), "]".repeat(300));
        assert_eq!(refused::<ProjectRequest>(&deep).0, 400);
    }

    #[test]
    fn a_wrong_type_is_422_and_names_the_field() {
        let check =
            |body: &str, field: &str| assert_eq!(refused::<ProjectRequest>(body), (422, vec![field.into()]), "{body}");
        check(r#"{"name": 5}"#, "name");
        check(r#"{"name": "a", "slug": {}}"#, "slug");
        check(r#"{"name": "a", "settings": 7}"#, "settings");
        check(r#"{"name": "a", "settings": []}"#, "settings");
        check(r#"{"name": "a", "settings": {"strict_config": "yes"}}"#, "settings");
        check(r#"{"name": "a", "org_id": "not-an-id"}"#, "org_id");
        check("[]", "body");
        check("null", "body");
        check("\"x\"", "body");
    }

    #[test]
    fn unknown_missing_and_doubled_fields_are_named() {
        assert_eq!(refused::<ProjectRequest>(r#"{"name":"a","colour":"red"}"#), (422, vec!["colour".into()]));
        assert_eq!(refused::<ProjectRequest>("{}"), (422, vec!["name".into()]));
        assert_eq!(refused::<ProjectRequest>(r#"{"name":"a","name":"b"}"#), (422, vec!["name".into()]));
        assert_eq!(
            refused::<EnrolmentTokenRequest>(r#"{"name":"a","labels":{"env":1}}"#),
            (422, vec!["labels.env".into()])
        );
        assert_eq!(refused::<EnrolmentTokenRequest>(r#"{"name":"a","max_uses":-1}"#), (422, vec!["max_uses".into()]));
        assert_eq!(refused::<RolloutRequest>(r#"{"batch_size":"150%"}"#), (422, vec!["batch_size".into()]));
        assert_eq!(refused::<RolloutRequest>(r#"{"strategy":"sideways"}"#), (422, vec!["strategy".into()]));
        assert_eq!(refused::<RolloutRequest>(r#"{"scheduled_at":"soon"}"#), (422, vec!["scheduled_at".into()]));
    }

    #[test]
    fn an_escaped_nul_is_refused_and_an_escaped_backslash_is_not_one() {
        assert_eq!(refused::<ProjectRequest>(r#"{"name":"a\u0000b"}"#).0, 422);
        assert_eq!(refused::<ProjectRequest>(r#"{"name":"a\\\u0000b"}"#).0, 422);
        assert_eq!(json::<ProjectRequest>(br#"{"name":"a\\u0000b"}"#).unwrap().name, "a\\u0000b");
    }

    #[test]
    fn no_body_is_an_empty_object_where_that_is_allowed() {
        assert!(json_or_empty::<RolloutRequest>(b" \n").is_ok());
        assert!(json_or_empty::<RolloutRequest>(b"[]").is_err());
    }

    #[tokio::test]
    async fn bytes_are_counted_while_they_come() {
        let pieces =
            |n: usize| futures_util::stream::iter((0..n).map(|_| Ok::<_, ()>(Bytes::from_static(b"0123456789"))));
        assert_eq!(read(pieces(3), 30).await.unwrap().len(), 30);
        assert_eq!(read(pieces(0), 30).await.unwrap().len(), 0);
        assert_eq!(read(pieces(4), 30).await.unwrap_err().problem.status, 413);
        let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"ab")), Err(())]);
        assert_eq!(read(broken, 30).await.unwrap_err().problem.status, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let begun = futures_util::stream::iter([Ok::<_, ()>(Bytes::from_static(b"{"))]);
        let stalled = begun.chain(futures_util::stream::pending());
        let refused = tokio::time::timeout(Duration::from_secs(60), read(stalled, 30)).await;
        assert_eq!(refused.unwrap().unwrap_err().problem.status, 408);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_long_is_read_on_for_a_while_before_it_is_refused() {
        const PIECE: usize = 64 * 1024;
        let taken = std::cell::Cell::new(0);
        let pieces = |n: usize| {
            taken.set(0);
            futures_util::stream::iter(0..n).map(|_| {
                taken.set(taken.get() + PIECE);
                Ok::<_, ()>(Bytes::from(vec![b'x'; PIECE]))
            })
        };
        assert_eq!(read(pieces(5), PIECE).await.unwrap_err().problem.status, 413);
        assert_eq!(taken.get(), 5 * PIECE, "to its end");
        assert_eq!(read(pieces(1_000), PIECE).await.unwrap_err().problem.status, 413);
        assert!((DISCARDED..DISCARDED + 4 * PIECE).contains(&taken.get()), "{}", taken.get());
        let stalled = pieces(2).chain(futures_util::stream::pending());
        let refused = tokio::time::timeout(LINGER * 2, read(stalled, PIECE)).await;
        assert_eq!(refused.unwrap().unwrap_err().problem.status, 413);
    }

    #[test]
    fn only_json_content_types_are_taken() {
        let v = |s: &'static str| http::HeaderValue::from_static(s);
        assert!(
            is_json(None)
                && is_json(Some(&v("application/json; charset=utf-8")))
                && is_json(Some(&v("application/merge-patch+json")))
        );
        assert!(!is_json(Some(&v("text/plain"))) && !is_json(Some(&v("application/x-www-form-urlencoded"))));
    }
}
