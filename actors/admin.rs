//! Administration without a running instance: people and keys, straight in the database, for whoever may read it anyway.
//!
//! What is done here is audited like everything else, by the system as actor and with `"by": "command line"`.

use crate::clock::Clock;
use crate::command::{CommandError, CommandResult};
use crate::commands::access::check_email;
use crate::commands::password::{Pool, check_password};
use crate::commands::write::{Said, secret_hash, secret_text};
use crate::fresh::Fresh;
use domain::access::{ApiKey, User};
use domain::audit::NewEntry;
use domain::project::{Project, check_name};
use domain::*;
use serde_json::{Value, json};
use store::{ChangeKind, NewChange, Page, Store, Write};

/// Characters of a password that is made here: 131 bits.
const PASSWORD_CHARS: usize = 22;
/// Characters of a key shown to recognise it.
const PREFIX_SHOWN: usize = 10;
/// Rows read at once.
const PAGE: u32 = 500;

pub struct Admin {
    pub store: Store,
    pub clock: Clock,
    pub fresh: Fresh,
}

/// What a key shall be.
#[derive(Clone, Debug)]
pub struct KeyWish {
    pub name: String,
    /// Slug of the organisation; `None` where there is only one.
    pub org: Option<String>,
    /// Slug or id of a project: binds the key to it.
    pub project: Option<String>,
    pub scopes: Vec<KeyScope>,
    pub expires_at: Option<Timestamp>,
}

impl Admin {
    pub async fn users(&self) -> CommandResult<Vec<User>> {
        let (mut all, mut page) = (Vec::new(), Page::first(PAGE));
        loop {
            let listing = self.store.users(page.clone()).await?;
            all.extend(listing.rows);
            match listing.next_cursor {
                Some(cursor) => page.cursor = Some(cursor),
                None => return Ok(all),
            }
        }
    }

    /// With a password of our making when none is given; that one is answered. With `org`, a member of it with this role.
    pub async fn create_user(
        &self,
        email: &str,
        password: Option<&str>,
        instance_admin: bool,
        member: Option<(&str, Role)>,
    ) -> CommandResult<(User, Option<String>)> {
        let email = email.trim().to_lowercase();
        check_email(&email).map_err(|why| CommandError::invalid("email", why))?;
        let org = match member {
            Some((slug, role)) => Some((self.store.org_by_slug(slug).await?.id, role)),
            None => None,
        };
        let (hash, made) = self.password(password).await?;
        let now = self.clock.now();
        let user = User {
            id: self.fresh.id(now),
            email,
            password_hash: hash,
            instance_admin,
            disabled_at: None,
            inserted_at: now,
        };
        let changes = json!({"email": user.email, "instance_admin": instance_admin});
        let write = self.write("user.created", ChangeKind::User, user.id.0, None, changes);
        self.store.insert_user(user.clone(), write).await?;
        if let Some((org, role)) = org {
            let changes = json!({"org_id": org, "role": role});
            let write = self.write("member.added", ChangeKind::Member, user.id.0, None, changes);
            self.store.set_member(user.id, org, role, write).await?;
        }
        Ok((user, made))
    }

    /// Ends the person's sessions. The password is answered when it was made here.
    pub async fn set_password(&self, email: &str, password: Option<&str>) -> CommandResult<Option<String>> {
        let user = self.user(email).await?;
        let (hash, made) = self.password(password).await?;
        let write = self.write("user.password_reset", ChangeKind::User, user.id.0, None, json!({"email": user.email}));
        self.store.set_password(user.id, hash, None, write).await?;
        Ok(made)
    }

    /// `false`: it was so already.
    pub async fn set_disabled(&self, email: &str, disabled: bool) -> CommandResult<bool> {
        let user = self.user(email).await?;
        let action = if disabled { "user.disabled" } else { "user.enabled" };
        let write = self.write(action, ChangeKind::User, user.id.0, None, json!({"email": user.email}));
        Ok(self.store.set_disabled(user.id, disabled.then_some(self.clock.now()), write).await?)
    }

    pub async fn api_keys(&self) -> CommandResult<Vec<ApiKey>> {
        let scope = Scope::System("the command line lists every organisation's keys");
        let (mut all, mut page) = (Vec::new(), Page::first(PAGE));
        loop {
            let listing = self.store.api_keys(scope, page.clone()).await?;
            all.extend(listing.rows);
            match listing.next_cursor {
                Some(cursor) => page.cursor = Some(cursor),
                None => return Ok(all),
            }
        }
    }

    /// The key, and its text, which is nowhere else.
    pub async fn create_api_key(&self, wish: KeyWish) -> CommandResult<(ApiKey, String)> {
        check_name(&wish.name).map_err(|why| CommandError::invalid("name", why))?;
        let project = match &wish.project {
            Some(name) => Some(self.project(name).await?),
            None => None,
        };
        let org = match (&project, &wish.org) {
            (Some(project), None) => project.org,
            (_, Some(slug)) => self.store.org_by_slug(slug).await?.id,
            (None, None) => self.only_org().await?,
        };
        if project.as_ref().is_some_and(|p| p.org != org) {
            return Err(CommandError::invalid("project", "is of another organisation"));
        }
        let now = self.clock.now();
        let text = secret_text(&self.fresh, "scp_");
        let mut scopes = wish.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let key = ApiKey {
            id: self.fresh.id(now),
            org,
            project: project.map(|p| p.id),
            name: wish.name,
            prefix: text.chars().take(PREFIX_SHOWN).collect(),
            key_hash: secret_hash(&text),
            scopes,
            created_by: None,
            last_used_at: None,
            expires_at: wish.expires_at,
            revoked_at: None,
            inserted_at: now,
        };
        let scopes: Vec<&str> = key.scopes.iter().map(KeyScope::as_str).collect();
        let changes = json!({
            "name": key.name, "prefix": key.prefix, "scopes": scopes, "expires_at": key.expires_at, "org_id": key.org,
        });
        let write = self.write("api_key.created", ChangeKind::ApiKey, key.id.0, key.project, changes);
        self.store.insert_api_key(key.clone(), write).await?;
        Ok((key, text))
    }

    /// By id or by the prefix that is shown. `false`: it was revoked already.
    pub async fn revoke_api_key(&self, name: &str) -> CommandResult<bool> {
        let found: Vec<ApiKey> =
            self.api_keys().await?.into_iter().filter(|k| k.id.to_string() == name || k.prefix == name).collect();
        let key = match found.as_slice() {
            [key] => key,
            [] => return Err(CommandError::NotFound("API key")),
            _ => return Err(CommandError::invalid("key", "several keys begin so: give the id")),
        };
        let changes = json!({"name": key.name, "prefix": key.prefix, "org_id": key.org});
        let write = self.write("api_key.revoked", ChangeKind::ApiKey, key.id.0, key.project, changes);
        Ok(self.store.revoke_api_key(Scope::Org(key.org), key.id, write).await?.changed)
    }

    async fn user(&self, email: &str) -> CommandResult<User> {
        match self.store.user_by_email(&email.trim().to_lowercase()).await {
            Err(store::Error::NotFound) => Err(CommandError::NotFound("user")),
            found => Ok(found?),
        }
    }

    async fn project(&self, name: &str) -> CommandResult<Project> {
        match self.store.project(Scope::System("the command line names any project"), name).await {
            Err(store::Error::NotFound) => Err(CommandError::NotFound("project")),
            found => Ok(found?),
        }
    }

    async fn only_org(&self) -> CommandResult<OrgId> {
        let orgs = self.store.orgs(None, Page::first(2)).await?;
        match orgs.rows.as_slice() {
            [org] => Ok(org.id),
            _ => Err(CommandError::invalid("org", "there is not exactly one organisation: name it")),
        }
    }

    async fn password(&self, given: Option<&str>) -> CommandResult<(String, Option<String>)> {
        let made = match given {
            Some(password) => {
                check_password(password).map_err(|why| CommandError::invalid("password", why))?;
                None
            }
            None => Some(secret_text(&self.fresh, "").chars().take(PASSWORD_CHARS).collect::<String>()),
        };
        let hash = Pool::default().hash(&self.fresh, given.or(made.as_deref()).unwrap_or_default()).await?;
        Ok((hash, made))
    }

    fn write(
        &self,
        action: &'static str,
        kind: ChangeKind,
        id: uuid::Uuid,
        project: Option<ProjectId>,
        mut changes: Value,
    ) -> Write {
        let now = self.clock.now();
        changes["by"] = "command line".into();
        let entry: NewEntry = Said { action, kind, id, project, changes }.entry(&Ctx::system());
        let change = NewChange { kind, id, project, version: now.0 };
        Write::at(now).audit(self.fresh.id(now), entry).change(change)
    }
}
