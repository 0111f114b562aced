//! Lengths of time and glob patterns as they are written in scenarios and flags.

use domain::Span;
use serde::{Deserialize, Deserializer};

/// `2`, `2.5` (seconds), `"200ms"`, `"5s"`, `"2m"`, `"1h"`. Errors name the text.
pub fn parse_span(text: &str) -> Result<Span, String> {
    let text = text.trim();
    let cut = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(cut);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" | "" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return Err(format!("{text:?}: unit {unit:?} is none of us, ms, s, m, h")),
    };
    let n: f64 =
        number.trim().parse().map_err(|_| format!("{text:?} is not a length of time (e.g. 2, \"200ms\", \"5s\")"))?;
    seconds(n * factor / 1e6).map_err(|e| format!("{text:?}: {e}"))
}

/// A hundred years in seconds: beyond it arithmetic on times could overflow.
const MAX_SECONDS: f64 = 100.0 * 366.0 * 86_400.0;

pub(crate) fn seconds(s: f64) -> Result<Span, String> {
    if !(0.0..=MAX_SECONDS).contains(&s) {
        return Err("must be between 0 and 100 years".into());
    }
    Ok(Span((s * 1e6) as i64))
}

/// A [`Span`] read from a number of seconds or a text with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub Span);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(f64),
            Text(String),
        }
        let span = match Raw::deserialize(d)? {
            Raw::Number(n) => seconds(n),
            Raw::Text(t) => parse_span(&t),
        };
        span.map(Length).map_err(serde::de::Error::custom)
    }
}

/// One text or a list; each may have `*` (any run of characters) and `?` (any one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    pub fn one(text: &str) -> Patterns {
        Patterns(vec![text.to_owned()])
    }

    /// Does any pattern match any of `texts`? No pattern matches nothing.
    pub fn hit(&self, texts: &[&str]) -> bool {
        self.0.iter().any(|p| texts.iter().any(|t| glob(p.as_bytes(), t.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Raw::deserialize(d)? {
            Raw::One(s) => Patterns(vec![s]),
            Raw::Many(v) => Patterns(v),
        })
    }
}

/// Linear-time glob: on a mismatch only the last `*` is tried further.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((sp, st)) => {
                    p = sp + 1;
                    t = st + 1;
                    star = Some((sp, st + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_of_time_are_read_with_and_without_unit() {
        for (text, us) in
            [("2", 2_000_000), ("2.5", 2_500_000), ("200ms", 200_000), ("5s", 5_000_000), ("2m", 120_000_000)]
        {
            assert_eq!(parse_span(text), Ok(Span(us)), "{text}");
        }
        for bad in ["", "x", "-1s", "5 fortnights", "1e300", "NaN"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_match_as_in_a_shell() {
        for (p, t, want) in [
            ("sim-node-7", "sim-node-7", true),
            ("sim-node-7", "sim-node-77", false),
            ("sim-node-?", "sim-node-7", true),
            ("*-7", "sim-node-7", true),
            ("*a*b", "xxaxxaxb", true),
            ("*a*b", "xxaxxax", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(glob(p.as_bytes(), t.as_bytes()), want, "{p} {t}");
        }
    }
}
