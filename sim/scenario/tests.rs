#![allow(clippy::unwrap_used)]
use super::*;

fn of(text: &str, name: &str) -> Behaviour {
    Scenario::parse(text).unwrap().behaviour(&Behaviour::default(), 1, name, &BTreeMap::new())
}

const SCRIPT: &str = r#"
    [default]
    apply_delay = "200ms"

    [[rule]]
    match = "sim-node-7"
    fail_on_version = "v2"

    [[rule]]
    match = ["edge-*", "sim-node-9"]
    apply_delay = 2
    die_after_handover = "30s"
    offline = [{ at = "10s", until = "40s" }, { at = 100 }]
    with_bundle = [{ version = "v3*", health = "unhealthy", error_rate = 25.0 }]
"#;

#[test]
fn a_rule_changes_only_the_nodes_it_names() {
    let seven = of(SCRIPT, "sim-node-7");
    assert!(means(&seven.fail_on, None, Some("v2")));
    assert!(!means(&seven.fail_on, None, Some("v1")));
    assert_eq!(seven.apply_delay, Span::millis(200));
    let eight = of(SCRIPT, "sim-node-8");
    assert!(!means(&eight.fail_on, None, Some("v2")));
    assert_eq!(eight.dies, None);
}

#[test]
fn windows_deaths_and_altered_vitals_are_read() {
    let b = of(SCRIPT, "edge-1");
    assert_eq!(b.apply_delay, Span::secs(2));
    assert_eq!(b.dies.as_ref().unwrap().silent_for, Some(Span::secs(30)));
    for (age, away) in [(5, false), (10, true), (39, true), (40, false), (100, true), (99_999, true)] {
        assert_eq!(b.away(Span::secs(age)), away, "{age}");
    }
    assert_eq!(b.next_edge(Span::secs(10)), Some(Span::secs(40)));
    assert_eq!(b.next_edge(Span::secs(100)), None);
    assert_eq!(b.vitals_with(None, Some("v3.1")).health, HealthClass::Unhealthy);
    assert_eq!(b.vitals_with(None, Some("v3.1")).error_rate, 25.0);
    assert_eq!(b.vitals_with(None, Some("v1")).health, HealthClass::Healthy);
}

#[test]
fn json_is_the_same_script() {
    let b = of(r#"{"rule": [{"name": "a", "heartbeat_only": true, "health": "degraded"}]}"#, "a");
    assert_eq!(b.reports, Reports::None);
    assert_eq!(b.vitals.health, HealthClass::Degraded);
}

#[test]
fn a_percentage_means_the_same_nodes_every_time_and_about_so_many() {
    let s = Scenario::parse("[[rule]]\npercent = 10\nsends_health = false").unwrap();
    let count = |seed| {
        (0..2_000)
            .map(|i| s.behaviour(&Behaviour::default(), seed, &format!("n{i}"), &BTreeMap::new()).sends_health)
            .map(|h| !h)
            .collect::<Vec<_>>()
    };
    assert_eq!(count(5), count(5));
    assert_ne!(count(5), count(6));
    let n = count(5).into_iter().filter(|&x| x).count();
    assert!((150..250).contains(&n), "{n}");
}

#[test]
fn labels_select_too() {
    let s = Scenario::parse("[[rule]]\nlabels = { zone = \"a\" }\nfailure_rate = 1.0").unwrap();
    let at = |zone: &str| {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        s.behaviour(&Behaviour::default(), 1, "x", &labels).failure_rate
    };
    assert_eq!((at("a"), at("b")), (1.0, 0.0));
}

#[test]
fn a_bad_script_is_refused_by_name() {
    for (text, says) in [
        ("[[rule]]\nfail_on_verison = \"v2\"", "fail_on_verison"),
        ("[[rule]]\npercent = 120", "percent"),
        ("[[rule]]\nfailure_rate = 20", "failure_rate"),
        ("[[rule]]\napply_delay = \"soon\"", "soon"),
        ("[[rule]]\noffline = [{ at = 9, until = 3 }]", "window"),
        ("{\"rules\": []}", "rules"),
    ] {
        let e = Scenario::parse(text).unwrap_err();
        assert!(e.contains(says), "{text}: {e}");
    }
}
