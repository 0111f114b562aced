//! One table of everything that was measured, with the bar beside it, and the same as JSON.

use serde::Serialize;
use std::fmt;

/// What a figure must reach: the floor, and what we aim at (`shared/FIELD.md`, section 4).
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Bar {
    /// Nothing to reach: context for the other lines.
    None,
    AtLeast {
        floor: f64,
        aim: f64,
    },
    AtMost {
        floor: f64,
        aim: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Context,
    Aim,
    Floor,
    Short,
}

impl Bar {
    pub fn judge(self, value: f64) -> Verdict {
        match self {
            Bar::None => Verdict::Context,
            Bar::AtLeast { aim, .. } if value >= aim => Verdict::Aim,
            Bar::AtMost { aim, .. } if value <= aim => Verdict::Aim,
            Bar::AtLeast { floor, .. } if value >= floor => Verdict::Floor,
            Bar::AtMost { floor, .. } if value <= floor => Verdict::Floor,
            Bar::AtLeast { .. } | Bar::AtMost { .. } => Verdict::Short,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub bench: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub bar: Bar,
    pub verdict: Verdict,
}

#[derive(Default, Debug, Serialize)]
pub struct Table {
    pub machine: String,
    pub lines: Vec<Line>,
    /// How things were measured, where the name of a line does not say it.
    pub notes: Vec<String>,
}

impl Table {
    pub fn add(&mut self, bench: &'static str, what: impl Into<String>, value: f64, unit: &'static str, bar: Bar) {
        let what = what.into();
        // Each line at once: a run of a minute should be watched, and a later failure should not take it away.
        eprintln!("  {bench}: {what}: {} {unit}", figure(value));
        self.lines.push(Line { bench, what, value, unit, bar, verdict: bar.judge(value) });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn short(&self) -> usize {
        self.lines.iter().filter(|l| l.verdict == Verdict::Short).count()
    }
}

/// Three digits that matter, whatever the size.
pub fn figure(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if a >= 1_000.0 => {
            let whole = format!("{:.0}", v.abs());
            let groups: Vec<&str> =
                whole.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap_or("?")).collect();
            format!("{}{}", if v < 0.0 { "-" } else { "" }, groups.join(","))
        }
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        a if a >= 0.1 => format!("{v:.2}"),
        _ => format!("{v:.4}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        writeln!(f, "{:<10} {:<66} {:>12} {:<9} {:>9} {:>9}", "bench", "what", "value", "unit", "floor", "aim")?;
        let mut last = "";
        for l in &self.lines {
            if l.bench != last {
                writeln!(f, "{}", "-".repeat(126))?;
            }
            let (floor, aim) = match l.bar {
                Bar::None => (String::new(), String::new()),
                Bar::AtLeast { floor, aim } => (format!(">= {}", figure(floor)), figure(aim)),
                Bar::AtMost { floor, aim } => (format!("<= {}", figure(floor)), figure(aim)),
            };
            let verdict = match l.verdict {
                Verdict::Context => "",
                Verdict::Aim => "aim",
                Verdict::Floor => "floor",
                Verdict::Short => "SHORT",
            };
            let bench = if l.bench == last { "" } else { l.bench };
            last = l.bench;
            writeln!(
                f,
                "{bench:<10} {:<66} {:>12} {:<9} {floor:>9} {aim:>9} {verdict}",
                l.what,
                figure(l.value),
                l.unit
            )?;
        }
        for n in &self.notes {
            writeln!(f, "\n{n}")?;
        }
        Ok(())
    }
}

/// The middle one; the mean of the middle two. 0 without values.
pub fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n if n % 2 == 1 => v[n / 2],
        n => (v[n / 2 - 1] + v[n / 2]) / 2.0,
    }
}

/// The value that a share `q` of them does not exceed.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let at = ((v.len() as f64 * q).ceil() as usize).clamp(1, v.len().max(1)) - 1;
    v.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_that_matter() {
        for (v, text) in
            [(0.0, "0"), (1_234_567.0, "1,234,567"), (999.6, "1000"), (0.85, "0.85"), (12.34, "12.3"), (0.01, "0.0100")]
        {
            assert_eq!(figure(v), text);
        }
        assert_eq!(figure(-1_500.0), "-1,500");
    }

    #[test]
    fn a_figure_is_judged_in_its_own_direction() {
        let more = Bar::AtLeast { floor: 0.6, aim: 0.85 };
        assert_eq!([0.9, 0.7, 0.5].map(|v| more.judge(v)), [Verdict::Aim, Verdict::Floor, Verdict::Short]);
        let less = Bar::AtMost { floor: 40.0, aim: 20.0 };
        assert_eq!([10.0, 30.0, 50.0].map(|v| less.judge(v)), [Verdict::Aim, Verdict::Floor, Verdict::Short]);
        assert_eq!(Bar::None.judge(1.0), Verdict::Context);
    }

    #[test]
    fn medians_and_quantiles_are_of_the_sorted_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[5.0, 1.0, 4.0, 2.0, 3.0], 0.99), 5.0);
        assert_eq!(quantile(&[5.0, 1.0, 4.0, 2.0, 3.0], 0.5), 3.0);
        assert_eq!((median(&[]), quantile(&[], 0.5)), (0.0, 0.0));
    }
}
