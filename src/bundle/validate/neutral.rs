//! Takes the validating host's disk out of validation.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use zentinel_config::{AgentConfig, AgentTransport, Config, RouteConfig};

/// Keys of the normalised config whose values are paths on the node.
const PATH_KEYS: &[&str] = &[
    "root",
    "cert_file",
    "key_file",
    "ca_file",
    "ca_cert",
    "client_cert",
    "client_key",
    "schema_file",
    "template",
    "template_dir",
    "database_path",
    "credentials_file",
    "custom_rules_dir",
    "disk_path",
    "folder",
    "cert_folder",
    "storage",
    "file",
    "pid_file",
    "working_directory",
    "kubeconfig",
];

/// Points every path that `validate()` looks up at `/`, which exists everywhere and is a directory.
pub fn neutralise(config: &mut Config) {
    routes(&mut config.routes);
    agents(&mut config.agents);
    for ns in &mut config.namespaces {
        routes(&mut ns.routes);
        agents(&mut ns.agents);
        for service in &mut ns.services {
            routes(&mut service.routes);
            agents(&mut service.agents);
        }
    }
}

fn routes(routes: &mut [RouteConfig]) {
    for s in routes.iter_mut().filter_map(|r| r.static_files.as_mut()) {
        s.root = PathBuf::from("/");
    }
}

fn agents(agents: &mut [AgentConfig]) {
    for agent in agents {
        if let AgentTransport::UnixSocket { path } = &mut agent.transport {
            *path = PathBuf::from("/");
        }
    }
}

/// The real paths, sorted, for the node to check.
pub fn host_paths(config: &Value) -> Vec<String> {
    let mut all = BTreeSet::new();
    collect(config, false, &mut all);
    all.into_iter().collect()
}

fn collect(v: &Value, in_socket: bool, all: &mut BTreeSet<String>) {
    match v {
        Value::Object(o) => {
            for (key, v) in o {
                match v {
                    Value::String(s) if s.starts_with('/') => {
                        if PATH_KEYS.contains(&key.as_str()) || (in_socket && key == "path") {
                            all.insert(s.clone());
                        }
                    }
                    _ => collect(v, key == "unix_socket", all),
                }
            }
        }
        Value::Array(a) => a.iter().for_each(|v| collect(v, false, all)),
        _ => {}
    }
}
