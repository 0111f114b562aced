//! Real processes on one real PostgreSQL, and what may happen to either: killed, frozen, cut off, restarted, failed over, drained.

mod backup;
pub mod drills;
mod nodes;
mod outages;
mod pooler;
mod postgres;
mod process;
mod proxy;
mod storage;
mod upgrade;
