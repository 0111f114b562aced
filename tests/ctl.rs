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

/// Of a listing, the value under `field` of the one row whose `name` is this.
fn named<'a>(listing: &'a Value, noun: &str, name: &str) -> &'a Value {
    let rows = listing[noun].as_array().unwrap();
    rows.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name} in {listing:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn freezes_environments_templates_and_drift_are_kept_from_the_command_line() {
    let w = World::on(Ground::Sqlite, Options::default()).await;
    let ctl = Ctl { url: w.one.url.clone() };
    let say = async |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        Ctl::text(ctl.run(&words).await)
    };
    let json = async |line: &str| serde_json::from_str::<Value>(&say(&format!("{line} --json")).await).unwrap();

    let made = say("environments create -p p production --label env=prod --ordinal 2 --approvals 1").await;
    assert!(made.contains("approvals_needed") && made.contains("production"), "{made}");
    let environments = json("environments list -p p").await;
    let production = named(&environments, "environments", "production");
    assert_eq!(production["selector"]["labels"]["env"], "prod");
    let production = production["id"].as_str().unwrap().to_string();

    let hold = format!("freezes create -p p sale --reason peak --environment {production}");
    assert!(say(&hold).await.contains(&production));
    let listed = say("freezes list -p p").await;
    assert!(listed.starts_with("NAME") && listed.contains("sale  true"), "it holds at once: {listed}");
    let freeze = named(&json("freezes list -p p").await, "freeze_windows", "sale")["id"].as_str().unwrap().to_string();
    assert!(say(&format!("freezes show -p p {freeze}")).await.contains("peak"));
    assert_eq!(say(&format!("freezes delete -p p {freeze}")).await, "deleted\n");
    assert_eq!(say("freezes list -p p").await, "none\n");
    let words = ["environments", "delete", "-p", "p", &production];
    let refused = ctl.run(&words).await;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("409"),
        "approvals are loosened by two people: {refused:?}"
    );
    say("environments create -p p staging").await;
    let staging =
        named(&json("environments list -p p").await, "environments", "staging")["id"].as_str().unwrap().to_string();
    assert_eq!(say(&format!("environments delete -p p {staging}")).await, "deleted\n");

    say("templates create -p p slowly --batch-size 1 --min-healthy 0 --set ramp=2").await;
    let templates = json("templates list -p p").await;
    let slowly = named(&templates, "rollout_templates", "slowly");
    assert_eq!(slowly["settings"]["ramp"], 2.0, "{slowly:#}");
    let slowly = slowly["id"].as_str().unwrap().to_string();
    let (node, v1, v2) = crate::drift::wanderer(&w).await;
    let bundle = v1["bundle_id"].as_str().unwrap();
    let plan = format!("rollouts plan -p p {bundle} --set template_id=\"{slowly}\"");
    assert!(say(&plan).await.contains("1 nodes change"));
    assert_eq!(say(&format!("templates delete -p p {slowly}")).await, "deleted\n");

    crate::drift::wanders(&w, &node, &v1).await;
    w.one.tree.plane.find_drift(domain::Span::ZERO).await.unwrap();
    let listed = say("drift list -p p --status open").await;
    assert!(listed.contains("wanders") && listed.contains(v2["bundle_id"].as_str().unwrap()), "{listed}");
    assert!(say("drift stats -p p").await.contains("open"));
    let drift = json("drift list -p p").await["drift"][0]["id"].as_str().unwrap().to_string();
    let done = json(&format!("drift resolve -p p {drift} --remediate")).await;
    assert_eq!((&done["changed"], &done["rollout"]["kind"]), (&true.into(), &"drift_repair".into()), "{done:#}");
    assert!(say(&format!("drift show -p p {drift}")).await.contains("reassigned"));
    assert_eq!(say("drift resolve-all -p p").await, "0 resolved, 0 left\n");
    w.end().await;
}
