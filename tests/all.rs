//! The one integration-test binary: whole instances, driven from outside.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod agent;
mod crate_edges;
#[macro_use]
mod harness;
mod browser;
mod bundle_commands;
mod compiling;
mod ctl;
mod delivery;
mod instances;
mod kill9;
mod main_job;
mod plans;
mod presence;
mod refusals;
mod simulation;
mod tenancy;
