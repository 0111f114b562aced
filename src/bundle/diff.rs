//! What differs between two normalised configs, thing by thing and field by field.

use crate::risk::{Things, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Fields that one comparison names: a page of them is read by nobody, and 1,000 changed routes have some thousand.
pub const MAX_FIELDS: usize = 5_000;
/// Characters of a value in the text form.
const MAX_SHOWN: usize = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Added,
    Removed,
    Changed,
}

/// A route, an upstream, a listener, a filter, an agent, or a block of settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `route`, `upstream`, `listener`, `filter`, `agent` or `setting`.
    pub thing: String,
    /// With its namespace and service: `namespace:service:name`.
    pub name: String,
    pub change: Kind,
    /// Of what changed: which fields. Of what came or went: none, it is told as a whole.
    pub fields: Vec<Field>,
}

/// One value that differs; absent where it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Like `/policies/timeout_secs`; things in lists by their `id`, else by their place.
    pub path: String,
    pub from: Option<Value>,
    pub to: Option<Value>,
}

/// Every difference, in a fixed order. The second value: there are more fields than are named.
pub fn changes(old: &Value, new: &Value) -> (Vec<Change>, bool) {
    let (old, new) = (View::of(old), View::of(new));
    let mut out = Vec::new();
    let mut room = MAX_FIELDS;
    for (thing, a, b) in [
        ("listener", &old.listeners, &new.listeners),
        ("route", &old.routes, &new.routes),
        ("upstream", &old.upstreams, &new.upstreams),
        ("filter", &old.filters, &new.filters),
        ("agent", &old.agents, &new.agents),
    ] {
        of_things(thing, a, b, &mut room, &mut out);
    }
    of_things("setting", &old.settings(), &new.settings(), &mut room, &mut out);
    (out, room == 0)
}

fn of_things(thing: &str, old: &Things<'_>, new: &Things<'_>, room: &mut usize, out: &mut Vec<Change>) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (change, fields) = match (old.get(name), new.get(name)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => {
                let mut fields = Vec::new();
                compare(a, b, "", room, &mut fields);
                (Kind::Changed, fields)
            }
            (Some(_), None) => (Kind::Removed, Vec::new()),
            (None, _) => (Kind::Added, Vec::new()),
        };
        out.push(Change { thing: thing.into(), name: name.clone(), change, fields });
    }
}

/// Both are from a parser with a depth cap, so the recursion is bounded.
fn compare(a: &Value, b: &Value, at: &str, room: &mut usize, out: &mut Vec<Field>) {
    if a == b || *room == 0 {
        return;
    }
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            for key in keys {
                pair(x.get(key), y.get(key), &format!("{at}/{key}"), room, out);
            }
        }
        (Value::Array(x), Value::Array(y)) => match (by_id(x), by_id(y)) {
            (Some(x), Some(y)) => {
                let keys: BTreeSet<&&str> = x.keys().chain(y.keys()).collect();
                for key in keys {
                    pair(x.get(*key).copied(), y.get(*key).copied(), &format!("{at}/{key}"), room, out);
                }
            }
            _ => {
                for i in 0..x.len().max(y.len()) {
                    pair(x.get(i), y.get(i), &format!("{at}/{i}"), room, out);
                }
            }
        },
        _ => push(Some(a), Some(b), at, room, out),
    }
}

fn pair(a: Option<&Value>, b: Option<&Value>, at: &str, room: &mut usize, out: &mut Vec<Field>) {
    match (a, b) {
        (Some(a), Some(b)) => compare(a, b, at, room, out),
        // What is null was not written: the parser fills every field in.
        (a, b) if a.is_none_or(Value::is_null) && b.is_none_or(Value::is_null) => {}
        (a, b) => push(a, b, at, room, out),
    }
}

fn push(a: Option<&Value>, b: Option<&Value>, at: &str, room: &mut usize, out: &mut Vec<Field>) {
    if *room > 0 {
        *room -= 1;
        out.push(Field { path: at.into(), from: a.cloned(), to: b.cloned() });
    }
}

fn by_id(list: &[Value]) -> Option<std::collections::BTreeMap<&str, &Value>> {
    let all: Option<std::collections::BTreeMap<&str, &Value>> =
        list.iter().map(|v| Some((v.get("id")?.as_str()?, v))).collect();
    all.filter(|m| m.len() == list.len())
}

/// For a terminal: `+`, `-` and `~`, one line for a thing and one for each field.
pub fn text(changes: &[Change]) -> String {
    let mut out = String::new();
    let shown = |v: &Option<Value>| match v {
        None => "(none)".to_string(),
        Some(v) => {
            let text = v.to_string();
            let cut: String = text.chars().take(MAX_SHOWN).collect();
            if cut.len() < text.len() { format!("{cut}...") } else { cut }
        }
    };
    for c in changes {
        let sign = match c.change {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
        };
        out.push_str(&format!("{sign} {} {}\n", c.thing, c.name));
        for f in &c.fields {
            out.push_str(&format!("    {}: {} -> {}\n", f.path, shown(&f.from), shown(&f.to)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_told_by_thing_and_field() {
        let old = json!({
            "listeners": [{"id": "http", "address": "0.0.0.0:80"}],
            "routes": [{"id": "a", "upstream": "u", "matches": [{"path": "/a"}], "cache": null}, {"id": "gone"}],
            "upstreams": {"u": {"targets": [{"address": "h:1"}, {"address": "h:2"}]}},
            "namespaces": [{"id": "n", "routes": [{"id": "r", "priority": 1}]}],
            "limits": {"max_body": 10, "max_header": 5},
        });
        let new = json!({
            "listeners": [{"id": "http", "address": "0.0.0.0:80"}],
            "routes": [{"id": "a", "upstream": "v", "matches": [{"path": "/a"}, {"path": "/b"}]}, {"id": "new"}],
            "upstreams": {"u": {"targets": [{"address": "h:1"}]}},
            "namespaces": [{"id": "n", "routes": [{"id": "r", "priority": 2}]}],
            "limits": {"max_body": 11, "max_header": 5},
        });
        let (found, cut) = changes(&old, &new);
        assert!(!cut);
        assert_eq!(
            text(&found),
            "~ route a\n    /matches/1: (none) -> {\"path\":\"/b\"}\n    /upstream: \"u\" -> \"v\"\n- route gone\n\
             ~ route n:r\n    /priority: 1 -> 2\n+ route new\n~ upstream u\n    /targets/1: {\"address\":\"h:2\"} -> (none)\n\
             ~ setting limits\n    /max_body: 10 -> 11\n"
        );
        assert_eq!(changes(&old, &old).0, []);
    }

    #[test]
    fn more_fields_than_anybody_reads_are_cut_and_that_is_said() {
        let many = |n: i64| json!({"limits": (0..6_000).map(|i| (format!("k{i}"), json!(i + n))).collect::<serde_json::Map<_, _>>()});
        let (found, cut) = changes(&many(0), &many(1));
        assert!(cut && found[0].fields.len() == MAX_FIELDS);
    }
}
