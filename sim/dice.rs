//! Chance as a value: the same seed gives the same throws on any machine.

/// A splitmix64 stream. Eight bytes, so every node has its own.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Streams of the same seed and different `lane` are independent.
    pub fn new(seed: u64, lane: u64) -> Dice {
        let mut d = Dice(seed ^ lane.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        d.throw();
        d
    }

    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Evenly in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `true` with probability `p`. `p <= 0` never, `p >= 1` always; always one throw, so that streams stay aligned.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Evenly in `0..=micros`.
    pub fn upto(&mut self, span: domain::Span) -> domain::Span {
        domain::Span((self.unit() * span.0.max(0) as f64) as i64)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stable place in `0.0..100.0` for a text: which nodes a percentage means, independent of their order.
pub fn percentile(seed: u64, text: &str) -> f64 {
    let h =
        text.bytes().fold(mix(seed ^ 0xCBF2_9CE4_8422_2325), |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    (mix(h) >> 11) as f64 / (1u64 << 53) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_lanes_differ() {
        let (mut a, mut b, mut c) = (Dice::new(7, 1), Dice::new(7, 1), Dice::new(7, 2));
        let first: Vec<u64> = (0..5).map(|_| a.throw()).collect();
        assert_eq!(first, (0..5).map(|_| b.throw()).collect::<Vec<_>>());
        assert_ne!(first, (0..5).map(|_| c.throw()).collect::<Vec<_>>());
    }

    #[test]
    fn a_percentage_of_names_is_about_that_share() {
        let n = (0..10_000).filter(|i| percentile(1, &format!("sim-node-{i}")) < 10.0).count();
        assert!((900..1100).contains(&n), "{n}");
    }
}
