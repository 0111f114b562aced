//! From the bytes of an archive to a release that lies ready: verified, guarded, tried by the node's own proxy.
//!
//! Invariant: a folder gets its final name only when everything in it was checked and is on disk.

use crate::layout::{ABOUT, FILES, Layout, PROXY_CONFIG, Release, sync_dir};
use crate::overlay::{Overlay, Placed, has_include};
use crate::owner::Sharing;
use bundle::archive::{CONFIG, CONFIG_JSON};
use bundle::guard;
use bundle::trust::Assignment;
use bundle::verify::{NodeTrust, verify_archive};
use domain::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A baseline larger than this is no configuration of this proxy: 1 MiB is what the control plane takes.
const MAX_BASELINE: u64 = 1 << 20;

/// `release.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub release: Release,
    pub version: Option<String>,
    /// `false` only for a baseline without a proxy.
    pub has_config: bool,
    pub overlay: String,
    /// Where its marker answers.
    pub probe: Option<SocketAddr>,
    pub metrics_url: Option<String>,
    pub staged_at: Timestamp,
}

impl About {
    pub fn read(layout: &Layout, r: Release) -> Option<About> {
        layout.read(&layout.release(r).join(ABOUT)).ok().flatten()
    }
}

/// The parsed configuration of a release, for comparison. `None`: a baseline, or unreadable.
pub fn config_json(layout: &Layout, r: Release) -> Option<Value> {
    let bytes = std::fs::read(layout.release(r).join(FILES).join(CONFIG_JSON)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Everything that is needed to stage, to be carried to a thread of its own.
pub struct Staging {
    pub dir: PathBuf,
    /// Where `dir` will lie when it is ready.
    pub home: PathBuf,
    pub sharing: Sharing,
    pub assignment: Assignment,
    pub trust: NodeTrust,
    pub overlay: Overlay,
    pub version: Option<String>,
    /// The proxy's own, if it said one.
    pub proxy: Option<String>,
    pub now: Timestamp,
}

impl Staging {
    /// Verifies, unpacks, guards and writes what the proxy will load. CPU-bound: milliseconds for a config. Errors are for the
    /// report: a stable code and a sentence.
    pub fn prepare(&self, archive: &[u8]) -> Result<About, String> {
        let verified =
            verify_archive(archive, &self.assignment, &self.trust).map_err(|r| format!("{}: {r}", r.code()))?;
        let text =
            verified.file(CONFIG).and_then(|b| std::str::from_utf8(b).ok()).ok_or("guard: config.kdl is not text")?;
        let config: Option<Value> = verified
            .file(CONFIG_JSON)
            .map(serde_json::from_slice)
            .transpose()
            .map_err(|e| format!("guard: config.json: {e}"))?;
        let config = config.ok_or("guard: the bundle has no config.json")?;
        let release = Release::Bundle(verified.manifest.bundle_id);
        compatible(self.proxy.as_deref(), &verified.manifest.compat.sentinel_min_version)?;
        guards(text, Some(&config))?;
        let placed = Placed::new(&self.home.join(FILES), verified.files.keys().map(String::as_str));
        missing_files(&config, &placed)?;
        self.overlay.secrets.check(&config)?;
        let out = self.overlay.apply(release, text, &placed);
        guards(&out, None)?;
        let probe = self.overlay.probe_address(Some(&config), text).ok_or(
            "guard: no listener speaks plain http, so nothing could be proved after a switch; give the agent --probe-listen",
        )?;
        let about = About {
            release,
            version: self.version.clone(),
            has_config: true,
            overlay: self.overlay.fingerprint(),
            probe: Some(probe),
            metrics_url: self.overlay.metrics_url(Some(&config)),
            staged_at: self.now,
        };
        let disk = |e: std::io::Error| format!("disk: {e}");
        let files = self.dir.join(FILES);
        std::fs::create_dir(&files).map_err(disk)?;
        verified.unpack_to(&files).map_err(disk)?;
        finish(&self.dir, Some(&out), &about).map_err(disk)?;
        self.sharing.tree(&self.dir).map_err(|e| format!("disk: owner and mode: {e}"))?;
        Ok(about)
    }
}

/// Our own guards, on text that the proxy is going to parse.
fn guards(text: &str, config: Option<&Value>) -> Result<(), String> {
    let mut found = guard::scan(text);
    found.extend(config.map(guard::check_config).unwrap_or_default());
    if let Some(f) = found.first() {
        let at = if f.line > 0 { format!("line {}, column {}: ", f.line, f.column) } else { String::new() };
        return Err(format!("guard: {at}{}", f.text));
    }
    if has_include(text) {
        return Err("guard: the configuration includes other files, which nobody has signed".into());
    }
    Ok(())
}

/// The language changes between patch releases: what is for a newer proxy is not tried on an older one.
fn compatible(proxy: Option<&str>, least: &str) -> Result<(), String> {
    let numbers = |v: &str| -> Option<Vec<u64>> {
        let plain = v.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        plain.split('.').map(|n| n.parse().ok()).collect()
    };
    // What cannot be read is left to the proxy's own judgement.
    match (proxy.and_then(numbers), numbers(least)) {
        (Some(have), Some(need)) if have < need => Err(format!(
            "incompatible_version: the bundle needs a proxy of at least {least}, here is {}",
            proxy.unwrap_or_default()
        )),
        _ => Ok(()),
    }
}

/// Certificates and keys that listeners name must be in the bundle or on this host: the proxy would not start again.
fn missing_files(config: &Value, placed: &Placed) -> Result<(), String> {
    fn walk<'a>(v: &'a Value, found: &mut Vec<&'a str>) {
        match v {
            Value::Object(o) => {
                for (k, v) in o {
                    match v.as_str() {
                        Some(s) if matches!(k.as_str(), "cert_file" | "key_file" | "ca_file") => found.push(s),
                        _ => walk(v, found),
                    }
                }
            }
            Value::Array(a) => a.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut named = Vec::new();
    walk(config.get("listeners").unwrap_or(&Value::Null), &mut named);
    // Secrets have a check of their own.
    let here = |n: &&&str| placed.has(n) || Path::new(n).is_absolute() || n.starts_with(guard::SECRETS);
    if let Some(n) = named.iter().find(|n| !here(n)) {
        return Err(format!("guard: {n} is named by a listener and is not in the bundle"));
    }
    match named.iter().map(Path::new).find(|p| p.is_absolute() && !p.exists()) {
        Some(p) => Err(format!("guard: {} is named by a listener and is not on this host", p.display())),
        None => Ok(()),
    }
}

/// The agent was started with another overlay than `r` was staged under: what the proxy loads is made anew from the verified
/// files. `true`: it was, and a running proxy must be restarted for it. The baseline stays as it was at enrolment.
pub fn refit(layout: &Layout, overlay: &Overlay, r: Release) -> Result<bool, String> {
    let Some(mut about) =
        About::read(layout, r).filter(|a| a.overlay != overlay.fingerprint() && r != Release::Baseline)
    else {
        return Ok(false);
    };
    let dir = layout.release(r);
    let disk = |e: std::io::Error| format!("{}: {e}", dir.display());
    let text = std::fs::read_to_string(dir.join(FILES).join(CONFIG)).map_err(disk)?;
    let config = config_json(layout, r);
    if let Some(config) = &config {
        overlay.secrets.check(config)?;
    }
    let placed = Placed::find(&dir.join(FILES)).map_err(disk)?;
    let out = overlay.apply(r, &text, &placed);
    guards(&out, None)?;
    about.probe = Some(overlay.probe_address(config.as_ref(), &text).ok_or("no listener to prove through")?);
    about.metrics_url = overlay.metrics_url(config.as_ref());
    about.overlay = overlay.fingerprint();
    layout.write(&dir.join(PROXY_CONFIG), out.as_bytes()).map_err(disk)?;
    let bytes = serde_json::to_vec_pretty(&about).map_err(|e| e.to_string())?;
    layout.write(&dir.join(ABOUT), &bytes).map_err(disk)?;
    layout.sharing().tree(&dir).map_err(disk)?;
    Ok(true)
}

/// The node's own configuration becomes the release `baseline`; without one, an empty one.
pub fn baseline(layout: &Layout, overlay: &Overlay, file: Option<&Path>, now: Timestamp) -> Result<(), String> {
    let text = match file {
        None => None,
        Some(f) => {
            let named = |e: std::io::Error| format!("--proxy-config {}: {e}", f.display());
            if std::fs::metadata(f).map_err(named)?.len() > MAX_BASELINE {
                return Err(format!("--proxy-config {}: more than 1 MiB", f.display()));
            }
            Some(std::fs::read_to_string(f).map_err(named)?)
        }
    };
    if let Some(t) = &text {
        // Its includes are the host's own affair; its depth would kill the proxy all the same.
        if let Some(f) = guard::scan(t).first() {
            return Err(format!("--proxy-config: line {}: {}", f.line, f.text));
        }
    }
    let probe = text.as_ref().and_then(|t| overlay.probe_address(None, t));
    if text.is_some() && probe.is_none() {
        return Err("--proxy-config: no listener found to prove through; give --probe-listen".into());
    }
    let about = About {
        release: Release::Baseline,
        version: None,
        has_config: text.is_some(),
        overlay: overlay.fingerprint(),
        probe,
        metrics_url: text.as_ref().and_then(|_| overlay.metrics_url(None)),
        staged_at: now,
    };
    let disk = |e: std::io::Error| format!("{}: {e}", layout.root().display());
    let dir = layout.staging(Release::Baseline).map_err(disk)?;
    let out = text.map(|t| overlay.apply(Release::Baseline, &t, &Placed::default()));
    finish(&dir, out.as_deref(), &about).map_err(disk)?;
    layout.sharing().tree(&dir).map_err(disk)?;
    layout.adopt(&dir, Release::Baseline).map_err(disk)
}

fn finish(dir: &Path, config: Option<&str>, about: &About) -> std::io::Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let mut file = File::create_new(dir.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if let Some(text) = config {
        write(PROXY_CONFIG, text.as_bytes())?;
    }
    write(ABOUT, &serde_json::to_vec_pretty(about).map_err(std::io::Error::other)?)?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secrets::Secrets;
    use serde_json::json;

    #[test]
    fn a_bundle_for_a_newer_proxy_is_refused() {
        for (have, need, good) in [
            ("0.6.45", "0.6.45", true),
            ("0.6.9", "0.6.45", false),
            ("v0.7.0-rc1", "0.6.45", true),
            ("?", "0.6.45", true),
        ] {
            assert_eq!(compatible(Some(have), need).is_ok(), good, "{have} {need}");
        }
        assert!(compatible(None, "9.9.9").is_ok());
    }

    #[test]
    fn a_certificate_that_is_not_on_this_host_is_found_before_the_proxy_looks_for_it() {
        let config = |file: &str| json!({"listeners": [{"tls": {"cert_file": file, "key_file": "certs/k.pem"}}]});
        let placed = Placed::new(Path::new("/x"), ["certs/k.pem"].into_iter());
        assert!(missing_files(&config("/nowhere/cert.pem"), &placed).unwrap_err().contains("/nowhere/cert.pem"));
        assert!(missing_files(&config("certs/other.pem"), &placed).unwrap_err().contains("not in the bundle"));
        assert!(missing_files(&config("/proc/self/exe"), &placed).is_ok());
    }

    /// A release as staging leaves it, of a configuration that refers to the secret `site`.
    fn staged(layout: &Layout, overlay: &Overlay) -> Release {
        let r = Release::Bundle(domain::Digest::of(b"release"));
        let text = "listeners {\n    listener \"https\" {\n        tls {\n            key-file \"secrets/site\"\n        }\n    }\n}\n";
        let config = json!({"listeners": [
            {"address": "0.0.0.0:8443", "protocol": "https", "tls": {"key_file": "secrets/site"}},
            {"address": "0.0.0.0:8080", "protocol": "http"},
        ]});
        let dir = layout.staging(r).unwrap();
        std::fs::create_dir(dir.join(FILES)).unwrap();
        std::fs::write(dir.join(FILES).join(CONFIG), text).unwrap();
        std::fs::write(dir.join(FILES).join(CONFIG_JSON), config.to_string()).unwrap();
        let about = About {
            release: r,
            version: None,
            has_config: true,
            overlay: overlay.fingerprint(),
            probe: overlay.probe_listen,
            metrics_url: None,
            staged_at: Timestamp::ZERO,
        };
        finish(&dir, Some(&overlay.apply(r, text, &Placed::default())), &about).unwrap();
        layout.adopt(&dir, r).unwrap();
        r
    }

    #[test]
    fn a_release_is_not_made_anew_without_a_secret_that_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("state"), Sharing::default()).unwrap();
        let key = dir.path().join("site.key");
        std::fs::write(&key, "k").unwrap();
        let with_secret = |probe: &str| {
            let given = [("site".to_string(), key.display().to_string())];
            let secrets = Secrets::new(layout.root(), &given, |_| None).unwrap();
            Overlay { probe_listen: Some(probe.parse().unwrap()), secrets, ..Overlay::default() }
        };
        let before = with_secret("127.0.0.1:7001");
        let r = staged(&layout, &before);
        let files = || [PROXY_CONFIG, ABOUT].map(|name| std::fs::read_to_string(layout.release(r).join(name)).unwrap());
        let loaded = files();

        // Started again, and the flag was left out.
        let why = refit(&layout, &Overlay::default(), r).unwrap_err();
        assert!(why.contains("--secret site="), "{why}");
        assert_eq!(files(), loaded, "the proxy goes on with what it has");
        assert_eq!(refit(&layout, &before, r), Ok(false), "these are the flags it was made with");

        assert_eq!(refit(&layout, &with_secret("127.0.0.1:7002"), r), Ok(true));
        let [text, _] = files();
        assert!(text.contains("127.0.0.1:7002"), "{text}");
        assert!(text.contains(&format!("key-file \"{}\"", key.display())), "{text}");
    }

    #[test]
    fn a_baseline_is_guarded_and_may_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("state"), Sharing::default()).unwrap();
        let overlay = Overlay::default();
        baseline(&layout, &overlay, None, Timestamp::ZERO).unwrap();
        assert!(!About::read(&layout, Release::Baseline).unwrap().has_config);
        let file = dir.path().join("b.kdl");
        std::fs::write(&file, format!("/- {}{}", "a { ".repeat(600), "}".repeat(600))).unwrap();
        assert!(baseline(&layout, &overlay, Some(&file), Timestamp::ZERO).unwrap_err().contains("--proxy-config"));
        std::fs::write(&file, "system {}").unwrap();
        assert!(baseline(&layout, &overlay, Some(&file), Timestamp::ZERO).unwrap_err().contains("--probe-listen"));
        std::fs::write(&file, bundle::samples::DEMO_V1).unwrap();
        baseline(&layout, &overlay, Some(&file), Timestamp::ZERO).unwrap();
        assert!(About::read(&layout, Release::Baseline).unwrap().has_config);
    }
}
