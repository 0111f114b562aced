//! WHAT IS TRUE. The pure core of the control plane: no async, no IO, no clock, no randomness, no logging.
//!
//! Time and chance are arguments. Everything the product promises about rollouts is decided in
//! [`rollout`]; the rest of the workspace feeds it and carries out what it says.

pub mod access;
pub mod approval;
pub mod audit;
pub mod bundle;
pub mod environment;
pub mod freeze;
pub mod id;
pub mod node;
pub mod project;
pub mod rollout;
pub mod rules;
pub mod time;

pub use access::{Actor, Ctx, KeyScope, Role, Scope};
pub use id::*;
pub use time::{Span, Timestamp};
