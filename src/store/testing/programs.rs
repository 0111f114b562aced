//! The programs of PostgreSQL, wherever they are installed, run by somebody who is not root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The unprivileged user for a server that refuses to run as root: `nobody` on every Linux.
const NOBODY: u32 = 65534;

/// Where `initdb` and `postgres` are: on PATH, where `pg_config` says, or in Debian's versioned folders.
fn bindir() -> PathBuf {
    let mut places: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    if let Ok(out) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
    }
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|d| d.flatten().map(|e| e.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    places.extend(versions.into_iter().rev());
    let found = places.into_iter().find(|p| p.join("initdb").is_file() && p.join("postgres").is_file());
    found.unwrap_or_else(|| {
        panic!(
            "the tests on PostgreSQL need its server programs (initdb, postgres): looked on PATH, at `pg_config --bindir` and in \
             /usr/lib/postgresql/*/bin. On Debian or Ubuntu: apt-get install --no-install-recommends postgresql"
        )
    })
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").map(|m| m.uid() == 0).unwrap_or(false)
}

/// `initdb`, `postgres`, `pg_basebackup`, ...: as root it runs as somebody else.
pub fn command(name: &str) -> Command {
    let mut program = bindir().join(name);
    if !program.is_file()
        && let Ok(server) = bindir().join("postgres").canonicalize()
    {
        // PATH may hold links to some of them only.
        program = server.with_file_name(name);
    }
    by_nobody(&program)
}

/// Is a loadable library of the server installed beside it?
pub fn has_library(name: &str) -> bool {
    let server = bindir().join("postgres").canonicalize();
    let home = server.ok().and_then(|s| s.parent()?.parent().map(Path::to_path_buf));
    home.is_some_and(|h| h.join("lib").join(format!("{name}.so")).is_file())
}

/// Any program, by the same user.
pub fn by_nobody(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let nobody = NOBODY.to_string();
    let mut c = Command::new("setpriv");
    c.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(program);
    c
}

/// Whoever runs the programs owns the directory.
pub fn give(dir: &Path) {
    if is_root() {
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|e| panic!("chown: {e}"));
    }
}
