//! The audit log. Entries are [`domain::audit::Entry`] as they are hashed.

pub use domain::audit::{Entry, Verdict};
