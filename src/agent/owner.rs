//! Who may read what the proxy reads: the agent's own user, and the proxy's group where the proxy runs as somebody else.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// Programs of a bundle lie here; everything else in it is only read.
const PROGRAMS: &str = "plugins";

/// Nobody but our own user, or the members of one group as well (reading only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    group: Option<u32>,
}

impl Sharing {
    /// A group by its name in `/etc/group`, or by number. Errors: there is none.
    pub fn with(group: &str) -> Result<Sharing, String> {
        let listed = fs::read_to_string("/etc/group").unwrap_or_default();
        let by_name = listed.lines().find_map(|l| {
            let mut fields = l.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
        });
        let group = by_name.or_else(|| group.parse().ok()).ok_or_else(|| format!("there is no group {group:?}"))?;
        Ok(Sharing { group: Some(group) })
    }

    pub fn dir(self, path: &Path) -> io::Result<()> {
        self.set(path, 0o700, 0o750)
    }

    pub fn file(self, path: &Path) -> io::Result<()> {
        self.set(path, 0o600, 0o640)
    }

    /// A folder with all that is in it. Nothing in it is a link: it was just unpacked by us.
    pub fn tree(self, dir: &Path) -> io::Result<()> {
        self.walk(dir, false)
    }

    fn walk(self, dir: &Path, programs: bool) -> io::Result<()> {
        self.dir(dir)?;
        for entry in fs::read_dir(dir)? {
            let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
            if kind.is_dir() {
                self.walk(&path, programs || path.file_name().is_some_and(|n| n == PROGRAMS))?;
            } else if programs {
                self.dir(&path)?;
            } else {
                self.file(&path)?;
            }
        }
        Ok(())
    }

    fn set(self, path: &Path, alone: u32, shared: u32) -> io::Result<()> {
        let mode = match self.group {
            None => alone,
            Some(group) => {
                chown(path, None, Some(group))?;
                shared
            }
        };
        fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn programs_may_be_run_keys_only_be_read_and_the_group_is_the_proxys() {
        let dir = tempfile::tempdir().unwrap();
        for d in ["certs", "plugins/deep"] {
            fs::create_dir_all(dir.path().join(d)).unwrap();
        }
        for f in ["certs/a.pem", "plugins/deep/run", "config.kdl"] {
            fs::write(dir.path().join(f), "x").unwrap();
            fs::set_permissions(dir.path().join(f), Permissions::from_mode(0o666)).unwrap();
        }
        let look = |f: &str| {
            let m = fs::metadata(dir.path().join(f)).unwrap();
            (m.mode() & 0o7777, m.gid())
        };
        let own = look("certs/a.pem").1;
        Sharing::default().tree(dir.path()).unwrap();
        assert_eq!([look(""), look("certs")], [(0o700, own); 2]);
        assert_eq!([look("certs/a.pem"), look("config.kdl")], [(0o600, own); 2]);
        assert_eq!(look("plugins/deep/run"), (0o700, own));
        let shared = Sharing::with(&own.to_string()).unwrap();
        shared.tree(dir.path()).unwrap();
        assert_eq!([look("certs").0, look("certs/a.pem").0, look("plugins/deep/run").0], [0o750, 0o640, 0o750]);
    }

    #[test]
    fn groups_are_known_by_name_or_number() {
        assert_eq!(Sharing::with("root").unwrap(), Sharing::with("0").unwrap());
        assert!(Sharing::with("no-such-group").unwrap_err().contains("no-such-group"));
    }
}
