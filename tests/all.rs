//! The one integration-test binary: whole instances, driven from outside.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod crate_edges;
#[macro_use]
mod harness;
mod access_table;
mod administration;
mod agent;
mod agent_footprint;
mod agent_kills;
mod agent_units;
mod browser;
mod bundle_commands;
mod compiling;
mod concurrent;
mod ctl;
mod delivery;
mod drift;
mod escalation;
mod ha;
mod history;
mod instances;
mod kill9;
mod leaving;
mod main_job;
mod metrics;
mod node_credentials;
mod page_access;
// The store's own tests use the rest of it.
#[allow(dead_code)]
#[path = "../src/artifacts/tests/contract/peer.rs"]
mod peer;
mod people;
mod plans;
mod presence;
mod probes;
mod program;
mod proxies;
mod readme;
mod refusals;
mod resources;
mod s3;
mod secrets;
mod simulation;
mod strategies;
mod takeover;
mod telemetry;
mod tenancy;
mod tls;
mod trust;
