//! The borders of the house: who may import whom, who may know which library, and what lies at the top.
//!
//! Architecture invariant: `domain` depends on no crate of ours, the simulated fleet on no crate of the server.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may import whom, in normal and build dependencies.
const MAY: [(&str, &[&str]); 13] = [
    ("domain", &[]),
    ("api", &["domain"]),
    ("store", &["domain"]),
    ("bundle", &["domain"]),
    ("artifacts", &["domain"]),
    ("egress", &[]),
    ("actors", &["domain", "store", "bundle", "artifacts", "egress"]),
    ("web", &["domain", "api", "actors", "store", "bundle", "artifacts", "egress"]),
    ("sim", &["domain", "api", "bundle"]),
    ("agent", &["domain", "api", "bundle"]),
    ("ctl", &["domain", "api", "bundle"]),
    (ROOT, EVERYONE),
    ("benches", EVERYONE),
];
const ROOT: &str = "sentinel-cp";
const EVERYONE: &[&str] =
    &["domain", "api", "store", "bundle", "artifacts", "egress", "actors", "web", "sim", "agent", "ctl"];

/// What tests may use on top: `store` switches its own test databases on, the front door is driven by the fleet.
const MAY_IN_TESTS: [(&str, &[&str]); 2] = [("store", &["store"]), ("web", &["sim"])];

/// Libraries with one owner: nobody else may depend on them, and in tests only where [`KNOWN_IN_TESTS`] says why.
const OWNED: [(&str, &[&str]); 10] = [
    ("aws-sdk-s3", &["artifacts"]),
    ("aws-smithy-http-client", &["artifacts"]),
    ("diesel", &["store"]),
    ("diesel-async", &["store"]),
    ("diesel_migrations", &["store"]),
    ("bb8", &["store"]),
    ("tokio-postgres", &["store"]),
    ("libsqlite3-sys", &["store"]),
    // The benches measure the front door against a bare route.
    ("warp", &["web", "benches"]),
    ("zentinel-config", &["bundle"]),
];

/// A library of another, in tests only: what goes wrong with a database is done and watched from outside of the store.
const KNOWN_IN_TESTS: [(&str, &str); 1] = [("tokio-postgres", ROOT)];

/// What the pure core may build on: nothing with a clock, a socket, a file, a log or chance.
const DOMAIN_USES: [&str; 10] =
    ["serde", "serde_json", "serde_json_canonicalizer", "sha2", "hex", "uuid", "chrono", "thiserror", "libm", "regex"];

/// Words that have no place in the sources of the pure core, tests aside.
const NOT_IN_DOMAIN: [&str; 10] = [
    "SystemTime",
    "Instant",
    "Utc::now",
    "now_v7",
    "new_v4",
    "getrandom",
    "async fn",
    "std::fs",
    "std::env",
    "HashMap",
];

/// The top level of the repository, dot-files and files made by tools aside.
const TOP: [&str; 9] = ["Cargo.toml", "src", "actors", "migrations", "sim", "benches", "tests", "docker", "README.md"];
/// Lock files, settings of tools, and what git ignores.
const TOP_TOOLS: [&str; 8] =
    ["Cargo.lock", "clippy.toml", "rustfmt.toml", "deny.toml", "LICENSE", "target", "data", "node_modules"];

struct Crate {
    name: String,
    /// (name, is a dev-dependency)
    needs: Vec<(String, bool)>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn crates() -> Vec<Crate> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    all["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| Crate {
            name: text(&p["name"]),
            needs: p["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| (text(&d["name"]), d["kind"] == "dev"))
                .collect(),
        })
        .collect()
}

/// The edges among `crates` that are not allowed, in words.
fn forbidden(crates: &[Crate]) -> Vec<String> {
    let ours: BTreeSet<&str> = crates.iter().map(|c| c.name.as_str()).collect();
    let may: BTreeMap<&str, &[&str]> = MAY.into();
    let may_in_tests: BTreeMap<&str, &[&str]> = MAY_IN_TESTS.into();
    let owned: BTreeMap<&str, &[&str]> = OWNED.into();
    let mut wrong = Vec::new();
    for c in crates {
        let Some(allowed) = may.get(c.name.as_str()) else {
            wrong.push(format!("{}: a crate that the table of this test does not know", c.name));
            continue;
        };
        let tests = may_in_tests.get(c.name.as_str()).copied().unwrap_or_default();
        for (need, dev) in &c.needs {
            let need = need.as_str();
            let edge = format!("{} -> {need}{}", c.name, if *dev { " (in tests)" } else { "" });
            if ours.contains(need) && !allowed.contains(&need) && !(*dev && tests.contains(&need)) {
                wrong.push(format!("{edge}: not an edge of the house"));
            }
            let lent = *dev && KNOWN_IN_TESTS.contains(&(need, c.name.as_str()));
            if !lent && owned.get(need).is_some_and(|o| !o.contains(&c.name.as_str())) {
                wrong.push(format!("{edge}: only {} may know it", owned[need].join(", ")));
            }
            if c.name == "domain" && !dev && !DOMAIN_USES.contains(&need) {
                wrong.push(format!("{edge}: the pure core has no use for it"));
            }
        }
    }
    wrong
}

#[test]
fn crates_depend_on_each_other_only_as_the_house_allows() {
    let crates = crates();
    assert!(crates.len() >= 9, "found only {}", crates.len());
    assert_eq!(forbidden(&crates), Vec::<String>::new());
}

#[test]
fn a_forbidden_edge_is_found() {
    let one = |name: &str, need: &str, dev: bool| {
        let names = ["domain", "store", "actors", "web", "sim", ROOT];
        let mut all: Vec<Crate> = names.iter().map(|n| Crate { name: n.to_string(), needs: Vec::new() }).collect();
        all.iter_mut().find(|c| c.name == name).unwrap().needs.push((need.into(), dev));
        forbidden(&all).len()
    };
    assert_eq!(one("actors", "store", false), 0);
    assert_eq!(one("store", "actors", false), 1);
    assert_eq!(one("sim", "web", true), 1, "not in tests either");
    assert_eq!(one("web", "sim", true), 0);
    assert_eq!(one("web", "sim", false), 1);
    assert_eq!(one("web", "diesel", false), 1);
    assert_eq!(one(ROOT, "tokio-postgres", true), 0);
    assert_eq!(one(ROOT, "tokio-postgres", false), 1);
    assert_eq!(one("web", "tokio-postgres", true), 1);
    assert_eq!(one("domain", "tokio", false), 1);
    assert_eq!(forbidden(&[Crate { name: "util".into(), needs: Vec::new() }]).len(), 1);
}

#[test]
fn the_pure_core_names_no_clock_no_chance_and_no_order_by_hash() {
    let mut wrong = Vec::new();
    for file in sources(&root().join("src/domain")) {
        let text = std::fs::read_to_string(&file).unwrap();
        // Unit tests stand at the end of a file.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (n, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for word in NOT_IN_DOMAIN.iter().filter(|w| line.contains(**w)) {
                wrong.push(format!("{}:{}: {word}", file.display(), n + 1));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Rust files under `dir`, those of tests aside.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_top_level_is_fixed() {
    let mut there: BTreeSet<String> =
        std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    there.retain(|n| !n.starts_with('.') && !n.ends_with(".log") && !TOP_TOOLS.contains(&n.as_str()));
    let strange: Vec<&String> = there.iter().filter(|n| !TOP.contains(&n.as_str())).collect();
    assert!(strange.is_empty(), "not part of the layout: {strange:?}");
    let missing: Vec<&str> = TOP.into_iter().filter(|n| !there.contains(*n)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

#[test]
fn each_database_has_the_same_migrations() {
    let names = |back: &str| -> BTreeSet<String> {
        let dir = root().join("migrations").join(back);
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(!names("sqlite").is_empty());
    assert_eq!(names("sqlite"), names("postgres"));
}
