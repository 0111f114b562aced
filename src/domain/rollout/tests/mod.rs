//! The engine against a world in memory: scenarios by rule, random fleets, an exhaustive search of small ones, and the table of
//! what every event does in every phase.
#![allow(clippy::unwrap_used)]

mod check;
mod db;
mod world;

mod blue_green;
mod busy;
mod canary;
mod ends;
mod failures;
mod invariants;
mod lane;
mod limits;
mod model;
mod observations;
mod pauses;
mod presence;
mod property;
mod reasons;
mod replays;
mod rollbacks;
mod steps;
mod table;
mod turns;
mod untouched;
