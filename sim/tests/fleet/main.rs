#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
//! The fleet against a small control plane written here: in process on a paused clock, and over real HTTP.

mod command;
mod fake;
mod over_http;
mod verified;

use bytes::Bytes;
use domain::{Digest, Span};
use fake::{Fake, Ware};
use sim::agent::Profile;
use sim::wire::Report;
use sim::{Behaviour, Fleet, FleetConfig, NodeState, Scenario, Transport};
use std::sync::Arc;
use std::time::Duration;

pub fn ware(n: u8) -> Ware {
    Ware { content: Digest([n; 32]), version: format!("v{n}"), archive: Bytes::from(vec![n; 64]) }
}

pub fn in_process(fake: &Arc<Fake>) -> Transport {
    let fake = fake.clone();
    Transport::in_process(move |request| fake.clone().handle(request))
}

pub fn config(nodes: u32) -> FleetConfig {
    let profile = Profile { verify: false, ..Profile::default() };
    FleetConfig { nodes, profile, name_prefix: "n".into(), ..FleetConfig::default() }
}

async fn start(config: FleetConfig) -> (Arc<Fake>, Fleet) {
    let fake = Arc::new(Fake::new());
    let fleet = Fleet::start(config, in_process(&fake)).await.unwrap();
    within(fleet.until_all(|n| n.id.is_some())).await.unwrap();
    (fake, fleet)
}

/// A minute on whichever clock runs: a wait that lasts longer has failed.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it did not happen within a minute")
}

fn runs(n: u8) -> impl Fn(&sim::NodeStatus) -> bool + Send + 'static {
    move |s| s.active == Some(Digest([n; 32]))
}

#[tokio::test(start_paused = true)]
async fn every_node_of_a_fleet_activates_what_it_is_told_to() {
    let (fake, fleet) = start(config(200)).await;
    fleet.mark();
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(runs(1))).await.unwrap();
    fake.roll_out(&ware(2), None);
    assert_eq!(within(fleet.until_version("v2")).await.unwrap(), Some(Digest([2; 32])));
    within(fleet.until_all(|s| s.state == NodeState::Idle)).await.unwrap();
    assert_eq!(fake.downloads(), 2, "200 nodes share their downloads");
    let report = fleet.stop().await.unwrap();
    assert_eq!((report.count("activated"), report.count("registered")), (400, 200));
    assert_eq!(report.error_count(), 0, "{:?}", report.errors);
    assert_eq!(report.latencies["wake_up"].count, 400);
    assert_eq!(report.active, [(Digest([2; 32]).to_string(), 200)].into());
    assert!(report.to_table().contains("v2") && report.to_json()["bundles"][1]["activated"] == 200);
}

#[tokio::test(start_paused = true)]
async fn many_nodes_on_one_actor_behave_as_one_each() {
    let (fake, fleet) = start(FleetConfig { nodes_per_actor: Some(64), ..config(150) }).await;
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(runs(1))).await.unwrap();
    fleet.go_offline("n97").unwrap();
    within(fleet.until_all(|s| s.state != NodeState::Registering)).await.unwrap();
    fake.roll_out(&ware(2), None);
    within(fleet.until_all(|s| s.is_away() || runs(2)(s))).await.unwrap();
    let status = fleet.status().await.unwrap();
    assert_eq!(status.values().filter(|s| s.active == Some(Digest([1; 32]))).count(), 1);
    assert_eq!(status["n97"].state, NodeState::Offline);
    assert_eq!(status.len(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_failure_script_decides_who_fails_and_the_others_do_not() {
    let script = r#"
        [[rule]]
        match = "n7"
        fail_on_version = "v2"
        [[rule]]
        match = "n3"
        heartbeat_only = true
        [[rule]]
        match = "n4"
        die_after_handover = true
    "#;
    let (fake, fleet) = start(FleetConfig { scenario: Scenario::parse(script).unwrap(), ..config(10) }).await;
    fake.roll_out(&ware(2), None);
    within(fleet.until_version("v2")).await.unwrap();
    let status = fleet.status().await.unwrap();
    let on = |n: &str| status[n].active.is_some();
    assert!(!on("n7") && !on("n4") && on("n3") && on("n1"));
    assert_eq!((status["n7"].last_failed, status["n4"].state), (Some(Digest([2; 32])), NodeState::Dead));
    assert!(fake.seen("n3").reports.is_empty());
    assert!(!fake.seen("n3").heartbeats.is_empty(), "the switch is told at once");
    assert!(fake.seen("n7").reports.iter().any(|(_, r)| *r == Report::Failed));
}

#[tokio::test(start_paused = true)]
async fn an_offline_node_makes_no_call_and_catches_up_when_it_comes_back() {
    let (fake, fleet) = start(config(5)).await;
    fleet.go_offline("n2").unwrap();
    within(async {
        while fleet.node("n2").await.unwrap().state != NodeState::Offline {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = fake.seen("n2");
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(|s| s.is_away() || runs(1)(s))).await.unwrap();
    tokio::time::advance(Duration::from_secs(120)).await;
    let after = fake.seen("n2");
    assert_eq!((before.polls, before.heartbeats.len()), (after.polls, after.heartbeats.len()));
    fleet.come_back("n2").unwrap();
    within(fleet.until_all(runs(1))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn behaviour_can_be_changed_while_the_fleet_runs() {
    let (fake, fleet) = start(config(3)).await;
    fleet.set_behaviour("n2", Behaviour { failure_rate: 1.0, ..Behaviour::default() }).unwrap();
    fake.roll_out(&ware(1), None);
    within(fleet.until_version("v1")).await.unwrap();
    let s = fleet.node("n2").await.unwrap();
    assert_eq!((s.active, s.last_failed), (None, Some(Digest([1; 32]))));
    assert!(fleet.set_behaviour("n4", Behaviour::default()).is_err());
    assert!(fleet.go_offline("x2").is_err() && fleet.go_offline("n02").is_err());
}

#[tokio::test(start_paused = true)]
async fn refused_calls_are_repeated_counted_and_forgiven() {
    let fake = Arc::new(Fake::new());
    fake.refuse_next("register", 3, 503);
    let fleet = Fleet::start(config(3), in_process(&fake)).await.unwrap();
    within(fleet.until_all(|n| n.id.is_some())).await.unwrap();
    fake.refuse_next("report", 4, 500);
    fake.roll_out(&ware(1), None);
    within(fleet.until_all(runs(1))).await.unwrap();
    let report = fleet.stop().await.unwrap();
    assert_eq!(report.errors["register"]["503"], 3);
    assert_eq!(report.errors["report"]["500"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_dismisses_the_fleet() {
    let fake = Arc::new(Fake::new());
    let config = FleetConfig { token: Some("wrong".into()), ..config(3) };
    let fleet = Fleet::start(config, in_process(&fake)).await.unwrap();
    within(fleet.until_all(|n| n.state == NodeState::Dismissed)).await.unwrap();
    assert_eq!(fake.registered(), 0);
    let report = fleet.stop().await.unwrap();
    assert!(report.reasons.keys().any(|r| r.contains("unknown enrolment token")), "{:?}", report.reasons);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_transport_is_an_error_of_the_call_and_no_more() {
    let fake = Arc::new(Fake::new());
    let (inner, tripped) = (fake.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let transport = Transport::in_process(move |request| {
        let (inner, first) = (inner.clone(), !tripped.swap(true, std::sync::atomic::Ordering::SeqCst));
        async move {
            assert!(!first, "the first call breaks (meant)");
            inner.handle(request).await
        }
    });
    let fleet = Fleet::start(config(2), transport).await.unwrap();
    within(fleet.until_all(|n| n.id.is_some())).await.unwrap();
    let report = fleet.stop().await.unwrap();
    assert_eq!((report.count("registered"), report.count("simulator_faults")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_granted_interval_and_count_up() {
    let (fake, _fleet) = start(config(2)).await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let beats = fake.seen("n1").heartbeats;
    // Granted 5 s, sent up to a tenth early.
    assert!((11..=15).contains(&beats.len()), "{}", beats.len());
    let seqs: Vec<u64> = beats.iter().filter_map(|b| b.seq).collect();
    assert_eq!(seqs, (1..=beats.len() as u64).collect::<Vec<_>>());
    let total: u64 = beats.iter().filter_map(|b| b.metrics?.request_count).sum();
    assert_eq!(beats.last().unwrap().metrics.unwrap().requests_total, Some(total));
    assert!(beats.iter().all(|b| b.sent_at.is_some() && b.measured_at.is_some()));
}

#[tokio::test]
async fn a_bad_fleet_is_refused_before_it_starts() {
    let fake = Arc::new(Fake::new());
    for bad in [config(0), FleetConfig { name_prefix: "a b".into(), ..config(1) }] {
        assert!(Fleet::start(bad, in_process(&fake)).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn first_calls_are_spread_over_the_ramp() {
    let fake = Arc::new(Fake::new());
    let fleet = Fleet::start(FleetConfig { ramp: Span::secs(100), ..config(100) }, in_process(&fake)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50_500)).await;
    let half = fake.registered();
    assert!((45..=55).contains(&half), "{half}");
    drop(fleet);
}
