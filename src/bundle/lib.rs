//! How a bundle is made and checked: sources, validation, archive, keys, trust, verification, risk.
//!
//! Owns: the bytes of a bundle and every rule by which a node refuses one.
//! Invariant: nothing here reads the clock, the network or a file named in a config; time and random
//! bytes are arguments. Foreign KDL is parsed only inside [`validate`], which callers run in a child
//! process ([`child`]).
//!
//! Without the default feature `validator` the crate has no KDL parser: that is what the node agent uses.

pub mod archive;
pub mod canon;
#[cfg(feature = "validator")]
pub mod child;
pub mod diff;
pub mod guard;
pub mod keys;
#[cfg(feature = "validator")]
mod limits;
pub mod manifest;
pub mod restart;
pub mod risk;
pub mod samples;
pub mod sbom;
pub mod source;
pub mod trust;
mod unpack;
#[cfg(feature = "validator")]
pub mod validate;
pub mod verdict;
pub mod verify;

pub use archive::{Archive, BuildError, BuildInputs, Rendered, SignatureFile, assemble, render};
pub use keys::{KeyPair, PublicKey, Role};
pub use manifest::{Manifest, SourceRef, content_id};
pub use risk::{Level, Risk};
pub use source::Sources;
pub use unpack::unpack as read_archive;
#[cfg(feature = "validator")]
pub use validate::validate_in_process;
pub use verdict::{Facts, Message, MessageKind, Verdict};
pub use verify::{NodeTrust, Refusal, VerifiedBundle, verify_archive};
