//! Blue-green: the standby half has the bundle at weight 0 and has verified it; now traffic is shifted to it, weight by weight.
//!
//! A weight travels in an assignment of the bundle that the node runs already: a new generation for each, as a generation names one
//! (bundle, weight). A node answers by reporting the weight; one that does not within the progress deadline has failed.

use super::draft::Draft;
use super::*;

/// The half that is brought to the bundle first.
pub const STANDBY: u32 = 0;
/// What a node serves that is told nothing else: its full share.
pub const FULL_WEIGHT: u8 = 100;

/// Verified on the bundle, told another weight, and not heard of yet. One that is away is not waited for.
pub(super) fn is_unweighed(m: &Member) -> bool {
    matches!(m.state, NodeState::Verified { .. }) && m.told == Told::Target && !m.weighed && m.online
}

impl Draft<'_> {
    /// Does step `k` end only when traffic has been shifted?
    fn is_shifted_step(&self, k: u32) -> bool {
        self.spec().strategy == StrategyKind::BlueGreen && k == STANDBY
    }

    /// Is there still a half that serves all it can on what it ran before? Then nothing is lost by taking the other back at once.
    pub fn is_live_half_untouched(&self) -> bool {
        self.is_shifted_step(self.head.step)
    }

    /// The weight that a new assignment of this member names.
    pub fn weight_of(&self, m: &Member) -> u8 {
        let standby = m.step.is_some_and(|k| self.is_shifted_step(k));
        let open = self.step(STANDBY).is_some_and(|s| s.state != StepState::Completed);
        match (standby && open, &self.head.shift) {
            (true, Some(shift)) => shift.weight,
            (true, None) => 0,
            (false, _) => FULL_WEIGHT,
        }
    }

    /// May step `k`, whose members have all settled, end? Goes on with the shift where nothing holds it.
    pub fn is_shifted(&mut self, k: u32) -> bool {
        if !self.is_shifted_step(k) {
            return true;
        }
        if self.head.shift.is_none() {
            let standby = |m: &Member| m.step == Some(STANDBY) && matches!(m.state, NodeState::Verified { .. });
            if !self.any_member(standby) {
                // Nobody is there who could take traffic.
                return true;
            }
            self.shift_to(0);
        }
        loop {
            self.tell_weights();
            let Some(shift) = self.head.shift else { return true };
            if !self.is_taken(&shift) {
                return false;
            }
            if shift.weight == FULL_WEIGHT {
                return true;
            }
            let delay = self.spec().blue_green.advance_delay;
            let rested = delay == Span::ZERO || (self.time_passed && self.clock() >= shift.since + delay);
            if !self.spec().blue_green.auto_advance || !rested {
                return false;
            }
            self.shift_to(shift.stage + 1);
        }
    }

    /// Every node of the half has been told the weight, and all that are here have taken it.
    fn is_taken(&self, shift: &Shift) -> bool {
        shift.cursor.is_none() && self.head.unweighed == 0
    }

    fn shift_to(&mut self, stage: u32) {
        let weight = self.spec().blue_green.weight(stage);
        self.begin_shift(stage, weight);
    }

    fn begin_shift(&mut self, stage: u32, weight: u8) {
        self.head.shift = Some(Shift { stage, weight, since: self.clock(), cursor: Some(0) });
        self.fact(Fact::TrafficShifted { weight });
    }

    /// The next portion of the half hears of the weight.
    fn tell_weights(&mut self) {
        let Some(mut shift) = self.head.shift else { return };
        let Some(from) = shift.cursor else { return };
        let base = self.base;
        shift.cursor = None;
        for (position, node) in base.step_from(STANDBY, from) {
            if self.assigned >= MAX_ASSIGN_PER_COMMIT {
                shift.cursor = Some(position);
                self.more();
                break;
            }
            let verified = |m: &&Member| matches!(m.state, NodeState::Verified { .. }) && m.step == Some(STANDBY);
            if self.member(node).filter(verified).is_some_and(|m| m.weight != shift.weight) {
                self.reweigh(node, shift.weight, true);
            }
        }
        self.head.shift = Some(shift);
    }

    /// A person moves traffic on: by one weight, or (`all`) all of it at once.
    pub fn advance_traffic(&mut self, all: bool) -> Result<(), &'static str> {
        let Some(shift) = self.head.shift.filter(|_| self.head.step == STANDBY) else {
            return Err("there is no verified standby half whose traffic could be shifted");
        };
        if self.head.asked.is_some() {
            return Err("too many nodes failed, and whether untouched ones fail too is not known yet");
        }
        if all || self.spec().blue_green.weight(shift.stage + 1) == FULL_WEIGHT {
            self.begin_shift(u32::from(u8::MAX), FULL_WEIGHT);
        } else {
            self.shift_to(shift.stage + 1);
        }
        Ok(())
    }

    /// The node says which share it serves.
    pub fn weighed(&mut self, node: NodeId, generation: Option<crate::node::Generation>, weight: u8) {
        let taken = |m: &Member| {
            !m.weighed && m.weight == weight && m.told == Told::Target && generation.is_none_or(|g| g == m.generation)
        };
        if self.member(node).is_some_and(taken) {
            let moved = self.clock();
            self.edit(node, None, |m| {
                m.weighed = true;
                m.moved = moved;
            });
            // The delay counts from when everybody has it.
            if self.head.unweighed == 0
                && let Some(shift) = &mut self.head.shift
            {
                shift.since = moved;
            }
        }
    }

    /// Whatever ends: who stays on the bundle serves its full share again, and nobody waits for the answer.
    pub fn restore_weights(&mut self) {
        if self.spec().strategy != StrategyKind::BlueGreen {
            return;
        }
        let stays = |m: &Member| m.told == Told::Target && matches!(m.state, NodeState::Verified { .. });
        for node in self.all_members(|m| stays(m) && (m.weight != FULL_WEIGHT || !m.weighed)) {
            if self.member(node).is_some_and(|m| m.weight != FULL_WEIGHT) {
                self.reweigh(node, FULL_WEIGHT, false);
            } else {
                self.edit(node, None, |m| m.weighed = true);
            }
        }
    }

    /// When time alone shifts on, on the rollout's clock.
    pub fn shift_deadline(&self) -> Option<Span> {
        let b = &self.spec().blue_green;
        let shift = self.head.shift.filter(|s| b.auto_advance && s.weight != FULL_WEIGHT && self.is_taken(s))?;
        (self.head.step == STANDBY && self.step(STANDBY).is_some_and(|s| s.open == 0))
            .then_some(shift.since + b.advance_delay)
    }
}
