//! What every history begins with: a project, its keys, and three compiled bundles. Made once in a process, kept in memory.

use crate::harness::*;
use actors::clock::Clock;
use domain::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use store::{Store, StoreConfig};

pub const FIRST: &str = "good-0";
pub const GOOD: &str = "good-1";
pub const BAD: &str = "bad-1";

pub struct Template {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// A time after everything in it.
    pub later: Timestamp,
    /// Content ids by version.
    pub bundles: BTreeMap<&'static str, String>,
}

impl Template {
    pub fn get() -> &'static Template {
        static MADE: OnceLock<Template> = OnceLock::new();
        MADE.get_or_init(|| tokio::runtime::Runtime::new().unwrap().block_on(Template::make()))
    }

    async fn make() -> Template {
        let dir = scratch();
        let config = StoreConfig::sqlite(dir.path().join("sentinel.db"));
        let store = Store::open(config, &prometheus::Registry::new()).await.unwrap();
        store.migrate().await.unwrap();
        let one = Instance::start(store.clone(), dir.path(), Options::default()).await;
        let op = one.operator();
        open_project(&op, "p").await;
        let bundles = bundles(&op).await;
        one.stop().await;
        store.close().await;
        let mut files = Vec::new();
        read(dir.path(), dir.path(), &mut files);
        Template { files, later: Clock::system().now() + domain::Span::secs(3_600), bundles }
    }

    /// A data directory of one's own.
    pub fn copy(&self) -> tempfile::TempDir {
        let dir = scratch();
        for (path, content) in &self.files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }
}

/// The three bundles of a history.
pub async fn bundles(op: &Client) -> BTreeMap<&'static str, String> {
    let mut out = BTreeMap::new();
    for version in [FIRST, GOOD, BAD] {
        out.insert(version, bundle_of(op, "p", version).await["bundle_id"].as_str().unwrap().to_string());
    }
    out
}

/// In memory where the system has a place for that: thousands of histories write.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn read(root: &Path, dir: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, out);
        } else if path.file_name().is_some_and(|n| n != ".lock") {
            out.push((path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap()));
        }
    }
}
