//! Secrets that a configuration refers to and this host has: a bundle says `"secrets/site-key"`, the proxy loads the path that
//! `--secret site-key=...` gives.
//!
//! A secret from the environment is written to a file for the agent's own user; where the proxy runs as another, give a file.

use bundle::guard::{References, SECRETS};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, PathBuf>);

impl Secrets {
    /// `given`: name and `file:PATH`, `env:VARIABLE` or a path. Errors: what is not there, in words.
    pub fn new(
        root: &Path,
        given: &[(String, String)],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Secrets, String> {
        let mut secrets = BTreeMap::new();
        for (name, from) in given {
            let wrong = |why: &str| format!("--secret {name}: {why}");
            if name.is_empty()
                || name.starts_with('.')
                || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            {
                return Err(wrong("the name may have letters, digits, '.', '_' and '-'"));
            }
            let path = match from.strip_prefix("env:") {
                Some(variable) => {
                    let value = environment(variable).ok_or_else(|| wrong(&format!("{variable} is not set")))?;
                    write_private(&root.join("secrets"), name, &value).map_err(|e| wrong(&e.to_string()))?
                }
                None => PathBuf::from(from.strip_prefix("file:").unwrap_or(from)),
            };
            // Links stay links: a mounted secret is replaced by pointing its link elsewhere.
            let path = std::fs::metadata(&path).and_then(|_| std::path::absolute(&path));
            let path = path.map_err(|e| wrong(&format!("{from}: {e}")))?;
            if path.to_str().is_none_or(|p| p.contains(['"', '\\'])) {
                return Err(wrong("the path has quotes or backslashes"));
            }
            secrets.insert(name.clone(), path);
        }
        Ok(Secrets(secrets))
    }

    /// Equal for equal effects.
    pub fn fingerprint(&self) -> String {
        match self.0.is_empty() {
            true => String::new(),
            false => format!(" {:?}", self.0),
        }
    }

    /// Errors: a secret that nobody has named on this host.
    pub fn check(&self, config: &Value) -> Result<(), String> {
        let missing = References::of(config).secrets.into_iter().find(|name| !self.0.contains_key(name));
        match missing {
            Some(name) => {
                Err(format!("guard: the secret {name:?} is not on this host: start the agent with --secret {name}=..."))
            }
            None => Ok(()),
        }
    }

    /// The text with the paths of this host in the place of references.
    pub fn apply(&self, text: String) -> String {
        self.0.iter().fold(text, |text, (name, path)| {
            text.replace(&format!("\"{SECRETS}{name}\""), &format!("\"{}\"", path.display()))
        })
    }
}

/// Always as a new file: one that lies there may be open to others, or be read at this moment.
fn write_private(dir: &Path, name: &str, value: &str) -> std::io::Result<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // No secret's own: names do not begin with a dot.
    let (path, new) = (dir.join(name), dir.join(format!(".{name}")));
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(value.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn references_become_paths_of_this_host_and_what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let key = root.join("site.key");
        std::fs::write(&key, "k").unwrap();
        let given = [("site".to_string(), format!("file:{}", key.display())), ("token".into(), "env:TOKEN".into())];
        let none = |_: &str| None;
        assert!(Secrets::new(&root, &given, none).unwrap_err().contains("TOKEN is not set"));
        let secrets = Secrets::new(&root, &given, |v| (v == "TOKEN").then(|| "t0".to_string())).unwrap();
        let stored = root.join("secrets/token");
        assert_eq!(std::fs::read_to_string(&stored).unwrap(), "t0");
        assert_eq!(std::fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);
        let text = "key-file \"secrets/site\"\nx \"secrets/other\"".to_string();
        assert_eq!(secrets.apply(text), format!("key-file \"{}\"\nx \"secrets/other\"", key.display()));
        assert_eq!(secrets.check(&json!({"listeners": [{"tls": {"key_file": "secrets/site"}}]})), Ok(()));
        assert!(secrets.check(&json!({"x": "secrets/other"})).unwrap_err().contains("--secret other="));
        for bad in ["", ".x", "a/b"] {
            assert!(
                Secrets::new(&root, &[(bad.into(), "env:TOKEN".into())], |_| Some(String::new())).is_err(),
                "{bad}"
            );
        }
        assert!(Secrets::new(&root, &[("a".into(), "/nowhere/at/all".into())], none).is_err());
    }

    #[test]
    fn a_secret_of_the_environment_is_for_its_own_user_whatever_lay_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, stored) = (dir.path().join("secrets"), dir.path().join("secrets/token"));
        std::fs::create_dir(&kept).unwrap();
        // Left by a start that was killed, and by an older and longer value.
        for (file, value) in [(kept.join(".token"), "half"), (stored.clone(), "an older and longer one")] {
            std::fs::write(&file, value).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let given = [("token".to_string(), "env:TOKEN".to_string())];
        Secrets::new(dir.path(), &given, |_| Some("t1".to_string())).unwrap();
        assert_eq!(std::fs::read_to_string(&stored).unwrap(), "t1");
        assert_eq!(std::fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_mounted_secret_that_is_replaced_by_its_link_is_found_where_it_is_then() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("key"), version).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        let given = [("site".to_string(), at("..data/key").display().to_string())];
        let secrets = Secrets::new(dir.path(), &given, |_| None).unwrap();
        std::os::unix::fs::symlink("v2", at("next")).unwrap();
        std::fs::rename(at("next"), at("..data")).unwrap();
        std::fs::remove_dir_all(at("v1")).unwrap();
        let placed = secrets.apply("\"secrets/site\"".into());
        assert_eq!(std::fs::read_to_string(placed.trim_matches('"')).unwrap(), "v2");
    }
}
