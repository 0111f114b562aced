//! The rollout engine: what a rollout means. Pure; see `ENGINE.md` of the mission and `src/docs/engine.md`.
pub mod event;
pub mod spec;
pub mod state;
pub use event::*;
pub use spec::*;
pub use state::*;
