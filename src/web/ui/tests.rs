//! What the pages' own code decides before anything is asked of the plane.
#![allow(clippy::unwrap_used)]

use super::entry::{refused, safe_next, to_login};
use super::view::rollout_new::Form;
use super::*;
use crate::problem::Refusal;
use actors::command::CommandError;
use domain::RequestId;
use domain::node::Selector;
use http_body_util::BodyExt;

#[test]
fn after_signing_in_one_stays_on_this_site() {
    for good in ["/", "/projects/p/nodes?status=online", "/audit"] {
        assert_eq!(safe_next(good), good);
    }
    for bad in
        ["", "//evil", "/\\evil", "https://evil", "javascript:x", "/a\nb", "/login?next=/", "/ü", &"/a".repeat(600)]
    {
        assert_eq!(safe_next(bad), "/", "{bad:?}");
    }
}

#[test]
fn strangers_are_sent_to_sign_in_and_back() {
    let to =
        |path: &str, query: &str| to_login(path, query).unwrap().headers()["location"].to_str().unwrap().to_string();
    assert_eq!(to("/", ""), "/login");
    assert_eq!(to("/projects/p/nodes", "status=online"), "/login?next=%2Fprojects%2Fp%2Fnodes%3Fstatus%3Donline");
}

#[tokio::test]
async fn refusals_are_pages_that_show_nothing_internal() {
    let response =
        refused(Refusal::internal("table secrets"), RequestId::NIL, &Method::POST, "/projects/p/rollouts/r/pause");
    assert_eq!(response.status(), 500);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(text.contains(&RequestId::NIL.to_string()) && !text.contains("secrets"));
    assert!(text.contains("href=\"/projects/p/rollouts/r\""), "the way back to the rollout");
}

#[test]
fn only_paths_with_pages_send_strangers_to_sign_in() {
    for yes in [
        &[][..],
        &["audit"],
        &["projects", "p"],
        &["projects", "p", "nodes"],
        &["projects", "p", "rollouts", "x", "pause"],
    ] {
        assert!(pages::known(yes), "{yes:?}");
    }
    for no in [&["wp-admin"][..], &["projects", "p", "secrets"], &["audit", "x"], &["favicon.ico"]] {
        assert!(!pages::known(no), "{no:?}");
    }
}

#[test]
fn forms_of_other_sites_are_not_heard() {
    let from = |site: &'static str| {
        let mut h = HeaderMap::new();
        h.insert("sec-fetch-site", HeaderValue::from_static(site));
        same_site(&h, None, "http://x").is_ok()
    };
    assert!(from("same-origin") && from("none") && same_site(&HeaderMap::new(), None, "http://x").is_ok());
    assert!(!from("cross-site") && !from("same-site"));
}

#[test]
fn where_a_browser_says_no_more_the_origin_of_a_form_is_compared() {
    let heard = |origin: &'static str, host: Option<&str>| {
        let mut h = HeaderMap::new();
        h.insert("origin", HeaderValue::from_static(origin));
        same_site(&h, host, "https://cp.example.org:8443/base").is_ok()
    };
    assert!(heard("https://cp.example.org:8443", None), "the public name");
    assert!(heard("https://cp.example.org:8443", Some("10.0.0.7:4000")), "behind a proxy that asks by another name");
    assert!(heard("http://10.0.0.7:4000", Some("10.0.0.7:4000")) && heard("http://box", Some("Box")));
    for origin in [
        "https://evil.example",
        "https://cp.example.org",
        "https://cp.example.org:8443.evil.example",
        "https://10.0.0.7:4001",
        "null",
        "",
        "10.0.0.7:4000",
    ] {
        assert!(!heard(origin, Some("10.0.0.7:4000")), "{origin}");
    }
    // What the browser knows of the site counts more.
    let mut h = HeaderMap::new();
    h.insert("origin", HeaderValue::from_static("http://box"));
    h.insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
    assert!(same_site(&h, Some("box"), "http://box").is_err());
}

#[test]
fn static_files_are_kept_by_their_version() {
    let none = HeaderMap::new();
    let versioned = assets::file("app.css", &format!("v={}", assets::version()), &none).unwrap();
    assert!(versioned.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let plain = assets::file("app.js", "", &none).unwrap();
    assert_eq!(plain.headers()["cache-control"], "no-cache");
    let mut again = HeaderMap::new();
    again.insert("if-none-match", plain.headers()["etag"].clone());
    assert_eq!(assets::file("app.js", "", &again).unwrap().status(), 304);
    assert_eq!(assets::file("../mod.rs", "", &none).unwrap_err().problem.status, 404);
}

#[test]
fn the_policy_allows_nothing_inline_and_nothing_foreign() {
    assert!(assets::POLICY.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"));
    assert!(!assets::POLICY.contains("unsafe") && !assets::POLICY.contains("http"));
    assert!(HeaderValue::from_static(assets::POLICY).to_str().is_ok());
}

#[test]
fn a_rollout_form_becomes_a_request_or_names_every_wrong_field() {
    let good = Form {
        bundle: uuid::Uuid::nil().to_string(),
        labels: "env=prod".into(),
        batch_size: "25%".into(),
        max_error_rate: "1.5".into(),
        scheduled_at: "2026-12-01T06:00:00Z".into(),
        ..Form::default()
    };
    let (_, said) = rollout_new::request(&good).unwrap();
    assert!(matches!(said.target_selector, Some(Selector::Labels { .. })));
    assert_eq!(said.batch_size, Some(domain::project::Amount::Percent(25)));
    assert_eq!(said.health_gates.unwrap().max_error_rate, Some(1.5));
    let bad = Form {
        bundle: "x".into(),
        labels: "prod".into(),
        strategy: "sideways".into(),
        batch_size: "many".into(),
        deadline: "soon".into(),
        max_error_rate: "low".into(),
        scheduled_at: "tomorrow".into(),
        ..Form::default()
    };
    let errors = rollout_new::request(&bad).unwrap_err().problem.errors;
    let fields: Vec<&str> = errors.keys().map(String::as_str).collect();
    assert_eq!(fields, ["batch_size", "bundle", "deadline", "labels", "max_error_rate", "scheduled_at", "strategy"]);
}

#[test]
fn a_threshold_that_is_no_number_is_refused_by_its_name() {
    use ::bundle::keys::Role;
    assert_eq!(trust::threshold(Role::Root, Some("2")), Ok(Some(2)));
    assert_eq!(trust::threshold(Role::Root, None), Ok(None), "unchanged");
    for wrong in ["two", "-1", "1.5", "99999999999"] {
        let Err(CommandError::Invalid(errors)) = trust::threshold(Role::Bundle, Some(wrong)) else {
            panic!("{wrong} was taken")
        };
        assert_eq!(errors[0].0, "bundle.threshold", "{wrong}");
    }
}

#[test]
fn times_of_the_audit_filter_are_days_or_times() {
    let day = audit::time("2026-11-21", false).unwrap();
    assert_eq!(day.to_rfc3339(), "2026-11-21T00:00:00.000000Z");
    assert_eq!(audit::time("2026-11-21", true).unwrap(), day + domain::Span::secs(86_400));
    for same in ["2026-11-21T12:30", "2026-11-21T12:30Z", "2026-11-21T12:30:00Z", "2026-11-21T14:30:00+02:00"] {
        assert_eq!(audit::time(same, false).unwrap(), day + domain::Span::secs(45_000), "{same}");
    }
    assert!(audit::time("yesterday", false).is_none());
}

#[test]
fn messages_of_the_compiler_keep_their_place() {
    let d = bundles::placed("conf.d/a.kdl:3:17: expected a value: \"x\"");
    assert_eq!((d.file.as_deref(), d.line, d.column), (Some("conf.d/a.kdl"), Some(3), Some(17)));
    assert_eq!(d.text, "expected a value: \"x\"");
    let d = bundles::placed("config.kdl:9: unknown node");
    assert_eq!((d.file.as_deref(), d.line, d.column), (Some("config.kdl"), Some(9), None));
    for plain in ["Missing required 'system' block", "upstream a: has no target", ":1:2: y", "a b"] {
        let d = bundles::placed(plain);
        assert_eq!((d.text.as_str(), d.line), (plain, None));
    }
}
