//! Trust of an organisation: its keys, the versions of its trust document, and what is kept offline.
//!
//! Invariants: the server publishes only what every node would accept; a private key leaves it only by `export_key`, which is
//! audited, and is forgotten only once somebody has a copy.

use super::write::*;
use crate::command::*;
use crate::keys::{NEWEST, envelope, public_of};
use crate::plane::ControlPlane;
use ::bundle::keys::{PublicKey, Role as KeyRole};
use ::bundle::trust::{Envelope, RoleKeys, TrustDoc};
use ::bundle::verify::check_successor;
use domain::access::KeyScope;
use domain::audit::NewEntry;
use domain::*;
use serde_json::{Value, json};
use store::{ChangeKind, NewChange, SigningKey, Write};

/// Keys of one organisation, listed in a trust document or not. A document lists at most 32 of each role.
const MAX_KEYS: usize = 200;
/// A document that ends sooner would lock out nodes that are switched off over night.
const LEAST_VALIDITY: Span = Span::secs(24 * 3600);

/// One key as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    pub id: SigningKeyId,
    pub role: KeyRole,
    pub key_id: String,
    pub public: PublicKey,
    /// The newest trust document lists it: its signatures count.
    pub listed: bool,
    /// The private half is here.
    pub on_server: bool,
    pub exported_at: Option<Timestamp>,
    pub inserted_at: Timestamp,
}

/// The newest trust document of an organisation.
#[derive(Clone, Debug)]
pub struct TrustState {
    pub doc: TrustDoc,
    /// As it is signed.
    pub document: Value,
    pub keys: Vec<KeyInfo>,
}

/// What is to be different in the next version; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct TrustChange {
    pub root: Option<RoleChange>,
    pub bundle: Option<RoleChange>,
    pub metadata: Option<RoleChange>,
    pub artifact_origins: Option<Vec<String>>,
    pub expires_at: Option<Timestamp>,
    pub releases_required: Option<bool>,
}

#[derive(Clone, Debug, Default)]
pub struct RoleChange {
    /// Key ids, all that shall count from now on.
    pub keys: Option<Vec<String>>,
    pub threshold: Option<u32>,
}

impl ControlPlane {
    pub async fn trust_state(&self, org: OrgId) -> CommandResult<TrustState> {
        let keys = &self.inner.keys;
        keys.at_least(org, NEWEST).await?;
        let (doc, document) = (keys.trust_doc(org).await?, keys.trust(org).await?);
        let rows = self.inner.store.signing_keys(Some(org), None).await?;
        let keys = rows.iter().filter_map(|row| key_info(row, &doc)).collect();
        Ok(TrustState { doc, document, keys })
    }

    /// Every version after `have`, signed, oldest first.
    pub async fn trust_versions(&self, org: OrgId, have: u64) -> CommandResult<Vec<Value>> {
        self.inner.keys.trust_after(org, have).await
    }

    /// A new pair, or `public`, whose private half never comes here. Nothing counts that no trust document lists.
    pub async fn create_key(
        &self,
        caller: &Caller,
        org: OrgId,
        role: KeyRole,
        public: Option<PublicKey>,
    ) -> CommandResult<KeyInfo> {
        must_hold_all(caller, org)?;
        let first = Box::pin(self.create_key_first(caller, org, role, public));
        self.once(caller, |id| self.key_by_row(org, SigningKeyId(id)), first).await
    }

    async fn create_key_first(
        &self,
        caller: &Caller,
        org: OrgId,
        role: KeyRole,
        public: Option<PublicKey>,
    ) -> CommandResult<KeyInfo> {
        let doc = self.inner.keys.trust_doc(org).await?;
        let mut row = self.inner.keys.new_key(org, role)?;
        if let Some(public) = public {
            if !public.is_usable() {
                return Err(CommandError::invalid("public_key", "is not the public key of an Ed25519 pair"));
            }
            row = SigningKey { key_id: public.key_id(), public: public.0.to_vec(), private: None, ..row };
        }
        let known = self.inner.store.signing_keys(Some(org), None).await?;
        if known.len() >= MAX_KEYS {
            return Err(CommandError::Conflict {
                code: "too_many_keys",
                detail: format!("there are {MAX_KEYS} keys already"),
            });
        }
        if known.iter().any(|k| k.key_id == row.key_id) {
            return Err(key_exists());
        }
        let changes = json!({"role": row.role, "key_id": row.key_id, "on_server": row.private.is_some()});
        let write = self.signing_key_write(caller, "key.created", org, &row, changes);
        let write = write.idem(idem(caller, row.inserted_at, 201, ChangeKind::Key, row.id.0));
        self.inner.store.insert_signing_key(row.clone(), write).await.map_err(|e| match e {
            store::Error::Conflict("exists" | "key") => key_exists(),
            other => other.into(),
        })?;
        key_info(&row, &doc).ok_or(CommandError::NotFound("key"))
    }

    /// The private half, 32 bytes: to be kept elsewhere. Metadata keys sign every day and stay here.
    pub async fn export_key(&self, caller: &Caller, org: OrgId, key_id: &str) -> CommandResult<[u8; 32]> {
        must_hold_all(caller, org)?;
        let row = self.key_row(org, key_id).await?;
        if row.role == KeyRole::Metadata.as_str() {
            return Err(CommandError::Conflict {
                code: "metadata_key",
                detail: "metadata keys sign assignments all day; they stay on the server".into(),
            });
        }
        let Some(pair) = self.inner.keys.unsealed(&row)? else {
            return Err(CommandError::Conflict {
                code: "not_on_server",
                detail: "the private key is not on this server".into(),
            });
        };
        let changes = json!({"role": row.role, "key_id": row.key_id});
        let write = self.signing_key_write(caller, "key.exported", org, &row, changes);
        self.inner.store.set_key_exported(row.id, write).await?;
        Ok(pair.secret())
    }

    /// Forgets the private half. Errors: `Conflict` `not_exported`, `metadata_key`.
    pub async fn remove_private_key(&self, caller: &Caller, org: OrgId, key_id: &str) -> CommandResult<Done> {
        must_hold_all(caller, org)?;
        let row = self.key_row(org, key_id).await?;
        let doc = self.inner.keys.trust_doc(org).await?;
        let listed = key_info(&row, &doc).is_some_and(|k| k.listed);
        if row.role == KeyRole::Metadata.as_str() && listed {
            return Err(CommandError::Conflict {
                code: "metadata_key",
                detail: "the trust document lists this metadata key: without it no assignment could be signed".into(),
            });
        }
        let changes = json!({"role": row.role, "key_id": row.key_id, "listed": listed});
        let write = self.signing_key_write(caller, "key.removed", org, &row, changes);
        let removed = self.inner.store.remove_private_key(row.id, write).await.map_err(|e| match e {
            store::Error::Conflict("state") => CommandError::Conflict {
                code: "not_exported",
                detail: "nobody has exported this key; removed here it would be lost".into(),
            },
            other => other.into(),
        })?;
        self.inner.keys.forget(org);
        Ok(if removed { Done::Changed } else { Done::Already })
    }

    /// The next version as it would read, unsigned: for roots that are kept elsewhere. Writes nothing.
    pub async fn draft_trust(&self, caller: &Caller, org: OrgId, change: TrustChange) -> CommandResult<TrustDoc> {
        must_hold_all(caller, org)?;
        self.inner.keys.at_least(org, NEWEST).await?;
        let mut doc = self.inner.keys.trust_doc(org).await?;
        let rows = self.inner.store.signing_keys(Some(org), None).await?;
        let mut faults = Faults::default();
        doc.version += 1;
        for (role, change) in
            [(KeyRole::Root, change.root), (KeyRole::Bundle, change.bundle), (KeyRole::Metadata, change.metadata)]
        {
            let Some(change) = change else { continue };
            let now = match role {
                KeyRole::Root => &mut doc.roles.root,
                KeyRole::Bundle => &mut doc.roles.bundle,
                KeyRole::Metadata => &mut doc.roles.metadata,
            };
            change_role(role, now, change, &rows, &mut faults);
        }
        let before = doc.artifact_origins.clone();
        if let Some(origins) = change.artifact_origins {
            doc.artifact_origins = origins;
        }
        let own = self.inner.keys.origins();
        doc.artifact_origins
            .extend(own.iter().filter(|o| !change_has(&doc.artifact_origins, o)).cloned().collect::<Vec<_>>());
        if let Some(at) = change.expires_at {
            doc.expires_at = at;
        }
        doc.releases_required = change.releases_required.unwrap_or(doc.releases_required);
        for (field, text) in self.unfit(&doc, &before, &rows) {
            faults.add(field, text);
        }
        faults.done()?;
        match doc.problem() {
            Some(problem) => Err(CommandError::invalid("roles", problem)),
            None => Ok(doc),
        }
    }

    /// Why the server would not publish a document that nodes would take: by field. `before` are the origins that count now.
    fn unfit(&self, doc: &TrustDoc, before: &[String], rows: &[SigningKey]) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let on_server = |k: &&PublicKey| rows.iter().any(|r| r.key_id == k.key_id() && r.private.is_some());
        let metadata = &doc.roles.metadata;
        if metadata.keys.iter().filter(on_server).count() < metadata.threshold as usize {
            let text = "the server must have as many of these keys as have to sign: it signs every assignment";
            faults.push(("metadata", text.into()));
        }
        let own = self.inner.keys.origins();
        for origin in doc.artifact_origins.iter().filter(|o| !own.contains(o) && !before.contains(o)) {
            if let Err(why) = check_origin(origin) {
                faults.push(("artifact_origins", why.into()));
            }
        }
        if let Some(missing) = own.iter().find(|o| !change_has(&doc.artifact_origins, o)) {
            faults.push(("artifact_origins", format!("must list {missing}, where this server's archives are fetched")));
        }
        if doc.expires_at < self.now() + LEAST_VALIDITY {
            let text = "must be at least a day ahead: nodes that are off would be locked out";
            faults.push(("expires_at", text.into()));
        }
        faults
    }

    /// Makes the next version, signed by the roots that are here. Errors: `Conflict("root_offline")` when they are not enough.
    pub async fn change_trust(&self, caller: &Caller, org: OrgId, change: TrustChange) -> CommandResult<TrustState> {
        let first = Box::pin(async {
            let doc = self.draft_trust(caller, org, change).await?;
            let bytes = ::bundle::canon::to_vec(&doc).map_err(|e| CommandError::Unavailable(e.to_string()))?;
            self.publish(caller, org, &doc, Envelope::unsigned(&bytes)).await
        });
        self.once(caller, |_| self.trust_state(org), first).await
    }

    /// Publishes a version that was signed elsewhere; roots that are here sign as well. It is judged as a draft is.
    pub async fn publish_trust(&self, caller: &Caller, org: OrgId, document: Envelope) -> CommandResult<TrustState> {
        must_hold_all(caller, org)?;
        let first = Box::pin(async {
            let doc: TrustDoc = document.decode().map_err(|e| CommandError::invalid("document", e.to_string()))?;
            let bytes = document.payload_bytes().map_err(|e| CommandError::invalid("document", e.to_string()))?;
            if ::bundle::canon::to_vec(&doc).ok().as_deref() != Some(bytes.as_slice()) {
                return Err(CommandError::invalid("document", "is not the canonical form of a trust document"));
            }
            self.inner.keys.at_least(org, NEWEST).await?;
            let current = self.inner.keys.trust_doc(org).await?;
            let rows = self.inner.store.signing_keys(Some(org), None).await?;
            let mut faults = Faults::default();
            for (field, text) in self.unfit(&doc, &current.artifact_origins, &rows) {
                faults.add("document", format!("{field}: {text}"));
            }
            faults.done()?;
            self.publish(caller, org, &doc, document).await
        });
        self.once(caller, |_| self.trust_state(org), first).await
    }

    async fn publish(
        &self,
        caller: &Caller,
        org: OrgId,
        doc: &TrustDoc,
        mut signed: Envelope,
    ) -> CommandResult<TrustState> {
        let keys = &self.inner.keys;
        keys.at_least(org, NEWEST).await?;
        let current = keys.trust_doc(org).await?;
        let rows = self.inner.store.signing_keys(Some(org), Some(KeyRole::Root.as_str())).await?;
        let roots: Vec<&PublicKey> = current.roles.root.keys.iter().chain(&doc.roles.root.keys).collect();
        for row in rows.iter().filter(|r| roots.iter().any(|k| k.key_id() == r.key_id)) {
            if let Some(pair) = keys.unsealed(row)? {
                signed = signed.also_signed_by(&pair).map_err(|e| CommandError::invalid("document", e.to_string()))?;
            }
        }
        let refused = |why: ::bundle::Refusal| match why {
            ::bundle::Refusal::Signature { have, need, .. } => CommandError::Conflict {
                code: "root_offline",
                detail: format!(
                    "{have} of {need} needed root signatures: sign the draft where the root keys are and publish it"
                ),
            },
            ::bundle::Refusal::TrustVersion { got, want } => CommandError::Conflict {
                code: "trust_version",
                detail: format!("this is version {got}; the next one is {want}"),
            },
            other => CommandError::invalid("document", other.to_string()),
        };
        check_successor(&current, &signed).map_err(refused)?;
        let now = self.now();
        let ids = |r: &RoleKeys| json!({"keys": r.keys.iter().map(PublicKey::key_id).collect::<Vec<_>>(), "threshold": r.threshold});
        let roles = |d: &TrustDoc| json!({"root": ids(&d.roles.root), "bundle": ids(&d.roles.bundle), "metadata": ids(&d.roles.metadata)});
        let changes = json!({
            "version": doc.version, "expires_at": doc.expires_at, "artifact_origins": doc.artifact_origins,
            "releases_required": {"from": current.releases_required, "to": doc.releases_required},
            "roles": {"from": roles(&current), "to": roles(doc)},
        });
        let said = Said { action: "trust.updated", kind: ChangeKind::Org, id: org.0, project: None, changes };
        let change = NewChange { kind: ChangeKind::Key, id: org.0, project: None, version: doc.version as i64 };
        let write = Write::at(now).audit(self.fresh().id(now), said.entry(&caller.ctx)).change(change).idem(idem(
            caller,
            now,
            201,
            ChangeKind::Key,
            org.0,
        ));
        let body = envelope(Ok(signed))?;
        self.inner.store.insert_trust(Some(org), doc.version as i64, body, write).await.map_err(|e| match e {
            store::Error::Conflict("version") => CommandError::Conflict {
                code: "trust_version",
                detail: format!("there is a version {} already", doc.version),
            },
            other => other.into(),
        })?;
        keys.forget(org);
        self.trust_changed();
        self.trust_state(org).await
    }

    async fn key_row(&self, org: OrgId, key_id: &str) -> CommandResult<SigningKey> {
        let rows = self.inner.store.signing_keys(Some(org), None).await?;
        rows.into_iter().find(|r| r.key_id == key_id).ok_or(CommandError::NotFound("key"))
    }

    async fn key_by_row(&self, org: OrgId, id: SigningKeyId) -> CommandResult<KeyInfo> {
        let state = self.trust_state(org).await?;
        state.keys.into_iter().find(|k| k.id == id).ok_or(CommandError::NotFound("key"))
    }

    fn signing_key_write(
        &self,
        caller: &Caller,
        action: &'static str,
        org: OrgId,
        row: &SigningKey,
        mut changes: Value,
    ) -> Write {
        let now = self.now();
        changes["org_id"] = json!(org);
        let entry = NewEntry {
            actor: caller.ctx.actor,
            action,
            resource_type: ChangeKind::Key.as_str(),
            resource_id: Some(row.id.0),
            project: None,
            changes,
            request_id: caller.ctx.request_id,
            ip: caller.ctx.address.map(|a| a.to_string()),
        };
        // The feed's row names the organisation: that is what instances have to read again.
        let change = NewChange { kind: ChangeKind::Key, id: org.0, project: None, version: now.0 };
        Write::at(now).audit(self.fresh().id(now), entry).change(change)
    }
}

fn key_exists() -> CommandError {
    CommandError::Conflict { code: "key_exists", detail: "this key is known already; each key has one role".into() }
}

fn change_has(origins: &[String], wanted: &str) -> bool {
    origins.iter().any(|o| o == wanted)
}

/// `None` for what is no key of a trust document.
fn key_info(row: &SigningKey, doc: &TrustDoc) -> Option<KeyInfo> {
    let (role, public) = (KeyRole::parse(&row.role)?, public_of(row).ok()?);
    Some(KeyInfo {
        id: row.id,
        role,
        key_id: row.key_id.clone(),
        public,
        listed: doc.role(role).keys.contains(&public),
        on_server: row.private.is_some(),
        exported_at: row.exported_at,
        inserted_at: row.inserted_at,
    })
}

fn change_role(role: KeyRole, now: &mut RoleKeys, change: RoleChange, rows: &[SigningKey], faults: &mut Faults) {
    let field = role.as_str();
    if let Some(ids) = change.keys {
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            match rows.iter().find(|r| r.key_id == id && r.role == field).and_then(|r| public_of(r).ok()) {
                Some(public) => keys.push(public),
                None => faults.add(&format!("{field}.keys"), format!("{id:.80} is no {field} key of the organisation")),
            }
        }
        now.keys = keys;
    }
    if let Some(threshold) = change.threshold {
        now.threshold = threshold;
    }
    if now.threshold == 0 || now.threshold as usize > now.keys.len() {
        let text = format!("must be between 1 and the number of keys, {}", now.keys.len());
        faults.add(&format!("{field}.threshold"), text);
    }
}

/// `https://host[:port]`; plain http only for this machine, as the agent has it.
fn check_origin(origin: &str) -> Result<(), &'static str> {
    let here = |rest: &str| ["127.0.0.1", "localhost", "[::1]"].contains(&rest.rsplit_once(':').map_or(rest, |r| r.0));
    let host = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (None, Some(rest)) if here(rest) => rest,
        (None, _) => "",
    };
    match host.is_empty() || host.contains(['/', '?', '#', '@', ' ', '\\']) || origin.len() > 255 {
        true => Err("must be like https://host or https://host:port"),
        false => Ok(()),
    }
}

/// Who decides what nodes trust could run anything on them, so nothing less than all that an administrator holds is enough: a
/// key that may only make keys is refused what it could not give either.
fn must_hold_all(caller: &Caller, org: OrgId) -> CommandResult<()> {
    KeyScope::of_role(Role::Admin).try_for_each(|scope| must(caller, scope, org, None, "organisation"))
}
