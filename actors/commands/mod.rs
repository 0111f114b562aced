//! Use cases: every write of the product that is not a node's. One file per noun.

pub mod access;
pub mod bundles;
pub mod nodes;
pub mod projects;
pub mod rollouts;
