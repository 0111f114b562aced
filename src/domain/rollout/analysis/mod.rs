//! Canary analysis: is the new bundle worse than the old one, on requests served in the same time by nodes drawn by lot?
//!
//! Two one-sided tests, each for half of the alpha of its step: errors (two proportions, the variance widened by how much nodes differ)
//! and latency (Mann-Whitney on one p99 of each node). At most [`LOOKS`] looks, at quarters of `min_samples`; each look may reject at
//! what the spending function grants it. Invariant: whatever depends on whatever (looks share data, nodes have moods), the chance that
//! an equal bundle is ever called worse in a whole rollout is at most 1 - `confidence_level`: by Boole's inequality over steps, tests
//! and looks, so no independence of increments is assumed.

#[cfg(test)]
mod simulation;
pub mod stats;

use super::spec::Canary;
use crate::access::text_enum;
use crate::id::NodeId;
use crate::node::Generation;
use crate::time::Span;
use serde::{Deserialize, Serialize};

/// How often one step is looked at: at 1/4, 2/4, 3/4 and all of `min_samples`.
pub const LOOKS: u8 = 4;
/// Nodes of one cohort whose readings are used; more add nothing but rows: 1,000 readings of 100 bytes for a look.
pub const MAX_READINGS: usize = 500;
/// From so many expected errors in both cohorts the normal approximation is trusted alone (W. G. Cochran's rule, doubled).
const ENOUGH_EXPECTED: f64 = 10.0;

/// What one node served since the analysis of its step began, whole numbers so that a replay reads what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reading {
    pub node: NodeId,
    /// The assignment under which it was served.
    pub generation: Generation,
    pub requests: u64,
    pub errors: u64,
    /// Its latest 99th percentile, microseconds.
    pub p99_us: Option<u64>,
}

text_enum! {
    /// What a look says.
    Outcome {
        /// All the data is in and the new bundle is not worse.
        Promote = "promote",
        /// Not worse so far, and more data is to come.
        Hold = "hold",
        /// Worse, by errors or latency.
        Worse = "worse",
        /// Nobody runs the old bundle to compare with: the gates alone decide.
        NoBaseline = "no_baseline",
        /// The deadline passed before the data was in.
        Inconclusive = "inconclusive",
        /// A person went on without an answer.
        Overruled = "overruled",
    }
}

/// What one side served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cohort {
    pub nodes: u32,
    pub requests: u64,
    pub errors: u64,
    /// The median of its nodes' p99, microseconds.
    pub p99_us: Option<u64>,
}

/// One test: the probability of what was seen if both were equal, and the one below which it counts as worse. Parts per billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Test {
    pub p_ppb: u64,
    pub limit_ppb: u64,
}

impl Test {
    fn of(p: f64, limit: f64) -> Test {
        // Rounded against ourselves: up for what was seen, down for what is allowed.
        let ppb = |x: f64| (x * 1e9).clamp(0.0, 1e9);
        Test { p_ppb: libm::ceil(ppb(p)) as u64, limit_ppb: libm::floor(ppb(limit)) as u64 }
    }
    fn rejects(&self) -> bool {
        self.p_ppb < self.limit_ppb
    }
}

/// One look at the data of a step, with everything it was decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Look {
    pub step: u32,
    /// 1 to [`LOOKS`]: how many quarters of the data were in.
    pub look: u8,
    pub outcome: Outcome,
    pub canary: Cohort,
    pub baseline: Cohort,
    /// How much more nodes of a cohort differ than chance explains, in thousandths.
    pub design_milli: u64,
    pub errors: Option<Test>,
    /// `None`: one side has no p99.
    pub latency: Option<Test>,
}

/// Where the analysis of the step that runs stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Analysis {
    pub step: u32,
    /// On the rollout's clock: when every member of the step had settled.
    pub since: Span,
    /// Quarters looked at; their alpha is spent, whatever becomes of the data.
    pub looks: u8,
    /// The step may end: promoted, overruled, or nothing to compare with.
    pub done: bool,
    pub last: Option<Look>,
}

/// Judge the readings of both sides, if enough of them is in for a look that was not made yet. `steps` is how many steps of the rollout
/// are analysed: they share the alpha.
pub fn look(rules: &Canary, steps: u32, before: &Analysis, canary: &[Reading], baseline: &[Reading]) -> Option<Look> {
    let (new, old) = (cohort(canary), cohort(baseline));
    let share = new.requests.min(old.requests) as f64 / rules.min_samples.max(1) as f64;
    let quarters = libm::floor(share * f64::from(LOOKS)).clamp(0.0, f64::from(LOOKS)) as u8;
    if quarters <= before.looks {
        return None;
    }
    let alpha = (1.0 - rules.confidence_level) / f64::from(steps.max(1)) / 2.0;
    let upto = |q: u8| stats::spent(alpha, f64::from(q) / f64::from(LOOKS));
    let limit = upto(quarters) - upto(before.looks);
    let counts = |r: &[Reading]| r.iter().map(|r| (r.requests, r.errors)).collect::<Vec<_>>();
    let design = stats::design_effect(&[&counts(canary), &counts(baseline)]);
    let mut p = errors_p(&new, &old, design);
    if stats::nodes_differ(design, canary.len() + baseline.len()) {
        // Nodes have moods: then a node is one observation, not its requests.
        p = p.max(stats::student_of_rates(&counts(canary), &counts(baseline)));
    }
    let errors = Test::of(p, limit);
    let latencies = |r: &[Reading]| r.iter().filter_map(|r| r.p99_us.map(|p| p as f64)).collect::<Vec<f64>>();
    let (slow, usual) = (latencies(canary), latencies(baseline));
    let latency = (!slow.is_empty() && !usual.is_empty()).then(|| Test::of(stats::mann_whitney(&slow, &usual), limit));
    let worse = errors.rejects() || latency.is_some_and(|t| t.rejects());
    let outcome = match (worse, quarters >= LOOKS) {
        (true, _) => Outcome::Worse,
        (false, true) => Outcome::Promote,
        (false, false) => Outcome::Hold,
    };
    let design_milli = libm::floor((design * 1e3).min(1e12)) as u64;
    Some(Look {
        step: before.step,
        look: quarters,
        outcome,
        canary: new,
        baseline: old,
        design_milli,
        errors: Some(errors),
        latency,
    })
}

/// Few errors are counted exactly; where nodes differ more than chance explains, the wider answer counts.
fn errors_p(new: &Cohort, old: &Cohort, design: f64) -> f64 {
    let (_, p) = stats::two_proportions(new.errors, new.requests, old.errors, old.requests, design);
    let all = (new.requests + old.requests) as f64;
    let expected = (new.errors + old.errors) as f64 * new.requests.min(old.requests) as f64 / all;
    if expected >= ENOUGH_EXPECTED {
        return p;
    }
    p.max(stats::fisher(new.errors, new.requests, old.errors, old.requests))
}

fn cohort(readings: &[Reading]) -> Cohort {
    let mut p99: Vec<u64> = readings.iter().filter_map(|r| r.p99_us).collect();
    p99.sort_unstable();
    Cohort {
        nodes: readings.len() as u32,
        requests: readings.iter().map(|r| r.requests).sum(),
        // More errors than requests is a reading of nonsense: it counts as all of them.
        errors: readings.iter().map(|r| r.errors.min(r.requests)).sum(),
        p99_us: p99.get(p99.len() / 2).copied(),
    }
}

impl Look {
    /// Without numbers: nothing was compared.
    pub fn bare(step: u32, outcome: Outcome) -> Look {
        Look {
            step,
            look: 0,
            outcome,
            canary: Cohort::default(),
            baseline: Cohort::default(),
            design_milli: 1000,
            errors: None,
            latency: None,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        let rate = |c: &Cohort| 100.0 * c.errors as f64 / c.requests.max(1) as f64;
        let latency = |c: &Cohort| c.p99_us.map_or("no p99".to_string(), |p| format!("p99 {:.1} ms", p as f64 / 1e3));
        let side =
            |c: &Cohort| format!("{} nodes, {} requests, {:.3} % errors, {}", c.nodes, c.requests, rate(c), latency(c));
        let p = |t: &Option<Test>| t.map_or("-".to_string(), |t| format!("{:.6}", t.p_ppb as f64 / 1e9));
        format!(
            "{}: new ({}) against old ({}), look {} of {LOOKS}, p of errors {}, of latency {}",
            self.outcome,
            side(&self.canary),
            side(&self.baseline),
            self.look,
            p(&self.errors),
            p(&self.latency)
        )
    }
}
