//! `sentinel-cp ctl`: the main job from a command line, as an operator types it.

use crate::harness::*;
use serde_json::Value;
use sim::transport::{Http, HttpOptions};
use sim::{FleetConfig, Transport};
use std::process::{Command, Output};
use store::testing::{Backend, open};

struct Ctl {
    url: String,
}

impl Ctl {
    async fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"));
        command.arg("ctl").args(words).env("SENTINEL_CP_URL", &self.url).env("SENTINEL_CP_API_KEY", KEY);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
    #[track_caller]
    fn text(out: Output) -> String {
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_is_done_from_the_command_line() {
    let db = open(Backend::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let one = Instance::start(db.store.clone(), dir.path(), Options::default()).await;
    let ctl = Ctl { url: one.url.clone() };

    Ctl::text(ctl.run(&["projects", "create", "Shop", "--set", "max_updating=50%"]).await);
    let listed = Ctl::text(ctl.run(&["projects", "list"]).await);
    assert!(listed.starts_with("SLUG") && listed.contains("\nshop"), "{listed}");
    let token = Ctl::text(ctl.run(&["tokens", "create", "-p", "shop", "nodes", "--max-uses", "5"]).await);
    let config = FleetConfig {
        project: "shop".into(),
        token: Some(token.trim().into()),
        nodes: 3,
        name_prefix: "n-".into(),
        ..FleetConfig::default()
    };
    let http = Http::new(&one.url, HttpOptions::default()).unwrap();
    let fleet = sim::Fleet::start(config, Transport::Http(http)).await.unwrap();
    online(&one.operator(), "shop", 3).await;

    let source = dir.path().join("config.kdl");
    std::fs::write(&source, bundle::samples::DEMO_V1).unwrap();
    let made = Ctl::text(
        ctl.run(&["bundles", "create", "-p", "shop", source.to_str().unwrap(), "--version", "v1", "--json"]).await,
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    let bundle = made["bundle"]["bundle_id"].as_str().unwrap();
    assert_eq!(made["bundle"]["status"], "compiled");

    let plan = Ctl::text(ctl.run(&["rollouts", "plan", "-p", "shop", bundle, "--batch-size", "2"]).await);
    assert!(plan.contains("3 nodes change"), "{plan}");
    let watched = ctl.run(&["rollouts", "create", "-p", "shop", bundle, "--batch-size", "2", "--watch"]).await;
    let watched = Ctl::text(watched);
    assert!(
        watched.lines().last().is_some_and(|l| l.starts_with("completed") && l.contains("3 verified of 3")),
        "{watched}"
    );

    let nodes = Ctl::text(ctl.run(&["nodes", "list", "-p", "shop", "--bundle", bundle]).await);
    assert_eq!(nodes.lines().count(), 4, "{nodes}");
    let verdict = Ctl::text(ctl.run(&["audit", "verify", "-p", "shop", "--json"]).await);
    assert_eq!(serde_json::from_str::<Value>(&verdict).unwrap()["valid"], true);
    let same = Ctl::text(ctl.run(&["call", "get", "/projects/shop"]).await);
    assert_eq!(serde_json::from_str::<Value>(&same).unwrap()["project"]["settings"]["max_updating"], "50%");

    fleet.stop().await.unwrap();
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_on_standard_error_with_the_field_and_a_code_of_failure() {
    let db = open(Backend::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let one = Instance::start(db.store.clone(), dir.path(), Options::default()).await;
    let ctl = Ctl { url: one.url.clone() };
    Ctl::text(ctl.run(&["projects", "create", "Shop"]).await);

    let refused = ctl.run(&["rollouts", "create", "-p", "shop", "nothing", "--set", "batchsize=3"]).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && refused.stdout.is_empty() && why.contains("422") && why.contains("batchsize"),
        "{why}"
    );
    let unknown = ctl.run(&["nodes", "list", "-p", "nobody"]).await;
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("404"));

    one.stop().await;
    let gone = ctl.run(&["projects", "list"]).await;
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("cannot be reached"));
}
