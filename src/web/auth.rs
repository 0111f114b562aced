//! Who is asking: an API key, a person by session cookie, or a node by its key.
//!
//! Invariant: a session cookie alone never writes; it needs the CSRF token that the session was given.

use crate::app::App;
use crate::limit::network_of;
use crate::problem::{Outcome, Refusal};
use crate::reply::Meta;
use crate::routes::Route;
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
const MAX_CREDENTIAL_CHARS: usize = actors::tokens::MAX_CHARS;

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
        let Some((key, every_org)) = app.plane.api_key(key, Some((request_id, address))).await? else {
            return Err(Refusal::unauthorized("the API key is unknown, revoked or expired"));
        };
        return Ok(Identity {
            caller: Caller {
                ctx: ctx(Actor::ApiKey(key.id)),
                user: key.created_by,
                instance_admin: every_org,
                grant: Grant::Key {
                    org: key.org,
                    project: key.project,
                    scopes: key.scopes,
                    every_org,
                    expires_at: key.expires_at,
                },
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
    counted(app, address, refusal, 401)
}

/// The same where the credential is a link, and a wrong one is not found.
pub fn count_miss(app: &App, address: IpAddr, refusal: Refusal) -> Refusal {
    counted(app, address, refusal, 404)
}

fn counted(app: &App, address: IpAddr, refusal: Refusal, status: u16) -> Refusal {
    if refusal.problem.status != status {
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

/// What a node proves itself with, taken from its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeCredential {
    /// SHA-256 of the key: it is looked up by this, and not copied.
    Key(Digest),
    Token(Box<str>),
}

/// The value of a node-key header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeKey(pub Digest);

impl FromStr for NodeKey {
    type Err = ();
    fn from_str(s: &str) -> Result<NodeKey, ()> {
        if s.is_empty() || s.len() > MAX_CREDENTIAL_CHARS { Err(()) } else { Ok(NodeKey(Digest::of(s.as_bytes()))) }
    }
}

/// The value of `Authorization` where it may be a node's token; `None` for any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeToken(pub Option<Box<str>>);

impl FromStr for NodeToken {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<NodeToken, Self::Err> {
        let token =
            s.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, t)| t.trim());
        Ok(NodeToken(token.filter(|t| !t.is_empty() && t.len() <= MAX_CREDENTIAL_CHARS).map(Into::into)))
    }
}

/// The key of either header, else the token.
pub fn node_credential(headers: &HeaderMap) -> Option<NodeCredential> {
    fn read<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
        headers.get(name)?.to_str().ok()?.parse().ok()
    }
    let key = NODE_KEY_HEADERS.iter().find_map(|name| read::<NodeKey>(headers, name));
    either(key, read::<NodeToken>(headers, header::AUTHORIZATION.as_str()))
}

/// A key is preferred: it is the stronger of the two.
pub fn either(key: Option<NodeKey>, token: Option<NodeToken>) -> Option<NodeCredential> {
    match (key, token) {
        (Some(NodeKey(hash)), _) => Some(NodeCredential::Key(hash)),
        (None, Some(NodeToken(Some(token)))) => Some(NodeCredential::Token(token)),
        (None, _) => None,
    }
}

/// Recognises a node and counts its call. Errors: 401, 403 without the certificate that is asked for, 429.
pub async fn node(app: &App, meta: Meta, credential: Option<NodeCredential>) -> Outcome<NodeAuth> {
    certified(app, meta)?;
    let found = recognised(app, credential).await.map_err(|r| count_stranger(app, meta.address, r))?;
    match app.nodes.take(found.node.as_uuid(), app.plane.now()) {
        Ok(_) => Ok(found),
        Err(wait) => Err(Refusal::too_many("too many requests of this node", wait.0)),
    }
}

/// Where there is an authority for clients, a node comes with a certificate of it, beside its key.
pub fn certified(app: &App, meta: Meta) -> Outcome<()> {
    match app.settings.nodes_need_certificates && !meta.certified {
        true => Err(Refusal::forbidden("a client certificate is needed")),
        false => Ok(()),
    }
}

async fn recognised(app: &App, credential: Option<NodeCredential>) -> Outcome<NodeAuth> {
    let (auth, what) = match credential {
        None => return Err(Refusal::unauthorized("the X-Sentinel-Node-Key header is missing, and so is a node token")),
        Some(NodeCredential::Key(hash)) => (app.plane.node_auth(&hash).await?, "the node key is unknown or revoked"),
        Some(NodeCredential::Token(token)) => {
            (app.plane.node_auth_by_token(&token).await?, "the node token is not valid, or not any more")
        }
    };
    auth.ok_or_else(|| Refusal::unauthorized(what))
}

/// The node of the path must be the one of the credential. Who tries another's is noted.
pub async fn same_node(app: &App, meta: Meta, auth: &NodeAuth, named: domain::NodeId, route: &Route) -> Outcome<()> {
    if auth.node == named {
        return Ok(());
    }
    let ctx = Ctx { actor: Actor::Node(auth.node), request_id: Some(meta.request_id), address: Some(meta.address) };
    Box::pin(app.plane.note_refusal(&ctx, route.method.name(), route.path)).await;
    Err(Refusal::forbidden("the credential belongs to another node"))
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
    fn a_node_comes_with_a_key_in_either_header_or_with_a_token() {
        let key = Some(NodeCredential::Key(Digest::of(b"k")));
        assert_eq!(node_credential(&headers(&[("x-sentinel-node-key", "k")])), key);
        assert_eq!(node_credential(&headers(&[("x-zentinel-node-key", "k")])), key);
        assert_eq!(node_credential(&headers(&[("x-sentinel-node-key", ""), ("authorization", "Basic x")])), None);
        let token = Some(NodeCredential::Token("a.b.c".into()));
        assert_eq!(node_credential(&headers(&[("authorization", "bearer a.b.c")])), token);
        let both = headers(&[("authorization", "Bearer a.b.c"), ("x-sentinel-node-key", "k")]);
        assert_eq!(node_credential(&both), key, "the key is preferred");
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
