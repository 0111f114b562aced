//! What changes between two configs, how risky that is, and whether a reload is enough.
//!
//! Works on normalised configs (`config.json`), never on text: a moved line or a comment is no change.

use crate::restart::{self, Cold};
use domain::bundle::RiskLevel;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub use domain::bundle::RiskLevel as Level;

/// More changed routes than this are a risk of their own.
pub const MANY_ROUTES: usize = 10;

/// A level with its reasons, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Risk {
    pub level: Level,
    /// Sorted, worst first.
    pub reasons: Vec<String>,
    /// The proxy (0.6.45) only takes it up after a restart; a SIGHUP would change nothing.
    pub restart_class: bool,
    /// What asks for the restart.
    pub restart_reasons: Vec<String>,
}

/// Names of what was added, removed and changed; those of namespaces as `namespace:service:name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn count(&self) -> usize {
        self.added.len() + self.removed.len() + self.changed.len()
    }

    fn of(old: &Things<'_>, new: &Things<'_>) -> Changes {
        Changes {
            added: new.keys().filter(|k| !old.contains_key(*k)).cloned().collect(),
            removed: old.keys().filter(|k| !new.contains_key(*k)).cloned().collect(),
            changed: old.iter().filter(|(k, v)| new.get(*k).is_some_and(|n| n != *v)).map(|(k, _)| k.clone()).collect(),
        }
    }
}

/// The difference of two configs by things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    pub routes: Changes,
    pub upstreams: Changes,
    pub listeners: Changes,
    pub filters: Changes,
    pub agents: Changes,
    /// Top-level blocks besides these that differ, by their names in config.json.
    pub settings: Vec<String>,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
            && [&self.routes, &self.upstreams, &self.listeners, &self.filters, &self.agents]
                .iter()
                .all(|c| c.is_empty())
    }
}

pub(crate) type Things<'a> = BTreeMap<String, &'a Value>;

/// A config with its things by qualified name.
pub(crate) struct View<'a> {
    config: &'a Value,
    pub routes: Things<'a>,
    pub upstreams: Things<'a>,
    pub listeners: Things<'a>,
    pub filters: Things<'a>,
    pub agents: Things<'a>,
}

impl<'a> View<'a> {
    pub fn of(config: &'a Value) -> View<'a> {
        let mut v = View {
            config,
            routes: Things::new(),
            upstreams: Things::new(),
            listeners: Things::new(),
            filters: Things::new(),
            agents: Things::new(),
        };
        v.scope("", config);
        for ns in array(config, "namespaces") {
            let name = format!("{}:", id(ns));
            v.scope(&name, ns);
            for service in array(ns, "services") {
                v.scope(&format!("{name}{}:", id(service)), service);
            }
        }
        v
    }

    /// Top-level blocks that are not lists of things.
    pub fn settings(&self) -> Things<'a> {
        let things = ["routes", "upstreams", "listeners", "filters", "agents", "namespaces"];
        let all = self.config.as_object().into_iter().flatten();
        all.filter(|(k, v)| !things.contains(&k.as_str()) && !v.is_null()).map(|(k, v)| (k.clone(), v)).collect()
    }

    fn scope(&mut self, prefix: &str, v: &'a Value) {
        let list = |key: &str, into: &mut Things<'a>| {
            into.extend(array(v, key).iter().map(|x| (format!("{prefix}{}", id(x)), x)));
        };
        list("routes", &mut self.routes);
        list("listeners", &mut self.listeners);
        list("agents", &mut self.agents);
        self.listeners.extend(v.get("listener").filter(|l| l.is_object()).map(|l| (format!("{prefix}{}", id(l)), l)));
        let map = |key: &str, into: &mut Things<'a>| {
            let all = v.get(key).and_then(Value::as_object).into_iter().flatten();
            into.extend(all.map(|(k, x)| (format!("{prefix}{k}"), x)));
        };
        map("upstreams", &mut self.upstreams);
        map("filters", &mut self.filters);
    }

    /// Agents of a kind, and filters that call one.
    fn guards(&self, kind: &str) -> BTreeMap<String, Value> {
        let mut all: BTreeMap<String, Value> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for (name, agent) in self.agents.iter().filter(|(_, a)| a.get("type").and_then(Value::as_str) == Some(kind)) {
            ids.insert(id(agent));
            all.insert(format!("agent {name}"), (*agent).clone());
        }
        let mut filters = BTreeSet::new();
        for (name, filter) in &self.filters {
            if filter.get("agent").and_then(Value::as_str).is_some_and(|a| ids.contains(a)) {
                filters.insert(filter.get("id").and_then(Value::as_str).unwrap_or(name));
                all.insert(format!("filter {name}"), (*filter).clone());
            }
        }
        for (name, route) in &self.routes {
            let used: Vec<&Value> =
                array(route, "filters").iter().filter(|f| f.as_str().is_some_and(|f| filters.contains(f))).collect();
            if !used.is_empty() {
                all.insert(format!("route {name}"), serde_json::json!(used));
            }
        }
        all
    }

    fn tls(&self) -> BTreeMap<String, &'a Value> {
        let both = self.listeners.iter().map(|(n, l)| (format!("listener {n}"), l));
        both.chain(self.upstreams.iter().map(|(n, u)| (format!("upstream {n}"), u)))
            .filter_map(|(n, v)| Some((n, v.get("tls").filter(|t| !t.is_null())?)))
            .collect()
    }

    /// Requests per second allowed, by where the limit is. A limit that is gone allows any number.
    fn rates(&self) -> BTreeMap<String, (f64, f64)> {
        let mut all = BTreeMap::new();
        let mut limiters = BTreeSet::new();
        for (name, f) in &self.filters {
            if f.get("type").and_then(Value::as_str) == Some("rate-limit") {
                limiters.insert(f.get("id").and_then(Value::as_str).unwrap_or(name));
                let rps = number(f, &["max_rps", "max-rps"]);
                all.insert(format!("filter {name}"), (rps, number(f, &["burst"])));
            }
        }
        for (name, r) in &self.routes {
            if let Some(p) = r.pointer("/policies/rate_limit").filter(|p| !p.is_null()) {
                all.insert(format!("route {name}"), (number(p, &["requests_per_second"]), number(p, &["burst"])));
            }
            for filter in array(r, "filters").iter().filter_map(Value::as_str).filter(|f| limiters.contains(f)) {
                // Only whether the route is still limited by it; how much is judged at the filter.
                all.insert(format!("filter {filter} on route {name}"), (0.0, 0.0));
            }
        }
        if let Some(g) = self.config.get("rate_limits") {
            if g.get("default-rps").is_some_and(|v| !v.is_null()) {
                let burst = number(g, &["default-burst"]);
                all.insert("the default".into(), (number(g, &["default-rps"]), burst));
            }
            if let Some(g) = g.get("global").filter(|v| !v.is_null()) {
                all.insert("the global limit".into(), (number(g, &["max-rps"]), number(g, &["burst"])));
            }
        }
        all
    }

    /// Where a firewall looks at requests.
    fn waf(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.guards("waf").into_keys().collect();
        let mode = self.config.pointer("/waf/mode").and_then(Value::as_str);
        if mode.is_some_and(|m| m != "off") {
            all.insert("the waf block".into());
        }
        if mode == Some("prevention") {
            all.insert("prevention by the waf block".into());
        }
        let flagged = self.routes.iter().filter(|(_, r)| r.get("waf_enabled") == Some(&Value::Bool(true)));
        all.extend(flagged.map(|(n, _)| format!("waf-enabled of route {n}")));
        all
    }
}

fn array<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn id(v: &Value) -> &str {
    v.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// The first of `keys` that is a number; without one, no limit.
fn number(v: &Value, keys: &[&str]) -> f64 {
    keys.iter().find_map(|k| v.get(*k).and_then(Value::as_f64)).unwrap_or(f64::INFINITY)
}

/// What differs from `old` to `new`.
pub fn diff(old: &Value, new: &Value) -> Diff {
    diff_views(&View::of(old), &View::of(new))
}

fn diff_views(old: &View<'_>, new: &View<'_>) -> Diff {
    let things = ["routes", "upstreams", "listeners", "filters", "agents", "namespaces"];
    let keys = |v: &View<'_>| -> BTreeSet<String> {
        v.config.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect()
    };
    let settings = keys(old)
        .union(&keys(new))
        .filter(|k| !things.contains(&k.as_str()) && old.config.get(k.as_str()) != new.config.get(k.as_str()))
        .cloned()
        .collect();
    Diff {
        routes: Changes::of(&old.routes, &new.routes),
        upstreams: Changes::of(&old.upstreams, &new.upstreams),
        listeners: Changes::of(&old.listeners, &new.listeners),
        filters: Changes::of(&old.filters, &new.filters),
        agents: Changes::of(&old.agents, &new.agents),
        settings,
    }
}

/// The risk of going from `old` (what the fleet runs; `None`: nothing) to `new`. `unknown_keys` is the
/// number of keys in the new config that the proxy ignores.
pub fn assess(old: Option<&Value>, new: &Value, unknown_keys: u32) -> Risk {
    assess_for(crate::verdict::VALIDATOR_VERSION, old, new, unknown_keys)
}

/// The same for proxies of another version.
pub fn assess_for(version: &str, old: Option<&Value>, new: &Value, unknown_keys: u32) -> Risk {
    let mut found: Vec<(Level, String)> = Vec::new();
    if unknown_keys > 0 {
        found.push((RiskLevel::Medium, format!("{unknown_keys} keys are unknown to the proxy and ignored")));
    }
    let mut restart_reasons = Vec::new();
    if let Some(old) = old {
        let (old, new) = (View::of(old), View::of(new));
        let d = diff_views(&old, &new);
        compare(&old, &new, &d, &mut found);
        restart_reasons = needs_restart(version, &old, &new, &d);
    }
    found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    Risk {
        level: found.first().map_or(RiskLevel::Low, |f| f.0),
        reasons: found.into_iter().map(|f| f.1).collect(),
        restart_class: !restart_reasons.is_empty(),
        restart_reasons,
    }
}

fn compare(old: &View<'_>, new: &View<'_>, d: &Diff, found: &mut Vec<(Level, String)>) {
    let mut say = |level, text: String| found.push((level, text));
    if d.routes.count() > MANY_ROUTES {
        say(RiskLevel::Medium, format!("{} routes changed", d.routes.count()));
    }
    // A route that is gone altogether has lost nothing.
    let removed = |name: &str| d.routes.removed.iter().any(|r| name == format!("route {r}"));
    let (was, is) = (old.guards("auth"), new.guards("auth"));
    let lost: Vec<String> = was.keys().filter(|n| !is.contains_key(*n) && !removed(n)).cloned().collect();
    if !lost.is_empty() {
        say(RiskLevel::High, format!("authentication removed: {}", some(&lost)));
    }
    let lowered = tls_lowered(old, new, d);
    if !lowered.is_empty() {
        say(RiskLevel::High, format!("TLS lowered: {}", some(&lowered)));
    }
    let auth = differing(&was, &is);
    if !auth.is_empty() {
        say(RiskLevel::High, format!("authentication changed: {}", some(&auth)));
    }
    let tls = differing(&old.tls(), &new.tls());
    if !tls.is_empty() {
        say(RiskLevel::High, format!("TLS changed: {}", some(&tls)));
    }
    let lost: Vec<String> = old
        .waf()
        .difference(&new.waf())
        // A route that is gone altogether has lost nothing.
        .filter(|w| !d.routes.removed.iter().any(|r| w.ends_with(&format!("route {r}"))))
        .cloned()
        .collect();
    if !lost.is_empty() {
        say(RiskLevel::High, format!("WAF disabled: {}", some(&lost)));
    }
    if !d.upstreams.removed.is_empty() {
        say(RiskLevel::Medium, format!("upstream removed: {}", some(&d.upstreams.removed)));
    }
    if !d.listeners.is_empty() {
        let all: Vec<String> =
            [&d.listeners.added, &d.listeners.removed, &d.listeners.changed].into_iter().flatten().cloned().collect();
        say(RiskLevel::Medium, format!("listener changed: {}", some(&all)));
    }
    let rates = new.rates();
    let loosened: Vec<String> = old
        .rates()
        .into_iter()
        .filter(|(name, _)| !d.routes.removed.iter().any(|r| name.ends_with(&format!("route {r}"))))
        .filter(|(name, was)| rates.get(name).is_none_or(|is| is.0 > was.0 || is.1 > was.1))
        .map(|(name, _)| name)
        .collect();
    if !loosened.is_empty() {
        say(RiskLevel::Medium, format!("rate limit loosened: {}", some(&loosened)));
    }
}

fn differing<V: PartialEq>(old: &BTreeMap<String, V>, new: &BTreeMap<String, V>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|n| old.get(*n) != new.get(*n)).cloned().collect()
}

/// A few names, and how many more.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

/// What asks for a restart of a proxy of this version.
fn needs_restart(version: &str, old: &View<'_>, new: &View<'_>, d: &Diff) -> Vec<String> {
    let part = |things: &Things<'_>, pointer: &str| -> BTreeMap<String, Value> {
        let parts = things.iter().filter_map(|(n, t)| Some((n.clone(), t.pointer(pointer)?.clone())));
        parts.filter(|(_, v)| !v.is_null()).collect()
    };
    let asks = |cold: &&Cold| match **cold {
        Cold::Things("listeners") => !d.listeners.is_empty(),
        Cold::Things("filters") => !d.filters.is_empty(),
        Cold::Things(_) => !d.agents.is_empty(),
        Cold::Block(key, _) => d.settings.iter().any(|s| s == key),
        Cold::OfRoutes(pointer, _) => part(&old.routes, pointer) != part(&new.routes, pointer),
        Cold::OfUpstreams(pointer, _) => part(&old.upstreams, pointer) != part(&new.upstreams, pointer),
    };
    let name = |cold: &Cold| match *cold {
        Cold::Things(name) | Cold::Block(_, name) | Cold::OfRoutes(_, name) | Cold::OfUpstreams(_, name) => {
            name.to_string()
        }
    };
    restart::table(version).iter().filter(asks).map(name).collect()
}

/// Where TLS asks for less than before: it is gone, an older version is allowed, clients or servers are no longer checked.
fn tls_lowered(old: &View<'_>, new: &View<'_>, d: &Diff) -> Vec<String> {
    let (was, is) = (old.tls(), new.tls());
    let gone = |name: &str| {
        let removed = |kind: &str, c: &Changes| c.removed.iter().any(|r| name == format!("{kind} {r}"));
        removed("listener", &d.listeners) || removed("upstream", &d.upstreams)
    };
    let mut found = Vec::new();
    for (name, was) in was.iter().filter(|(name, _)| !gone(name)) {
        let Some(is) = is.get(name) else {
            found.push(format!("{name} has no TLS any more"));
            continue;
        };
        let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let flag = |v: &Value, key: &str| v.get(key).and_then(Value::as_bool).unwrap_or(false);
        // "TLS1.2" and "TLS1.3", "1.2" and "1.3" sort as they are strong; none is the proxy's default, the lowest.
        if text(is, "min_version") < text(was, "min_version") {
            found.push(format!("{name} allows an older version"));
        }
        for key in ["client_auth", "verify", "verify_hostname"] {
            if flag(was, key) && !flag(is, key) {
                found.push(format!("{name} has {} off", key.replace('_', "-")));
            }
        }
        for key in ["insecure_skip_verify", "allow_insecure"] {
            if !flag(was, key) && flag(is, key) {
                found.push(format!("{name} has {} on", key.replace('_', "-")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "server": {"worker_threads": 2},
            "listeners": [{"id": "http", "address": "0.0.0.0:80", "tls": null}],
            "routes": (0..12).map(|i| json!({"id": format!("r{i}"), "upstream": "u", "filters": ["auth", "limit"],
                "waf_enabled": i == 0, "policies": {"rate_limit": null}})).collect::<Vec<_>>(),
            "upstreams": {"u": {"targets": [{"address": "h:1"}], "tls": null}, "v": {"health_check": null}},
            "agents": [{"id": "a", "type": "auth", "timeout_ms": 5}, {"id": "w", "type": "waf"}],
            "filters": {"auth": {"id": "auth", "type": "agent", "agent": "a"}, "limit": {"id": "limit", "type": "rate-limit", "max_rps": 10, "burst": 5}},
            "rate_limits": {"default-rps": 100, "global": null},
            "namespaces": [{"id": "n", "upstreams": {"x": {}}, "services": [{"id": "s", "routes": [{"id": "q"}]}]}],
        })
    }

    /// Applies `edit` to the base config and checks level, reason and restart.
    fn check(edit: impl FnOnce(&mut Value), level: Level, reason: &str, restart: bool) {
        let mut new = base();
        edit(&mut new);
        let risk = assess(Some(&base()), &new, 0);
        assert_eq!(risk.level, level, "{risk:?}");
        assert!(reason.is_empty() || risk.reasons.iter().any(|r| r.contains(reason)), "{reason}: {risk:?}");
        assert_eq!(risk.restart_class, restart, "{risk:?}");
    }

    #[test]
    fn every_kind_of_change_has_its_level_and_its_reason() {
        use RiskLevel::{High, Low, Medium};
        check(|_| (), Low, "", false);
        check(|c| c["routes"][3]["upstream"] = json!("v"), Low, "", false);
        check(|c| c["upstreams"]["u"]["targets"][0]["address"] = json!("h:2"), Low, "", false);
        let all = |c: &mut Value| (0..11).for_each(|i| c["routes"][i]["upstream"] = json!("v"));
        check(all, Medium, "11 routes changed", false);
        check(|c| c["agents"][0]["timeout_ms"] = json!(6), High, "authentication changed: agent a", true);
        check(|c| c["routes"][2]["filters"] = json!(["limit"]), High, "authentication changed: route r2", false);
        check(|c| c["listeners"][0]["tls"] = json!({"cert_file": "x"}), High, "TLS changed: listener http", true);
        check(|c| c["upstreams"]["u"]["tls"] = json!({"sni": "x"}), High, "TLS changed: upstream u", false);
        let tls = |v: Value| json!([{"id": "http", "address": "0.0.0.0:80", "tls": v}]);
        let mut strong = base();
        strong["listeners"] = tls(json!({"min_version": "TLS1.3", "client_auth": true}));
        for (weak, words) in [
            (json!(null), "listener http has no TLS any more"),
            (json!({"min_version": "TLS1.2", "client_auth": true}), "allows an older version"),
            (json!({"min_version": "TLS1.3", "client_auth": false}), "client-auth off"),
        ] {
            let mut new = base();
            new["listeners"] = tls(weak);
            let risk = assess(Some(&strong), &new, 0);
            assert!(
                risk.reasons.iter().any(|r| r.starts_with("TLS lowered") && r.contains(words)),
                "{words}: {risk:?}"
            );
            let raised = assess(Some(&new), &strong, 0);
            assert!(!raised.reasons.iter().any(|r| r.starts_with("TLS lowered")), "{raised:?}");
        }
        check(|c| c["routes"][2]["filters"] = json!(["limit"]), High, "authentication removed: route r2", false);
        check(|c| c["routes"][0]["waf_enabled"] = json!(false), High, "WAF disabled", false);
        check(|c| c["agents"][1]["type"] = json!("custom"), High, "WAF disabled: agent w", true);
        check(
            |c| {
                c["upstreams"].as_object_mut().map(|u| u.remove("v"));
            },
            Medium,
            "upstream removed: v",
            false,
        );
        check(|c| c["namespaces"][0]["upstreams"] = json!({}), Medium, "upstream removed: n:x", false);
        check(|c| c["listeners"][0]["address"] = json!("0.0.0.0:81"), Medium, "listener changed: http", true);
        check(|c| c["filters"]["limit"]["max_rps"] = json!(11), Medium, "rate limit loosened: filter limit", true);
        check(|c| c["filters"]["limit"]["max_rps"] = json!(9), Low, "", true);
        check(|c| c["routes"][2]["filters"] = json!(["auth"]), Medium, "loosened: filter limit on route r2", false);
        check(|c| c["rate_limits"]["default-rps"] = json!(null), Medium, "loosened: the default", true);
        check(|c| c["server"]["worker_threads"] = json!(3), Low, "", true);
        check(|c| c["upstreams"]["v"]["health_check"] = json!({}), Low, "", true);
        // A removed route takes its filters with it: nothing is loosened, but that it was guarded is said.
        check(
            |c| {
                c["routes"].as_array_mut().map(|r| r.remove(0));
            },
            High,
            "authentication changed: route r0",
            false,
        );
    }

    #[test]
    fn unknown_keys_are_at_least_medium_and_a_first_config_is_compared_with_nothing() {
        assert_eq!(assess(None, &base(), 0).level, RiskLevel::Low);
        assert_eq!(assess(None, &base(), 2).level, RiskLevel::Medium);
        assert_eq!(assess(Some(&base()), &base(), 1).reasons.len(), 1);
    }

    #[test]
    fn the_diff_names_things_of_every_scope() {
        let mut new = base();
        new["namespaces"][0]["services"][0]["routes"][0]["upstream"] = json!("y");
        new["limits"] = json!({"a": 1});
        let d = diff(&base(), &new);
        assert_eq!(d.routes.changed, ["n:s:q"]);
        assert_eq!(d.settings, ["limits"]);
        assert_eq!(d.routes.count(), 1);
        assert!(diff(&base(), &base()).is_empty());
    }
}
