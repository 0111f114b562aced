//! What can go wrong, sorted by what the caller may conclude from it.

use domain::{NodeId, RolloutId};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Missing, deleted, or outside the scope.
    #[error("not found")]
    NotFound,
    /// A rule of the data stands against it; the word names which. Nothing was written.
    #[error("conflict: {0}")]
    Conflict(&'static str),
    /// Nodes that another active rollout holds. Nothing was written.
    #[error("{} node(s) are held by another rollout", .0.len())]
    Claimed(Vec<(NodeId, RolloutId)>),
    /// Certainly not done.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Maybe done: whoever holds state of it in memory must die and reload.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The schema has migrations that this binary does not know: it must not be started on it.
    #[error(
        "the database is newer than this sentinel-cp: its schema is at {found}, this one knows up to {known}; \
         start the newer version, or restore a backup from before the upgrade"
    )]
    Newer { found: String, known: String },
    /// A value that cannot be stored, or a stored one that cannot be read.
    #[error("invalid: {0}")]
    Invalid(String),
}

/// What a query answers inside the door, before retries.
#[derive(Debug)]
pub(crate) enum Fail {
    Own(Error),
    /// Certainly not done, and worth another try at once.
    Retry(String),
}

pub(crate) type Q<T> = std::result::Result<T, Fail>;

impl From<Error> for Fail {
    fn from(e: Error) -> Fail {
        Fail::Own(e)
    }
}

impl Fail {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Fail::Own(Error::NotFound))
    }
    pub(crate) fn invalid(text: impl std::fmt::Display) -> Fail {
        Fail::Own(Error::Invalid(text.to_string()))
    }
    pub(crate) fn conflict(what: &'static str) -> Fail {
        Fail::Own(Error::Conflict(what))
    }
    pub(crate) fn not_found() -> Fail {
        Fail::Own(Error::NotFound)
    }
}

/// Unique rules by their PostgreSQL name and the columns that SQLite names instead.
const RULES: &[(&str, &str, &str)] = &[
    ("orgs_slug", "orgs.slug", "slug"),
    ("projects_slug", "projects.slug", "slug"),
    ("users_email", "users.email", "email"),
    ("nodes_name", "nodes.project_id, nodes.name", "name"),
    ("nodes_key", "nodes.key_hash", "key"),
    ("node_groups_name", "node_groups.project_id, node_groups.name", "name"),
    ("environments_name", "environments.project_id, environments.name", "name"),
    ("rollout_templates_name", "rollout_templates.project_id, rollout_templates.name", "name"),
    ("bundles_version", "bundles.project_id, bundles.version", "version"),
    ("bundles_content", "bundles.project_id, bundles.content_id", "content"),
    ("bundles_input", "bundles.project_id, bundles.input_hash", "input"),
    ("idempotency_keys_pkey", "idempotency_keys.", "idempotency"),
    ("active_rollout_nodes_pkey", "active_rollout_nodes.node_id", "claimed"),
    ("trust_versions_pkey", "trust_versions.", "version"),
    ("releases_sequence", "releases.", "version"),
    ("rollout_events_pkey", "rollout_events.", "rollout"),
];

impl From<diesel::result::Error> for Fail {
    fn from(e: diesel::result::Error) -> Fail {
        use diesel::result::DatabaseErrorKind as Kind;
        use diesel::result::Error as D;
        match e {
            D::NotFound => Fail::not_found(),
            D::DatabaseError(Kind::UniqueViolation, info) => {
                let (name, text) = (info.constraint_name().unwrap_or(""), info.message());
                let rule = RULES.iter().find(|(pg, lite, _)| *pg == name || text.contains(lite));
                Fail::conflict(rule.map_or("exists", |r| r.2))
            }
            D::DatabaseError(Kind::SerializationFailure, info) => Fail::Retry(info.message().to_string()),
            D::DatabaseError(Kind::ForeignKeyViolation, info) => {
                Fail::invalid(format!("refers to a row that does not exist: {}", info.message()))
            }
            D::DatabaseError(Kind::NotNullViolation | Kind::CheckViolation, info) => Fail::invalid(info.message()),
            D::DatabaseError(_, info) => {
                let text = info.message();
                // diesel keeps no SQLSTATE for these: 40P01 and 55P03, and SQLITE_BUSY.
                let bad = ["invalid byte sequence", "out of range", "Unicode escape sequence"];
                if bad.iter().any(|b| text.contains(b)) {
                    return Fail::invalid(text);
                }
                let again =
                    ["deadlock detected", "due to lock timeout", "database is locked", "database table is locked"];
                match again.iter().any(|a| text.contains(a)) {
                    true => Fail::Retry(text.to_string()),
                    false => Fail::Own(Error::Unavailable(text.to_string())),
                }
            }
            D::DeserializationError(e) => Fail::invalid(e),
            D::SerializationError(e) => Fail::invalid(e),
            other => Fail::Own(Error::Unavailable(other.to_string())),
        }
    }
}
