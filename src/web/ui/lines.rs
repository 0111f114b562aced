//! Which lines of a text became which: a longest common subsequence, with a limit on what it may cost.

use super::view::diff::Line;

/// Cells of the table: 16 MB of `u32` at most.
const MAX_CELLS: usize = 4_000_000;
/// Unchanged lines shown around a change.
const AROUND: usize = 3;

/// `None`: more work than the limit allows.
pub fn changed(old: &str, new: &str) -> Option<Vec<Line>> {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (mid_a, mid_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut out: Vec<Line> = a[..head].iter().map(|l| Line::Same((*l).into())).collect();
    out.extend(middle(mid_a, mid_b)?);
    out.extend(a[a.len() - tail..].iter().map(|l| Line::Same((*l).into())));
    Some(folded(out))
}

fn middle(a: &[&str], b: &[&str]) -> Option<Vec<Line>> {
    let width = b.len() + 1;
    let cells = (a.len() + 1).checked_mul(width).filter(|n| *n <= MAX_CELLS)?;
    // `longest[i * width + j]`: of `a[i..]` and `b[j..]`.
    let mut longest = vec![0u32; cells];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = match a[i] == b[j] {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(Line::Same(a[i].into()));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            out.push(Line::Removed(a[i].into()));
            i += 1;
        } else {
            out.push(Line::Added(b[j].into()));
            j += 1;
        }
    }
    Some(out)
}

/// Long runs of what stayed are left out.
fn folded(all: Vec<Line>) -> Vec<Line> {
    let same = |l: &Line| matches!(l, Line::Same(_));
    let near = |at: usize| all[at.saturating_sub(AROUND)..(at + AROUND + 1).min(all.len())].iter().any(|l| !same(l));
    let mut out: Vec<Line> = Vec::new();
    for (at, line) in all.iter().enumerate() {
        match (near(at), out.last_mut()) {
            (true, _) => out.push(line.clone()),
            (false, Some(Line::Skipped(n))) => *n += 1,
            (false, _) => out.push(Line::Skipped(1)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str) -> String {
        let line = |l: &Line| match l {
            Line::Same(t) => format!(" {t}"),
            Line::Added(t) => format!("+{t}"),
            Line::Removed(t) => format!("-{t}"),
            Line::Skipped(n) => format!("~{n}"),
        };
        changed(old, new).map_or("too much".into(), |all| all.iter().map(line).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn lines_that_came_and_went_are_told_from_those_that_stayed() {
        assert_eq!(shown("a\nb\nc", "a\nx\nc"), " a,-b,+x, c");
        assert_eq!(shown("", "a"), "+a");
        assert_eq!(shown("a", ""), "-a");
        assert_eq!(shown("a\nb", "b\na"), "-a, b,+a");
        assert_eq!(shown("a", "a"), "~1");
    }

    #[test]
    fn long_runs_of_what_stayed_are_left_out_and_too_much_work_is_refused() {
        let many = |n: usize| (0..n).map(|i| format!("l{i}")).collect::<Vec<_>>().join("\n");
        let new = format!("{}\nnew", many(10));
        assert_eq!(shown(&many(10), &new), "~7, l7, l8, l9,+new");
        let other: String = (0..3_000).map(|i| format!("o{i}\n")).collect();
        assert_eq!(shown(&many(3_000), &other), "too much");
    }
}
