//! Who asks, in which tenant, and what they may do.

use crate::id::*;
use serde::{Deserialize, Serialize};

/// The one who acts. Shown in audit entries as `actor_type` and `actor_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "id", rename_all = "snake_case")]
pub enum Actor {
    User(UserId),
    ApiKey(ApiKeyId),
    Node(NodeId),
    System,
}

impl Actor {
    pub fn kind(&self) -> &'static str {
        match self {
            Actor::User(_) => "user",
            Actor::ApiKey(_) => "api_key",
            Actor::Node(_) => "node",
            Actor::System => "system",
        }
    }
    pub fn id(&self) -> Option<uuid::Uuid> {
        match self {
            Actor::User(id) => Some(id.0),
            Actor::ApiKey(id) => Some(id.0),
            Actor::Node(id) => Some(id.0),
            Actor::System => None,
        }
    }
    pub fn from_parts(kind: &str, id: Option<uuid::Uuid>) -> Option<Actor> {
        match (kind, id) {
            ("user", Some(u)) => Some(Actor::User(UserId(u))),
            ("api_key", Some(u)) => Some(Actor::ApiKey(ApiKeyId(u))),
            ("node", Some(u)) => Some(Actor::Node(NodeId(u))),
            ("system", None) => Some(Actor::System),
            _ => None,
        }
    }
}

/// Carried by every command: who, in which request, from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ctx {
    pub actor: Actor,
    pub request_id: Option<RequestId>,
    pub address: Option<std::net::IpAddr>,
}

impl Ctx {
    pub fn system() -> Ctx {
        Ctx { actor: Actor::System, request_id: None, address: None }
    }
}

/// The tenant boundary every store call is made within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Org(OrgId),
    Project(ProjectId),
    /// Across tenants, with the reason why that is right.
    System(&'static str),
}

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            pub fn as_str(&self) -> &'static str { match self { $($name::$variant => $text),+ } }
            pub fn parse(s: &str) -> Option<$name> { match s { $($text => Some($name::$variant),)+ _ => None } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// A person's role in an organisation; ordered from least to most.
    Role { Reader = "reader", Operator = "operator", Admin = "admin" }
}

text_enum! {
    /// What an API key may do. A key can never mint more than it has; an empty list grants nothing.
    KeyScope {
        ProjectsRead = "projects:read", ProjectsWrite = "projects:write",
        NodesRead = "nodes:read", NodesWrite = "nodes:write",
        BundlesRead = "bundles:read", BundlesWrite = "bundles:write",
        RolloutsRead = "rollouts:read", RolloutsWrite = "rollouts:write",
        ServicesRead = "services:read", ServicesWrite = "services:write",
        AuditRead = "audit:read", AuditWrite = "audit:write",
        ApiKeysRead = "api_keys:read", ApiKeysWrite = "api_keys:write", ApiKeysAdmin = "api_keys:admin",
    }
}

impl KeyScope {
    /// What the members of `role` may do.
    pub fn of_role(role: Role) -> impl Iterator<Item = KeyScope> {
        KeyScope::ALL.iter().copied().filter(move |s| s.least_role() <= role)
    }

    /// The least role whose members may do what this scope names.
    pub fn least_role(&self) -> Role {
        use KeyScope::*;
        match self {
            ProjectsRead | NodesRead | BundlesRead | RolloutsRead | ServicesRead | AuditRead => Role::Reader,
            NodesWrite | BundlesWrite | RolloutsWrite | ServicesWrite => Role::Operator,
            ProjectsWrite | AuditWrite | ApiKeysRead | ApiKeysWrite | ApiKeysAdmin => Role::Admin,
        }
    }

    /// Does holding `self` satisfy a demand for `wanted`? Write includes read of the same noun; `api_keys:admin` includes both.
    pub fn covers(&self, wanted: KeyScope) -> bool {
        if *self == wanted {
            return true;
        }
        let (noun, verb) = self.as_str().split_once(':').unwrap_or(("", ""));
        let (wanted_noun, wanted_verb) = wanted.as_str().split_once(':').unwrap_or(("", ""));
        noun == wanted_noun && matches!((verb, wanted_verb), ("write", "read") | ("admin", "read" | "write"))
    }
}

/// An organisation: the outermost tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Org {
    pub id: OrgId,
    pub name: String,
    pub slug: String,
    pub inserted_at: crate::Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub email: String,
    /// argon2id in PHC form.
    pub password_hash: String,
    pub instance_admin: bool,
    pub disabled_at: Option<crate::Timestamp>,
    pub inserted_at: crate::Timestamp,
}

/// A sign-in. The cookie carries the random value; only its SHA-256 is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSession {
    pub id: SessionId,
    pub user: UserId,
    pub token_hash: Digest,
    /// SHA-256 of the CSRF token that goes with it.
    pub csrf_hash: Digest,
    pub created_at: crate::Timestamp,
    pub last_used_at: crate::Timestamp,
    pub expires_at: crate::Timestamp,
}

/// A link that is good once: to join an organisation, or to set a password. Only the hash of its token is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    pub id: InvitationId,
    pub token_hash: Digest,
    /// In lower case.
    pub email: String,
    pub purpose: Purpose,
    pub created_by: Option<UserId>,
    pub expires_at: crate::Timestamp,
    pub used_at: Option<crate::Timestamp>,
    pub inserted_at: crate::Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Join { org: OrgId, role: Role },
    Password { user: UserId },
}

impl Invitation {
    /// Can it still be used?
    pub fn is_open(&self, now: crate::Timestamp) -> bool {
        self.used_at.is_none() && now < self.expires_at
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub org: OrgId,
    pub project: Option<ProjectId>,
    pub name: String,
    /// The first characters, for people to recognise it.
    pub prefix: String,
    pub key_hash: Digest,
    pub scopes: Vec<KeyScope>,
    pub created_by: Option<UserId>,
    pub last_used_at: Option<crate::Timestamp>,
    pub expires_at: Option<crate::Timestamp>,
    pub revoked_at: Option<crate::Timestamp>,
    pub inserted_at: crate::Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_covers_read_and_nothing_else() {
        assert!(KeyScope::NodesWrite.covers(KeyScope::NodesRead));
        assert!(!KeyScope::NodesRead.covers(KeyScope::NodesWrite));
        assert!(!KeyScope::NodesWrite.covers(KeyScope::BundlesRead));
        assert!(KeyScope::ApiKeysAdmin.covers(KeyScope::ApiKeysWrite));
        assert!(!KeyScope::ApiKeysWrite.covers(KeyScope::ApiKeysAdmin));
        assert!(!KeyScope::AuditRead.covers(KeyScope::ApiKeysRead));
    }

    #[test]
    fn a_role_includes_those_below_it_and_an_admin_may_everything() {
        let all = |role| KeyScope::of_role(role).collect::<Vec<_>>();
        assert_eq!(all(Role::Admin), KeyScope::ALL);
        assert!(all(Role::Operator).contains(&KeyScope::RolloutsWrite));
        assert!(!all(Role::Operator).contains(&KeyScope::ProjectsWrite));
        assert!(all(Role::Reader).iter().all(|s| s.as_str().ends_with(":read")));
    }

    #[test]
    fn texts_round_trip() {
        for s in KeyScope::ALL {
            assert_eq!(KeyScope::parse(s.as_str()), Some(*s));
        }
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::Reader);
    }
}
