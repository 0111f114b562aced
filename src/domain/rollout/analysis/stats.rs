//! The statistics of an analysis: tail probabilities, each with the paper it is from. One-sided: "the first is worse".
//!
//! Invariant: the same on every machine. Only IEEE arithmetic and `libm`, whose functions are the same code everywhere; what the
//! platform's own `exp` answers may differ in its last bit, and a replay must not.

/// The largest number of additions an exact distribution may take: half a millisecond. Beyond it the normal approximation is as good.
const MAX_EXACT_WORK: u64 = 400_000;

/// P(Z > z) of the standard normal distribution.
pub fn normal_tail(z: f64) -> f64 {
    0.5 * libm::erfc(z / std::f64::consts::SQRT_2)
}

/// The `z` with P(Z > z) = `p`, by bisection: exact to the last bits, and slow enough to be asked rarely. `p` in (0, 1).
pub fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if normal_tail(middle) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The two-proportion test with pooled variance: is `x1/n1` larger than `x2/n2`? `design` (at least 1) is by how much the variance
/// exceeds that of independent requests: requests of one node resemble each other (J. N. K. Rao, A. J. Scott, "A simple method for
/// the analysis of clustered binary data", Biometrics 48, 1992). Answers z and p.
pub fn two_proportions(x1: u64, n1: u64, x2: u64, n2: u64, design: f64) -> (f64, f64) {
    let (a, b) = (n1 as f64, n2 as f64);
    let pooled = (x1 + x2) as f64 / (a + b);
    let variance = pooled * (1.0 - pooled) * (1.0 / a + 1.0 / b) * design.max(1.0);
    if variance.is_nan() || variance <= 0.0 {
        return (0.0, 1.0);
    }
    let z = (x1 as f64 / a - x2 as f64 / b) / libm::sqrt(variance);
    (z, normal_tail(z))
}

/// Fisher's exact test: given all errors, how likely are `x1` or more of them among the first `n1` requests? Valid however few there
/// are (R. A. Fisher, "The Design of Experiments", 1935, chapter II).
pub fn fisher(x1: u64, n1: u64, x2: u64, n2: u64) -> f64 {
    let errors = x1 + x2;
    let most = errors.min(n1);
    let choose = |n: u64, k: u64| {
        libm::lgamma(n as f64 + 1.0) - libm::lgamma(k as f64 + 1.0) - libm::lgamma((n - k) as f64 + 1.0)
    };
    let all = choose(n1 + n2, errors);
    let mut p = 0.0;
    for k in x1..=most {
        if errors - k > n2 {
            continue;
        }
        let term = libm::exp(choose(n1, k) + choose(n2, errors - k) - all);
        p += term;
        // Terms only fall from here on.
        if term < p * 1e-17 {
            break;
        }
    }
    p.min(1.0)
}

/// How much more the error rates of nodes of one cohort differ than chance explains: Pearson's chi-square within the cohorts over its
/// degrees of freedom, at least 1. Nodes are (requests, errors); what differs between the cohorts does not enter.
pub fn design_effect(cohorts: &[&[(u64, u64)]]) -> f64 {
    let (mut chi, mut freedom) = (0.0, 0usize);
    for nodes in cohorts {
        let counted: Vec<(f64, f64)> =
            nodes.iter().filter(|(n, _)| *n > 0).map(|(n, x)| (*n as f64, *x as f64)).collect();
        let (n, x) = counted.iter().fold((0.0, 0.0), |(n, x), (a, b)| (n + a, x + b));
        if counted.len() < 2 || x <= 0.0 || x >= n {
            continue;
        }
        let rate = x / n;
        chi += counted.iter().map(|(n, x)| (x - n * rate) * (x - n * rate) / (n * rate * (1.0 - rate))).sum::<f64>();
        freedom += counted.len() - 1;
    }
    if freedom == 0 { 1.0 } else { (chi / freedom as f64).max(1.0) }
}

/// Do nodes differ by more than twice the standard error of that measure? Chi-square over its degrees of freedom has variance 2/f.
pub fn nodes_differ(design: f64, nodes: usize) -> bool {
    design > 1.0 + 2.0 * libm::sqrt(2.0 / nodes.saturating_sub(2).max(1) as f64)
}

/// Student's t-test on the logarithms of the nodes' error rates, the variance from within the cohorts: is the first larger? The unit is
/// the node: however many requests a single node served, they say little where nodes differ ("Student", Biometrika 6, 1908).
pub fn student_of_rates(a: &[(u64, u64)], b: &[(u64, u64)]) -> f64 {
    // Half an error more, so that none has a logarithm too.
    let logs = |v: &[(u64, u64)]| -> Vec<f64> {
        v.iter().filter(|(n, _)| *n > 0).map(|(n, x)| libm::log((*x as f64 + 0.5) / (*n as f64 + 1.0))).collect()
    };
    let (a, b) = (logs(a), logs(b));
    if a.is_empty() || b.is_empty() || a.len() + b.len() < 3 {
        return 1.0;
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let squares = |v: &[f64], m: f64| v.iter().map(|x| (x - m) * (x - m)).sum::<f64>();
    let freedom = (a.len() + b.len() - 2) as f64;
    let variance = (squares(&a, ma) + squares(&b, mb)) / freedom;
    let error = libm::sqrt(variance * (1.0 / a.len() as f64 + 1.0 / b.len() as f64));
    if error <= 0.0 { if ma > mb { 0.0 } else { 1.0 } } else { student_tail((ma - mb) / error, freedom) }
}

/// P(T > t) with `f` degrees of freedom.
pub fn student_tail(t: f64, f: f64) -> f64 {
    let two_sided = beta(f / (f + t * t), f / 2.0, 0.5);
    if t >= 0.0 { two_sided / 2.0 } else { 1.0 - two_sided / 2.0 }
}

/// The regularised incomplete beta function, by its continued fraction (NIST Digital Library of Mathematical Functions, 8.17.22).
fn beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta(1.0 - x, b, a);
    }
    let front =
        libm::exp(libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log(1.0 - x))
            / a;
    // From the inside out: 200 terms are far more than x below the mean needs.
    let mut fraction = 1.0;
    for i in (1..=200).rev() {
        let m = f64::from(i / 2);
        let d = if i % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        fraction = 1.0 + d / fraction;
    }
    front / fraction
}

/// Mann and Whitney's test: are values of `a` larger than those of `b`? Exact over all ways to divide the pooled values, ties
/// included (midranks), where that can be counted; else normal with the correction for ties (H. B. Mann, D. R. Whitney, Annals of
/// Mathematical Statistics 18, 1947; E. L. Lehmann, "Nonparametrics", 1975, chapter 1). Values that are no numbers are left out.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let finite = |v: &[f64]| v.iter().copied().filter(|x| x.is_finite()).collect::<Vec<f64>>();
    let (a, b) = (finite(a), finite(b));
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let ranks = Ranks::of(&a, &b);
    // The smaller side is the shorter to count; its complement has the other tail.
    let work = a.len().min(b.len()) as u64 * ranks.doubled.len() as u64 * ranks.total();
    if work <= MAX_EXACT_WORK { ranks.exact_tail() } else { ranks.normal_tail() }
}

/// Twice the midrank of every pooled value, so that they are whole; those of the first sample come first.
struct Ranks {
    doubled: Vec<u64>,
    first: usize,
    /// Sizes of the groups of equal values.
    ties: Vec<u64>,
}

impl Ranks {
    fn of(a: &[f64], b: &[f64]) -> Ranks {
        let all: Vec<f64> = a.iter().chain(b).copied().collect();
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|i, j| all[*i].total_cmp(&all[*j]));
        let mut doubled = vec![0; all.len()];
        let mut ties = Vec::new();
        let mut from = 0;
        while from < order.len() {
            let mut to = from + 1;
            while to < order.len() && all[order[to]] == all[order[from]] {
                to += 1;
            }
            for i in &order[from..to] {
                doubled[*i] = (from + 1 + to) as u64;
            }
            ties.push((to - from) as u64);
            from = to;
        }
        Ranks { doubled, first: a.len(), ties }
    }

    fn total(&self) -> u64 {
        self.doubled.iter().sum()
    }

    fn of_first(&self) -> u64 {
        self.doubled[..self.first].iter().sum()
    }

    /// Of all ways to choose that many of the pooled ranks, the share whose sum is at least what was seen.
    fn exact_tail(&self) -> f64 {
        let second = self.doubled.len() - self.first;
        let (k, flipped) = if self.first <= second { (self.first, false) } else { (second, true) };
        let total = self.total() as usize;
        let mut ways = vec![vec![0.0f64; total + 1]; k + 1];
        ways[0][0] = 1.0;
        for r in &self.doubled {
            let r = *r as usize;
            for taken in (1..=k).rev() {
                let (fewer, more) = ways.split_at_mut(taken);
                for sum in r..=total {
                    more[0][sum] += fewer[taken - 1][sum - r];
                }
            }
        }
        let seen = self.of_first() as usize;
        let all: f64 = ways[k].iter().sum();
        // A large sum of the first is a small sum of the second.
        let tail: f64 = if flipped { ways[k][..=total - seen].iter().sum() } else { ways[k][seen..].iter().sum() };
        (tail / all).min(1.0)
    }

    fn normal_tail(&self) -> f64 {
        let (n1, n) = (self.first as f64, self.doubled.len() as f64);
        let n2 = n - n1;
        let u = self.of_first() as f64 / 2.0 - n1 * (n1 + 1.0) / 2.0;
        let tied: f64 = self.ties.iter().map(|t| (t * t * t - t) as f64).sum();
        let variance = n1 * n2 / 12.0 * ((n + 1.0) - tied / (n * (n - 1.0)));
        if variance.is_nan() || variance <= 0.0 {
            return 1.0;
        }
        normal_tail((u - n1 * n2 / 2.0 - 0.5) / libm::sqrt(variance))
    }
}

/// How much of `alpha` (one-sided) may have been spent when the share `t` of the data is in: the spending function of O'Brien and
/// Fleming's shape (K. K. G. Lan, D. L. DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70, 1983): almost
/// nothing early, almost all of it at the end.
pub fn spent(alpha: f64, t: f64) -> f64 {
    if t <= 0.0 {
        return 0.0;
    }
    if t >= 1.0 {
        return alpha;
    }
    2.0 * normal_tail(normal_quantile(alpha / 2.0) / libm::sqrt(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, expect: f64, by: f64) {
        assert!((got - expect).abs() <= by, "{got} is not {expect}");
    }

    #[test]
    fn the_normal_distribution_is_that_of_the_tables() {
        near(normal_tail(1.959964), 0.025, 1e-7);
        near(normal_tail(0.0), 0.5, 1e-15);
        near(normal_quantile(0.025), 1.959964, 1e-6);
        near(normal_quantile(0.0125), 2.241403, 1e-6);
    }

    /// Penn State, STAT 415, lesson 9.4: 351 of 605 non-smokers against 41 of 195 smokers, Z = 8.99.
    #[test]
    fn two_proportions_as_in_the_textbook() {
        let (z, p) = two_proportions(351, 605, 41, 195, 1.0);
        near(z, 8.99, 0.005);
        assert!(p < 1e-15);
        near(two_proportions(10, 100, 10, 100, 1.0).1, 0.5, 1e-12);
        near(two_proportions(351, 605, 41, 195, 4.0).0, z / 2.0, 1e-12);
        assert_eq!(two_proportions(0, 100, 0, 100, 1.0).1, 1.0, "without any error nothing differs");
    }

    /// Fisher 1935: the lady tasting tea, three of four right, 17/70. R's `fisher.test`: convictions of twins, p = 0.0004652.
    #[test]
    fn fishers_test_as_published() {
        near(fisher(3, 4, 1, 4), 17.0 / 70.0, 1e-12);
        near(fisher(10, 13, 2, 17), 0.0004652, 5e-8);
        near(fisher(0, 10, 5, 10), 1.0, 1e-12);
    }

    /// Mann and Whitney 1947, table I: P(U <= u) for samples of three and three, and of four and four.
    #[test]
    fn the_exact_distribution_is_the_table_of_1947() {
        let p = |a: &[f64], b: &[f64]| mann_whitney(a, b);
        for (a, b, expect) in [
            (vec![4., 5., 6.], vec![1., 2., 3.], 0.050),
            (vec![3., 5., 6.], vec![1., 2., 4.], 0.100),
            (vec![2., 5., 6.], vec![1., 3., 4.], 0.200),
            (vec![5., 6., 7., 8.], vec![1., 2., 3., 4.], 0.014),
            (vec![4., 6., 7., 8.], vec![1., 2., 3., 5.], 0.029),
            (vec![3., 6., 7., 8.], vec![1., 2., 4., 5.], 0.057),
        ] {
            near(p(&a, &b), expect, 0.0005);
        }
        // One of them larger than nineteen others cannot be surprising.
        let many: Vec<f64> = (0..19).map(f64::from).collect();
        near(p(&[100.0], &many), 0.05, 1e-12);
        near(p(&many, &[-1.0]), 0.05, 1e-12);
    }

    /// M. Hollander, D. A. Wolfe, "Nonparametric Statistical Methods", 1973, pp. 69 f. (R's `wilcox.test`): W = 35, p = 0.1272.
    #[test]
    fn placental_permeability_as_in_hollander_and_wolfe() {
        let term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
        let early = [1.15, 0.88, 0.90, 0.74, 1.21];
        near(mann_whitney(&term, &early), 0.1272, 0.00005);
    }

    #[test]
    fn for_many_values_the_normal_approximation_continues_the_exact_one() {
        let a: Vec<f64> = (0..40).map(|i| f64::from(i) * 1.3 + 3.0).collect();
        let b: Vec<f64> = (0..40).map(f64::from).collect();
        let ranks = Ranks::of(&a, &b);
        near(ranks.exact_tail(), ranks.normal_tail(), 0.002);
        let few = |step: f64| (0..30).map(|i| (f64::from(i) * step).floor()).collect::<Vec<f64>>();
        let tied = Ranks::of(&few(0.3), &few(0.25));
        near(tied.exact_tail(), tied.normal_tail(), 0.005);
        assert_eq!(mann_whitney(&[f64::NAN], &[1.0]), 1.0);
    }

    /// Lan and DeMets 1983; the cumulative values 0.00000, 0.00079, 0.00762, 0.02442, 0.05 of five looks at two-sided 0.05, as printed
    /// by D. M. Reboussin et al., "Computations for group sequential boundaries", Controlled Clinical Trials 21, 2000. The boundary of
    /// the first look, 4.8769, is theirs too.
    #[test]
    fn alpha_is_spent_as_lan_and_demets_spend_it() {
        for (t, expect) in [(0.2, 0.0), (0.4, 0.00079), (0.6, 0.00762), (0.8, 0.02442), (1.0, 0.05)] {
            near(2.0 * spent(0.025, t), expect, 0.000005);
        }
        near(normal_quantile(spent(0.025, 0.2)), 4.8769, 0.0002);
        assert_eq!(spent(0.05, 0.0), 0.0);
        let grows = (1..100).all(|i| spent(0.05, f64::from(i) / 100.0) <= spent(0.05, f64::from(i + 1) / 100.0));
        assert!(grows);
    }

    /// The t table: 2.228 and 1.812 at ten degrees of freedom, 12.706 at one.
    #[test]
    fn students_distribution_is_that_of_the_tables() {
        near(student_tail(2.228, 10.0), 0.025, 1e-5);
        near(student_tail(1.812, 10.0), 0.05, 1e-4);
        near(student_tail(12.706, 1.0), 0.025, 1e-6);
        near(student_tail(-2.228, 10.0), 0.975, 1e-5);
        near(student_tail(1.96, 1e6), 0.025, 1e-5);
        assert!(student_of_rates(&[(1000, 500)], &[(1000, 9), (1000, 20), (1000, 5), (1000, 12)]) < 0.01);
        assert!(student_of_rates(&[(1000, 20)], &[(1000, 9), (1000, 20), (1000, 5), (1000, 12)]) > 0.1);
    }

    #[test]
    fn nodes_that_differ_more_than_chance_widen_the_variance() {
        assert_eq!(design_effect(&[&[(100, 10), (100, 10)], &[(100, 90)]]), 1.0);
        assert_eq!(design_effect(&[&[(100, 0), (0, 0)]]), 1.0);
        // Chi-square 100 * ((0.1)^2 + (0.1)^2) / (0.1 * 0.9) = 22.2 on one degree of freedom.
        near(design_effect(&[&[(100, 0), (100, 20)]]), 200.0 / 9.0, 1e-9);
    }
}
