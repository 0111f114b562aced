//! The agent's directory: what lies where, and how it is changed so that a crash at any moment leaves the old or the new.
//!
//! Owns: everything under `--state-dir`; nothing outside of it is ever written.

use crate::owner::Sharing;
use domain::{ContentId, Digest};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What the proxy loads: the verified configuration, with the agent's marker in front.
pub const PROXY_CONFIG: &str = "proxy.kdl";
/// The verified files of a release, byte for byte.
pub const FILES: &str = "bundle";
/// What the agent has found out about a release while staging it.
pub const ABOUT: &str = "release.json";

/// What can be run: a bundle, or what the node had at enrolment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Release {
    Baseline,
    Bundle(ContentId),
}

impl Release {
    pub fn of(bundle: Option<ContentId>) -> Release {
        bundle.map_or(Release::Baseline, Release::Bundle)
    }

    /// As the node API spells it in heartbeats: `null` is the baseline.
    pub fn wire(self) -> Option<String> {
        match self {
            Release::Baseline => None,
            Release::Bundle(id) => Some(id.to_string()),
        }
    }
}

/// The folder under `releases/`, and the segment in report calls.
impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Release::Baseline => f.write_str("baseline"),
            Release::Bundle(id) => id.fmt(f),
        }
    }
}

impl From<Release> for String {
    fn from(r: Release) -> String {
        r.to_string()
    }
}

impl TryFrom<String> for Release {
    type Error = String;
    fn try_from(s: String) -> Result<Release, String> {
        match s.as_str() {
            "baseline" => Ok(Release::Baseline),
            // No prefix: the name is a folder's.
            hex if !hex.contains(':') => {
                Digest::parse(hex).map(Release::Bundle).ok_or_else(|| format!("{s:?} is no release"))
            }
            _ => Err(format!("{s:?} is no release")),
        }
    }
}

pub struct Layout {
    root: PathBuf,
    /// Held for the life of the process: two agents on one directory would undo each other's work.
    _lock: Option<File>,
    sharing: Sharing,
}

impl Layout {
    /// Makes what is missing and takes the lock. Errors: another agent holds it, the disk refuses, or the path cannot stand in a
    /// configuration.
    pub fn open(root: &Path, sharing: Sharing) -> io::Result<Layout> {
        let mut dir = fs::DirBuilder::new();
        dir.recursive(true).mode(0o700);
        dir.create(root)?;
        // Absolute: the proxy may change its working directory.
        let root = root.canonicalize()?;
        if root.to_str().is_none_or(|r| r.contains(['"', '\\']) || r.contains(char::is_control)) {
            return Err(io::Error::other("the path has characters that a configuration cannot quote"));
        }
        dir.create(root.join("releases"))?;
        dir.create(root.join("download"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(format!("another agent already works in {}", root.display())));
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
        for shared in [root.clone(), root.join("releases")] {
            sharing.dir(&shared)?;
        }
        Ok(Layout { root, _lock: Some(lock), sharing })
    }

    /// For `status`: reads beside a running agent.
    pub fn look(root: &Path) -> Layout {
        Layout { root: root.to_path_buf(), _lock: None, sharing: Sharing::default() }
    }

    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn state_file(&self) -> PathBuf {
        self.root.join("state.json")
    }
    pub fn identity_file(&self) -> PathBuf {
        self.root.join("identity.json")
    }
    pub fn process_file(&self) -> PathBuf {
        self.root.join("proxy.json")
    }
    /// RFC 3339: until then the node asks to be left alone. Written by the operator of the host.
    pub fn busy_file(&self) -> PathBuf {
        self.root.join("busy_until")
    }
    pub fn proxy_log(&self) -> PathBuf {
        self.root.join("proxy.log")
    }
    pub fn release(&self, r: Release) -> PathBuf {
        self.root.join("releases").join(r.to_string())
    }
    /// What the proxy is started with; stays the same path whatever is active.
    pub fn proxy_config(&self) -> PathBuf {
        self.root.join("current").join(PROXY_CONFIG)
    }
    pub fn download(&self, artifact: Digest) -> PathBuf {
        self.root.join("download").join(format!("{artifact}.part"))
    }

    /// Whether the release lies there complete. The baseline may be empty: a node that ran nothing.
    pub fn has(&self, r: Release) -> bool {
        self.release(r).join(ABOUT).is_file()
    }

    /// An empty folder to stage into, made anew.
    pub fn staging(&self, r: Release) -> io::Result<PathBuf> {
        let dir = self.root.join("releases").join(format!(".staging.{r}"));
        remove(&dir)?;
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// A staged folder becomes the release. Replaces one that was there: callers never do that to the current one.
    pub fn adopt(&self, staged: &Path, r: Release) -> io::Result<()> {
        let to = self.release(r);
        sync_dir(staged)?;
        remove(&to)?;
        fs::rename(staged, &to)?;
        sync_dir(&self.root.join("releases"))
    }

    /// What the proxy reads now. `None`: nothing was ever switched on.
    pub fn current(&self) -> io::Result<Option<Release>> {
        match fs::read_link(self.root.join("current")) {
            Ok(to) => {
                let name = to.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                Release::try_from(name).map(Some).map_err(io::Error::other)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Atomic: a reader sees the old release or the new one.
    pub fn switch(&self, r: Release) -> io::Result<()> {
        let new = self.root.join(".current.new");
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(Path::new("releases").join(r.to_string()), &new)?;
        fs::rename(&new, self.root.join("current"))?;
        sync_dir(&self.root)
    }

    /// Removes every release but those, half-staged folders and downloads but `artifact`'s.
    pub fn collect(&self, keep: &[Release], artifact: Option<Digest>) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("releases"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if Release::try_from(name).is_ok_and(|r| r == Release::Baseline || keep.contains(&r)) {
                continue;
            }
            remove(&entry.path())?;
        }
        let wanted = artifact.map(|a| self.download(a));
        for entry in fs::read_dir(self.root.join("download"))? {
            let path = entry?.path();
            if Some(&path) != wanted.as_ref() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Old or new, never half; on disk when it returns. Mode 0600.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// `None`: not there.
    pub fn read<T: serde::de::DeserializeOwned>(&self, path: &Path) -> io::Result<Option<T>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A file, a link or a whole folder; gone already is fine. Never follows a link.
fn remove(path: &Path) -> io::Result<()> {
    let done = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn bundle(n: u8) -> Release {
        Release::Bundle(Digest([n; 32]))
    }

    #[test]
    fn two_agents_cannot_share_a_directory_and_secrets_are_for_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("state");
        let one = Layout::open(&at, Sharing::default()).unwrap();
        assert!(Layout::open(&at, Sharing::default()).err().unwrap().to_string().contains("another agent"));
        one.write(&one.identity_file(), b"{}").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&at), mode(&one.identity_file())), (0o700, 0o600));
        drop(one);
        assert!(Layout::open(&at, Sharing::default()).is_ok());
    }

    #[test]
    fn a_switch_replaces_the_link_and_survives_a_half_made_one() {
        let dir = tempfile::tempdir().unwrap();
        let l = Layout::open(dir.path(), Sharing::default()).unwrap();
        assert_eq!(l.current().unwrap(), None);
        symlink("nowhere", l.root().join(".current.new")).unwrap();
        for r in [bundle(1), Release::Baseline, bundle(2)] {
            l.switch(r).unwrap();
            assert_eq!(l.current().unwrap(), Some(r));
            let link = fs::read_link(l.root().join("current")).unwrap();
            assert_eq!(link, Path::new("releases").join(r.to_string()), "relative");
        }
    }

    #[test]
    fn collecting_keeps_what_is_pinned_and_the_download_in_hand() {
        let dir = tempfile::tempdir().unwrap();
        let l = Layout::open(dir.path(), Sharing::default()).unwrap();
        for r in [bundle(1), bundle(2), bundle(3), Release::Baseline] {
            let s = l.staging(r).unwrap();
            fs::write(s.join(ABOUT), "{}").unwrap();
            l.adopt(&s, r).unwrap();
        }
        l.staging(bundle(4)).unwrap();
        let (a, b) = (Digest([8; 32]), Digest([9; 32]));
        fs::write(l.download(a), "x").unwrap();
        fs::write(l.download(b), "x").unwrap();
        l.collect(&[bundle(1), bundle(3)], Some(b)).unwrap();
        let there: Vec<bool> = [bundle(1), bundle(2), bundle(3), Release::Baseline].map(|r| l.has(r)).into();
        assert_eq!(there, [true, false, true, true]);
        assert_eq!(fs::read_dir(l.root().join("releases")).unwrap().count(), 3, "nothing half-staged");
        assert!(!l.download(a).exists() && l.download(b).exists());
    }

    #[test]
    fn names_of_releases_cannot_climb() {
        for bad in ["..", "", "a/b", "sha256:00", "Baseline"] {
            assert!(Release::try_from(bad.to_string()).is_err(), "{bad}");
        }
        assert_eq!(Release::try_from(bundle(7).to_string()).unwrap(), bundle(7));
    }
}
