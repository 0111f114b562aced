//! The bill of materials of a bundle, CycloneDX 1.5, as a pure function of the bundle.
//!
//! Files and routes are components with hashes, upstreams and agents are services, the validator is the tool. What is no file has
//! the hash of its part of `config.json`, in canonical form; services have no field for hashes in CycloneDX, so theirs are properties.

use crate::canon;
use crate::manifest::Manifest;
use domain::Digest;
use serde_json::{Value, json};

/// The canonical bytes of `SBOM.json`. Serial number and time come from the manifest.
pub fn render(manifest: &Manifest, config: &Value) -> Result<Vec<u8>, serde_json::Error> {
    let id = manifest.bundle_id.to_string();
    let mut components: Vec<Value> = manifest
        .payload_hashes
        .iter()
        .map(|(path, hash)| {
            let hex = hash.strip_prefix("sha256:").unwrap_or(hash);
            json!({
                "type": if path.starts_with("plugins/") { "library" } else { "file" },
                "bom-ref": format!("file:{path}"),
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": hex}],
            })
        })
        .collect();
    let mut services = Vec::new();
    for (scope, v) in scopes(config) {
        for route in v.get("routes").and_then(Value::as_array).into_iter().flatten() {
            let name = qualified(&scope, route);
            let mut c = json!({
                "type": "data",
                "bom-ref": format!("route:{name}"),
                "name": format!("route {name}"),
                "hashes": [{"alg": "SHA-256", "content": hash(route)?}],
            });
            if let Some(upstream) = route.get("upstream").and_then(Value::as_str) {
                c["properties"] = json!([{"name": "sentinel:upstream", "value": upstream}]);
            }
            components.push(c);
        }
        for (id, upstream) in v.get("upstreams").and_then(Value::as_object).into_iter().flatten() {
            let name = format!("{scope}{id}");
            let endpoints: Vec<&str> = upstream
                .get("targets")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|t| t.get("address").and_then(Value::as_str))
                .collect();
            services.push(json!({
                "bom-ref": format!("upstream:{name}"),
                "name": format!("upstream {name}"),
                "endpoints": endpoints,
                "properties": [{"name": "sentinel:sha256", "value": hash(upstream)?}],
            }));
        }
        for agent in v.get("agents").and_then(Value::as_array).into_iter().flatten() {
            let name = qualified(&scope, agent);
            let kind = agent.get("type").map(Value::to_string).unwrap_or_default();
            services.push(json!({
                "bom-ref": format!("agent:{name}"),
                "name": format!("agent {name}"),
                "properties": [
                    {"name": "sentinel:agent-type", "value": kind.trim_matches('"')},
                    {"name": "sentinel:sha256", "value": hash(agent)?},
                ],
            }));
        }
    }
    canon::to_vec(&json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "serialNumber": format!("urn:uuid:{}", uuid_of(&id)),
        "metadata": {
            "timestamp": manifest.created_at.to_rfc3339(),
            "component": {"type": "data", "bom-ref": "bundle", "name": "sentinel-bundle", "version": id},
            "tools": {"components": [{
                "type": "library",
                "name": manifest.validator.name,
                "version": manifest.validator.version,
                "purl": format!("pkg:cargo/{}@{}", manifest.validator.name, manifest.validator.version),
            }]},
        },
        "components": components,
        "services": services,
    }))
}

/// Of one thing of the configuration.
fn hash(v: &Value) -> Result<String, serde_json::Error> {
    Ok(Digest::of(&canon::to_vec(v)?).to_string())
}

fn qualified(scope: &str, v: &Value) -> String {
    format!("{scope}{}", v.get("id").and_then(Value::as_str).unwrap_or_default())
}

/// The config, its namespaces and their services, with the prefix that makes their names unique.
fn scopes(config: &Value) -> Vec<(String, &Value)> {
    let mut all = vec![(String::new(), config)];
    for ns in config.get("namespaces").and_then(Value::as_array).into_iter().flatten() {
        let name = format!("{}:", ns.get("id").and_then(Value::as_str).unwrap_or_default());
        for s in ns.get("services").and_then(Value::as_array).into_iter().flatten() {
            all.push((format!("{name}{}:", s.get("id").and_then(Value::as_str).unwrap_or_default()), s));
        }
        all.push((name, ns));
    }
    all
}

/// A UUID version 8 (free form, RFC 9562) from the bundle's id.
fn uuid_of(bundle_id: &str) -> String {
    let mut b = Digest::of(format!("sentinel sbom {bundle_id}").as_bytes()).0;
    b[6] = (b[6] & 0x0f) | 0x80;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(&b[..16]);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..32])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::archive::{BuildInputs, render as rendered};
    use crate::{Sources, samples, validate_in_process};
    use domain::{ProjectId, Timestamp};
    use std::collections::BTreeMap;

    fn of(sources: &Sources, extra: &BTreeMap<String, Vec<u8>>) -> (Value, Value) {
        let verdict = validate_in_process(sources);
        let (source, config) = (Default::default(), verdict.config_json.clone().unwrap());
        let inputs = BuildInputs {
            project: ProjectId::NIL,
            created_at: Timestamp(1_790_000_000_000_000),
            source: &source,
            sources,
            verdict: &verdict,
            extra,
        };
        let made = rendered(inputs).unwrap();
        (serde_json::from_slice(&made.files["SBOM.json"]).unwrap(), config)
    }

    #[test]
    fn everything_of_the_configuration_is_named_once_with_its_hash_and_changes_with_it() {
        let extra = BTreeMap::from([("plugins/a.wasm".to_string(), b"\0asm".to_vec())]);
        let (bom, config) = of(&Sources::single(samples::LARGE), &extra);
        assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        let tool = &bom["metadata"]["tools"]["components"][0];
        assert_eq!(tool["name"], crate::verdict::VALIDATOR_NAME);
        assert_eq!(tool["version"], crate::verdict::VALIDATOR_VERSION);
        let list = |of: &str| bom[of].as_array().unwrap().clone();
        let refs: Vec<String> = list("components")
            .iter()
            .chain(&list("services"))
            .map(|c| c["bom-ref"].as_str().unwrap().to_string())
            .collect();
        let mut unique = refs.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), refs.len(), "{refs:?}");
        let count = |kind: &str| refs.iter().filter(|r| r.starts_with(kind)).count();
        assert_eq!(count("route:"), config["routes"].as_array().unwrap().len());
        assert_eq!(count("upstream:"), config["upstreams"].as_object().unwrap().len());
        assert_eq!(count("agent:"), config["agents"].as_array().unwrap().len());
        assert!(count("route:") > 1 && count("upstream:") >= 1 && count("agent:") >= 1);
        let plugin = list("components").into_iter().find(|c| c["name"] == "plugins/a.wasm").unwrap();
        assert_eq!(plugin["hashes"][0]["content"], Digest::of(b"\0asm").to_string());
        assert!(list("components").iter().all(|c| c["hashes"][0]["content"].as_str().is_some_and(|h| h.len() == 64)));
        let hashed = |s: &Value| s["properties"].as_array().unwrap().iter().any(|p| p["name"] == "sentinel:sha256");
        assert!(list("services").iter().all(hashed));

        // One field of one route: its hash, and no other route's.
        let routes = |text: &str| {
            let (bom, _) = of(&Sources::single(text), &BTreeMap::new());
            let all = bom["components"].as_array().unwrap().clone();
            let routes = all.into_iter().filter(|c| c["bom-ref"].as_str().unwrap().starts_with("route:"));
            routes.map(|c| (c["name"].to_string(), c["hashes"][0]["content"].to_string())).collect::<BTreeMap<_, _>>()
        };
        let old = routes(samples::DEMO_V1);
        let new = routes(&samples::DEMO_V1.replace("timeout-secs 10\n        }", "timeout-secs 11\n        }"));
        let differ: Vec<&String> = old.keys().filter(|k| old[*k] != new[*k]).collect();
        assert_eq!(differ, ["\"route api\""]);
    }
}
