//! Which nodes are meant. Evaluated in memory, inside one project, the same for both databases.

use super::Labels;
use crate::access::text_enum;
use crate::id::NodeId;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Selector {
    #[default]
    All,
    Labels {
        labels: Labels,
    },
    Expr {
        #[serde(rename = "match")]
        all_of: Vec<Match>,
    },
    Groups {
        groups: BTreeSet<String>,
    },
    NodeIds {
        node_ids: BTreeSet<NodeId>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    pub key: String,
    pub op: Op,
    #[serde(default)]
    pub values: BTreeSet<String>,
}

text_enum! { Op { In = "in", NotIn = "not_in", Exists = "exists", NotExists = "not_exists" } }

impl Selector {
    /// Is the node with this id, these labels and these groups meant?
    pub fn matches(&self, id: NodeId, labels: &Labels, groups: &BTreeSet<String>) -> bool {
        match self {
            Selector::All => true,
            Selector::Labels { labels: wanted } => wanted.iter().all(|(k, v)| labels.get(k) == Some(v)),
            Selector::Expr { all_of } => all_of.iter().all(|m| m.holds(labels)),
            Selector::Groups { groups: wanted } => wanted.iter().any(|g| groups.contains(g)),
            Selector::NodeIds { node_ids } => node_ids.contains(&id),
        }
    }
}

impl Match {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.op {
            Op::In => value.is_some_and(|v| self.values.contains(v)),
            Op::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Op::Exists => value.is_some(),
            Op::NotExists => value.is_none(),
        }
    }
}

// By hand, because of the short form `{"labels": {...}}` without a type, and to name the field that is wrong.
impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(rename = "type")]
            kind: Option<String>,
            labels: Option<Labels>,
            #[serde(rename = "match")]
            all_of: Option<Vec<Match>>,
            groups: Option<BTreeSet<String>>,
            node_ids: Option<BTreeSet<NodeId>>,
        }
        let r = Raw::deserialize(d)?;
        let kind = r.kind.as_deref().unwrap_or(if r.labels.is_some() { "labels" } else { "" });
        match (kind, r.labels, r.all_of, r.groups, r.node_ids) {
            ("all", None, None, None, None) => Ok(Selector::All),
            ("labels", Some(labels), None, None, None) => Ok(Selector::Labels { labels }),
            ("expr", None, Some(all_of), None, None) => Ok(Selector::Expr { all_of }),
            ("groups", None, None, Some(groups), None) => Ok(Selector::Groups { groups }),
            ("node_ids", None, None, None, Some(node_ids)) => Ok(Selector::NodeIds { node_ids }),
            _ => Err(D::Error::custom(
                "expected type all, labels (with labels), expr (with match), groups (with groups) or node_ids (with node_ids)",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(json: &str, labels: &[(&str, &str)], expect: bool) {
        let s: Selector = serde_json::from_str(json).unwrap();
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(s.matches(NodeId::NIL, &labels, &BTreeSet::new()), expect, "{json}");
        let again: Selector = serde_json::from_str(&serde_json::to_string(&s).unwrap()).unwrap();
        assert_eq!(again, s);
    }

    #[test]
    fn each_form_means_what_it_says() {
        check(r#"{"type":"all"}"#, &[], true);
        check(r#"{"labels":{"env":"prod"}}"#, &[("env", "prod"), ("x", "y")], true);
        check(r#"{"type":"labels","labels":{"env":"prod"}}"#, &[("env", "dev")], false);
        check(r#"{"type":"expr","match":[{"key":"env","op":"in","values":["a","b"]}]}"#, &[("env", "b")], true);
        check(r#"{"type":"expr","match":[{"key":"env","op":"not_in","values":["a"]}]}"#, &[], true);
        check(r#"{"type":"expr","match":[{"key":"env","op":"exists"}]}"#, &[], false);
        check(r#"{"type":"expr","match":[{"key":"env","op":"not_exists"}]}"#, &[], true);
        check(r#"{"type":"node_ids","node_ids":["00000000-0000-0000-0000-000000000000"]}"#, &[], true);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            r#"{}"#,
            r#"{"type":"labels"}"#,
            r#"{"type":"all","labels":{}}"#,
            r#"{"type":"x"}"#,
            r#"{"labels":{"a":1}}"#,
        ] {
            assert!(serde_json::from_str::<Selector>(bad).is_err(), "{bad}");
        }
    }
}
