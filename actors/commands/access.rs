//! First start, users, sign-in, API keys.

use super::networks::Networks;
use super::node_keys::TokenKeys;
use super::password::{Pool, check_password};
use super::refusals::Refusals;
use super::write::*;
use crate::command::*;
use crate::keys::mac;
use crate::plane::ControlPlane;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use domain::access::{ApiKey, KeyScope, Org, User, UserSession};
use domain::*;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::OnceLock;
use store::{ChangeKind, Page, Write};

/// A session ends when it was not used for so long.
pub const SESSION_IDLE: Span = Span::secs(12 * 3600);
/// And after this in any case.
pub const SESSION_LIFE: Span = Span::secs(7 * 24 * 3600);
/// How often a session's use is written: a page load is several requests.
const SESSION_TOUCH: Span = Span::secs(60);
/// Who and from where of failed sign-ins that are being counted.
const FAILURES_JOINED: usize = 10_000;
/// Failed sign-ins of one user and address within this are one audit entry after the first.
const JOIN_WITHIN: Span = Span::secs(60);
/// The least characters of the key that automation brings: 128 bits in hex are 32, and nobody types them.
const MIN_BOOTSTRAP_KEY: usize = 16;
/// Characters of a key shown to recognise it.
const PREFIX_SHOWN: usize = 10;
/// Which API key is the bootstrap key: its id, fixed before it is made.
const BOOTSTRAP_KEY: &str = "bootstrap_api_key";
/// The organisation of the first start.
const FIRST_ORG: (&str, &str) = ("Default", "default");

#[derive(Clone, Debug, Default)]
pub struct FirstStart {
    pub admin_email: String,
    /// Unset: a random one is made and returned once.
    pub admin_password: Option<String>,
    pub bootstrap_api_key: Option<String>,
}

#[derive(Clone, Debug)]
pub struct FirstStartDone {
    pub org: OrgId,
    pub admin: UserId,
    /// To be printed once; `None` when it was given.
    pub printed_password: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SignedIn {
    pub user: User,
    /// For the cookie `sentinel_session`.
    pub session_token: String,
    pub csrf_token: String,
    pub expires_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub name: String,
    pub scopes: Vec<KeyScope>,
    pub project: Option<ProjectId>,
    pub expires_at: Option<Timestamp>,
}

/// A session that was found: who, and the hash its CSRF token must have.
#[derive(Clone, Debug)]
pub struct SessionCaller {
    pub user: User,
    pub roles: Vec<(OrgId, Role)>,
    pub csrf_hash: Digest,
}

/// What signing in and looking up keys keep in memory. Rebuilt from: nothing; a restart forgets caches and counts.
#[derive(Default)]
pub(crate) struct Doorman {
    pub(crate) passwords: Pool,
    pub(crate) token_keys: TokenKeys,
    pub(crate) refusals: Refusals,
    pub(crate) networks: Networks,
    uses: DashMap<ApiKeyId, Timestamp>,
    failures: DashMap<(Option<UserId>, Option<IpAddr>), Failures>,
    bootstrap_key: OnceLock<ApiKeyId>,
}

/// Failed sign-ins since the entry that was written at `since`.
struct Failures {
    since: Timestamp,
    more: u32,
}

impl ControlPlane {
    /// Creates the first organisation, its admin, keys for signing and (if given) the bootstrap key, in one transaction. `None` when it was done before.
    ///
    /// The signing keys follow right after; without them (a crash in between) the next start makes them.
    pub async fn first_start(&self, first: FirstStart) -> CommandResult<Option<FirstStartDone>> {
        let store = &self.inner.store;
        if store.users(Page::first(1)).await?.total > 0 {
            return Ok(None);
        }
        let email = first.admin_email.trim().to_lowercase();
        let mut faults = Faults::default();
        faults.check("admin_email", check_email(&email));
        if let Some(password) = &first.admin_password {
            faults.check("admin_password", check_password(password));
        }
        if first.bootstrap_api_key.as_ref().is_some_and(|k| k.chars().count() < MIN_BOOTSTRAP_KEY) {
            faults.add("bootstrap_api_key", format!("must have at least {MIN_BOOTSTRAP_KEY} characters"));
        }
        faults.done()?;
        let printed = first.admin_password.is_none().then(|| secret_text(self.fresh(), "")[..22].to_string());
        let password = first.admin_password.or(printed.clone()).unwrap_or_default();
        let password_hash = self.inner.keys.doorman().passwords.hash(self.fresh(), &password).await?;

        let now = self.now();
        let org =
            Org { id: self.fresh().id(now), name: FIRST_ORG.0.into(), slug: FIRST_ORG.1.into(), inserted_at: now };
        let admin = User {
            id: self.fresh().id(now),
            email,
            password_hash,
            instance_admin: true,
            disabled_at: None,
            inserted_at: now,
        };
        let key = match &first.bootstrap_api_key {
            None => None,
            Some(text) => {
                // Fixed before the key exists: a crash in between cannot make it an ordinary key.
                let id: ApiKeyId = self.fresh().id(now);
                let stored = store.setting_or_put(BOOTSTRAP_KEY, json!(id)).await?;
                let id = serde_json::from_value(stored).unwrap_or(id);
                Some(ApiKey {
                    id,
                    org: org.id,
                    project: None,
                    name: "bootstrap".into(),
                    prefix: shown(text),
                    key_hash: secret_hash(text),
                    scopes: KeyScope::ALL.to_vec(),
                    created_by: Some(admin.id),
                    last_used_at: None,
                    expires_at: None,
                    revoked_at: None,
                    inserted_at: now,
                })
            }
        };
        let changes = json!({"admin": admin.email, "org": org.slug, "bootstrap_api_key": key.as_ref().map(|k| k.id)});
        let said = Said { action: "org.bootstrapped", kind: ChangeKind::Org, id: org.id.0, project: None, changes };
        let write = self.write_at(now, &Ctx::system(), said);
        let done = FirstStartDone { org: org.id, admin: admin.id, printed_password: printed };
        if !store.bootstrap(store::Bootstrap { org, admin, key, project: None }, write).await? {
            return Ok(None);
        }
        self.inner.keys.trust(done.org).await?;
        Ok(Some(done))
    }

    /// `Forbidden` on a wrong address or password (the same text for both). argon2 runs on a bounded pool.
    pub async fn sign_in(
        &self,
        email: &str,
        password: &str,
        request: Option<RequestId>,
        address: Option<IpAddr>,
    ) -> CommandResult<SignedIn> {
        let store = &self.inner.store;
        let user = match store.user_by_email(&email.trim().to_lowercase()).await {
            Ok(user) => Some(user),
            Err(store::Error::NotFound) => None,
            Err(e) => return Err(e.into()),
        };
        let hash = user.as_ref().map(|u| u.password_hash.clone());
        let passwords = &self.inner.keys.doorman().passwords;
        let place = match (passwords.place(), &user) {
            (None, Some(user)) if self.came_from(user.id, address).await? => passwords.kept_place(),
            (place, _) => place,
        };
        let right = passwords.verify_at(place, hash, password).await?;
        let user = match user {
            Some(user) if right && user.disabled_at.is_none() => user,
            other => {
                self.sign_in_failed(other.map(|u| u.id), address).await?;
                return Err(CommandError::Forbidden("the address or the password is wrong".into()));
            }
        };
        let now = self.now();
        let session_token = secret_text(self.fresh(), "");
        let csrf_token = self.csrf_token(&session_token);
        let session = UserSession {
            id: self.fresh().id(now),
            user: user.id,
            token_hash: secret_hash(&session_token),
            csrf_hash: secret_hash(&csrf_token),
            created_at: now,
            last_used_at: now,
            expires_at: now + SESSION_LIFE,
        };
        let ctx = Ctx { actor: Actor::User(user.id), request_id: request, address };
        let said = Said {
            action: "session.created",
            kind: ChangeKind::Session,
            id: session.id.0,
            project: None,
            changes: json!({"user_id": user.id}),
        };
        let expires_at = session.expires_at;
        store.insert_session(session, self.write_at(now, &ctx, said)).await?;
        self.remember_network(user.id, address).await;
        Ok(SignedIn { user, session_token, csrf_token, expires_at })
    }

    /// Signing out twice is fine.
    pub async fn sign_out(
        &self,
        session_token: &str,
        request: Option<RequestId>,
        address: Option<IpAddr>,
    ) -> CommandResult<()> {
        let store = &self.inner.store;
        let found = match store.session_by_hash(secret_hash(session_token)).await {
            Ok(found) => found,
            Err(store::Error::NotFound) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let ctx = Ctx { actor: Actor::User(found.user.id), request_id: request, address };
        let said = Said {
            action: "session.deleted",
            kind: ChangeKind::Session,
            id: found.session.id.0,
            project: None,
            changes: json!({"user_id": found.user.id}),
        };
        match store.delete_session(found.session.id, self.write(&ctx, said)).await {
            Ok(()) | Err(store::Error::NotFound) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// By the cookie's value. `None`: unknown, expired (idle or absolute) or the user was disabled.
    pub async fn session(&self, session_token: &str) -> CommandResult<Option<SessionCaller>> {
        let store = &self.inner.store;
        let found = match store.session_by_hash(secret_hash(session_token)).await {
            Ok(found) => found,
            Err(store::Error::NotFound) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let (now, session) = (self.now(), &found.session);
        if now >= session.expires_at || now >= session.last_used_at + SESSION_IDLE || found.user.disabled_at.is_some() {
            return Ok(None);
        }
        if now.since(session.last_used_at) >= SESSION_TOUCH
            && let Err(why) = store.touch_session(session.id, now).await
        {
            // The next request tries again; until the idle time is over nothing is lost.
            tracing::debug!(%why, "the use of a session was not noted");
        }
        Ok(Some(SessionCaller {
            csrf_hash: session.csrf_hash,
            roles: found.memberships.iter().map(|m| (m.org.id, m.role)).collect(),
            user: found.user,
        }))
    }

    /// A new CSRF token for a session whose page is rendered: derived, so that every open page stays valid.
    pub fn csrf_token(&self, session_token: &str) -> String {
        use base64::Engine as _;
        use hmac::Mac as _;
        let tag = mac(&self.inner.keys.derive("csrf/v1"), session_token.as_bytes()).finalize().into_bytes();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag)
    }

    /// By the key's text; remembers its use lazily, but for the first, which is audited. `None`: unknown, revoked or expired.
    /// `true`: the bootstrap key, which is for every organisation. `from`: the call that came with it.
    ///
    /// Asked of the store each time: another instance, or the command line beside a server, may have revoked it a moment ago.
    pub async fn api_key(&self, key: &str, from: Option<(RequestId, IpAddr)>) -> CommandResult<Option<(ApiKey, bool)>> {
        let now = self.now();
        let key = match self.inner.store.api_key_by_hash(secret_hash(key)).await {
            Ok(key) => key,
            Err(store::Error::NotFound) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if key.revoked_at.is_some() || key.expires_at.is_some_and(|at| at <= now) {
            return Ok(None);
        }
        self.first_use(&key, now, from).await?;
        self.inner.keys.doorman().uses.insert(key.id, now);
        let bootstrap = self.bootstrap_key().await? == Some(key.id);
        Ok(Some((key, bootstrap)))
    }

    /// Who gets hold of a key shows by using it: the first time is told, with the call that it was.
    async fn first_use(&self, key: &ApiKey, now: Timestamp, from: Option<(RequestId, IpAddr)>) -> CommandResult<()> {
        if key.last_used_at.is_some() {
            return Ok(());
        }
        let (request_id, address) = from.unzip();
        let ctx = Ctx { actor: Actor::ApiKey(key.id), request_id, address };
        let changes = json!({"name": key.name, "prefix": key.prefix, "org_id": key.org});
        let said = Said {
            action: "api_key.first_used",
            kind: ChangeKind::ApiKey,
            id: key.id.0,
            project: key.project,
            changes,
        };
        let write = Write::at(now).audit(self.fresh().id(now), said.entry(&ctx));
        Ok(self.inner.store.first_use_of_api_key(key.id, write).await?)
    }

    /// To be called every few seconds and at the end: writes when keys were used, and the failed sign-ins of the minutes
    /// that are over. What cannot be written now is written next time.
    pub async fn flush_api_key_uses(&self) {
        let (doorman, now) = (self.inner.keys.doorman(), self.now());
        let uses: Vec<(ApiKeyId, Timestamp)> = doorman.uses.iter().map(|e| (*e.key(), *e.value())).collect();
        if !uses.is_empty() {
            match self.inner.store.touch_api_keys(uses.clone()).await {
                Ok(()) => {
                    for (id, at) in uses {
                        doorman.uses.remove_if(&id, |_, newer| *newer <= at);
                    }
                }
                Err(why) => tracing::warn!(%why, "uses of API keys were not written; the next time does it"),
            }
        }
        if let Err(why) = self.flush_refusals().await {
            tracing::warn!(?why, "refusals were not written to the audit log");
        }
        let over = |f: &Failures| now.since(f.since) >= JOIN_WITHIN;
        let over: Vec<(Option<UserId>, Option<IpAddr>)> =
            doorman.failures.iter().filter(|e| over(e.value())).map(|e| *e.key()).collect();
        for who in over {
            // Taken before it is written: two flushes at once write it once.
            let more = doorman.failures.get_mut(&who).map_or(0, |mut f| std::mem::take(&mut f.more));
            if more > 0
                && let Err(why) = self.write_sign_in_failures(who, more).await
            {
                tracing::warn!(?why, "failed sign-ins were not written; the next time does it");
                doorman.failures.entry(who).or_insert(Failures { since: now, more: 0 }).more += more;
                return;
            }
            doorman.failures.remove_if(&who, |_, f| f.more == 0);
        }
    }

    /// The key's text is answered once; empty when the request was repeated. A key never mints more than it has.
    pub async fn create_api_key(&self, caller: &Caller, org: OrgId, new: NewApiKey) -> CommandResult<(ApiKey, String)> {
        let first = Box::pin(self.create_api_key_first(caller, org, new));
        self.once(caller, |id| self.key_again(org, ApiKeyId(id)), first).await
    }

    async fn create_api_key_first(
        &self,
        caller: &Caller,
        org: OrgId,
        new: NewApiKey,
    ) -> CommandResult<(ApiKey, String)> {
        let store = &self.inner.store;
        must(caller, KeyScope::ApiKeysAdmin, org, new.project, "organisation")?;
        store.org(org).await.map_err(missing("organisation"))?;
        let now = self.now();
        let mut faults = Faults::default();
        faults.name("name", &new.name);
        faults.future("expires_at", new.expires_at, now);
        if let Some(project) = new.project
            && store.project(Scope::Org(org), &project.to_string()).await.map_err(missing("project")).is_err()
        {
            faults.add("project_id", "is not a project of this organisation");
        }
        faults.done()?;
        let mut scopes = new.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        if let Grant::Key { expires_at: Some(end), .. } = &caller.grant
            && new.expires_at.is_none_or(|at| at > *end)
        {
            return Err(CommandError::Forbidden(format!(
                "a key made by this one ends with it, by {end:?} at the latest"
            )));
        }
        if let Some(beyond) = scopes.iter().find(|s| !caller.may(**s, org, new.project)) {
            return Err(CommandError::Forbidden(format!("the scope {beyond} is beyond what the caller has")));
        }
        let text = secret_text(self.fresh(), "scp_");
        let key = ApiKey {
            id: self.fresh().id(now),
            org,
            project: new.project,
            name: new.name,
            prefix: shown(&text),
            key_hash: secret_hash(&text),
            scopes,
            created_by: caller.user,
            last_used_at: None,
            expires_at: new.expires_at,
            revoked_at: None,
            inserted_at: now,
        };
        let scopes: Vec<&str> = key.scopes.iter().map(KeyScope::as_str).collect();
        let changes = json!({
            "name": key.name, "prefix": key.prefix, "scopes": scopes, "expires_at": key.expires_at, "org_id": org,
        });
        let said =
            Said { action: "api_key.created", kind: ChangeKind::ApiKey, id: key.id.0, project: key.project, changes };
        let write = self.write_at(now, &caller.ctx, said).idem(idem(caller, now, 201, ChangeKind::ApiKey, key.id.0));
        store.insert_api_key(key.clone(), write).await?;
        Ok((key, text))
    }

    pub async fn revoke_api_key(&self, caller: &Caller, id: ApiKeyId) -> CommandResult<Done> {
        let first = Box::pin(self.revoke_api_key_first(caller, id));
        self.once(caller, |_| std::future::ready(Ok(Done::Changed)), first).await
    }

    async fn revoke_api_key_first(&self, caller: &Caller, id: ApiKeyId) -> CommandResult<Done> {
        let key = self.key_to_change(caller, id).await?;
        let write = self.key_write(caller, "api_key.revoked", &key, 200);
        let changed =
            self.inner.store.revoke_api_key(Scope::Org(key.org), id, write).await.map_err(missing("api key"))?;
        Ok(if changed.changed { Done::Changed } else { Done::Already })
    }

    pub async fn delete_api_key(&self, caller: &Caller, id: ApiKeyId) -> CommandResult<()> {
        let first = Box::pin(self.delete_api_key_first(caller, id));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_api_key_first(&self, caller: &Caller, id: ApiKeyId) -> CommandResult<()> {
        let key = self.key_to_change(caller, id).await?;
        let write = self.key_write(caller, "api_key.deleted", &key, 204);
        self.inner.store.delete_api_key(Scope::Org(key.org), id, write).await.map_err(missing("api key"))?;
        Ok(())
    }

    async fn key_again(&self, org: OrgId, id: ApiKeyId) -> CommandResult<(ApiKey, String)> {
        let key = self.inner.store.api_key(Scope::Org(org), id).await.map_err(missing("api key"))?;
        Ok((key, String::new()))
    }

    async fn key_to_change(&self, caller: &Caller, id: ApiKeyId) -> CommandResult<ApiKey> {
        let scope = Scope::System("the caller's rights are checked against the key found");
        let key = self.inner.store.api_key(scope, id).await.map_err(missing("api key"))?;
        must(caller, KeyScope::ApiKeysAdmin, key.org, key.project, "api key")?;
        Ok(key)
    }

    fn key_write(&self, caller: &Caller, action: &'static str, key: &ApiKey, status: u16) -> Write {
        let now = self.now();
        let changes = json!({"name": key.name, "prefix": key.prefix, "org_id": key.org});
        let said = Said { action, kind: ChangeKind::ApiKey, id: key.id.0, project: key.project, changes };
        self.write_at(now, &caller.ctx, said).idem(idem(caller, now, status, ChangeKind::ApiKey, key.id.0))
    }

    /// Once known it never changes, so the question is asked of the store only until then.
    async fn bootstrap_key(&self) -> CommandResult<Option<ApiKeyId>> {
        let known = &self.inner.keys.doorman().bootstrap_key;
        if let Some(id) = known.get() {
            return Ok(Some(*id));
        }
        let stored: Option<Value> = self.inner.store.setting(BOOTSTRAP_KEY).await?;
        let id: Option<ApiKeyId> = stored.and_then(|v| serde_json::from_value(v).ok());
        if let Some(id) = id {
            // Two at once found the same.
            let _ = known.set(id);
        }
        Ok(id)
    }

    /// The first is written at once; what follows within a minute is counted and written as one entry.
    async fn sign_in_failed(&self, user: Option<UserId>, address: Option<IpAddr>) -> CommandResult<()> {
        let (doorman, now) = (self.inner.keys.doorman(), self.now());
        let who = match doorman.failures.len() < FAILURES_JOINED {
            true => (user, address),
            // A flood from many addresses: counted together.
            false => (None, None),
        };
        let count = match doorman.failures.entry(who) {
            Entry::Vacant(first) => {
                first.insert(Failures { since: now, more: 0 });
                Some(1)
            }
            Entry::Occupied(mut entry) => {
                let failures = entry.get_mut();
                failures.more += 1;
                match now.since(failures.since) < JOIN_WITHIN {
                    true => None,
                    false => Some(std::mem::replace(failures, Failures { since: now, more: 0 }).more),
                }
            }
        };
        match count {
            Some(count) => self.write_sign_in_failures(who, count).await,
            None => Ok(()),
        }
    }

    /// The address that was tried is not written: people type passwords into the wrong field.
    async fn write_sign_in_failures(
        &self,
        (user, address): (Option<UserId>, Option<IpAddr>),
        count: u32,
    ) -> CommandResult<()> {
        let now = self.now();
        let ctx = Ctx { actor: Actor::System, request_id: None, address };
        let id = user.map_or(uuid::Uuid::nil(), |u| u.0);
        let changes = json!({"count": count, "known_user": user.is_some()});
        let said = Said { action: "session.refused", kind: ChangeKind::User, id, project: None, changes };
        let mut entry = said.entry(&ctx);
        entry.resource_id = user.map(|u| u.0);
        Ok(self.inner.store.append_audit(Write::at(now).audit(self.fresh().id(now), entry)).await?)
    }
}

/// The first characters of a key, less when it is short: never more than a quarter of it.
fn shown(key: &str) -> String {
    key.chars().take(PREFIX_SHOWN.min(key.chars().count() / 4)).collect()
}

/// One `@` with something before it and a host after it.
pub(crate) fn check_email(email: &str) -> Result<(), &'static str> {
    let fine = email.len() <= 254
        && !email.chars().any(|c| c.is_whitespace() || c.is_control())
        && email
            .split_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
    if fine { Ok(()) } else { Err("is not an e-mail address") }
}
