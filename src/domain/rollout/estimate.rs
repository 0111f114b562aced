//! How long a rollout is likely to take: its steps one after the other, each in as many waves as its limits make, at the pace of earlier
//! rollouts of the project.
//!
//! An estimate for people; nothing is decided by it.

use super::spec::{Spec, StrategyKind};
use super::state::{Step, StepState};
use crate::project::Amount;
use crate::time::Span;

/// From assignment to the first healthy observation, where nothing was measured yet: a long poll, a small archive, a reload, and a
/// heartbeat every two seconds while a node is on its way.
const UNMEASURED: Span = Span::secs(10);

/// What waves of earlier rollouts took, without their soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub wave: Span,
    /// How many steps that was measured on. 0: it is assumed.
    pub steps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub total: Span,
    pub waves: u64,
    pub pace: Pace,
    /// Traffic is shifted by hand: how long that takes is up to people.
    pub waits_for_people: bool,
    /// A canary's comparison waits for its traffic, which is not known.
    pub waits_for_traffic: bool,
}

/// How many waves a step of `size` reachable nodes goes out in, where `online` nodes are targets and the project updates at most
/// `budget` at once.
fn waves(spec: &Spec, size: u64, online: u32, budget: Option<u32>) -> u64 {
    let limit = match spec.max_unavailable {
        None | Some(Amount::Count(0)) => u64::MAX,
        Some(a) => u64::from(a.down(online, 1)),
    };
    size.div_ceil(limit.min(budget.map_or(u64::MAX, |b| u64::from(b.max(1)))))
}

/// The median of what completed steps took. Each comes with the specification of its rollout.
pub fn pace(steps: &[(Spec, Step)]) -> Pace {
    let measured = steps.iter().filter_map(|(spec, s)| {
        let (StepState::Completed, true) = (s.state, s.handed_over) else { return None };
        let took = s.completed_at?.since(s.started_at?);
        let waves = waves(spec, u64::from(s.size), s.size, None).max(1) as i64;
        Some(Span((took.0 / waves - spec.judge.soak.0).max(0)))
    });
    let mut all: Vec<Span> = measured.collect();
    all.sort_unstable();
    match all.get(all.len() / 2) {
        Some(wave) => Pace { wave: *wave, steps: all.len() as u32 },
        None => Pace { wave: UNMEASURED, steps: 0 },
    }
}

/// `reachable`: of each step, how many nodes are online; the others are owed, and hold nothing up.
pub fn estimate(spec: &Spec, reachable: &[u32], budget: Option<u32>, pace: Pace) -> Estimate {
    let online: u32 = reachable.iter().sum();
    let all: u64 = reachable.iter().map(|n| waves(spec, u64::from(*n), online, budget)).sum();
    let mut total = (pace.wave.0 + spec.judge.soak.0).saturating_mul(all as i64);
    let shifted = spec.strategy == StrategyKind::BlueGreen && reachable.len() > 1;
    if shifted && spec.blue_green.auto_advance {
        let stages = spec.blue_green.traffic_steps.len() as i64;
        total = total.saturating_add(stages.saturating_mul(pace.wave.0 + spec.blue_green.advance_delay.0));
    }
    Estimate {
        total: Span(total),
        waves: all,
        pace,
        waits_for_people: shifted && !spec.blue_green.auto_advance,
        waits_for_traffic: spec.strategy == StrategyKind::Canary && reachable.len() > 1,
    }
}

impl Estimate {
    /// What it rests on, in words.
    pub fn basis(&self) -> String {
        let mut out = match self.pace.steps {
            0 => "no earlier rollout to measure by: 10 s a wave are assumed".to_string(),
            n => format!("{n} earlier steps took {:.1} s a wave, besides their soak", self.pace.wave.as_secs_f64()),
        };
        if self.waits_for_people {
            out.push_str("; without the time until somebody shifts the traffic");
        }
        if self.waits_for_traffic {
            out.push_str("; without the time in which a canary gathers its traffic");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BundleId;
    use crate::time::Timestamp;

    fn soaking(s: i64) -> Spec {
        let mut spec = Spec::new(BundleId::NIL);
        spec.judge.soak = Span::secs(s);
        spec
    }
    fn step(size: u32, took: i64) -> Step {
        Step {
            index: 0,
            state: StepState::Completed,
            size,
            cursor: size,
            open: 0,
            handed_over: true,
            started_at: Some(Timestamp::ZERO),
            completed_at: Some(Timestamp::ZERO + Span::secs(took)),
            error: None,
        }
    }

    #[test]
    fn the_pace_is_the_median_of_steps_that_handed_something_over_without_their_soak() {
        assert_eq!(pace(&[]), Pace { wave: UNMEASURED, steps: 0 });
        let idle = Step { handed_over: false, ..step(1, 0) };
        let failed = Step { state: StepState::Failed, ..step(1, 0) };
        let two = Spec { max_unavailable: Some(Amount::Count(2)), ..soaking(30) };
        let all = [
            (soaking(30), step(5, 34)),
            (two, step(4, 70)),
            (soaking(0), step(1, 600)),
            (soaking(0), idle),
            (soaking(0), failed),
        ];
        assert_eq!(pace(&all), Pace { wave: Span::secs(5), steps: 3 });
    }

    #[test]
    fn steps_follow_each_other_in_the_waves_that_their_limits_make() {
        let pace = Pace { wave: Span::secs(5), steps: 3 };
        let secs = |spec: &Spec, sizes: &[u32], budget| estimate(spec, sizes, budget, pace).total.as_secs();
        assert_eq!(secs(&soaking(30), &[2, 2, 1], None), 3 * 35);
        assert_eq!(secs(&soaking(30), &[2, 0, 1], None), 2 * 35, "a step of nodes that are away passes");
        let two = Spec { max_unavailable: Some(Amount::Count(2)), ..soaking(0) };
        assert_eq!(secs(&two, &[9], None), 5 * 5);
        assert_eq!(secs(&two, &[9], Some(1)), 9 * 5);
        let mut shifted = Spec { strategy: StrategyKind::BlueGreen, ..soaking(0) };
        assert!(estimate(&shifted, &[2, 2], None, pace).waits_for_people);
        shifted.blue_green.auto_advance = true;
        shifted.blue_green.advance_delay = Span::secs(60);
        assert_eq!(secs(&shifted, &[2, 2], None), 2 * 5 + 3 * 65);
        let canary = Spec { strategy: StrategyKind::Canary, ..soaking(0) };
        assert!(estimate(&canary, &[1, 9], None, pace).basis().contains("traffic"));
        assert!(!estimate(&canary, &[9], None, pace).waits_for_traffic, "with one step nothing is compared");
    }
}
