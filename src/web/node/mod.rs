//! What nodes call: one file per call.

pub mod convert;
pub mod credentials;
pub mod events;
pub mod heartbeat;
pub mod poll;
pub mod register;
pub mod report;
pub mod telemetry;
