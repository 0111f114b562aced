//! What a configuration refers to: files that the bundle ships, and secrets that only the node has.
//!
//! A value `certs/...`, `trust/...` or `plugins/...` is a file of the bundle; `secrets/NAME` is a secret that the node's operator
//! maps to a file or an environment variable of that host. Works on the normalised form.

use serde_json::Value;
use std::collections::BTreeSet;

/// Where shipped files lie in a bundle.
pub const SHIPPED: [&str; 3] = ["certs/", "trust/", "plugins/"];
/// What a reference to a secret begins with.
pub const SECRETS: &str = "secrets/";
/// Keys whose values are private: what they name is never in a bundle.
const PRIVATE_KEYS: [&str; 3] = ["key_file", "client_key", "credentials_file"];

/// What a config refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Paths in the bundle.
    pub shipped: BTreeSet<String>,
    /// Names, without `secrets/`.
    pub secrets: BTreeSet<String>,
    /// `key: path` of private keys that are looked for in the bundle.
    misplaced: BTreeSet<String>,
}

impl References {
    pub fn of(config: &Value) -> References {
        let mut all = References::default();
        all.collect("", config);
        all
    }

    fn collect(&mut self, key: &str, v: &Value) {
        match v {
            Value::String(s) => {
                let path = s.strip_prefix("./").unwrap_or(s);
                if SHIPPED.iter().any(|dir| path.starts_with(dir)) {
                    if PRIVATE_KEYS.contains(&key) {
                        self.misplaced.insert(format!("{} {path:?}", key.replace('_', "-")));
                    } else {
                        // As it is written: a node finds only the plain spelling.
                        self.shipped.insert(s.clone());
                    }
                } else if path.starts_with(SECRETS) {
                    // A node replaces only the plain spelling: another one names nothing.
                    self.secrets.insert(s.strip_prefix(SECRETS).unwrap_or(s).to_string());
                }
            }
            Value::Array(a) => a.iter().for_each(|v| self.collect(key, v)),
            Value::Object(o) => o.iter().for_each(|(k, v)| self.collect(k, v)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// What is referred to and is not there, in words. `shipped` are the paths of the project's resources, `secrets` the names
    /// that its nodes have.
    pub fn faults(&self, shipped: &BTreeSet<&str>, secrets: &BTreeSet<&str>) -> Vec<String> {
        let misplaced = self.misplaced.iter().map(|what| {
            format!("{what}: private keys are never in a bundle; refer to one as \"secrets/NAME\" or by an absolute path on the node")
        });
        let missing = self.shipped.iter().filter(|p| !shipped.contains(p.as_str()));
        let missing = missing.map(|p| format!("{p:?} is not among the project's resources"));
        let unknown = self.secrets.iter().filter(|n| !secrets.contains(n.as_str()));
        let unknown =
            unknown.map(|n| format!("the secret {n:?} is not among the names in the project's setting `secrets`"));
        misplaced.chain(missing).chain(unknown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_they_are_and_what_is_missing_is_named() {
        let config = json!({
            "listeners": [{"tls": {"cert_file": "certs/a.pem", "key_file": "secrets/a-key", "ca_file": "./trust/ca.pem"}}],
            "namespaces": [{"upstreams": {"u": {"tls": {"client_cert": "certs/c.pem", "client_key": "certs/c.key"}}}}],
            "agents": [{"config": {"module": "plugins/x.wasm", "note": "no certs/ here", "file": "/etc/y"}}],
        });
        let refs = References::of(&config);
        let names = |s: &BTreeSet<String>| s.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&refs.shipped), "./trust/ca.pem certs/a.pem certs/c.pem plugins/x.wasm");
        assert_eq!(names(&refs.secrets), "a-key");
        let faults = refs.faults(&BTreeSet::from(["certs/a.pem", "certs/c.pem", "plugins/x.wasm"]), &BTreeSet::new());
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(
            faults[0].contains("client-key \"certs/c.key\"")
                && faults[1].contains("trust/ca.pem")
                && faults[2].contains("a-key")
        );
        // Known, and spelt in a way that no node replaces.
        let refs = References::of(&json!({"listeners": [{"tls": {"key_file": "./secrets/a-key"}}]}));
        let faults = refs.faults(&BTreeSet::new(), &BTreeSet::from(["a-key"]));
        assert!(faults.len() == 1 && faults[0].contains("./secrets/a-key"), "{faults:?}");
    }
}
