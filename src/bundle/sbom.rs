//! The bill of materials of a bundle, CycloneDX 1.5, as a pure function of the bundle.
//!
//! Files are components with hashes, upstreams and agents are services, the validator is the tool.

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
            let mut c = json!({"type": "data", "bom-ref": format!("route:{name}"), "name": format!("route {name}")});
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
            services.push(json!({"bom-ref": format!("upstream:{name}"), "name": format!("upstream {name}"), "endpoints": endpoints}));
        }
        for agent in v.get("agents").and_then(Value::as_array).into_iter().flatten() {
            let name = qualified(&scope, agent);
            let kind = agent.get("type").map(Value::to_string).unwrap_or_default();
            services.push(json!({
                "bom-ref": format!("agent:{name}"),
                "name": format!("agent {name}"),
                "properties": [{"name": "sentinel:agent-type", "value": kind.trim_matches('"')}],
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
