//! WHEN IT HAPPENS. Actors hold what is going on; the database holds what is decided; pure functions in `domain` decide.

pub mod admin;
mod attendance;
pub mod bus;
pub mod clock;
pub mod command;
pub mod commands;
pub mod compile_job;
mod feed;
pub mod fresh;
mod kept;
pub mod keys;
mod loader;
pub mod node_api;
mod node_session;
mod periodic;
pub mod plane;
mod probes;
mod restored;
mod rollout;
mod sound;
pub mod supervision;
pub mod tokens;
pub mod tree;
mod writer;

pub use node_session::MAX_WAIT;
pub use plane::{ControlPlane, PlaneConfig};
pub use tree::{Parts, Tree};
