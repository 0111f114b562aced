//! What nodes prove themselves with: tokens minted for their keys, and keys that are changed while they work.
//!
//! Owns: the keys that sign tokens, in memory. Rebuilt from: `token_keys`. A key that cannot be unsealed (the master key was
//! changed) is replaced by a new one. What it signed until then is still believed until it expires, because its public half is in
//! clear; what it signs later is not: whoever has the old master key may have it.

use super::write::*;
use crate::command::*;
use crate::node_api::{KeyAge, NodeAuth};
use crate::plane::ControlPlane;
use crate::tokens::{self, Claims, Unverified};
use ::bundle::keys::{MasterKey, PublicKey};
use dashmap::DashMap;
use domain::node::Standing;
use domain::*;
use ed25519_dalek::SigningKey;
use serde_json::json;
use std::sync::Arc;
use store::{ChangeKind, NewChange, PreviousKey, TokenKey, Write};

/// How long a key that a node changed itself stays good at most, should the answer with the new one never arrive.
const OWN_GRACE: Span = Span::secs(24 * 3600);
/// The longest that an operator may let an old key live.
pub const MAX_GRACE: Span = Span::secs(7 * 24 * 3600);

/// For how long an instance signs with a key, and believes one, before it looks whether there is a newer one.
const LOOK_AGAIN: Span = Span::secs(60);
/// For how long after its successor was made a key may still have signed: another instance did not know yet, and clocks differ.
const OVERLAP: Span = Span::secs(300);

/// Keys that sign tokens, as far as they were needed, each with when it was looked up.
#[derive(Default)]
pub(crate) struct TokenKeys {
    signing: DashMap<OrgId, (Timestamp, Arc<(String, SigningKey)>)>,
    /// Only keys that exist: a made-up `kid` costs a read and leaves nothing.
    public: DashMap<String, (Timestamp, Believed)>,
}

#[derive(Clone, Copy)]
struct Believed {
    org: OrgId,
    public: PublicKey,
    /// Tokens that it signed later are not.
    until: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct NodeToken {
    pub token: String,
    pub expires_at: Timestamp,
    /// Seconds until then.
    pub expires_in: i64,
}

/// A node's new key, shown once.
#[derive(Clone, Debug)]
pub struct NewNodeKey {
    pub key: String,
    /// The one before works until the new one is used, and at most until then.
    pub previous_until: Timestamp,
}

impl ControlPlane {
    /// For a node that proved itself with its key: a token mints no token, which `web` sees to.
    pub async fn mint_node_token(&self, auth: NodeAuth) -> CommandResult<NodeToken> {
        let key = self.token_key_of(auth.org).await?;
        let mut claims = Claims::new(auth.node, auth.org, auth.epoch, self.now());
        if let KeyAge::Previous { until, .. } = auth.key {
            // It does not outlive the key that it was given for.
            claims = claims.ending_by(until);
        }
        Ok(NodeToken {
            token: tokens::sign(&key.1, &key.0, &claims),
            expires_at: claims.expires_at(),
            expires_in: claims.exp - claims.iat,
        })
    }

    /// `None`: not believed, whatever the reason, which is logged.
    pub async fn node_auth_by_token(&self, token: &str) -> CommandResult<Option<NodeAuth>> {
        let hash = secret_hash(token);
        let sessions = &self.inner.sessions;
        if let Some(auth) = sessions.recall(&hash, || self.now()) {
            return Ok(Some(auth));
        }
        let seen = sessions.forgotten();
        let Some(claims) = self.believed(token).await? else { return Ok(None) };
        let found = match self.inner.store.node_credential_of(claims.sub).await {
            Ok(found) => found,
            Err(store::Error::NotFound) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if found.standing == Standing::Revoked || found.org != claims.org || found.epoch != claims.kv {
            return Ok(None);
        }
        let auth = NodeAuth {
            node: found.node,
            project: found.project,
            org: found.org,
            epoch: found.epoch,
            key: KeyAge::Present,
        };
        sessions.remember(hash, auth, claims.expires_at(), seen);
        Ok(Some(auth))
    }

    async fn believed(&self, token: &str) -> CommandResult<Option<Claims>> {
        let refused = |why: &tokens::TokenError| tracing::debug!(%why, "a node token is refused");
        let unverified = match Unverified::parse(token).inspect_err(refused) {
            Ok(unverified) => unverified,
            Err(_) => return Ok(None),
        };
        let Some(key) = self.public_token_key(&unverified.kid).await? else { return Ok(None) };
        let Ok(claims) = unverified.verify(&key.public, key.org, self.now()).inspect_err(refused) else {
            return Ok(None);
        };
        if key.until.is_some_and(|until| claims.issued_at() > until) {
            tracing::debug!(
                kid = unverified.kid,
                "a node token is refused: its key had a successor when it was signed"
            );
            return Ok(None);
        }
        Ok(Some(claims))
    }

    async fn public_token_key(&self, kid: &str) -> CommandResult<Option<Believed>> {
        let (known, now) = (&self.inner.keys.doorman().token_keys.public, self.now());
        if let Some(found) = known.get(kid).filter(|k| now.since(k.0) < LOOK_AGAIN) {
            return Ok(Some(found.1));
        }
        let (row, successor) = match self.inner.store.token_key(kid).await {
            Ok(row) => row,
            Err(store::Error::NotFound | store::Error::Invalid(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let Ok(public) = <[u8; 32]>::try_from(row.public.as_slice()) else { return Ok(None) };
        let found = Believed { org: row.org, public: PublicKey(public), until: successor.map(|at| at + OVERLAP) };
        known.insert(row.kid, (now, found));
        Ok(Some(found))
    }

    /// The key that signs for the organisation, made when there is none yet. Two instances at once make two; within a minute
    /// both sign with the newer.
    async fn token_key_of(&self, org: OrgId) -> CommandResult<Arc<(String, SigningKey)>> {
        let (known, now) = (&self.inner.keys.doorman().token_keys.signing, self.now());
        if let Some(key) = known.get(&org).filter(|k| now.since(k.0) < LOOK_AGAIN) {
            return Ok(key.1.clone());
        }
        let stored = self.inner.store.newest_token_key(org).await?;
        let unsealed = stored.and_then(|row| self.unsealed_token_key(&row));
        let key = match unsealed {
            Some(key) => key,
            None => self.new_token_key(org).await?,
        };
        let key = Arc::new(key);
        known.insert(org, (now, key.clone()));
        Ok(key)
    }

    fn unsealed_token_key(&self, row: &TokenKey) -> Option<(String, SigningKey)> {
        let opened = self.token_sealing().open(&row.private, aad(&row.kid).as_bytes());
        let secret = opened.inspect_err(|why| tracing::warn!(%why, kid = row.kid, "a token key is replaced")).ok()?;
        Some((row.kid.clone(), SigningKey::from_bytes(&<[u8; 32]>::try_from(secret).ok()?)))
    }

    async fn new_token_key(&self, org: OrgId) -> CommandResult<(String, SigningKey)> {
        let key = SigningKey::from_bytes(&self.fresh().bytes());
        let public = PublicKey(key.verifying_key().to_bytes());
        let (kid, now) = (public.key_id(), self.now());
        let sealed = self.token_sealing().seal(key.as_bytes(), aad(&kid).as_bytes(), self.fresh().bytes());
        let private = sealed.map_err(|e| CommandError::Unavailable(format!("sealing a token key: {e}")))?;
        let row = TokenKey {
            id: self.fresh().id(now),
            org,
            kid: kid.clone(),
            public: public.0.to_vec(),
            private,
            inserted_at: now,
        };
        let changes = json!({"kid": kid, "org_id": org});
        let said = Said { action: "token_key.created", kind: ChangeKind::Key, id: org.0, project: None, changes };
        self.inner.store.insert_token_key(row, self.write_at(now, &Ctx::system(), said)).await?;
        Ok((kid, key))
    }

    fn token_sealing(&self) -> MasterKey {
        MasterKey::new(self.inner.keys.derive("token keys/v1"))
    }

    /// A node changes its own key. The one it came with stays good until the new one is used: an answer that is lost costs
    /// nothing, the node asks again.
    pub async fn rotate_own_key(&self, auth: NodeAuth, used: Digest, ctx: &Ctx) -> CommandResult<NewNodeKey> {
        if matches!(auth.key, KeyAge::Previous { own: false, .. }) {
            return Err(CommandError::Forbidden("this key was replaced by an operator: use the new one".into()));
        }
        let now = self.now();
        let previous_until = now + OWN_GRACE;
        let key = secret_text(self.fresh(), "snk_");
        let said = Said {
            action: "node.key_rotated",
            kind: ChangeKind::Node,
            id: auth.node.0,
            project: Some(auth.project),
            changes: json!({"by": "node", "previous_until": previous_until}),
        };
        let write = self.write_at(now, ctx, said);
        let (scope, keep) =
            (Scope::Project(auth.project), Some(PreviousKey { hash: used, until: previous_until, own: true }));
        let store = &self.inner.store;
        store.rotate_node_key(scope, auth.node, secret_hash(&key), keep, write).await.map_err(missing("node"))?;
        Box::pin(self.node_changed(auth.project, auth.node)).await;
        Ok(NewNodeKey { key, previous_until })
    }

    /// The new key of a node arrived: the one before it is void from now on, with the tokens it was given.
    pub(crate) async fn end_previous_key(&self, auth: NodeAuth) -> NodeAuth {
        let now = self.now();
        let change = NewChange { kind: ChangeKind::Node, id: auth.node.0, project: Some(auth.project), version: now.0 };
        match self.inner.store.end_previous_key(auth.node, Write::at(now).change(change)).await {
            Ok(epoch) => {
                self.inner.sessions.forget_credentials(auth.node);
                NodeAuth { epoch, ..auth }
            }
            // It ends by its time; and the next use of the new key tries again.
            Err(why) => {
                tracing::warn!(%why, node = %auth.node, "the previous node key was not ended yet");
                auth
            }
        }
    }
}

fn aad(kid: &str) -> String {
    format!("sentinel token key {kid}")
}
