//! The contract of the store, run on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod access;
mod audit;
mod backup;
mod bundles;
mod crash;
mod drift;
mod feed;
mod hand_over;
mod nodes;
mod owner;
mod people;
mod readings;
mod rollouts;
mod schema;
mod speed;
mod tls;
mod trust;
