//! The keyring: what signs for an organisation, and the subkeys of the master key.
//!
//! Owns: the unsealed signing keys in memory. Rebuilt from: `signing_keys` and `trust_versions`.
//! Invariants: the newest trust document says which keys count, so two instances that create keys at once agree on those
//! of the first document stored; a private key leaves the database only sealed; an instance that cannot unseal refuses.

use crate::clock::Clock;
use crate::command::{CommandError, CommandResult};
use crate::commands::access::Doorman;
use crate::fresh::Fresh;
use crate::plane::PlaneConfig;
use ::bundle::SignatureFile;
use ::bundle::keys::{KeyPair, MasterKey, PublicKey, Role};
use ::bundle::trust::{Assignment, Envelope, RoleKeys, Roles, TrustDoc, TrustError, sign_manifest};
use artifacts::ArtifactStore;
use dashmap::DashMap;
use domain::audit::NewEntry;
use domain::{Actor, Digest, NodeId, OrgId, ProjectId, Span, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::Arc;
use store::{ChangeKind, NewChange, SigningKey, Store, Write};

/// How long a trust document can be accepted. Nodes hold on to what they have accepted; rotation makes a new one.
const TRUST_VALIDITY: Span = Span::secs(10 * 365 * 24 * 3600);
/// Keys of the state `active` in `signing_keys`; the others lost a race at creation.
const ACTIVE: &str = "active";
const UNUSED: &str = "unused";
/// Organisations a page of the start-up load has.
const PAGE: u32 = 500;

/// The keys of one organisation. A private half may have been exported and removed.
struct OrgKeys {
    root: Option<KeyPair>,
    root_id: String,
    bundle: Option<KeyPair>,
    metadata: Option<KeyPair>,
    /// The newest trust document, signed.
    trust: Value,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    fresh: Fresh,
    clock: Clock,
    /// Derived from the master key: what signing keys are sealed with.
    sealing: MasterKey,
    /// Root of all further subkeys; never used itself for anything else.
    subkeys: [u8; 32],
    origins: Vec<String>,
    orgs: DashMap<OrgId, Arc<OrgKeys>>,
    /// One creation at a time in this process; between processes the trust document decides.
    creating: tokio::sync::Mutex<()>,
    doorman: Doorman,
}

/// A 32-byte subkey of the master key for one purpose, named by `label` (`"artifact urls/v1"`).
///
/// XChaCha20 under the master key with the nonce SHA-256(label), hashed: what the master key's own interface offers.
/// Sealing draws its nonces at random from 2^192, so no keystream is used twice.
pub fn derive(master: &MasterKey, label: &str) -> [u8; 32] {
    let tagged = format!("sentinel subkey\n{label}");
    let mut nonce = [0u8; 24];
    nonce.copy_from_slice(&Digest::of(tagged.as_bytes()).0[..24]);
    // Fails only for messages of 256 GB.
    let stream = master.seal(&[0; 32], tagged.as_bytes(), nonce).unwrap_or_default();
    assert!(stream.len() >= 32 + 24, "sealing 32 bytes cannot fail");
    let mut material = tagged.into_bytes();
    material.extend_from_slice(&stream[stream.len() - 48..]);
    Digest::of(&material).0
}

/// HMAC-SHA256.
pub(crate) fn mac(key: &[u8; 32], message: &[u8]) -> Hmac<Sha256> {
    // HMAC pads a short key with zeros to its block of 64 bytes; done here, there is no length to fail on.
    let mut block = [0u8; 64];
    block[..32].copy_from_slice(key);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    mac.update(message);
    mac
}

/// Where archives are fetched from: the origin of the store's own URLs, and the control plane's.
async fn artifact_origins(artifacts: &ArtifactStore, public_url: &str, now: Timestamp) -> Vec<String> {
    let url = artifacts.download_url(NodeId::NIL, ProjectId::NIL, Digest::ZERO, now, Span::secs(60)).await;
    let mut origins: Vec<String> =
        [Some(public_url.to_string()), url.ok()].iter().flatten().map(|u| origin(u)).collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

/// How many signing keys the database keeps sealed, and that `master` opens every one. Changes nothing.
/// Errors: a text for the operator.
pub async fn unsealable(store: &Store, master: &MasterKey) -> Result<usize, String> {
    let sealing = MasterKey::new(derive(master, "signing keys/v1"));
    let (mut opened, mut page) = (0, store::Page::first(PAGE));
    loop {
        let orgs = store.orgs(None, page.clone()).await.map_err(|e| e.to_string())?;
        for org in orgs.rows {
            for row in store.signing_keys(Some(org.id), None).await.map_err(|e| e.to_string())? {
                let role = [Role::Root, Role::Bundle, Role::Metadata].into_iter().find(|r| r.as_str() == row.role);
                let public = <[u8; 32]>::try_from(row.public.as_slice()).ok().map(PublicKey);
                let (Some(sealed), Some(role), Some(public)) = (row.private, role, public) else { continue };
                KeyPair::unseal(&sealing, role, &public, &sealed)
                    .map_err(|e| format!("the master key is not the one of this database: key {}: {e}", row.key_id))?;
                opened += 1;
            }
        }
        match orgs.next_cursor {
            Some(cursor) => page.cursor = Some(cursor),
            None => return Ok(opened),
        }
    }
}

/// `scheme://host[:port]` of a URL.
fn origin(url: &str) -> String {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[after_scheme..].find(['/', '?', '#']).map_or(url.len(), |at| after_scheme + at);
    url[..end].to_string()
}

impl Keyring {
    /// Loads the keys of every organisation, creating those that are missing. An origin of our archives that is missing in
    /// a trust document makes a new version of it.
    ///
    /// Errors: a text for the operator, when the store does not answer or the master key is not the one in use.
    pub async fn load_or_create(
        store: &Store,
        artifacts: &ArtifactStore,
        config: &PlaneConfig,
        fresh: &Fresh,
        clock: &Clock,
    ) -> Result<Keyring, String> {
        let master = &config.master_key;
        let origins = artifact_origins(artifacts, &config.public_url, clock.now()).await;
        let subkeys = derive(master, "subkeys/v1");
        let keyring = Keyring {
            inner: Arc::new(Inner {
                store: store.clone(),
                fresh: fresh.clone(),
                clock: clock.clone(),
                sealing: MasterKey::new(derive(master, "signing keys/v1")),
                subkeys,
                origins,
                orgs: DashMap::new(),
                creating: tokio::sync::Mutex::new(()),
                doorman: Doorman::default(),
            }),
        };
        let mut page = store::Page::first(PAGE);
        loop {
            let orgs = store.orgs(None, page.clone()).await.map_err(|e| e.to_string())?;
            for org in orgs.rows {
                keyring.org(org.id).await.map_err(|e| format!("organisation {}: {}", org.slug, text(&e)))?;
            }
            match orgs.next_cursor {
                Some(cursor) => page.cursor = Some(cursor),
                None => return Ok(keyring),
            }
        }
    }

    /// A subkey for one purpose: for CSRF tokens, the signer of URLs, tokens of nodes.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        mac(&self.inner.subkeys, label.as_bytes()).finalize().into_bytes().into()
    }

    /// The envelope `{payload, key_id, signature}`.
    pub async fn sign_assignment(&self, org: OrgId, assignment: &Assignment) -> CommandResult<Value> {
        let keys = self.org(org).await?;
        let Some(key) = &keys.metadata else {
            return Err(CommandError::Unavailable("the metadata key of the organisation is not on this server".into()));
        };
        envelope(assignment.sign(key))
    }

    /// `None`: the bundle key is kept elsewhere, and the bundle waits for its signature.
    pub async fn sign_manifest(&self, org: OrgId, manifest: &[u8]) -> CommandResult<Option<SignatureFile>> {
        let keys = self.org(org).await?;
        Ok(keys.bundle.as_ref().map(|key| sign_manifest(manifest, key)))
    }

    /// The newest trust document, signed.
    pub async fn trust(&self, org: OrgId) -> CommandResult<Value> {
        Ok(self.org(org).await?.trust.clone())
    }

    /// What an enrolment command pins: `sha256:` is put before it.
    pub async fn root_key_id(&self, org: OrgId) -> CommandResult<String> {
        Ok(self.org(org).await?.root_id.clone())
    }

    /// Another instance changed keys or trust: read them again when they are next needed.
    pub fn forget(&self, org: OrgId) {
        self.inner.orgs.remove(&org);
    }

    pub(crate) fn doorman(&self) -> &Doorman {
        &self.inner.doorman
    }

    async fn org(&self, org: OrgId) -> CommandResult<Arc<OrgKeys>> {
        if let Some(keys) = self.inner.orgs.get(&org) {
            return Ok(keys.clone());
        }
        let _one = self.inner.creating.lock().await;
        if let Some(keys) = self.inner.orgs.get(&org) {
            return Ok(keys.clone());
        }
        let stored = match self.inner.store.newest_trust(Some(org)).await? {
            Some(stored) => stored,
            None => self.inner.create(org).await?,
        };
        let keys = self.inner.load(org, stored).await?;
        let keys = match self.inner.with_origins(org, &keys).await? {
            Some(stored) => self.inner.load(org, stored).await?,
            None => keys,
        };
        let keys = Arc::new(keys);
        self.inner.orgs.insert(org, keys.clone());
        Ok(keys)
    }
}

impl Inner {
    /// Three keys and the first trust document. Whoever stores the document first has won; the others' keys are unused.
    async fn create(&self, org: OrgId) -> CommandResult<(i64, Value)> {
        // A soft-deleted or unknown organisation gets no keys.
        self.store.org(org).await?;
        let pair = |role| KeyPair::from_secret(role, &self.fresh.bytes());
        let (root, bundle, metadata) = (pair(Role::Root), pair(Role::Bundle), pair(Role::Metadata));
        let mut made = Vec::new();
        for key in [&root, &bundle, &metadata] {
            let now = self.clock.now();
            let sealed = key.seal(&self.sealing, self.fresh.bytes()).map_err(|e| broken(&e.to_string()))?;
            let row = SigningKey {
                id: self.fresh.id(now),
                org: Some(org),
                role: key.role.as_str().into(),
                key_id: key.key_id(),
                public: key.public().0.to_vec(),
                private: Some(sealed),
                status: ACTIVE.into(),
                inserted_at: now,
            };
            made.push(row.id);
            self.store.insert_signing_key(row, Write::at(now)).await?;
        }
        let roles = Roles {
            root: RoleKeys::one(root.public()),
            bundle: RoleKeys::one(bundle.public()),
            metadata: RoleKeys::one(metadata.public()),
        };
        let doc = TrustDoc::new(1, self.clock.now() + TRUST_VALIDITY, roles, self.origins.clone());
        let body = envelope(Envelope::sign(&doc, &[&root]))?;
        match self.insert_trust(org, 1, &body, "trust.created").await {
            Ok(()) => Ok((1, body)),
            Err(store::Error::Conflict("version")) => {
                for id in made {
                    self.store.set_signing_key_status(id, UNUSED, Write::at(self.clock.now())).await?;
                }
                let winner = self.store.newest_trust(Some(org)).await?;
                winner.ok_or_else(|| CommandError::Unavailable("the trust document is not to be read yet".into()))
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn insert_trust(&self, org: OrgId, version: i64, body: &Value, action: &'static str) -> store::Result<()> {
        let now = self.clock.now();
        let entry = NewEntry {
            actor: Actor::System,
            action,
            resource_type: ChangeKind::Org.as_str(),
            resource_id: Some(org.0),
            project: None,
            changes: json!({"version": version, "artifact_origins": self.origins}),
            request_id: None,
            ip: None,
        };
        let change = NewChange { kind: ChangeKind::Key, id: org.0, project: None, version };
        let write = Write::at(now).audit(self.fresh.id(now), entry).change(change);
        self.store.insert_trust(Some(org), version, body.clone(), write).await
    }

    /// The keys that the document lists, unsealed.
    async fn load(&self, org: OrgId, (_, body): (i64, Value)) -> CommandResult<OrgKeys> {
        let doc = document(&body)?;
        let rows = self.store.signing_keys(Some(org), None).await?;
        let find = |role: Role| -> CommandResult<Option<KeyPair>> {
            for public in &doc.role(role).keys {
                let id = public.key_id();
                let row = rows.iter().find(|r| r.key_id == id && r.role == role.as_str());
                if let Some(sealed) = row.and_then(|r| r.private.as_ref()) {
                    return self.unseal(role, public, sealed).map(Some);
                }
            }
            Ok(None)
        };
        let root_id =
            doc.roles.root.keys.first().map(PublicKey::key_id).ok_or_else(|| broken("trust without a root"))?;
        let (root, bundle, metadata) = (find(Role::Root)?, find(Role::Bundle)?, find(Role::Metadata)?);
        Ok(OrgKeys { root, root_id, bundle, metadata, trust: body })
    }

    fn unseal(&self, role: Role, public: &PublicKey, sealed: &[u8]) -> CommandResult<KeyPair> {
        KeyPair::unseal(&self.sealing, role, public, sealed).map_err(|why| {
            let role = role.as_str();
            broken(&format!(
                "the {role} key {}: {why}; MASTER_KEY must be the one this database was made with",
                public.key_id()
            ))
        })
    }

    /// The next version of the document when an origin of this instance is missing in it, and the root key is here.
    async fn with_origins(&self, org: OrgId, keys: &OrgKeys) -> CommandResult<Option<(i64, Value)>> {
        let mut doc = document(&keys.trust)?;
        let missing: Vec<String> = self.origins.iter().filter(|o| !doc.artifact_origins.contains(o)).cloned().collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let Some(root) = &keys.root else {
            tracing::warn!(%org, ?missing, "origins are missing in the trust document, and the root key is not on this server");
            return Ok(None);
        };
        doc.version += 1;
        doc.artifact_origins.extend(missing);
        doc.expires_at = self.clock.now() + TRUST_VALIDITY;
        let (version, body) = (doc.version as i64, envelope(Envelope::sign(&doc, &[root]))?);
        match self.insert_trust(org, version, &body, "trust.updated").await {
            Ok(()) => Ok(Some((version, body))),
            // Another instance was first; ours is added at the next start.
            Err(store::Error::Conflict("version")) => Ok(self.store.newest_trust(Some(org)).await?),
            Err(e) => Err(e.into()),
        }
    }
}

fn document(body: &Value) -> CommandResult<TrustDoc> {
    let envelope: Envelope = serde_json::from_value(body.clone()).map_err(|e| broken(&e.to_string()))?;
    envelope.decode().map_err(|e| broken(&e.to_string()))
}

fn envelope(signed: Result<Envelope, TrustError>) -> CommandResult<Value> {
    let envelope = signed.map_err(|e| broken(&e.to_string()))?;
    serde_json::to_value(envelope).map_err(|e| broken(&e.to_string()))
}

fn text(e: &CommandError) -> String {
    match e {
        CommandError::Unavailable(why) | CommandError::Unknown(why) | CommandError::Forbidden(why) => why.clone(),
        CommandError::NotFound(what) => format!("{what} is missing"),
        CommandError::Conflict { code, detail } => format!("{code}: {detail}"),
        CommandError::Invalid(fields) => format!("{fields:?}"),
    }
}

/// Nothing a caller could do about: the operator reads it.
fn broken(why: &str) -> CommandError {
    CommandError::Unavailable(format!("signing keys: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subkeys_differ_by_label_and_by_master_key_and_stay_the_same() {
        let (a, b) = (MasterKey::new([1; 32]), MasterKey::new([2; 32]));
        assert_eq!(derive(&a, "x"), derive(&a, "x"));
        assert_ne!(derive(&a, "x"), derive(&a, "y"));
        assert_ne!(derive(&a, "x"), derive(&b, "x"));
    }

    #[test]
    fn an_origin_is_a_url_without_path_and_query() {
        for url in
            ["https://cp.example.com:8443/base", "https://cp.example.com:8443", "https://cp.example.com:8443?a=/b"]
        {
            assert_eq!(origin(url), "https://cp.example.com:8443");
        }
    }
}
