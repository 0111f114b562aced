//! Commands: what people, keys and nodes may ask of the control plane, and how it may be refused.
//!
//! Owns: nothing. One place where a refusal gets its kind; `web` turns kinds into status codes.

use domain::access::KeyScope;
use domain::*;

/// Why a command was not carried out. Nothing was stored, unless it is `Unknown`.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandError {
    /// Does not exist, or belongs to another tenant.
    NotFound(&'static str),
    /// Fields and what is wrong with them: 422.
    Invalid(Vec<(String, String)>),
    /// The state does not allow it: 409. `code` is stable (`name_taken`, `bundle_revoked`, `overlap`, ...).
    Conflict { code: &'static str, detail: String },
    /// The actor may not: 403.
    Forbidden(String),
    /// Certainly not done: 503 with Retry-After.
    Unavailable(String),
    /// Perhaps done: 503, ask again with the same Idempotency-Key.
    Unknown(String),
}

impl CommandError {
    pub fn invalid(field: &str, message: impl Into<String>) -> CommandError {
        CommandError::Invalid(vec![(field.to_string(), message.into())])
    }
}

pub type CommandResult<T> = Result<T, CommandError>;

/// The answer of a command whose goal may already have held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Changed,
    /// 200 `{changed: false}`.
    Already,
}

/// Makes a repeated command answer what the first one answered. Stored in the command's own transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Who: `key:<id>` or `user:<id>`.
    pub credential: String,
    /// Method and path.
    pub route: String,
    pub key: String,
    /// As [`crate::ControlPlane::request_hash`] makes it.
    pub body_hash: Digest,
}

/// Who is asking, resolved from a session cookie or an API key. Everything a handler may check.
#[derive(Clone, Debug)]
pub struct Caller {
    pub ctx: Ctx,
    /// A person behind it: the user, or the one who made the key.
    pub user: Option<UserId>,
    pub instance_admin: bool,
    pub grant: Grant,
    pub idempotency: Option<Idempotency>,
}

#[derive(Clone, Debug)]
pub enum Grant {
    /// A person: roles by organisation.
    Roles(Vec<(OrgId, Role)>),
    /// A key: its scopes in its organisation, perhaps bound to one project. `every_org`: the bootstrap key.
    /// With `expires_at` it ends, and so does every key that it makes.
    Key {
        org: OrgId,
        project: Option<ProjectId>,
        scopes: Vec<KeyScope>,
        every_org: bool,
        expires_at: Option<Timestamp>,
    },
}

impl Caller {
    /// May the caller do what `wanted` names, on something of this organisation and project? `project: None` is org-wide.
    pub fn may(&self, wanted: KeyScope, org: OrgId, project: Option<ProjectId>) -> bool {
        match &self.grant {
            Grant::Roles(roles) => roles.iter().any(|(o, r)| *o == org && *r >= wanted.least_role()),
            Grant::Key { org: o, project: bound, scopes, every_org, .. } => {
                (*o == org || *every_org)
                    && (bound.is_none() || *bound == project)
                    && scopes.iter().any(|s| s.covers(wanted))
            }
        }
    }

    /// Can the caller see this tenant at all? If not, the answer is 404, not 403.
    pub fn sees(&self, org: OrgId, project: Option<ProjectId>) -> bool {
        match &self.grant {
            Grant::Roles(roles) => roles.iter().any(|(o, _)| *o == org),
            Grant::Key { org: o, project: bound, every_org, .. } => {
                (*o == org || *every_org) && (bound.is_none() || project.is_none() || *bound == project)
            }
        }
    }
}

impl From<store::Error> for CommandError {
    fn from(e: store::Error) -> CommandError {
        match e {
            store::Error::NotFound => CommandError::NotFound("not found"),
            store::Error::Conflict("name") => {
                CommandError::Conflict { code: "name_taken", detail: "the name is taken".into() }
            }
            store::Error::Conflict("slug") => {
                CommandError::Conflict { code: "slug_taken", detail: "the slug is taken".into() }
            }
            store::Error::Conflict("idempotency") => CommandError::invalid(
                "Idempotency-Key",
                "the key was used for another request, or the same request is being carried out",
            ),
            store::Error::Conflict("bundle") => {
                CommandError::Conflict { code: "bundle_gone", detail: "the bundle was removed by retention".into() }
            }
            store::Error::Conflict(what) => CommandError::Conflict { code: what, detail: format!("conflict: {what}") },
            store::Error::Claimed(nodes) => CommandError::Conflict { code: "overlap", detail: overlap_text(&nodes) },
            store::Error::Unavailable(text) => CommandError::Unavailable(text),
            newer @ store::Error::Newer { .. } => CommandError::Unavailable(newer.to_string()),
            store::Error::Unknown(text) => CommandError::Unknown(text),
            store::Error::Invalid(text) => CommandError::invalid("value", text),
        }
    }
}

/// For a `pre_start`: a database that is away is no failure of the actor.
pub(crate) fn start_failed(e: store::Error) -> ractor::ActorProcessingErr {
    match e {
        store::Error::Unavailable(why) => crate::supervision::Away(why).into(),
        other => other.into(),
    }
}

/// How many rollouts an overlap names.
const OVERLAP_NAMED: usize = 10;

fn overlap_text(nodes: &[(NodeId, RolloutId)]) -> String {
    let mut rollouts: Vec<String> = nodes.iter().map(|(_, r)| r.to_string()).collect();
    rollouts.sort_unstable();
    rollouts.dedup();
    rollouts.truncate(OVERLAP_NAMED);
    format!("{} nodes are held by active rollouts: {}", nodes.len(), rollouts.join(", "))
}
