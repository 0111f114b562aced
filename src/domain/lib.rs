//! WHAT IS TRUE. The pure core of the control plane: no async, no IO, no clock, no randomness, no logging.
//!
//! Time and chance are arguments. Everything the product promises about rollouts is decided in
//! [`rollout`]; the rest of the workspace feeds it and carries out what it says.

pub mod id;
pub mod time;

pub use id::*;
pub use time::{Span, Timestamp};
