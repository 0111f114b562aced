//! Rules of a project about its configurations, judged on the normalised form (`config.json`): what must be there, what must not,
//! and a JSON schema.
//!
//! The schema language is the part of JSON Schema (2020-12) that has no references and no state: [`KEYWORDS`]. A schema with
//! another keyword is refused when it is set, so that a rule is never silently ignored.

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rules of one kind in one project.
pub const MAX_RULES: usize = 100;
/// Bytes of one path.
pub const MAX_PATH_BYTES: usize = 300;
/// Bytes of a schema as JSON.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Depth of a schema and of what it is held against.
const MAX_DEPTH: usize = 64;
/// Faults named in one answer: the rest would not be read.
const MAX_FAULTS: usize = 50;

/// What a schema may use.
pub const KEYWORDS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "items",
    "contains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
];

/// Beside the validator's own judgement. Paths are like `/listeners/*/tls`: names, numbers in lists, `*` for every one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Must be there, and not null, under every parent that the path names.
    pub required: Vec<String>,
    /// Must not be there, or be null.
    pub forbidden: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.forbidden.is_empty() && self.schema.is_none()
    }

    /// Field and fault of what cannot be a rule.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for (field, paths) in [("required", &self.required), ("forbidden", &self.forbidden)] {
            if paths.len() > MAX_RULES {
                found.push((field, format!("at most {MAX_RULES} rules")));
            }
            for path in paths {
                let steps = path.strip_prefix('/');
                let good =
                    steps.is_some_and(|s| s.split('/').all(|step| !step.is_empty())) && path.len() <= MAX_PATH_BYTES;
                if !good {
                    let shown: String = path.chars().take(80).collect();
                    found.push((field, format!("{shown:?} is not a path like /listeners/*/tls")));
                }
            }
        }
        if let Some(schema) = &self.schema {
            if schema.to_string().len() > MAX_SCHEMA_BYTES {
                found.push(("schema", format!("has more than {MAX_SCHEMA_BYTES} bytes")));
            } else if let Err(why) = check_schema(schema, "", 0) {
                found.push(("schema", why));
            }
        }
        found
    }

    /// What `config` offends against, in words. Empty: nothing.
    pub fn judge(&self, config: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        for path in &self.required {
            let steps: Vec<&str> = path.split('/').skip(1).collect();
            if let Some((last, parents)) = steps.split_last() {
                for (at, parent) in reach(config, parents) {
                    let there = reach(parent, std::slice::from_ref(last));
                    if there.iter().all(|(_, v)| v.is_null()) {
                        faults.push(format!("the project requires {at}/{last}"));
                    }
                }
            }
        }
        for path in &self.forbidden {
            let steps: Vec<&str> = path.split('/').skip(1).collect();
            let there = reach(config, &steps);
            faults
                .extend(there.iter().filter(|(_, v)| !v.is_null()).map(|(at, _)| format!("the project forbids {at}")));
        }
        if let Some(schema) = &self.schema {
            hold(schema, config, "", 0, &mut faults);
        }
        if faults.len() > MAX_FAULTS {
            let more = faults.len() - MAX_FAULTS;
            faults.truncate(MAX_FAULTS);
            faults.push(format!("and {more} more"));
        }
        faults
    }
}

/// Everything that a path names, each with where it is. A list or an object is stepped into by `*`; things in a list also by
/// their `id`, which is how people know them.
fn reach<'a>(root: &'a Value, steps: &[&str]) -> Vec<(String, &'a Value)> {
    let mut here = vec![(String::new(), root)];
    for step in steps {
        let mut next = Vec::new();
        for (at, v) in here {
            match v {
                Value::Object(o) if *step == "*" => next.extend(o.iter().map(|(k, v)| (format!("{at}/{k}"), v))),
                Value::Object(o) => next.extend(o.get(*step).map(|v| (format!("{at}/{step}"), v))),
                Value::Array(a) => {
                    let named = |i: usize, v: &Value| match v.get("id").and_then(Value::as_str) {
                        Some(id) => id.to_string(),
                        None => i.to_string(),
                    };
                    let all = a.iter().enumerate().map(|(i, v)| (i, named(i, v), v));
                    let wanted = all.filter(|(i, name, _)| *step == "*" || name == step || i.to_string() == *step);
                    next.extend(wanted.map(|(_, name, v)| (format!("{at}/{name}"), v)));
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        here = next;
    }
    here
}

/// Whether this is a schema that [`hold`] understands in full.
fn check_schema(schema: &Value, at: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("{at}: is nested deeper than {MAX_DEPTH}"));
    }
    let o = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(o) => o,
        _ => return Err(format!("{at}: must be an object or a boolean")),
    };
    for (key, v) in o {
        let here = format!("{at}/{key}");
        let wrong = |what: &str| Err(format!("{here}: must be {what}"));
        match key.as_str() {
            k if !KEYWORDS.contains(&k) => return Err(format!("{here}: is not supported here")),
            "properties" | "patternProperties" => {
                let Value::Object(all) = v else { return wrong("an object of schemas") };
                for (name, schema) in all {
                    if key == "patternProperties" {
                        Regex::new(name).map_err(|_| format!("{here}/{name}: is not a regular expression"))?;
                    }
                    check_schema(schema, &format!("{here}/{name}"), depth + 1)?;
                }
            }
            "items" | "contains" | "not" | "additionalProperties" => check_schema(v, &here, depth + 1)?,
            "allOf" | "anyOf" | "oneOf" => {
                let Some(all) = v.as_array().filter(|a| !a.is_empty()) else { return wrong("a list of schemas") };
                for schema in all {
                    check_schema(schema, &here, depth + 1)?;
                }
            }
            "required" if !v.as_array().is_some_and(|a| a.iter().all(Value::is_string)) => {
                return wrong("a list of names");
            }
            "enum" if !v.is_array() => return wrong("a list"),
            "pattern" if v.as_str().is_none_or(|p| Regex::new(p).is_err()) => return wrong("a regular expression"),
            "type" => {
                let known = |t: &Value| {
                    t.as_str().is_some_and(|t| {
                        ["null", "boolean", "object", "array", "number", "integer", "string"].contains(&t)
                    })
                };
                if !known(v) && !v.as_array().is_some_and(|a| !a.is_empty() && a.iter().all(known)) {
                    return wrong("a type, or a list of types");
                }
            }
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" if !v.is_u64() => {
                return wrong("a whole number");
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" if !v.is_number() => {
                return wrong("a number");
            }
            "uniqueItems" if !v.is_boolean() => return wrong("true or false"),
            _ => {}
        }
    }
    Ok(())
}

/// Holds `v` against a schema that [`check_schema`] has passed.
fn hold(schema: &Value, v: &Value, at: &str, depth: usize, faults: &mut Vec<String>) {
    // Enough has been found, or somebody nests without end: more is not looked for.
    if faults.len() > MAX_FAULTS || depth > 2 * MAX_DEPTH {
        return;
    }
    let here = if at.is_empty() { "/" } else { at };
    let o = match schema {
        Value::Object(o) => o,
        Value::Bool(false) => return faults.push(format!("{here} may not be there by the project's schema")),
        _ => return,
    };
    let holds = |schema: &Value| {
        let mut inner = Vec::new();
        hold(schema, v, at, depth + 1, &mut inner);
        inner.is_empty()
    };
    for (key, want) in o {
        let n = want.as_u64().unwrap_or(0) as usize;
        let fault = match (key.as_str(), v) {
            ("type", _) if !has_type(want, v) => Some(format!("must be of the type {want}")),
            ("const", _) if want != v => Some(format!("must be {want}")),
            ("enum", _) if !want.as_array().is_some_and(|a| a.contains(v)) => Some(format!("must be one of {want}")),
            ("pattern", Value::String(s)) if !matches(want, s) => Some(format!("must match {want}")),
            ("minLength", Value::String(s)) if s.chars().count() < n => {
                Some(format!("must have at least {n} characters"))
            }
            ("maxLength", Value::String(s)) if s.chars().count() > n => {
                Some(format!("must have at most {n} characters"))
            }
            ("minItems", Value::Array(a)) if a.len() < n => Some(format!("must have at least {n} items")),
            ("maxItems", Value::Array(a)) if a.len() > n => Some(format!("must have at most {n} items")),
            ("minProperties", Value::Object(o)) if o.len() < n => Some(format!("must have at least {n} entries")),
            ("maxProperties", Value::Object(o)) if o.len() > n => Some(format!("must have at most {n} entries")),
            ("uniqueItems", Value::Array(a)) if want == &Value::Bool(true) && !unique(a) => {
                Some("must not have the same item twice".into())
            }
            ("minimum", Value::Number(_)) if less(v, want) => Some(format!("must be at least {want}")),
            ("maximum", Value::Number(_)) if less(want, v) => Some(format!("must be at most {want}")),
            ("exclusiveMinimum", Value::Number(_)) if !less(want, v) => Some(format!("must be more than {want}")),
            ("exclusiveMaximum", Value::Number(_)) if !less(v, want) => Some(format!("must be less than {want}")),
            ("required", Value::Object(o)) => {
                let missing = |name: &&Value| name.as_str().is_some_and(|n| !o.contains_key(n));
                let names: Vec<String> =
                    want.as_array().into_iter().flatten().filter(missing).map(Value::to_string).collect();
                (!names.is_empty()).then(|| format!("must have {}", names.join(", ")))
            }
            ("contains", Value::Array(a)) => {
                let any = a.iter().any(|v| {
                    let mut inner = Vec::new();
                    hold(want, v, at, depth + 1, &mut inner);
                    inner.is_empty()
                });
                (!any).then(|| "has no item of the kind that the schema asks for".to_string())
            }
            ("anyOf", _) if !want.as_array().into_iter().flatten().any(holds) => Some("fits none of `anyOf`".into()),
            ("oneOf", _) if want.as_array().into_iter().flatten().filter(|s| holds(s)).count() != 1 => {
                Some("does not fit exactly one of `oneOf`".into())
            }
            ("not", _) if holds(want) => Some("is what the schema excludes".into()),
            _ => None,
        };
        if let Some(fault) = fault {
            faults.push(format!("{here} {fault} by the project's schema"));
        }
        match (key.as_str(), v) {
            ("allOf", _) => want.as_array().into_iter().flatten().for_each(|s| hold(s, v, at, depth + 1, faults)),
            ("items", Value::Array(a)) => {
                a.iter().enumerate().for_each(|(i, v)| hold(want, v, &format!("{at}/{i}"), depth + 1, faults));
            }
            _ => {}
        }
    }
    if let Value::Object(entries) = v {
        for (name, v) in entries {
            let below = format!("{at}/{name}");
            let own = o.get("properties").and_then(|p| p.get(name));
            let patterns = o.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
            let fitting: Vec<&Value> =
                own.into_iter().chain(patterns.filter(|(p, _)| fits(p, name)).map(|(_, s)| s)).collect();
            match (fitting.is_empty(), o.get("additionalProperties")) {
                (true, Some(rest)) => hold(rest, v, &below, depth + 1, faults),
                (true, None) => {}
                (false, _) => fitting.iter().for_each(|s| hold(s, v, &below, depth + 1, faults)),
            }
        }
    }
}

fn has_type(want: &Value, v: &Value) -> bool {
    let is = |t: &Value| match (t.as_str().unwrap_or_default(), v) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("object", Value::Object(_)) => true,
        ("array", Value::Array(_)) | ("number", Value::Number(_)) | ("string", Value::String(_)) => true,
        ("integer", Value::Number(n)) => n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0),
        _ => false,
    };
    want.as_array().map_or_else(|| is(want), |all| all.iter().any(is))
}

fn matches(pattern: &Value, text: &str) -> bool {
    pattern.as_str().is_some_and(|p| fits(p, text))
}

fn fits(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|r| r.is_match(text))
}

fn less(a: &Value, b: &Value) -> bool {
    a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a < b)
}

fn unique(items: &[Value]) -> bool {
    items.iter().enumerate().all(|(i, v)| !items[..i].contains(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({
            "listeners": [{"id": "http", "address": "0.0.0.0:80", "tls": null}, {"id": "https", "tls": {"cert_file": "c"}}],
            "routes": [{"id": "a", "static_files": {"root": "/srv"}}, {"id": "b", "static_files": null, "priority": 5}],
        })
    }

    fn judged(rules: Value) -> Vec<String> {
        let rules: Rules = serde_json::from_value(rules).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rules.problems(), []);
        rules.judge(&config())
    }

    #[test]
    fn what_is_required_must_be_under_every_parent_and_what_is_forbidden_nowhere() {
        assert_eq!(judged(json!({"required": ["/listeners/*/tls"]})), ["the project requires /listeners/http/tls"]);
        assert_eq!(judged(json!({"required": ["/listeners/https/tls"]})), Vec::<String>::new());
        assert_eq!(judged(json!({"required": ["/waf"]})), ["the project requires /waf"]);
        assert_eq!(
            judged(json!({"forbidden": ["/routes/*/static_files"]})),
            ["the project forbids /routes/a/static_files"]
        );
        assert_eq!(judged(json!({"forbidden": ["/routes/1/static_files", "/cache"]})), Vec::<String>::new());
        assert_eq!(judged(json!({})), Vec::<String>::new());
    }

    #[test]
    fn a_schema_is_held_against_the_normalised_form() {
        let bad = |schema: Value, words: &str| {
            let faults = judged(json!({"schema": schema}));
            assert!(faults.iter().any(|f| f.contains(words)), "{words}: {faults:?}");
        };
        let good = |schema: Value| assert_eq!(judged(json!({"schema": schema})), Vec::<String>::new());
        good(
            json!({"type": "object", "required": ["routes"], "properties": {"routes": {"type": "array", "maxItems": 2}}}),
        );
        bad(json!({"required": ["waf"]}), "/ must have \"waf\"");
        bad(json!({"properties": {"routes": {"maxItems": 1}}}), "/routes must have at most 1 items");
        bad(json!({"additionalProperties": false, "properties": {"routes": true}}), "/listeners may not be there");
        bad(
            json!({"properties": {"routes": {"items": {"properties": {"priority": {"maximum": 4}}}}}}),
            "/routes/1/priority",
        );
        bad(
            json!({"properties": {"listeners": {"items": {"required": ["address"]}}}}),
            "/listeners/1 must have \"address\"",
        );
        bad(
            json!({"properties": {"listeners": {"contains": {"properties": {"id": {"const": "x"}}, "required": ["id"]}}}}),
            "no item",
        );
        bad(json!({"not": {"required": ["routes"]}}), "excludes");
        bad(json!({"anyOf": [{"required": ["x"]}, {"type": "string"}]}), "anyOf");
        bad(json!({"oneOf": [true, {"type": "object"}]}), "oneOf");
        bad(json!({"allOf": [true, {"required": ["x"]}]}), "must have \"x\"");
        bad(json!({"patternProperties": {"^list": {"minItems": 3}}}), "/listeners must have at least 3");
        bad(
            json!({"properties": {"listeners": {"items": {"properties": {"id": {"enum": ["https"]}}}}}}),
            "/listeners/0/id must be one of",
        );
        bad(json!({"properties": {"listeners": {"items": {"properties": {"id": {"pattern": "s$"}}}}}}), "must match");
    }

    #[test]
    fn a_rule_that_would_be_ignored_is_refused() {
        let refused = |rules: Value, field: &str| {
            let rules: Rules = serde_json::from_value(rules).unwrap_or_else(|e| panic!("{e}"));
            let problems = rules.problems();
            assert!(problems.iter().any(|(f, _)| *f == field), "{field}: {problems:?}");
        };
        for path in ["listeners", "", "/", "/a//b"] {
            refused(json!({"required": [path]}), "required");
            refused(json!({"forbidden": [path]}), "forbidden");
        }
        for schema in [
            json!({"$ref": "#/x"}),
            json!({"format": "uri"}),
            json!({"type": "text"}),
            json!(7),
            json!({"items": 3}),
            json!({"pattern": "("}),
            json!({"required": "a"}),
            json!({"minItems": -1}),
            json!({"anyOf": []}),
            json!({"enum": 1}),
        ] {
            refused(json!({"schema": schema}), "schema");
        }
        let mut deep = json!(true);
        for _ in 0..70 {
            deep = json!({"items": deep});
        }
        refused(json!({"schema": deep}), "schema");
        assert!(serde_json::from_value::<Rules>(json!({"colour": 1})).is_err());
    }
}
