//! THE FLEET WE DO NOT HAVE: thousands of simulated nodes against a control plane, over HTTP or in process.
//!
//! [`agent`] is one node as a pure state machine (time and chance are arguments), [`scenario`] is what goes wrong
//! with it, [`node`] and [`fleet`] are the actors that run many of them, [`transport`] is the wire, [`report`] is
//! what was measured.
//!
//! Architecture invariant: depends on wire shapes, `domain` and the node's side of `bundle`, never on server crates.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod dice;
pub mod fleet;
mod library;
pub mod node;
pub mod recorder;
pub mod report;
pub mod scenario;
mod task;
pub mod transport;
pub mod verify;
pub mod wire;

pub use agent::{Agent, NodeState, NodeStatus};
pub use cli::{SimArgs, run};
pub use fleet::{Fleet, FleetConfig};
pub use report::FleetReport;
pub use scenario::{Behaviour, Scenario};
pub use transport::Transport;

/// Why a simulation could not be started or went no further.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A flag, a scenario or an address that means nothing; the text names it.
    #[error("{0}")]
    Bad(String),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    /// An actor of the fleet did not answer: it was stopped, or the process is overloaded.
    #[error("the fleet does not answer: {0}")]
    Gone(String),
}
