//! What can go wrong with an object, as values.

/// Why an operation on the artifact store did not give a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No object under this key.
    #[error("no such artifact")]
    NotFound,
    /// The object exists but is not what the caller knows it must be. Trying again does not help.
    #[error("artifact is corrupt: {0}")]
    Corrupt(String),
    /// The store did not answer, or not in time. A put may or may not have happened: repeat it, it is idempotent.
    #[error("artifact store unavailable: {0}")]
    Unavailable(String),
    /// The caller asked for something that can never work (bad key, bad range, over its own limit, bad settings).
    #[error("invalid artifact request: {0}")]
    Invalid(String),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn unavailable(what: &str, why: impl std::fmt::Display) -> Error {
        Error::Unavailable(format!("{what}: {why}"))
    }
}
