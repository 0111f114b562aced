//! The tables as far as the engine writes them, with the refusals that the real ones would give.
//!
//! Invariant: a decision is committed as a whole or not at all; nothing here knows what the engine intends.

use crate::id::*;
use crate::node::{Generation, HealthClass};
use crate::rollout::*;
use std::collections::{BTreeMap, BTreeSet};

pub fn id(n: u32) -> NodeId {
    NodeId(uuid::Uuid::from_u128(u128::from(n)))
}
pub fn bundle(n: u32) -> BundleId {
    BundleId(uuid::Uuid::from_u128(0xb000_0000 + u128::from(n)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Nobody,
    Us,
    Another,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Debt {
    pub ours: bool,
    pub restore: bool,
    pub bundle: Option<BundleId>,
}

/// One node: what is stored of it, and what it really is.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub generation: Generation,
    pub desired: Option<BundleId>,
    pub desired_by_us: bool,
    pub weight: u8,
    pub handed_over: Generation,
    pub verified: Option<BundleId>,
    pub holder: Holder,
    pub debt: Option<Debt>,
    /// Newest first; without the bundle of the rollout under test.
    pub previous: Vec<BundleId>,
    pub skip: Option<SkipReason>,
    /// The bundle failed here and no retry was asked for since.
    pub failed: bool,
    /// The truth: what it runs.
    pub running: Option<BundleId>,
    pub online: bool,
    /// It says "not now".
    pub busy: bool,
    pub health: HealthClass,
}

impl Row {
    pub fn on(running: Option<BundleId>) -> Row {
        Row {
            generation: u64::from(running.is_some()),
            desired: running,
            desired_by_us: false,
            weight: FULL_WEIGHT,
            handed_over: u64::from(running.is_some()),
            verified: running,
            holder: Holder::Nobody,
            debt: None,
            previous: running.into_iter().collect(),
            skip: None,
            failed: false,
            running,
            online: true,
            busy: false,
            health: HealthClass::Healthy,
        }
    }
}

/// Why a commit was refused: the shell would die and load again.
#[derive(Clone, Debug, PartialEq)]
pub enum Conflict {
    Generation { node: NodeId, expected: Generation, stored: Generation },
    Shrinks { node: NodeId },
    NotHeld { node: NodeId },
    HeldByAnother { node: NodeId },
    Version { expected: u64, stored: u64 },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Db {
    pub rows: BTreeMap<NodeId, Row>,
    pub version: u64,
    pub revoked: BTreeSet<BundleId>,
}

impl Db {
    pub fn row(&self, node: NodeId) -> &Row {
        &self.rows[&node]
    }
    pub fn row_mut(&mut self, node: NodeId) -> &mut Row {
        self.rows.get_mut(&node).unwrap()
    }

    pub fn facts(&self, node: NodeId) -> Facts {
        let row = self.row(node);
        Facts {
            node,
            generation: row.generation,
            online: row.online && !row.busy,
            health: row.health,
            previous: row.previous.iter().copied().filter(|b| !self.revoked.contains(b)).collect(),
            first_config: row.running.is_none() && row.generation == 0,
            skip: row.skip,
        }
    }

    pub fn commit(&mut self, d: &Decision) -> Result<(), Conflict> {
        for change in &d.changes {
            self.write(change)?;
        }
        Ok(())
    }

    fn write(&mut self, change: &Change) -> Result<(), Conflict> {
        match change {
            Change::Head { head } => {
                if head.version != self.version + 1 {
                    return Err(Conflict::Version { expected: head.version, stored: self.version });
                }
                self.version = head.version;
            }
            Change::Step { .. } | Change::Member { .. } => {}
            Change::Desire { node, expect, generation, bundle, weight } => {
                let row = self.row_mut(*node);
                if row.holder != Holder::Us {
                    return Err(Conflict::NotHeld { node: *node });
                }
                if row.generation != *expect {
                    return Err(Conflict::Generation { node: *node, expected: *expect, stored: row.generation });
                }
                if *generation <= row.generation {
                    return Err(Conflict::Shrinks { node: *node });
                }
                row.generation = *generation;
                row.desired = *bundle;
                row.weight = *weight;
                row.desired_by_us = true;
            }
            Change::Claim { node } => {
                let row = self.row_mut(*node);
                if row.holder == Holder::Another {
                    return Err(Conflict::HeldByAnother { node: *node });
                }
                row.holder = Holder::Us;
            }
            Change::Release { node } => {
                let row = self.row_mut(*node);
                if row.holder == Holder::Us {
                    row.holder = Holder::Nobody;
                }
            }
            Change::ReleaseAll { keep } => {
                for (node, row) in &mut self.rows {
                    if row.holder == Holder::Us && !keep.contains(node) {
                        row.holder = Holder::Nobody;
                    }
                }
            }
            Change::HistoryVerified { node, bundle, .. } => self.row_mut(*node).verified = *bundle,
            Change::HistoryEnded { node, .. } => self.row_mut(*node).failed = true,
            // The newest commit wins: a restore is owed only while the desire is still that of the rollout.
            Change::DebtAdded { node, restore, bundle } => {
                let row = self.row_mut(*node);
                if !*restore || row.desired_by_us {
                    row.debt = Some(Debt { ours: true, restore: *restore, bundle: *bundle });
                }
            }
            Change::DebtEnded { node } => {
                let row = self.row_mut(*node);
                if row.debt.is_some_and(|d| d.ours) {
                    row.debt = None;
                }
            }
        }
        Ok(())
    }
}
