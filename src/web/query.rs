//! The query of a URL: decoded once, read by name, bad values are 422 with the name.

use crate::problem::{Outcome, Refusal};
use std::str::FromStr;
use std::time::Duration;

/// More parameters than this are not looked at.
const MAX_PARAMETERS: usize = 64;
/// The longest a request is held, also when a longer wait is asked for: what proxies in between put up with.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Errors: 422 for what is not UTF-8 or has NUL characters.
    pub fn parse(raw: &str) -> Outcome<Query> {
        let mut out = Vec::new();
        for pair in raw.split('&').filter(|p| !p.is_empty()).take(MAX_PARAMETERS) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| Refusal::invalid("query", "a name is not UTF-8"))?;
            let value = decode(value).ok_or_else(|| Refusal::invalid(&name, "is not UTF-8"))?;
            if value.contains('\0') || name.contains('\0') {
                return Err(Refusal::invalid("query", "must not have NUL characters"));
            }
            out.push((name, value));
        }
        Ok(Query(out))
    }

    /// The last value of that name; an empty one counts as not given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// `name[key]=value`, in order.
    pub fn keyed(&self, name: &str) -> Vec<(String, String)> {
        let inner = |n: &str| Some(n.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.to_string());
        self.0.iter().filter_map(|(n, v)| Some((inner(n)?, v.clone()))).collect()
    }

    /// Here an empty value is nonsense.
    pub fn parsed<T: FromStr>(&self, name: &str, what: &str) -> Outcome<Option<T>> {
        let bad = |_| Refusal::invalid(name, format!("must be {what}"));
        let value = self.0.iter().rev().find(|(n, _)| n == name);
        value.map(|(_, v)| v.parse::<T>().map_err(bad)).transpose()
    }

    /// Through a function that answers `None` for nonsense.
    pub fn read<T>(&self, name: &str, what: &str, read: impl Fn(&str) -> Option<T>) -> Outcome<Option<T>> {
        let bad = || Refusal::invalid(name, format!("must be {what}"));
        self.text(name).map(|v| read(v).ok_or_else(bad)).transpose()
    }

    /// `wait` in seconds; more than 60 is taken as 60.
    pub fn wait(&self) -> Outcome<Duration> {
        let seconds = self.parsed::<f64>("wait", "a number of seconds")?.unwrap_or(0.0);
        if !(0.0..=1e9).contains(&seconds) {
            return Err(Refusal::invalid("wait", "must be a number of seconds, 0 or more"));
        }
        Ok(Duration::from_secs_f64(seconds.min(MAX_WAIT.as_secs_f64())))
    }
}

/// `%XX` and `+`. `None`: not UTF-8, or a broken escape.
pub fn decode(s: &str) -> Option<String> {
    if !s.bytes().any(|b| b == b'%' || b == b'+') {
        return Some(s.to_string());
    }
    let bytes = s.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
                let (high, low) = (digit(bytes.get(i + 1))?, digit(bytes.get(i + 2))?);
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_decoded_and_the_last_one_counts() {
        let q = Query::parse("a=1&b=x%20y+z&a=2&empty=&labels%5Benv%5D=prod&labels[zone]=a").unwrap();
        assert_eq!(q.text("a"), Some("2"));
        assert_eq!(q.text("b"), Some("x y z"));
        assert_eq!(q.text("empty"), None);
        assert_eq!(q.keyed("labels"), [("env".to_string(), "prod".to_string()), ("zone".into(), "a".into())]);
        assert_eq!(q.parsed::<u32>("a", "a number").unwrap(), Some(2));
    }

    #[test]
    fn bad_values_are_422() {
        for raw in ["a=%zz", "a=%00", "a=%ff", "a=%2"] {
            assert_eq!(Query::parse(raw).unwrap_err().problem.status, 422, "{raw}");
        }
        let q = Query::parse("wait=soon&limit=").unwrap();
        assert!(q.wait().is_err() && q.parsed::<u32>("limit", "a number").is_err());
        for raw in ["wait=-1", "wait=NaN", "wait=inf"] {
            assert!(Query::parse(raw).unwrap().wait().is_err(), "{raw}");
        }
    }

    #[test]
    fn a_long_wait_is_taken_as_a_minute() {
        assert_eq!(Query::parse("wait=600").unwrap().wait().unwrap(), MAX_WAIT);
        assert_eq!(Query::parse("").unwrap().wait().unwrap(), Duration::ZERO);
        assert_eq!(Query::parse("wait=2.5").unwrap().wait().unwrap(), Duration::from_millis(2500));
    }
}
