//! The keyring: what signs for an organisation, and the subkeys of the master key.
//!
//! Owns: the unsealed signing keys in memory. Rebuilt from: `signing_keys` and `trust_versions`.
//! Invariants: the newest trust document says which keys count, so two instances that create keys at once agree on those
//! of the first document stored; a private key leaves the database only sealed; an instance that cannot unseal refuses.

use crate::clock::Clock;
use crate::command::{CommandError, CommandResult};
use crate::commands::access::Doorman;
use crate::fresh::Fresh;
use crate::kept::Kept;
use crate::plane::PlaneConfig;
use ::bundle::SignatureFile;
use ::bundle::keys::{KeyPair, MasterKey, PublicKey, Role};
use ::bundle::trust::{Assignment, DetachedSignature, Envelope, RoleKeys, Roles, TrustDoc, TrustError};
use artifacts::ArtifactStore;
use domain::audit::NewEntry;
use domain::{Actor, Digest, NodeId, OrgId, ProjectId, SigningKeyId, Span, Timestamp};
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
/// The subkey of the master key that signing keys are sealed with.
const SEALING: &str = "signing keys/v1";
/// More than any version: the newest that is stored, whichever instance made it.
pub(crate) const NEWEST: u64 = u64::MAX;
/// Organisations a page of the start-up load has.
const PAGE: u32 = 500;

/// Versions of a trust document that one query reads. Each has 1 to 10 kB, and one is made by hand.
const VERSIONS_PAGE: u32 = 1_000;

/// The keys of one organisation. Only those that the newest trust document lists and whose private halves are here: each may
/// have been exported and removed.
struct OrgKeys {
    doc: TrustDoc,
    root: Vec<KeyPair>,
    bundle: Vec<KeyPair>,
    metadata: Vec<KeyPair>,
    /// Every version, signed, oldest first; never empty.
    chain: Vec<Value>,
}

impl OrgKeys {
    /// Just enough keys for the role's threshold, or `None`.
    fn quorum(&self, role: Role) -> Option<Vec<&KeyPair>> {
        let (have, need) = match role {
            Role::Root => (&self.root, self.doc.roles.root.threshold),
            Role::Bundle => (&self.bundle, self.doc.roles.bundle.threshold),
            Role::Metadata => (&self.metadata, self.doc.roles.metadata.threshold),
        };
        (have.len() >= need as usize).then(|| have.iter().take(need as usize).collect())
    }
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
    orgs: Kept<OrgId, Arc<OrgKeys>>,
    /// One creation at a time in this process; between processes the trust document decides.
    creating: tokio::sync::Mutex<()>,
    doorman: Doorman,
    /// Counts what was forgotten: held polls of nodes that want newer trust look again.
    news: tokio::sync::watch::Sender<u64>,
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

/// Every signing key that is to be sealed under another master key: read and tried, nothing written.
pub struct Resealing {
    sealed: Vec<(SigningKeyId, Vec<u8>)>,
    from: String,
    to: String,
}

/// Seals every signing key under `new` instead of `old`. No instance may run meanwhile: it could not read what it signs with.
///
/// Errors: a text for the operator: an instance lives, the store does not answer, a key is sealed under neither.
pub async fn reseal(store: &Store, old: &MasterKey, new: &MasterKey, fresh: &Fresh) -> Result<Resealing, String> {
    // One process per data directory with SQLite: whoever is listed there is dead, or we could not have opened it.
    let living =
        if store.is_postgres() { store.live_instances().await.map_err(|e| e.to_string())? } else { Vec::new() };
    if let Some(instance) = living.first() {
        return Err(format!("the instance {} at {} is running: stop all of them first", instance.id, instance.listen));
    }
    let (old, new) = (MasterKey::new(derive(old, SEALING)), MasterKey::new(derive(new, SEALING)));
    let mut sealed = Vec::new();
    for row in store.sealed_keys().await.map_err(|e| e.to_string())? {
        let (Some(role), Some(private)) = (Role::parse(&row.role), &row.private) else { continue };
        let public = public_of(&row).map_err(|e| text(&e))?;
        if KeyPair::unseal(&new, role, &public, private).is_ok() {
            continue;
        }
        let pair = KeyPair::unseal(&old, role, &public, private)
            .map_err(|why| format!("the {} key {}: {why}", row.role, row.key_id))?;
        sealed.push((row.id, pair.seal(&new, fresh.bytes()).map_err(|e| e.to_string())?));
    }
    Ok(Resealing { sealed, from: hex_id(&old), to: hex_id(&new) })
}

impl Resealing {
    /// Writes it, in one transaction. Answers how many keys were sealed anew; 0 when all were under the new one already.
    pub async fn commit(self, store: &Store, fresh: &Fresh, now: Timestamp) -> Result<usize, String> {
        let count = self.sealed.len();
        if count == 0 {
            return Ok(0);
        }
        let entry = NewEntry {
            actor: Actor::System,
            action: "master_key.rotated",
            resource_type: ChangeKind::Key.as_str(),
            resource_id: None,
            project: None,
            changes: json!({"keys": count, "from": self.from, "to": self.to}),
            request_id: None,
            ip: None,
        };
        let write = Write::at(now).audit(fresh.id(now), entry);
        store.reseal_keys(self.sealed, write).await.map_err(|e| e.to_string())?;
        Ok(count)
    }
}

/// Names a sealing key without revealing it.
fn hex_id(key: &MasterKey) -> String {
    key.id().iter().map(|b| format!("{b:02x}")).collect()
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
    let sealing = MasterKey::new(derive(master, SEALING));
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
                sealing: MasterKey::new(derive(master, SEALING)),
                subkeys,
                origins,
                // All of them: each signs what its nodes are told.
                orgs: Kept::at_most(usize::MAX),
                creating: tokio::sync::Mutex::new(()),
                doorman: Doorman::default(),
                news: tokio::sync::watch::Sender::new(0),
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

    /// The envelope `{payload, key_id, signature}`, and the version of the trust document whose keys signed it.
    pub async fn sign_assignment(&self, org: OrgId, assignment: &Assignment) -> CommandResult<(u64, Value)> {
        let keys = self.org(org).await?;
        let Some(signers) = keys.quorum(Role::Metadata) else {
            return Err(CommandError::Unavailable(
                "the metadata keys of the organisation are not on this server".into(),
            ));
        };
        Ok((keys.doc.version, envelope(Envelope::sign(assignment, &signers))?))
    }

    /// `None`: too few bundle keys are kept here, and the bundle waits for its signature.
    pub async fn sign_manifest(&self, org: OrgId, manifest: &[u8]) -> CommandResult<Option<SignatureFile>> {
        self.at_least(org, NEWEST).await?;
        let keys = self.org(org).await?;
        Ok(keys.quorum(Role::Bundle).and_then(|signers| signature_file(&signers, manifest)))
    }

    /// What the bundle keys that are here say of a manifest, be they enough or not.
    pub(crate) async fn bundle_signatures(&self, org: OrgId, manifest: &[u8]) -> CommandResult<Vec<DetachedSignature>> {
        let keys = self.org(org).await?;
        let signers: Vec<&KeyPair> = keys.bundle.iter().collect();
        Ok(signature_file(&signers, manifest).map(|f| f.signatures()).unwrap_or_default())
    }

    /// The newest trust document, signed.
    pub async fn trust(&self, org: OrgId) -> CommandResult<Value> {
        Ok(self.org(org).await?.chain.last().cloned().unwrap_or_default())
    }

    /// The newest trust document as it reads.
    pub async fn trust_doc(&self, org: OrgId) -> CommandResult<TrustDoc> {
        Ok(self.org(org).await?.doc.clone())
    }

    /// Every version after `have`, signed, oldest first.
    pub async fn trust_after(&self, org: OrgId, have: u64) -> CommandResult<Vec<Value>> {
        let keys = self.org(org).await?;
        let newer = keys.doc.version.saturating_sub(have).min(keys.chain.len() as u64) as usize;
        Ok(keys.chain[keys.chain.len() - newer..].to_vec())
    }

    /// The version in use, unless the keys are to be read again.
    pub(crate) fn version_in_use(&self, org: OrgId) -> Option<u64> {
        self.inner.orgs.get(org).map(|keys| keys.doc.version)
    }

    /// At least the version that a node has: another instance may have told it of one that we have not read yet.
    pub(crate) async fn at_least(&self, org: OrgId, have: u64) -> CommandResult<u64> {
        let version = self.org(org).await?.doc.version;
        if version >= have {
            return Ok(version);
        }
        // A node may also claim any number: one read of the newest is all that costs.
        match self.inner.store.newest_trust(Some(org)).await? {
            Some((newest, _)) if newest as u64 > version => {
                self.forget(org);
                Ok(self.org(org).await?.doc.version)
            }
            _ => Ok(version),
        }
    }

    /// Told when keys or trust of some organisation were forgotten.
    pub(crate) fn news(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.news.subscribe()
    }

    /// What an enrolment command pins: `sha256:` is put before it.
    pub async fn root_key_id(&self, org: OrgId) -> CommandResult<String> {
        let keys = self.org(org).await?;
        keys.doc.roles.root.keys.first().map(PublicKey::key_id).ok_or_else(|| broken("trust without a root"))
    }

    /// Keys or trust changed, here or on another instance: read them again when they are next needed.
    pub fn forget(&self, org: OrgId) {
        self.inner.orgs.forget(org);
        self.inner.news.send_modify(|n| *n += 1);
    }

    /// After the change feed may have been missed: the keys of every organisation.
    pub(crate) fn forget_all(&self) {
        self.inner.orgs.forget_all();
        self.inner.news.send_modify(|n| *n += 1);
    }

    /// The key of a row, where its private half is here.
    pub(crate) fn unsealed(&self, row: &SigningKey) -> CommandResult<Option<KeyPair>> {
        let Some(sealed) = &row.private else { return Ok(None) };
        let role = Role::parse(&row.role).ok_or_else(|| broken("a key of an unknown role"))?;
        self.inner.unseal(role, &public_of(row)?, sealed).map(Some)
    }

    /// A new key pair of the organisation, as a row; not yet stored.
    pub(crate) fn new_key(&self, org: OrgId, role: Role) -> CommandResult<SigningKey> {
        self.inner.key_row(org, &KeyPair::from_secret(role, &self.inner.fresh.bytes()))
    }

    /// Where archives are fetched from: every trust document names these.
    pub(crate) fn origins(&self) -> &[String] {
        &self.inner.origins
    }

    pub(crate) fn doorman(&self) -> &Doorman {
        &self.inner.doorman
    }

    async fn org(&self, org: OrgId) -> CommandResult<Arc<OrgKeys>> {
        if let Some(keys) = self.inner.orgs.get(org) {
            return Ok(keys);
        }
        let _one = self.inner.creating.lock().await;
        self.inner.orgs.or_read(org, self.inner.read(org)).await
    }
}

impl Inner {
    /// The keys as the database has them; created where there are none, and with the origins of this instance.
    async fn read(&self, org: OrgId) -> CommandResult<Arc<OrgKeys>> {
        if self.store.newest_trust(Some(org)).await?.is_none() {
            self.create(org).await?;
        }
        let mut keys = self.load(org).await?;
        if self.with_origins(org, &keys).await? {
            keys = self.load(org).await?;
        }
        Ok(Arc::new(keys))
    }

    /// Three keys and the first trust document. Whoever stores the document first has won; the others' keys are unused.
    async fn create(&self, org: OrgId) -> CommandResult<()> {
        // A soft-deleted or unknown organisation gets no keys.
        self.store.org(org).await?;
        let pair = |role| KeyPair::from_secret(role, &self.fresh.bytes());
        let (root, bundle, metadata) = (pair(Role::Root), pair(Role::Bundle), pair(Role::Metadata));
        let mut made = Vec::new();
        for key in [&root, &bundle, &metadata] {
            let row = self.key_row(org, key)?;
            made.push(row.id);
            let at = row.inserted_at;
            self.store.insert_signing_key(row, Write::at(at)).await?;
        }
        let roles = Roles {
            root: RoleKeys::one(root.public()),
            bundle: RoleKeys::one(bundle.public()),
            metadata: RoleKeys::one(metadata.public()),
        };
        let doc = TrustDoc::new(1, self.clock.now() + TRUST_VALIDITY, roles, self.origins.clone());
        let body = envelope(Envelope::sign(&doc, &[&root]))?;
        match self.insert_trust(org, 1, &body, "trust.created").await {
            Ok(()) => Ok(()),
            Err(store::Error::Conflict("version")) => {
                for id in made {
                    self.store.set_signing_key_status(id, UNUSED, Write::at(self.clock.now())).await?;
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn key_row(&self, org: OrgId, key: &KeyPair) -> CommandResult<SigningKey> {
        let now = self.clock.now();
        Ok(SigningKey {
            id: self.fresh.id(now),
            org: Some(org),
            role: key.role.as_str().into(),
            key_id: key.key_id(),
            public: key.public().0.to_vec(),
            private: Some(key.seal(&self.sealing, self.fresh.bytes()).map_err(|e| broken(&e.to_string()))?),
            status: ACTIVE.into(),
            exported_at: None,
            inserted_at: now,
        })
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

    /// The keys that the newest document lists, unsealed.
    async fn load(&self, org: OrgId) -> CommandResult<OrgKeys> {
        let chain = self.versions(org).await?;
        let newest =
            chain.last().ok_or_else(|| CommandError::Unavailable("the trust document is not to be read yet".into()))?;
        let doc = document(newest)?;
        let rows = self.store.signing_keys(Some(org), None).await?;
        let find = |role: Role| -> CommandResult<Vec<KeyPair>> {
            let listed = doc.role(role).keys.iter();
            let sealed = listed.filter_map(|public| {
                let id = public.key_id();
                let row = rows.iter().find(|r| r.key_id == id && r.role == role.as_str())?;
                Some((public, row.private.as_ref()?))
            });
            sealed.map(|(public, sealed)| self.unseal(role, public, sealed)).collect()
        };
        let (root, bundle, metadata) = (find(Role::Root)?, find(Role::Bundle)?, find(Role::Metadata)?);
        Ok(OrgKeys { root, bundle, metadata, doc, chain })
    }

    /// Every version, oldest first: a node that was away for long goes through all of them.
    async fn versions(&self, org: OrgId) -> store::Result<Vec<Value>> {
        let (mut chain, mut after) = (Vec::new(), 0);
        loop {
            let page = self.store.trust_after(Some(org), after, VERSIONS_PAGE).await?;
            let last = page.len() < VERSIONS_PAGE as usize;
            after = page.last().map_or(after, |(version, _)| *version);
            chain.extend(page.into_iter().map(|(_, body)| body));
            if last {
                return Ok(chain);
            }
        }
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

    /// Makes the next version of the document when an origin of this instance is missing in it, and the root keys are here.
    /// Whether there is a newer one now.
    async fn with_origins(&self, org: OrgId, keys: &OrgKeys) -> CommandResult<bool> {
        let mut doc = keys.doc.clone();
        let missing: Vec<String> = self.origins.iter().filter(|o| !doc.artifact_origins.contains(o)).cloned().collect();
        if missing.is_empty() {
            return Ok(false);
        }
        let Some(roots) = keys.quorum(Role::Root) else {
            tracing::warn!(%org, ?missing, "origins are missing in the trust document, and the root key is not on this server");
            return Ok(false);
        };
        doc.version += 1;
        // For how long it is valid somebody has chosen.
        doc.artifact_origins.extend(missing);
        let (version, body) = (doc.version as i64, envelope(Envelope::sign(&doc, &roots))?);
        match self.insert_trust(org, version, &body, "trust.updated").await {
            // Where another instance was first, ours is added at the next start.
            Ok(()) | Err(store::Error::Conflict("version")) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}

/// Signed by all of `signers`; `None` without any.
fn signature_file(signers: &[&KeyPair], manifest: &[u8]) -> Option<SignatureFile> {
    SignatureFile::of(
        signers.iter().map(|k| DetachedSignature { key_id: k.key_id(), signature: k.sign_base64(manifest) }).collect(),
    )
}

pub(crate) fn public_of(row: &SigningKey) -> CommandResult<PublicKey> {
    let raw = <[u8; 32]>::try_from(row.public.as_slice());
    raw.map(PublicKey).map_err(|_| broken("a public key is not 32 bytes"))
}

fn document(body: &Value) -> CommandResult<TrustDoc> {
    let envelope: Envelope = serde_json::from_value(body.clone()).map_err(|e| broken(&e.to_string()))?;
    envelope.decode().map_err(|e| broken(&e.to_string()))
}

pub(crate) fn envelope(signed: Result<Envelope, TrustError>) -> CommandResult<Value> {
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
