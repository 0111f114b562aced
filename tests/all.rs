//! The one integration-test binary: whole instances, driven from outside.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod crate_edges;
mod harness;
mod main_job;
