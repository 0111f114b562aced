//! THE FRONT DOOR (warp): takes requests in, asks the control plane, writes answers out.
//!
//! Owns: [`routes`] (every URL on one table, which the router, the OpenAPI document and the metrics are made from), who is
//! asking ([`auth`]), how often ([`limit`]), and how refusals look ([`problem`]).
//! Invariant: nothing is written from here except through a command or a node call of `actors`. A warp rejection means only
//! "not my route"; everything else that goes wrong is a value.

pub mod api;
mod app;
mod artifact;
mod auth;
mod body;
mod call;
mod compare;
mod limit;
mod live;
mod metrics;
mod names;
mod node;
mod openapi;
mod page;
mod peer;
mod problem;
mod query;
mod reply;
mod router;
mod routes;
mod serve;
mod stamp;
mod system;
mod tls;
pub mod ui;

pub use app::{App, Settings};
pub use auth::{Identity, SESSION_COOKIE, identify};
pub use openapi::openapi;
pub use peer::Network;
pub use problem::Refusal;
pub use reply::Meta;
pub use serve::{DRAIN_TIMEOUT, Inside, WebConfig, serve, serve_metrics};
pub use tls::TlsFiles;
