//! WIRE TYPES of `/api/v1`: what goes in and what comes out, shared by the server, the fleet, the agent and the client.
//!
//! Owns: names and shapes of the contract, nothing else. No logic beyond (de)serialisation.
//! What operators write refuses unknown fields; what nodes write ignores them, because a newer node must not be refused.

pub mod access;
pub mod audit;
pub mod bundle;
pub mod credential;
pub mod fleet;
pub mod group;
pub mod instance;
pub mod node;
pub mod people;
pub mod plans;
pub mod problem;
pub mod project;
pub mod resource;
pub mod rollout;
pub mod schema;
pub mod stream;
pub mod telemetry;
pub mod trust;
pub mod wire;

pub use problem::Problem;
pub use wire::Listed;
