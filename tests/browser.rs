//! The pages in Chromium: what people see, do with the keyboard, and type.
//!
//! The checks are Node scripts in `tests/browser`, one for each test here; this module gives each a world of its own, a real
//! instance with a fleet. Without Chromium, Node or the packages the tests are skipped, and say so on the terminal;
//! `BROWSER_TESTS=required` (as CI has it) makes that a failure. Screenshots of every page stay in `target/tmp/browser/shots`.

use crate::harness::{Ground, KEY, Options, World};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

const NODES: u32 = 6;
/// The version that one node cannot activate.
const BAD: &str = "bad";
const BAD_NODE: &str = "n-4";
/// Of one check, browser and all, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(480);
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_sound_accessible_and_as_wide_as_the_screen() {
    passes("pages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_is_done_with_the_keyboard_alone() {
    passes("keyboard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_seen_moving_without_loading_the_page_again() {
    passes("live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_forms_work_without_scripts() {
    passes("plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_comes_out_as_text_on_every_page() {
    passes("probes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_compared_shipped_ruled_collected_and_trusted_on_their_pages() {
    passes("trust").await;
}

/// What a check needs besides this repository.
struct Tools {
    node: PathBuf,
    chromium: PathBuf,
    /// The scripts, with the packages that they import beside them.
    scripts: PathBuf,
}

async fn passes(check: &str) {
    // One browser at a time: two fill a small machine.
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    match TOOLS.get_or_init(tools) {
        Ok(tools) => run(tools, check).await,
        Err(why) => skipped(check, why),
    }
}

/// Past the harness that keeps the output of tests that pass.
fn skipped(check: &str, why: &str) {
    assert!(std::env::var_os("BROWSER_TESTS").is_none_or(|v| v != "required"), "browser test {check}: {why}");
    let _ = writeln!(std::io::stderr(), "\nSKIPPED browser test `{check}`: {why}\n");
}

async fn run(tools: &Tools, check: &str) {
    let scenario = format!("[[rule]]\nname = \"{BAD_NODE}\"\nfail_on_version = \"{BAD}\"\n");
    let world = World::on(Ground::Sqlite, Options::default()).await;
    let fleet = world.fleet(NODES, &scenario).await;
    let told = json!({
        "url": world.one.url,
        "email": "admin@example.org",
        "password": "correct horse battery staple",
        "key": KEY,
        "project": "p",
        "config": bundle::samples::DEMO_V1,
        "other": bundle::samples::DEMO_V2.replace("timeout-secs 30", "timeout-secs 20"),
        "bad": BAD,
        "badNode": BAD_NODE,
        "pages": web::ui::addresses().collect::<Vec<_>>(),
        "chromium": tools.chromium,
        "shots": tools.scripts.join("shots"),
    });
    let mut node = Command::new(&tools.node);
    node.arg(tools.scripts.join("main.mjs")).arg(check).kill_on_drop(true);
    let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(told.to_string().as_bytes()).await.unwrap();
    let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the check did not end").unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", said(&done.stdout));
    assert!(done.status.success(), "{check}: {}", said(&done.stderr));
    fleet.stop().await.unwrap();
    world.end().await;
}

fn tools() -> Result<Tools, String> {
    const ADVICE: &str = "apt-get install chromium nodejs npm";
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(program);
    let chromium = chromium.ok_or_else(|| format!("there is no chromium; {ADVICE}"))?;
    let node = program("node").ok_or_else(|| format!("there is no node; {ADVICE}"))?;
    let npm = program("npm").ok_or_else(|| format!("there is no npm; {ADVICE}"))?;
    let scripts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    install(&npm, &scripts).map_err(|e| format!("its packages could not be had: {e}"))?;
    Ok(Tools { node, chromium, scripts })
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The scripts and their packages, as the lock file names them; fetched again only when that changes.
fn install(npm: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    std::fs::create_dir_all(to).map_err(text)?;
    // Two runs of the tests may share the directory.
    let lock = std::fs::File::create(to.join(".lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    let files = std::fs::read_dir(SCRIPTS).map_err(text)?.flatten().filter(|f| f.path().is_file());
    for file in files {
        std::fs::copy(file.path(), to.join(file.file_name())).map_err(text)?;
    }
    let wanted = std::fs::read_to_string(to.join("package-lock.json")).map_err(text)?;
    let stamp = to.join(".installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    let mut npm = std::process::Command::new(npm);
    let done =
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(to).output().map_err(text)?;
    if !done.status.success() {
        return Err(format!("npm ci: {}", String::from_utf8_lossy(&done.stderr)));
    }
    std::fs::write(&stamp, wanted).map_err(text)
}
