//! The files a config was submitted as, and the rules for their names and sizes.
//!
//! Owns: [`Sources`]. Inlining of `include` is in `validate::merge`, because it needs the parser.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// The file everything starts from.
pub const ENTRY: &str = "config.kdl";
/// Files in one submission. Real configs are one to twenty; a file per route of a large one still fits.
pub const MAX_FILES: usize = 200;
/// Bytes of all files together: 1,000 routes are 0.4 MB, and the parser needs about 100 bytes per byte.
pub const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// Bytes of one path, so that `conf.d/` + path stays below the 100 bytes of a plain tar name.
pub const MAX_PATH_BYTES: usize = 80;
/// Where originals of included files lie inside a bundle.
pub const INCLUDED_DIR: &str = "conf.d/";

/// Names the bundle itself uses.
const RESERVED: &[&str] = &["manifest.json", "config.json", "checksums.txt", "SBOM.json", "signature.sig"];
/// Folders of the bundle that hold other payload.
const RESERVED_DIRS: &[&str] = &["certs/", "trust/", "plugins/"];

/// What is wrong with a set of files.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    #[error("there is no {ENTRY}: it is the file everything starts from")]
    NoEntry,
    #[error("{0} files were submitted; at most {MAX_FILES} are allowed")]
    TooManyFiles(usize),
    #[error("the files have {0} bytes together; at most {MAX_CONFIG_BYTES} are allowed")]
    TooLarge(usize),
    #[error("the path {0:?} is not allowed: {1}")]
    Path(String, &'static str),
    #[error("the paths {0:?} and {1:?} name the same file in the bundle")]
    SameName(String, String),
}

/// The submitted files, by path. Not yet checked when it comes from outside: call [`Sources::check`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sources(pub BTreeMap<String, String>);

impl Sources {
    /// One file, as `config.kdl`.
    pub fn single(text: impl Into<String>) -> Sources {
        Sources(BTreeMap::from([(ENTRY.to_string(), text.into())]))
    }

    /// Several files; the order does not matter.
    pub fn from_files<P: Into<String>, T: Into<String>>(files: impl IntoIterator<Item = (P, T)>) -> Sources {
        Sources(files.into_iter().map(|(p, t)| (p.into(), t.into())).collect())
    }

    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> usize {
        self.0.values().map(String::len).sum()
    }

    /// Names, count and size. Every error found, in the order of the paths.
    pub fn check(&self) -> Result<(), Vec<SourceError>> {
        let mut errors = Vec::new();
        if !self.0.contains_key(ENTRY) {
            errors.push(SourceError::NoEntry);
        }
        if self.0.len() > MAX_FILES {
            return Err(vec![SourceError::TooManyFiles(self.0.len())]);
        }
        if self.bytes() > MAX_CONFIG_BYTES {
            errors.push(SourceError::TooLarge(self.bytes()));
        }
        let mut shipped: BTreeMap<String, &str> = BTreeMap::new();
        for path in self.0.keys() {
            if let Err(e) = check_path(path) {
                errors.push(e);
                continue;
            }
            // Compared without case: the bundle may be unpacked where `A.kdl` and `a.kdl` are one file.
            if let Some(other) = shipped.insert(shipped_path(path).to_ascii_lowercase(), path) {
                errors.push(SourceError::SameName(other.to_string(), path.clone()));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// SHA-256 over names and texts: equal exactly when the submissions are equal.
    pub fn digest(&self) -> domain::id::Digest {
        let mut bytes = Vec::with_capacity(self.bytes() + 64 * self.0.len());
        for (path, text) in &self.0 {
            for part in [path, text] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        domain::id::Digest::of(&bytes)
    }
}

/// Whether `path` may be submitted.
pub fn check_path(path: &str) -> Result<(), SourceError> {
    let bad = |why| Err(SourceError::Path(path.chars().take(MAX_PATH_BYTES).collect(), why));
    if let Err(why) = relative_path_problem(path, MAX_PATH_BYTES) {
        return bad(why);
    }
    if RESERVED.contains(&path) {
        return bad("the name is reserved for the bundle's own files");
    }
    if RESERVED_DIRS.iter().any(|dir| path.starts_with(dir)) {
        return bad("certs/, trust/ and plugins/ are not for config files");
    }
    Ok(())
}

/// The rule shared by submitted files and archive entries: relative, plain ASCII, nothing that climbs or hides.
pub(crate) fn relative_path_problem(path: &str, max_bytes: usize) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("it is empty");
    }
    if path.len() > max_bytes {
        return Err("it is too long");
    }
    if path.starts_with('/') {
        return Err("it is absolute");
    }
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/')) {
        return Err("only letters, digits, '.', '_', '-' and '/' may be used");
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("it has an empty segment");
        }
        if segment == ".." {
            return Err("it climbs with '..'");
        }
        if segment.starts_with('.') {
            return Err("a segment starts with '.'");
        }
    }
    Ok(())
}

/// Where the original of a submitted file lies in the bundle, when there were includes.
pub fn shipped_path(path: &str) -> String {
    if path.starts_with(INCLUDED_DIR) { path.to_string() } else { format!("{INCLUDED_DIR}{path}") }
}

/// Which of `files` a pattern (`*` within a segment, `**` across) names, sorted. Never looks at a disk.
pub fn glob<'a>(pattern: &str, files: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    files.filter(|f| glob_match(pattern.as_bytes(), f.as_bytes())).cloned().collect()
}

/// Iterative with one backtrack point per kind of star: linear for sane patterns, quadratic at worst.
fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // (pattern position after the star, text position it was tried at, may cross '/')
    let mut back: Option<(usize, usize, bool)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                let deep = pattern.get(p + 1) == Some(&b'*');
                p += if deep { 2 } else { 1 };
                back = Some((p, t, deep));
                continue;
            }
            Some(b'?') if text[t] != b'/' => {
                p += 1;
                t += 1;
                continue;
            }
            Some(&c) if c == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        match back {
            Some((after, tried, deep)) if deep || text[tried] != b'/' => {
                back = Some((after, tried + 1, deep));
                p = after;
                t = tried + 1;
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_hide_or_collide_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x.kdl",
            "a/../b.kdl",
            "a//b",
            ".hidden",
            "a/.b",
            "a b.kdl",
            "ü.kdl",
            "a\\b",
            "manifest.json",
            "certs/a.pem",
            "config.json",
            "a/",
            "./a.kdl",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["config.kdl", "routes/api.kdl", "conf.d/a-b_c.kdl"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        let s = Sources::from_files([("config.kdl", ""), ("a.kdl", ""), ("conf.d/a.kdl", "")]);
        assert!(matches!(s.check(), Err(e) if matches!(e[0], SourceError::SameName(..))));
        let s = Sources::from_files([("config.kdl", ""), ("conf.d/config.kdl", "")]);
        assert!(s.check().is_err());
    }

    #[test]
    fn too_many_too_large_and_entryless_submissions_are_refused() {
        let s = Sources::single("x".repeat(MAX_CONFIG_BYTES + 1));
        assert_eq!(s.check(), Err(vec![SourceError::TooLarge(MAX_CONFIG_BYTES + 1)]));
        assert_eq!(Sources::single("x".repeat(MAX_CONFIG_BYTES)).check(), Ok(()));
        let many = Sources::from_files((0..=MAX_FILES).map(|i| (format!("f{i}.kdl"), "")));
        assert_eq!(many.check(), Err(vec![SourceError::TooManyFiles(MAX_FILES + 1)]));
        assert_eq!(Sources::from_files([("a.kdl", "")]).check(), Err(vec![SourceError::NoEntry]));
    }

    #[test]
    fn a_star_stays_within_its_folder_and_two_cross() {
        let files: Vec<String> =
            ["config.kdl", "routes/a.kdl", "routes/b.kdl", "routes/deep/c.kdl", "up.kdl"].map(String::from).to_vec();
        let names = |p: &str| glob(p, files.iter()).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(names("routes/*.kdl"), "routes/a.kdl routes/b.kdl");
        assert_eq!(names("routes/**.kdl"), "routes/a.kdl routes/b.kdl routes/deep/c.kdl");
        assert_eq!(names("*.kdl"), "config.kdl up.kdl");
        assert_eq!(names("routes/?.kdl"), "routes/a.kdl routes/b.kdl");
        assert_eq!(names("nothing*"), "");
    }

    #[test]
    fn the_digest_depends_on_every_name_and_text() {
        let a = Sources::from_files([("config.kdl", "a"), ("b.kdl", "c")]);
        assert_ne!(a.digest(), Sources::from_files([("config.kdl", "ab"), (".kdl", "c")]).digest());
        assert_eq!(a.digest(), Sources::from_files([("b.kdl", "c"), ("config.kdl", "a")]).digest());
    }
}
