//! How often the analysis is wrong, tried: an equal bundle must be called worse in at most 1 - `confidence_level` of all rollouts, however
//! often it is looked at; and a worse one must be found. Figures are printed (`--nocapture`) and in `src/docs/engine-analysis.md`.

use super::*;
use crate::id::NodeId;

/// Splitmix64: chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        libm::sqrt(-2.0 * libm::log(1.0 - self.unit())) * libm::cos(2.0 * std::f64::consts::PI * self.unit())
    }
    /// Poisson: a little more spread than binomial, which is the harder case.
    fn errors(&mut self, requests: u64, rate: f64) -> u64 {
        let (limit, mut product, mut n) = (libm::exp(-(requests as f64) * rate), self.unit(), 0);
        while product > limit && n < requests {
            product *= self.unit();
            n += 1;
        }
        n
    }
}

/// A world to be right or wrong about.
#[derive(Clone, Copy)]
struct Case {
    fleet: usize,
    /// How much worse the new bundle is, as a factor.
    errors: f64,
    latency: f64,
    /// How much nodes differ from each other, as the standard deviation of the logarithm of their error rate.
    moods: f64,
}

const RATE: f64 = 0.01;

/// One step: data comes in eight portions, each looked at. Did it ever say worse?
fn called_worse(dice: &mut Dice, rules: &Canary, steps: u32, case: Case, updated: usize) -> bool {
    let n = case.fleet;
    let mood: Vec<(f64, f64)> =
        (0..n).map(|_| (libm::exp(case.moods * dice.normal()), libm::exp(0.2 * dice.normal()))).collect();
    let mut readings: Vec<Reading> = (0..n)
        .map(|i| Reading {
            node: NodeId(uuid::Uuid::from_u128(i as u128)),
            generation: 1,
            requests: 0,
            errors: 0,
            p99_us: None,
        })
        .collect();
    let portion = rules.min_samples / (8 * updated as u64) + 1;
    let mut state = Analysis { step: 0, since: Span::ZERO, looks: 0, done: false, last: None };
    for _ in 0..8 {
        for (i, r) in readings.iter_mut().enumerate() {
            let new = i < updated;
            let rate = (RATE * mood[i].0 * if new { case.errors } else { 1.0 }).min(1.0);
            r.requests += portion;
            r.errors += dice.errors(portion, rate);
            let slow = if new { case.latency } else { 1.0 };
            r.p99_us = Some((80_000.0 * mood[i].1 * slow * libm::exp(0.1 * dice.normal())) as u64);
        }
        if let Some(look) = look(rules, steps, &state, &readings[..updated], &readings[updated..]) {
            if look.outcome == Outcome::Worse {
                return true;
            }
            state.looks = look.look;
        }
    }
    assert_eq!(state.looks, LOOKS, "all the data was in");
    false
}

/// The share of rollouts (three analysed steps: 5, 25 and 50 percent) in which the new bundle was called worse.
fn share_called_worse(case: Case, rules: &Canary, runs: u32) -> f64 {
    let mut dice = Dice(42);
    let steps = [5usize, 25, 50].map(|p| (case.fleet * p).div_ceil(100));
    let worse = (0..runs).filter(|_| steps.iter().any(|k| called_worse(&mut dice, rules, 3, case, *k))).count();
    worse as f64 / f64::from(runs)
}

#[test]
fn an_equal_bundle_is_called_worse_no_more_often_than_configured() {
    let rules = Canary { min_samples: 1_000, ..Canary::default() };
    let alpha = 1.0 - rules.confidence_level;
    for (name, moods) in [("nodes alike", 0.0), ("nodes that differ", 0.5)] {
        for fleet in [20, 60] {
            let case = Case { fleet, errors: 1.0, latency: 1.0, moods };
            let share = share_called_worse(case, &rules, 600);
            println!(
                "false alarms, {name}, fleet of {fleet}: {:.2} % of rollouts, at most {:.0} %",
                share * 100.0,
                alpha * 100.0
            );
            // Three standard errors of 600 runs at alpha: 2.7 %.
            assert!(share <= alpha + 0.027, "{name}: {share}");
        }
    }
}

#[test]
fn a_worse_bundle_is_found() {
    for (what, samples, errors, latency, least) in [
        ("errors 1 % -> 1.5 %, 2,000 requests", 2_000, 1.5, 1.0, 0.30),
        ("errors 1 % -> 1.5 %, 5,000 requests", 5_000, 1.5, 1.0, 0.60),
        ("errors 1 % -> 2 %, 2,000 requests", 2_000, 2.0, 1.0, 0.80),
        ("errors 1 % -> 3 %, 1,000 requests", 1_000, 3.0, 1.0, 0.80),
        ("p99 + 30 %, 1,000 requests", 1_000, 1.0, 1.3, 0.50),
        ("p99 + 50 %, 1,000 requests", 1_000, 1.0, 1.5, 0.80),
    ] {
        let rules = Canary { min_samples: samples, ..Canary::default() };
        let share = share_called_worse(Case { fleet: 40, errors, latency, moods: 0.0 }, &rules, 150);
        println!("power, fleet of 40, {what}: {:.0} % of rollouts", share * 100.0);
        assert!(share >= least, "{what}: {share}");
    }
}
