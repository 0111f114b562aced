//! Who is asking: an API key, a person by session cookie, or a node by its key.
//!
//! Invariant: a session cookie alone never writes; it needs the CSRF token that the session was given.

use crate::app::App;
use crate::limit::network_of;
use crate::problem::{Outcome, Refusal};
use actors::command::{Caller, Grant};
use actors::node_api::NodeAuth;
use domain::access::{Actor, Ctx, User};
use domain::{Digest, RequestId};
use http::{HeaderMap, Method, header};
use std::net::IpAddr;
use std::str::FromStr;
use uuid::Uuid;

pub const SESSION_COOKIE: &str = "sentinel_session";
pub const CSRF_HEADER: &str = "x-csrf-token";
pub const NODE_KEY_HEADERS: [&str; 2] = ["x-sentinel-node-key", "x-zentinel-node-key"];
/// No credential of ours has more characters; what is longer is not hashed.
const MAX_CREDENTIAL_CHARS: usize = 512;

/// An operator who was recognised.
#[derive(Clone, Debug)]
pub struct Identity {
    pub caller: Caller,
    /// What its calls are counted by.
    pub counted_as: Uuid,
    /// `key:<id>` or `user:<id>`, for idempotency.
    pub credential: String,
    /// A person, when signed in by cookie.
    pub user: Option<User>,
    pub session_token: Option<String>,
}

/// Recognises an operator. Errors: 401 without or with an unknown credential, 403 for a write without its CSRF token.
pub async fn identify(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    request_id: RequestId,
    address: IpAddr,
) -> Outcome<Identity> {
    let ctx = |actor| Ctx { actor, request_id: Some(request_id), address: Some(address) };
    if let Some(key) = bearer(headers)? {
        let Some((key, every_org)) = app.plane.api_key(key).await? else {
            return Err(Refusal::unauthorized("the API key is unknown, revoked or expired"));
        };
        return Ok(Identity {
            caller: Caller {
                ctx: ctx(Actor::ApiKey(key.id)),
                user: key.created_by,
                instance_admin: every_org,
                grant: Grant::Key { org: key.org, project: key.project, scopes: key.scopes, every_org },
                idempotency: None,
            },
            counted_as: key.id.as_uuid(),
            credential: format!("key:{}", key.id),
            user: None,
            session_token: None,
        });
    }
    let Some(token) = cookie(headers, SESSION_COOKIE) else {
        return Err(Refusal::unauthorized("sign in, or send an API key as Authorization: Bearer"));
    };
    let session = if token.len() <= MAX_CREDENTIAL_CHARS { app.plane.session(token).await? } else { None };
    let Some(session) = session else {
        return Err(Refusal::unauthorized("the session has ended: sign in again"));
    };
    if !is_safe(method) && !csrf_holds(headers, &session.csrf_hash) {
        return Err(Refusal::forbidden("the X-CSRF-Token header is missing or wrong"));
    }
    Ok(Identity {
        caller: Caller {
            ctx: ctx(Actor::User(session.user.id)),
            user: Some(session.user.id),
            instance_admin: session.user.instance_admin,
            grant: Grant::Roles(session.roles),
            idempotency: None,
        },
        counted_as: session.user.id.as_uuid(),
        credential: format!("user:{}", session.user.id),
        user: Some(session.user),
        session_token: Some(token.to_string()),
    })
}

/// A refused credential counts against the address it came from: guessing is slowed, good keys from there are not touched.
pub fn count_stranger(app: &App, address: IpAddr, refusal: Refusal) -> Refusal {
    if refusal.problem.status != 401 {
        return refusal;
    }
    match app.anonymous.take(network_of(address), app.plane.now()) {
        Ok(_) => refusal,
        Err(wait) => Refusal::too_many("too many requests without a valid credential", wait.0),
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn csrf_holds(headers: &HeaderMap, expect: &Digest) -> bool {
    // Hashes are compared, so the time of the comparison tells nothing about the token.
    headers.get(CSRF_HEADER).is_some_and(|t| t.len() <= MAX_CREDENTIAL_CHARS && Digest::of(t.as_bytes()) == *expect)
}

/// The token of `Authorization: Bearer`. Errors: 401 for another scheme or nonsense.
pub fn bearer(headers: &HeaderMap) -> Outcome<Option<&str>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let bad = || Refusal::unauthorized("Authorization must be: Bearer <key>");
    let text = value.to_str().map_err(|_| bad())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(bad)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MAX_CREDENTIAL_CHARS {
        return Err(bad());
    }
    Ok(Some(token))
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(';')).find_map(|pair| {
        let (n, value) = pair.trim().split_once('=')?;
        (n == name).then_some(value.trim_matches('"'))
    })
}

/// The SHA-256 of a node key, taken from its header without copying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeKey(pub Digest);

impl FromStr for NodeKey {
    type Err = ();
    fn from_str(s: &str) -> Result<NodeKey, ()> {
        if s.is_empty() || s.len() > MAX_CREDENTIAL_CHARS { Err(()) } else { Ok(NodeKey(Digest::of(s.as_bytes()))) }
    }
}

/// The node key of either header.
pub fn node_key(headers: &HeaderMap) -> Option<NodeKey> {
    NODE_KEY_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok()?.parse().ok())
}

/// Recognises a node. Errors: 401.
pub async fn node(app: &App, key: Option<NodeKey>) -> Outcome<NodeAuth> {
    let Some(NodeKey(hash)) = key else {
        return Err(Refusal::unauthorized("the X-Sentinel-Node-Key header is missing"));
    };
    let auth = app.plane.node_auth(&hash).await?;
    auth.ok_or_else(|| Refusal::unauthorized("the node key is unknown or revoked"))
}

/// The node of the path must be the one of the credential.
pub fn same_node(auth: &NodeAuth, named: domain::NodeId) -> Outcome<()> {
    if auth.node == named { Ok(()) } else { Err(Refusal::forbidden("the credential belongs to another node")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (n, v) in pairs {
            h.append(*n, v.parse().unwrap());
        }
        h
    }

    #[test]
    fn the_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc")])).unwrap(), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer  abc ")])).unwrap(), Some("abc"));
        assert_eq!(bearer(&headers(&[])).unwrap(), None);
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(&headers(&[("authorization", bad)])).unwrap_err().problem.status, 401, "{bad}");
        }
        let long = format!("Bearer {}", "a".repeat(MAX_CREDENTIAL_CHARS + 1));
        assert!(bearer(&headers(&[("authorization", &long)])).is_err());
    }

    #[test]
    fn cookies_are_found_among_others() {
        let h = headers(&[("cookie", "a=1; sentinel_session=tok"), ("cookie", "b=2")]);
        assert_eq!(cookie(&h, SESSION_COOKIE), Some("tok"));
        assert_eq!(cookie(&h, "b"), Some("2"));
        assert_eq!(cookie(&h, "c"), None);
        assert_eq!(cookie(&headers(&[("cookie", "xsentinel_session=no")]), SESSION_COOKIE), None);
    }

    #[test]
    fn both_node_key_headers_are_read() {
        let expect = Some(NodeKey(Digest::of(b"k")));
        assert_eq!(node_key(&headers(&[("x-sentinel-node-key", "k")])), expect);
        assert_eq!(node_key(&headers(&[("x-zentinel-node-key", "k")])), expect);
        assert_eq!(node_key(&headers(&[("x-sentinel-node-key", "")])), None);
    }

    #[test]
    fn a_csrf_token_must_be_the_one_of_the_session() {
        let hash = Digest::of(b"right");
        assert!(csrf_holds(&headers(&[(CSRF_HEADER, "right")]), &hash));
        assert!(!csrf_holds(&headers(&[(CSRF_HEADER, "wrong")]), &hash));
        assert!(!csrf_holds(&headers(&[]), &hash));
        assert!(is_safe(&Method::GET) && !is_safe(&Method::POST) && !is_safe(&Method::DELETE));
    }
}
