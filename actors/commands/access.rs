//! First start, users, sign-in, API keys.

use crate::command::*;
use crate::plane::ControlPlane;
use domain::access::{ApiKey, KeyScope, User};
use domain::*;

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

impl ControlPlane {
    /// Creates the first organisation, its admin, keys for signing and (if given) the bootstrap key, in one transaction. `None` when it was done before.
    pub async fn first_start(&self, _first: FirstStart) -> CommandResult<Option<FirstStartDone>> {
        todo!()
    }
    /// `Forbidden` on a wrong address or password (the same text for both). argon2 runs on a bounded pool.
    pub async fn sign_in(&self, _email: &str, _password: &str, _address: Option<std::net::IpAddr>) -> CommandResult<SignedIn> {
        todo!()
    }
    pub async fn sign_out(&self, _session_token: &str) -> CommandResult<()> {
        todo!()
    }
    /// By the cookie's value. `None`: unknown, expired (idle or absolute) or the user was disabled.
    pub async fn session(&self, _session_token: &str) -> CommandResult<Option<SessionCaller>> {
        todo!()
    }
    /// A new CSRF token for a session whose page is rendered: derived, so that every open page stays valid.
    pub fn csrf_token(&self, _session_token: &str) -> String {
        todo!()
    }
    /// By the key's text; remembers its use lazily. `None`: unknown, revoked or expired.
    pub async fn api_key(&self, _key: &str) -> CommandResult<Option<(ApiKey, bool)>> {
        todo!()
    }
    /// The key's text is answered once. A key never mints more than it has.
    pub async fn create_api_key(&self, _caller: &Caller, _org: OrgId, _new: NewApiKey) -> CommandResult<(ApiKey, String)> {
        todo!()
    }
    pub async fn revoke_api_key(&self, _caller: &Caller, _id: ApiKeyId) -> CommandResult<Done> {
        todo!()
    }
    pub async fn delete_api_key(&self, _caller: &Caller, _id: ApiKeyId) -> CommandResult<()> {
        todo!()
    }
}
