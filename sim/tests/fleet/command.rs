//! `sentinel-cp sim`: flags, goals, ends.

use super::*;
use clap::Parser;
use sim::cli::{SimArgs, run_with};
use std::future::pending;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    sim: SimArgs,
}

fn args(line: &str) -> SimArgs {
    try_args(line).unwrap_or_else(|e| panic!("{e}"))
}

fn try_args(line: &str) -> Result<SimArgs, clap::Error> {
    Cli::try_parse_from(std::iter::once("sim").chain(line.split_whitespace())).map(|c| c.sim)
}

#[test]
fn flags_are_read_and_bad_ones_are_named() {
    let a = args("--nodes 7 --labels zone=z{i%2},env=prod --labels x=y --apply-delay 200ms --duration 90 --no-verify");
    assert_eq!(a.labels.len(), 3);
    assert_eq!((a.apply_delay, a.duration), (Span::millis(200), Some(Span::secs(90))));
    assert!(a.no_verify);
    let until = "ab".repeat(32);
    assert_eq!(args(&format!("--until-bundle sha256:{until}")).until_bundle, Digest::parse(&until));
    for (bad, says) in [
        ("--failure-rate 2", "0.0 to 1.0"),
        ("--labels zone", "KEY=VALUE"),
        ("--duration soon", "soon"),
        ("--long-poll 61", "61"),
        ("--until-bundle xyz", "hex"),
    ] {
        let e = try_args(bad).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(says), "{bad}: {e}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_when_the_fleet_runs_the_version() {
    let fake = Arc::new(Fake::new());
    let run = run_with(args("--nodes 5 --until-version v1 --no-verify"), in_process(&fake), pending());
    let roll_out = async {
        while fake.registered() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fake.roll_out(&ware(1), None);
    };
    let (report, ()) = within(async { tokio::join!(run, roll_out) }).await;
    let report = report.unwrap();
    assert_eq!((report.goal_reached, report.count("activated")), (Some(true), 5));
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_goal_is_not_reached_in_time_says_so() {
    let fake = Arc::new(Fake::new());
    let run = run_with(args("--nodes 2 --until-version v1 --duration 30s --no-verify"), in_process(&fake), pending());
    let report = within(run).await.unwrap();
    assert_eq!(report.goal_reached, Some(false));
    assert!((30.0..31.0).contains(&report.elapsed_s), "{}", report.elapsed_s);
    assert!(report.to_table().contains("NOT reached"));
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_goal_ends_when_it_is_told_to() {
    let fake = Arc::new(Fake::new());
    let shutdown = tokio::time::sleep(Duration::from_secs(3));
    let report = within(run_with(args("--nodes 2 --no-verify"), in_process(&fake), shutdown)).await.unwrap();
    assert_eq!((report.goal_reached, report.count("registered")), (None, 2));
    assert!(report.to_json().get("goal_reached").is_none());
}

#[tokio::test]
async fn a_scenario_that_cannot_be_read_is_named() {
    let fake = Arc::new(Fake::new());
    let a = args("--scenario /nowhere/script.toml");
    let e = run_with(a, in_process(&fake), pending()).await.unwrap_err().to_string();
    assert!(e.contains("/nowhere/script.toml"), "{e}");
}
