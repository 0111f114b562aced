//! Use cases: every write of the product that is not a node's. One file per noun.

pub mod access;
pub mod approvals;
pub mod bundles;
pub mod drift;
pub mod groups;
pub mod networks;
pub mod node_keys;
pub mod nodes;
pub mod orgs;
pub(crate) mod password;
pub mod people;
pub mod plans;
pub mod projects;
pub mod refusals;
pub mod releases;
pub mod resources;
pub mod retention;
pub mod rollouts;
pub mod trust;
pub(crate) mod write;

#[cfg(test)]
pub(crate) mod tests;
