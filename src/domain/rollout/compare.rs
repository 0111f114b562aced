//! A canary's steps wait for the comparison: begun when a step has settled, ended by its looks, its deadline or a person.

use super::analysis::{Analysis, LOOKS, Look, MAX_READINGS, Outcome, Reading, look};
use super::draft::Draft;
use super::*;

/// On which side of the comparison a member is, if on any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Canary,
    Baseline,
}

fn side(m: &Member) -> Option<Side> {
    match (&m.state, m.told) {
        (NodeState::Verified { .. }, Told::Target) => Some(Side::Canary),
        // Still on the old bundle, and it has one.
        (NodeState::Pending, Told::Nothing) if m.online && !m.first_config => Some(Side::Baseline),
        _ => None,
    }
}

/// Whose traffic the analysis of the step that runs compares: at most [`MAX_READINGS`] of each side, by id. Empty: nothing is analysed.
pub fn compared(r: &Rollout) -> Vec<NodeId> {
    if r.head.analysis.is_none_or(|a| a.done) || r.head.phase != Phase::Running {
        return Vec::new();
    }
    let of = |wanted: Side| {
        let on_it = move |m: &&Member| side(m) == Some(wanted);
        r.members.values().filter(on_it).take(MAX_READINGS).map(|m| m.node).collect::<Vec<_>>()
    };
    let mut all = of(Side::Canary);
    all.extend(of(Side::Baseline));
    all
}

impl Draft<'_> {
    /// May step `k`, whose members have all settled, end?
    pub fn is_compared(&mut self, k: u32) -> bool {
        if !self.is_analysed(k) {
            return true;
        }
        if let Some(a) = self.head.analysis.filter(|a| a.step == k) {
            return a.done;
        }
        let begun = Analysis { step: k, since: self.clock(), looks: 0, done: false, last: None };
        self.head.analysis = Some(begun);
        let alone = [Side::Canary, Side::Baseline].iter().any(|s| !self.any_member(|m| side(m) == Some(*s)));
        if alone {
            self.conclude(Look::bare(k, Outcome::NoBaseline));
        }
        alone
    }

    /// The analysis has its answer, and it is stored.
    fn conclude(&mut self, look: Look) {
        if let Some(a) = &mut self.head.analysis {
            a.looks = a.looks.max(look.look);
            a.done = matches!(look.outcome, Outcome::Promote | Outcome::NoBaseline | Outcome::Overruled);
            a.last = Some(look);
        }
        self.fact(Fact::Analysed { look });
    }

    pub fn readings(&mut self, readings: &[Reading]) {
        let Some(a) = self.head.analysis.filter(|a| !a.done) else { return };
        if self.head.phase != Phase::Running || self.step(a.step).is_none_or(|s| s.open > 0) {
            return;
        }
        let of = |wanted: Side| -> Vec<Reading> {
            let counts = |r: &&Reading| {
                self.member(r.node).is_some_and(|m| side(m) == Some(wanted) && m.generation == r.generation)
            };
            readings.iter().filter(counts).take(MAX_READINGS).copied().collect()
        };
        let analysed = self.step_count().saturating_sub(1);
        let Some(found) = look(&self.spec().canary, analysed, &a, &of(Side::Canary), &of(Side::Baseline)) else {
            return;
        };
        self.conclude(found);
        if found.outcome == Outcome::Worse {
            self.worse(a.step, &found);
        }
    }

    /// The comparison has been with untouched nodes at the same time: an outage of all has been ruled out by it.
    fn worse(&mut self, k: u32, look: &Look) {
        let note = look.describe();
        match self.spec().on_failure {
            OnFailure::Pause => {
                self.edit_step(k, |s| s.error = Some(note.clone()));
                self.pause(PauseCause::Gate, Some(note));
            }
            OnFailure::Fail => self.fail(note, &BTreeSet::new()),
            OnFailure::Rollback => {
                self.begin_rollback(true, Some(note), None, &BTreeSet::new(), &BTreeSet::new());
            }
        }
    }

    /// When the data must be in, on the rollout's clock.
    pub fn analysis_deadline(&self) -> Option<Span> {
        let open = |a: &Analysis| !a.done && self.step(a.step).is_some_and(|s| s.open == 0);
        self.head.analysis.filter(open).map(|a| a.since + self.spec().progress_deadline)
    }

    pub fn judge_analysis(&mut self) {
        let over = self.analysis_deadline().is_some_and(|d| d <= self.clock());
        let (Some(a), true) = (self.head.analysis, over && self.head.phase == Phase::Running) else { return };
        let told = a.last.unwrap_or_else(|| Look::bare(a.step, Outcome::Inconclusive));
        self.conclude(Look { outcome: Outcome::Inconclusive, ..told });
        let note = format!("{} of {LOOKS} looks had their data at the deadline", a.looks);
        self.pause(PauseCause::Inconclusive, Some(note));
    }

    /// The analysis has said no, or found no answer in time: a person must say how to go on.
    pub fn is_refused(&self) -> bool {
        let said = self.head.analysis.filter(|a| !a.done).and_then(|a| a.last).map(|l| l.outcome);
        matches!(said, Some(Outcome::Worse | Outcome::Inconclusive))
    }

    /// A person takes the place of the answer, for this one step.
    pub fn overrule(&mut self) {
        if let Some(told) = self.head.analysis.filter(|_| self.is_refused()).and_then(|a| a.last) {
            self.conclude(Look { outcome: Outcome::Overruled, ..told });
        }
    }

    /// A person lets step `k` end without any evidence, whatever the comparison would have said.
    pub fn conclude_by_hand(&mut self, k: u32) {
        if self.is_analysed(k) && self.head.analysis.is_none_or(|a| a.step != k || !a.done) {
            self.head.analysis = Some(Analysis { step: k, since: self.clock(), looks: 0, done: false, last: None });
            self.conclude(Look::bare(k, Outcome::Overruled));
        }
    }

    /// The last step has nobody left to be compared with.
    fn is_analysed(&self, k: u32) -> bool {
        self.spec().strategy == StrategyKind::Canary && k + 1 < self.step_count()
    }

    /// A person asks for new data. What was spent on the old is spent: this is another experiment.
    pub fn compare_again(&mut self) {
        let since = self.clock();
        if let Some(a) = self.head.analysis.as_mut().filter(|a| !a.done) {
            *a = Analysis { since, looks: 0, last: None, ..*a };
        }
    }
}
