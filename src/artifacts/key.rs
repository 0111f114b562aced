//! Names of objects: `bundles/{project_id}/{bundle_id}.tar.zst`.
//!
//! Invariant: a [`Key`] joined to a directory stays inside it, and no key can name the store's own temporary files.

use crate::{Error, Result};
use domain::{ContentId, ProjectId};
use std::fmt;

/// `bundles/` + a UUID (36) + `/` + 64 hex + `.tar.zst` = 117 bytes; the rest is room for other kinds of object.
/// S3 allows 1,024 with the configured prefix; a path segment of a file system allows 255.
pub const MAX_KEY_BYTES: usize = 255;

/// A valid object name: one or more segments of `[a-z0-9._-]`, none empty, none beginning with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Where the archive of a bundle lies.
    pub fn bundle(project: ProjectId, bundle: ContentId) -> Key {
        Key(format!("bundles/{project}/{bundle}.tar.zst"))
    }

    /// Where the archive of a bundle waits for the signature of a key that is kept elsewhere.
    pub fn unsigned(project: ProjectId, bundle: ContentId) -> Key {
        Key(format!("unsigned/{project}/{bundle}.tar.zst"))
    }

    /// Checks a name from outside. Errors: [`Error::Invalid`].
    pub fn parse(name: &str) -> Result<Key> {
        let fault = if name.is_empty() || name.len() > MAX_KEY_BYTES {
            Some("must have 1 to 255 bytes")
        } else if !name.bytes().all(allowed) {
            Some("may only have a-z, 0-9, '.', '_', '-' and '/'")
        } else if name.split('/').any(str::is_empty) {
            Some("has an empty segment")
        } else if name.split('/').any(|s| s.starts_with('.')) {
            Some("has a segment that begins with a dot")
        } else {
            None
        };
        match fault {
            None => Ok(Key(name.to_owned())),
            Some(why) => Err(Error::Invalid(format!("key {:?} {why}", clip(name)))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The project and bundle this names, if it is a bundle's key.
    pub fn as_bundle(&self) -> Option<(ProjectId, ContentId)> {
        let (project, file) = self.0.strip_prefix("bundles/")?.split_once('/')?;
        let bundle = ContentId::parse(file.strip_suffix(".tar.zst")?)?;
        Some((project.parse().ok()?, bundle))
    }
}

/// Listing takes any beginning of a key, also half a segment. Errors: [`Error::Invalid`].
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.len() > MAX_KEY_BYTES || !prefix.bytes().all(allowed) || prefix.contains("..") {
        return Err(Error::Invalid(format!("prefix {:?} cannot begin a key", clip(prefix))));
    }
    Ok(())
}

fn allowed(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/')
}

/// Foreign text goes into messages only shortened.
fn clip(s: &str) -> String {
    s.chars().take(64).collect()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bundle_key_is_valid_and_can_be_read_back() {
        let (project, bundle) = (ProjectId::NIL, ContentId::of(b"x"));
        let key = Key::bundle(project, bundle);
        assert_eq!(Key::parse(key.as_str()).unwrap(), key);
        assert_eq!(key.as_bundle(), Some((project, bundle)));
        assert_eq!(Key::parse("bundles/x/y.tar.zst").unwrap().as_bundle(), None);
    }

    #[test]
    fn a_key_cannot_climb_out_hide_or_surprise() {
        let long = "a".repeat(MAX_KEY_BYTES + 1);
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            ".tmp/a",
            "a/.hidden",
            "A",
            "a b",
            "a\\b",
            "a\0",
            "ä",
            "a?b",
            "a%2e",
            &long,
        ] {
            assert!(matches!(Key::parse(bad), Err(Error::Invalid(_))), "{bad:?} was taken");
        }
        for good in ["a", "a/b", "a-b_c.d/0.tar.zst", "a..b"] {
            assert!(Key::parse(good).is_ok(), "{good:?} was refused");
        }
    }
}
