//! Projects: the tenant that owns nodes, bundles and rollouts.

use crate::id::*;
use crate::rules::Rules;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub org: OrgId,
    pub name: String,
    /// Globally unique and never looks like a UUID, so that a path can carry either.
    pub slug: String,
    pub description: String,
    pub settings: Settings,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A count, or a percentage of something (which, and how it is rounded, is the field's business).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Amount {
    Count(u32),
    Percent(u8),
}

impl Amount {
    /// Percent of `n` rounded up, at least 1 (batch sizes).
    pub fn up(self, n: u32) -> u32 {
        match self {
            Amount::Count(c) => c.max(1),
            Amount::Percent(p) => ((u64::from(n) * u64::from(p)).div_ceil(100) as u32).max(1),
        }
    }
    /// Percent of `n` rounded down, at least `least`.
    pub fn down(self, n: u32, least: u32) -> u32 {
        match self {
            Amount::Count(c) => c.max(least),
            Amount::Percent(p) => ((u64::from(n) * u64::from(p) / 100) as u32).max(least),
        }
    }
    /// `"25%"` or a plain count.
    pub fn parse(s: &str) -> Option<Amount> {
        match s.strip_suffix('%') {
            Some(p) => p.trim().parse::<u8>().ok().filter(|p| *p <= 100).map(Amount::Percent),
            None => s.trim().parse::<u32>().ok().map(Amount::Count),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Amount::Count(c) => s.serialize_u32(*c),
            Amount::Percent(p) => s.collect_str(&format_args!("{p}%")),
        }
    }
}
impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Amount;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a count, or a percentage such as \"25%\" up to 100%")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Amount, E> {
                u32::try_from(v).map(Amount::Count).map_err(|_| E::custom("the count is too large"))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Amount, E> {
                Amount::parse(v)
                    .ok_or_else(|| E::custom("expected a count, or a percentage such as \"25%\" up to 100%"))
            }
        }
        d.deserialize_any(V)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Nodes may register without an enrolment token; they are quarantined until adopted.
    pub open_registration: bool,
    /// Only `demo`: nodes of open registration are adopted at once.
    pub adopt_on_registration: bool,
    pub approval_required: bool,
    pub approvals_needed: u32,
    /// Budget over all rollouts together; unset is no limit.
    pub max_updating: Option<Amount>,
    /// What a node shall run is rolled out to it again when it has drifted, once; else only when somebody asks.
    pub drift_remediation: bool,
    /// How many bundles retention keeps besides those in use.
    pub retention_keep: u32,
    /// Unknown keys of a configuration are errors instead of warnings.
    pub strict_config: bool,
    /// Beside the validator's judgement; enforced at every compile.
    pub rules: Rules,
    /// Names of secrets that the nodes have and configurations may refer to as `secrets/NAME`.
    pub secrets: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            open_registration: false,
            adopt_on_registration: false,
            approval_required: false,
            approvals_needed: 1,
            max_updating: None,
            drift_remediation: false,
            retention_keep: 20,
            strict_config: false,
            rules: Rules::default(),
            secrets: Vec::new(),
        }
    }
}

/// A slug: 1-63 of `[a-z0-9-]`, starting and ending alphanumeric, never looking like a UUID.
pub fn check_slug(s: &str) -> Result<(), &'static str> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) if bytes.len() <= 63 => {
            if !ok(*first) || !ok(*last) || bytes.iter().any(|b| !ok(*b) && *b != b'-') {
                return Err("must be lower-case letters, digits and inner hyphens");
            }
            if uuid::Uuid::parse_str(s).is_ok() {
                return Err("must not look like a UUID");
            }
            Ok(())
        }
        _ => Err("must have 1 to 63 characters"),
    }
}

/// The slug that a name suggests; empty when nothing of the name can be used.
pub fn slug_of(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        if out.len() >= 63 {
            break;
        }
    }
    out.trim_end_matches('-').to_string()
}

/// Names of projects, bundles' versions, tokens, keys: 1-100 characters, no control characters, no blank edges.
pub fn check_name(s: &str) -> Result<(), &'static str> {
    let n = s.chars().count();
    if n == 0 || n > 100 {
        return Err("must have 1 to 100 characters");
    }
    if s.chars().any(char::is_control) || s.trim() != s {
        return Err("must not have control characters or leading or trailing blanks");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_their_field_says() {
        assert_eq!(Amount::Percent(25).up(10), 3);
        assert_eq!(Amount::Percent(1).up(10), 1);
        assert_eq!(Amount::Percent(25).down(10, 1), 2);
        assert_eq!(Amount::Percent(5).down(10, 1), 1);
        assert_eq!(Amount::Percent(5).down(10, 0), 0);
        assert_eq!(serde_json::from_str::<Amount>("\"50%\"").ok(), Some(Amount::Percent(50)));
        assert!(serde_json::from_str::<Amount>("\"150%\"").is_err());
        assert!(serde_json::from_str::<Amount>("-1").is_err());
    }

    #[test]
    fn slugs_never_look_like_ids() {
        assert!(check_slug("edge-eu").is_ok());
        assert!(check_slug("0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f").is_err());
        assert!(check_slug("-a").is_err() && check_slug("").is_err() && check_slug("A").is_err());
        assert_eq!(slug_of("Edge EU (1)"), "edge-eu-1");
    }
}
