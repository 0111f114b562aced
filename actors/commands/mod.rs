//! Use cases: every write of the product that is not a node's. One file per noun.

pub mod access;
pub mod approvals;
pub mod bundles;
pub mod drift;
pub mod nodes;
mod password;
pub mod plans;
pub mod projects;
pub mod releases;
pub mod resources;
pub mod retention;
pub mod rollouts;
pub mod trust;
pub(crate) mod write;

#[cfg(test)]
pub(crate) mod tests;
