//! Going back: at once, or - where the proxies must restart for it - whoever still serves in its turn.
//!
//! Whoever waits for its turn is `RollingBack` and told of it by nobody yet ([`waits_back`]): it runs the target, counts as what it is,
//! in service, and holds no reservation. Nothing it waits for lasts: each that was told is restored, owed or given up, and makes room.

use super::draft::Draft;
use super::event::*;
use super::state::*;
use super::*;
use crate::node::HistoryOutcome;
use crate::project::Amount;

/// So much of the online targets may go back at once where no limit of unavailability is set and the batch is smaller.
const LEAST_BACK: Amount = Amount::Percent(10);

impl Draft<'_> {
    /// Every touched node goes back to its own previous verified bundle. `only` and `gone` choose among the verified: what is not
    /// verified never stays on the bundle once the rollout ends, and no debt outlives it.
    pub fn begin_rollback(
        &mut self,
        automatic: bool,
        note: Option<String>,
        only: Option<&BTreeSet<NodeId>>,
        revoked: &BTreeSet<BundleId>,
        gone: &BTreeSet<NodeId>,
    ) {
        let claim = !self.head.phase.is_active();
        self.head.phase = Phase::RollingBack;
        self.head.causes.clear();
        self.head.waits.clear();
        self.head.rollback_since = Some(self.now);
        self.head.auto_rollback = automatic;
        self.head.ended_at = None;
        self.head.note = note.clone();
        self.fact(Fact::RollbackBegan { automatic, note });
        self.fail_step("rolled back");
        for node in self.all_members(|m| !matches!(m.state, NodeState::Skipped { .. })) {
            let Some(m) = self.member(node) else { continue };
            let verified = matches!(m.state, NodeState::Verified { .. });
            let left_alone = gone.contains(&node) || (verified && only.is_some_and(|o| !o.contains(&node)));
            match (m.told, &m.state) {
                (Told::Target, _) if left_alone => {}
                (Told::Target, state) => {
                    if *state == NodeState::Owed {
                        self.change(Change::DebtEnded { node });
                    }
                    if claim {
                        self.change(Change::Claim { node });
                    }
                    self.send_or_queue(node, revoked);
                }
                (Told::Nothing | Told::Back(_), state @ (NodeState::Pending | NodeState::Owed)) => {
                    if *state == NodeState::Owed {
                        self.change(Change::DebtEnded { node });
                    }
                    self.edit(node, None, |m| m.state = NodeState::Skipped { reason: SkipReason::Cancelled });
                }
                (Told::Nothing | Told::Back(_), _) => {}
            }
        }
        if claim {
            // Of an ended rollout everybody serves a full share already, and whose node it is now is not for us to say.
            return;
        }
        self.restore_weights();
    }

    fn send_or_queue(&mut self, node: NodeId, revoked: &BTreeSet<BundleId>) {
        let to = self.back_target(node, revoked);
        if self.member(node).is_some_and(|m| self.takes_turns(m)) {
            self.edit(node, None, |m| {
                m.previous.retain(|b| !revoked.contains(b));
                m.state = NodeState::RollingBack { to, activated: None, owed: false };
            });
        } else {
            self.restore(node, to);
        }
    }

    /// Would going back take one out of service that serves? Who has not activated the target yet is spared a restart by hearing at once.
    fn takes_turns(&self, m: &Member) -> bool {
        let runs_it = matches!(m.state, NodeState::Verified { .. } | NodeState::Activated { .. });
        self.spec().restarts && runs_it && serves_in_full(m) && !m.first_config && !self.is_live_half_untouched()
    }

    /// Tell one node to go back to `to`, and owe it the restore when it is away.
    fn restore(&mut self, node: NodeId, to: Option<BundleId>) {
        // One that failed has its history already.
        if self.member(node).is_some_and(|m| !matches!(m.state, NodeState::Failed { .. })) {
            self.end_history(node, HistoryOutcome::RolledBack, None);
        }
        self.tell_back(node, to);
    }

    pub fn end_history(&mut self, node: NodeId, how: HistoryOutcome, detail: Option<String>) {
        let Some(m) = self.member(node) else { return };
        let (bundle, generation) = (self.spec().bundle, m.generation);
        self.change(Change::HistoryEnded { node, bundle, generation, how, detail });
    }

    fn tell_back(&mut self, node: NodeId, to: Option<BundleId>) {
        let owed = self.member(node).is_some_and(|m| !m.online);
        if owed {
            self.change(Change::DebtAdded { node, restore: true, bundle: to });
        }
        self.send_back(node, to, None, |m| m.state = NodeState::RollingBack { to, activated: None, owed });
    }

    /// The target failed on one that waits for its turn: it goes back now.
    pub fn fail_waiting(&mut self, node: NodeId, how: HistoryOutcome, detail: String) {
        let Some(to) = self.member(node).filter(|m| waits_back(m)).and_then(back_of) else { return };
        self.end_history(node, how, Some(detail));
        self.tell_back(node, to);
        self.head.rollback_since = Some(self.now);
    }

    /// After every event of a rollback: whose turn it is goes, and without anybody left it ends.
    pub fn go_on_back(&mut self) {
        let idle = self.touched(|m| waits_back(m) && !serves(m));
        idle.into_iter().for_each(|node| self.release(node));
        let room = self.room_back();
        let portion = room.min(MAX_ASSIGN_PER_COMMIT);
        let next = self.next_back(portion as usize);
        if next.len() == portion as usize && portion < room {
            self.more();
        }
        next.into_iter().for_each(|node| self.release(node));
        if self.head.restoring == 0 {
            self.end_rollback();
        }
    }

    fn release(&mut self, node: NodeId) {
        if let Some(to) = self.member(node).and_then(back_of) {
            self.restore(node, to);
            // The deadline counts from the newest that was told: nobody fails by the time it waited.
            self.head.rollback_since = Some(self.now);
        }
    }

    /// How many of those that serve may be told now.
    fn room_back(&self) -> u32 {
        let batch = || self.spec().batch_size.up(self.head.planned.max(1));
        let limit = self.unavailable_limit().unwrap_or_else(|| batch().max(LEAST_BACK.down(self.head.online, 1)));
        let room = limit.saturating_sub(self.head.unavailable);
        // While rolling back, exactly those that were told hold reservations. With none of them under way no room is ever made: whoever
        // was not restored, or is ill on what it had, must not keep the others on the target. Then it is one at a time.
        if self.head.budget.updating == 0 { room.max(1) } else { room }
    }

    /// The first `n` that wait, in their order.
    fn next_back(&self, n: usize) -> Vec<NodeId> {
        let touched = self.touched(waits_back).into_iter().filter_map(|id| self.member(id)).filter_map(back_key);
        let known = self.base.index.going_back.iter().filter(|(_, _, id)| !self.is_touched(*id)).take(n).copied();
        let first: BTreeSet<(u32, u32, NodeId)> = touched.chain(known).collect();
        first.into_iter().take(n).map(|(_, _, id)| id).collect()
    }

    fn end_rollback(&mut self) {
        self.head.phase = Phase::RolledBack;
        self.head.ended_at = Some(self.now);
        self.head.rollback_since = None;
        self.change(Change::ReleaseAll { keep: Vec::new() });
        let unrestored = self.head.counts.rollback_failed;
        self.fact(Fact::RolledBack { unrestored });
    }
}

/// Goes back when its turn comes, and has been told nothing of it.
pub fn waits_back(m: &Member) -> bool {
    m.told == Told::Target && matches!(m.state, NodeState::RollingBack { .. })
}

/// The place of one that waits for its turn: by step and position, the lane last.
pub(super) fn back_key(m: &Member) -> Option<(u32, u32, NodeId)> {
    waits_back(m).then(|| (m.step.unwrap_or(u32::MAX), m.position, m.node))
}

fn back_of(m: &Member) -> Option<Option<BundleId>> {
    match m.state {
        NodeState::RollingBack { to, .. } => Some(to),
        _ => None,
    }
}

fn serves(m: &Member) -> bool {
    m.online && !m.health.is_bad()
}

/// One at a part of its traffic is not what the others rely on.
fn serves_in_full(m: &Member) -> bool {
    serves(m) && m.weight == FULL_WEIGHT
}
