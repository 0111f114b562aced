//! What the agent adds to a verified configuration: the marker by which it recognises what really serves, and this host's addresses.
//!
//! The verified files stay as they are; the proxy loads a copy with these few lines in front. In front, because nothing before
//! them can comment them out. The marker is among the global routes: the matcher of 0.6.45 swaps them as one, and a namespace's
//! marker answers while they are still old (DATAPLANE section 5). Which release serves is in the path; that it is the proxy that
//! answers, and which process, is in the body (`instance_id` of the built-in `status`): a catch-all upstream says 200 as well.

use crate::layout::Release;
use crate::secrets::Secrets;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Routes with this id are the agent's own and do not count as traffic.
pub const MARKER_ROUTE: &str = "sentinel-agent-marker";
const LISTENER: &str = "sentinel-agent";

/// Folders of a bundle whose files a configuration may name.
const PLACED: [&str; 3] = ["certs", "trust", "plugins"];

/// The certificates, trust stores and plugins of a bundle, where they lie on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    dir: PathBuf,
    /// `certs/server.pem`, ...
    files: Vec<String>,
}

impl Placed {
    /// Of the files of a bundle, those that a configuration may name. `dir` is where they will be read.
    pub fn new<'a>(dir: &Path, files: impl Iterator<Item = &'a str>) -> Placed {
        let named = |f: &&str| f.split_once('/').is_some_and(|(folder, _)| PLACED.contains(&folder));
        Placed { dir: dir.to_path_buf(), files: files.filter(named).map(str::to_string).collect() }
    }

    /// Those of a release that lies unpacked in `dir`.
    pub fn find(dir: &Path) -> std::io::Result<Placed> {
        fn walk(dir: &Path, name: &str, found: &mut Vec<String>) -> std::io::Result<()> {
            for entry in std::fs::read_dir(dir.join(name))? {
                let entry = entry?;
                let name = format!("{name}/{}", entry.file_name().to_string_lossy());
                if entry.file_type()?.is_dir() {
                    walk(dir, &name, found)?;
                } else {
                    found.push(name);
                }
            }
            Ok(())
        }
        let mut files = Vec::new();
        for folder in PLACED {
            if dir.join(folder).is_dir() {
                walk(dir, folder, &mut files)?;
            }
        }
        Ok(Placed { dir: dir.to_path_buf(), files })
    }

    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|f| f == name)
    }

    /// A quoted name becomes the whole path: the proxy's working directory is not ours to choose where somebody else runs it.
    fn apply(&self, config: String) -> String {
        self.files
            .iter()
            .fold(config, |text, f| text.replace(&format!("\"{f}\""), &format!("\"{}/{f}\"", self.dir.display())))
    }
}

/// What this host changes in every release. A release staged under another one is staged again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// An own loopback listener to prove through; without it the first plain one of the configuration is used.
    pub probe_listen: Option<SocketAddr>,
    /// Quoted addresses to replace, in order.
    pub rebind: Vec<(String, String)>,
    /// What stands for references to secrets.
    pub secrets: Secrets,
}

impl Overlay {
    /// Equal for equal effects; kept with each release.
    pub fn fingerprint(&self) -> String {
        format!("{:?} {:?}{}", self.probe_listen, self.rebind, self.secrets.fingerprint())
    }

    /// What the proxy shall load for `config`, the verified text.
    pub fn apply(&self, release: Release, config: &str, placed: &Placed) -> String {
        let mut config = config.strip_prefix('\u{feff}').unwrap_or(config).to_string();
        for (from, to) in &self.rebind {
            config = config.replace(&format!("\"{from}\""), &format!("\"{to}\""));
        }
        let config = self.secrets.apply(placed.apply(config));
        let listener = self.probe_listen.map(|a| {
            format!("listeners {{\n    listener \"{LISTENER}\" {{\n        address \"{a}\"\n        protocol \"http\"\n    }}\n}}\n")
        });
        format!(
            "// Made by the agent: its marker, then the verified config.kdl.\n{}routes {{\n    route \"{MARKER_ROUTE}\" {{\n        \
             priority \"critical\"\n        matches {{\n            path \"{}\"\n        }}\n        service-type \"builtin\"\n        \
             builtin-handler \"status\"\n    }}\n}}\n{config}",
            listener.unwrap_or_default(),
            marker_path(release),
        )
    }

    fn rebound<'a>(&'a self, address: &'a str) -> &'a str {
        self.rebind.iter().find(|(from, _)| from == address).map_or(address, |(_, to)| to.as_str())
    }

    /// Where the marker is asked for. `config` is config.json (`None` for a baseline, which then needs its own text searched).
    pub fn probe_address(&self, config: Option<&Value>, text: &str) -> Option<SocketAddr> {
        if let Some(a) = self.probe_listen {
            return Some(a);
        }
        let listed = config.and_then(|c| c.get("listeners")).and_then(Value::as_array).into_iter().flatten();
        let plain = listed
            // One that is bound to a namespace never sees the global routes.
            .filter(|l| l.get("namespace").is_none_or(Value::is_null))
            .filter(|l| l.get("tls").is_none_or(Value::is_null))
            .filter(|l| l.get("protocol").and_then(Value::as_str).is_none_or(|p| p.eq_ignore_ascii_case("http")))
            .filter_map(|l| l.get("address")?.as_str());
        let found: Option<String> = match config {
            Some(_) => plain.map(str::to_string).next(),
            // A baseline was never compiled: the first address in it, which is a listener's in every sample.
            None => text
                .lines()
                .filter_map(|l| l.trim().strip_prefix("address ")?.trim().strip_prefix('"')?.split('"').next())
                .map(str::to_string)
                .next(),
        };
        found.and_then(|a| loopback(self.rebound(&a)))
    }

    /// The metrics endpoint that the configuration asks for, on by default.
    pub fn metrics_url(&self, config: Option<&Value>) -> Option<String> {
        let m = config.and_then(|c| c.pointer("/observability/metrics"));
        if m.and_then(|m| m.get("enabled")).and_then(Value::as_bool) == Some(false) {
            return None;
        }
        let said = |key| m.and_then(|m| m.get(key)).and_then(Value::as_str);
        let address = loopback(self.rebound(said("address").unwrap_or("0.0.0.0:9090")))?;
        Some(format!("http://{address}{}", said("path").unwrap_or("/metrics")))
    }
}

pub fn marker_path(release: Release) -> String {
    format!("/.well-known/sentinel-agent/{release}")
}

/// The address to dial for an address to listen on.
fn loopback(address: &str) -> Option<SocketAddr> {
    let mut a: SocketAddr = address.parse().ok()?;
    if a.ip().is_unspecified() {
        a.set_ip(if a.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Some(a)
}

/// Whether the text asks the proxy to read other files: bundles are merged, so a verified one never does.
pub fn has_include(text: &str) -> bool {
    text.lines().any(|l| {
        let rest = l.trim_start().strip_prefix("include").unwrap_or_default();
        rest.starts_with([' ', '\t']) && rest.trim_start().starts_with(['"', '#', 'r'])
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bundle::samples;
    use domain::Digest;
    use serde_json::json;

    #[test]
    fn the_marker_is_in_front_and_the_verified_text_follows_unchanged() {
        let r = Release::Bundle(Digest([5; 32]));
        let out = Overlay::default().apply(r, samples::DEMO_V1, &Placed::default());
        assert!(out.ends_with(samples::DEMO_V1));
        assert!(out.contains(&marker_path(r)) && bundle::guard::scan(&out).is_empty());
        let own = Overlay { probe_listen: Some("127.0.0.1:4711".parse().unwrap()), ..Overlay::default() };
        assert!(own.apply(r, samples::DEMO_V1, &Placed::default()).contains("address \"127.0.0.1:4711\""));
        assert_ne!(own.fingerprint(), Overlay::default().fingerprint());
    }

    #[test]
    fn the_addresses_of_this_host_replace_those_of_the_bundle_everywhere() {
        let o = Overlay {
            probe_listen: None,
            rebind: vec![
                ("0.0.0.0:8080".into(), "127.0.0.1:18080".into()),
                ("127.0.0.1:9090".into(), "127.0.0.1:19090".into()),
            ],
            ..Overlay::default()
        };
        let text = o.apply(Release::Baseline, samples::DEMO_V1, &Placed::default());
        assert!(text.contains("\"127.0.0.1:18080\"") && !text.contains("0.0.0.0:8080"));
        let config = json!({
            "listeners": [{"address": "0.0.0.0:81", "tls": null, "protocol": "http", "namespace": "admin"},
                          {"address": "0.0.0.0:443", "tls": {"cert_file": "x"}, "protocol": "https"},
                          {"address": "0.0.0.0:8080", "tls": null, "protocol": "http"}],
            "observability": {"metrics": {"enabled": true, "address": "127.0.0.1:9090", "path": "/m"}}});
        assert_eq!(o.probe_address(Some(&config), ""), Some("127.0.0.1:18080".parse().unwrap()));
        assert_eq!(o.metrics_url(Some(&config)).as_deref(), Some("http://127.0.0.1:19090/m"));
        assert_eq!(o.probe_address(None, samples::DEMO_V1), Some("127.0.0.1:18080".parse().unwrap()));
        let off = json!({"observability": {"metrics": {"enabled": false}}});
        assert_eq!(o.metrics_url(Some(&off)), None);
        assert_eq!(Overlay::default().metrics_url(Some(&json!({}))).as_deref(), Some("http://127.0.0.1:9090/metrics"));
        assert_eq!(o.probe_address(Some(&json!({"listeners": []})), ""), None);
    }

    #[test]
    fn what_the_bundle_brings_is_named_by_its_whole_path_and_nothing_else_is_touched() {
        let all = ["certs/a.pem", "config.kdl", "plugins/x/run", "certsx/no"];
        let placed = Placed::new(Path::new("/var/lib/a/releases/7/bundle"), all.into_iter());
        let text = "cert-file \"certs/a.pem\"\nca-file \"certs/a.pem.old\"\nx \"plugins/x/run\" \"certsx/no\" \"config.kdl\"\n";
        let out = Overlay::default().apply(Release::Baseline, text, &placed);
        assert!(out.ends_with(
            "cert-file \"/var/lib/a/releases/7/bundle/certs/a.pem\"\nca-file \"certs/a.pem.old\"\n\
             x \"/var/lib/a/releases/7/bundle/plugins/x/run\" \"certsx/no\" \"config.kdl\"\n"
        ));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("plugins/x")).unwrap();
        std::fs::write(dir.path().join("plugins/x/run"), "").unwrap();
        let found = Placed::find(dir.path()).unwrap();
        assert!(found.has("plugins/x/run") && !found.has("plugins/x"));
    }

    #[test]
    fn an_include_is_seen_and_a_word_that_begins_alike_is_not() {
        assert!(has_include("system {}\n  include \"/etc/*.kdl\"\n"));
        assert!(has_include("include r#\"x\"#"));
        assert!(!has_include("include-headers \"x\"\n// include \"x\"\nroute \"include\" {}\n"));
        assert!(!has_include(samples::LARGE));
    }

    #[test]
    fn the_proxys_own_rules_accept_every_sample_with_the_marker_and_the_listener() {
        use bundle::{Sources, validate_in_process};
        let own = Overlay { probe_listen: Some("127.0.0.1:4711".parse().unwrap()), ..Overlay::default() };
        for text in [samples::DEMO_V1, samples::DEMO_V2, samples::LARGE, &samples::generate(20)] {
            for overlay in [&own, &Overlay::default()] {
                let before = validate_in_process(&Sources::single(text));
                let after =
                    validate_in_process(&Sources::single(overlay.apply(Release::Baseline, text, &Placed::default())));
                assert!(before.ok && after.ok, "{:?}", after.errors);
                assert_eq!(after.facts.routes, before.facts.routes + 1);
                assert_eq!(after.facts.unknown_keys, before.facts.unknown_keys);
                assert_eq!(after.facts.listeners, before.facts.listeners + u32::from(overlay.probe_listen.is_some()));
            }
        }
    }
}
