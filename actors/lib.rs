//! WHEN IT HAPPENS. Actors hold what is going on; the database holds what is decided; pure functions in `domain` decide.

pub mod bus;
pub mod clock;
pub mod command;
pub mod commands;
pub mod fresh;
pub mod node_api;
pub mod plane;
pub mod supervision;

pub use plane::ControlPlane;
