//! Every page with hostile names in it: nothing gets out of its text, no form is without its token, nothing is inline.
#![allow(clippy::unwrap_used)]

use super::parts::*;
use super::samples::*;
use super::{
    Flash, Frame, May, access, bundle, instances, node, outcome, overview, people, resources, retention, rollout, trust,
};
use domain::bundle::BundleStatus;
use domain::node::Labels;
use domain::rollout::{Counts, PauseCause, Phase, Step, allowed_commands};
use domain::{Span, Timestamp};
use std::collections::BTreeSet;

#[test]
fn hostile_names_stay_text_on_every_page() {
    for (name, html) in pages() {
        assert!(!html.contains("<script>"), "{name}: a script got in");
        assert!(!html.contains("<img"), "{name}: a tag got in");
        assert!(html.contains("&lt;script&gt;"), "{name}: the test shows nothing hostile");
        // A quote inside an attribute ends it: what follows EVIL's first two characters must be escaped everywhere.
        assert!(!html.contains("\"'>"), "{name}: an attribute was closed");
    }
}

#[test]
fn nothing_is_inline_so_the_policy_can_forbid_it() {
    for (name, html) in pages() {
        assert!(!html.contains("<style") && !html.contains(" style="), "{name}: inline style");
        assert_eq!(html.matches("<script").count(), 1, "{name}");
        assert!(html.contains("<script src=\"/static/app.js?v=v\" defer></script>"), "{name}");
        let tags = html.split('<').filter(|t| t.starts_with(|c: char| c.is_ascii_alphabetic()));
        for tag in tags {
            let tag = tag.split('>').next().unwrap();
            // What is not between quotes: the names of attributes.
            let names: String = tag.split('"').step_by(2).collect();
            assert!(!names.contains(" on") && !names.contains("style="), "{name}: a handler or style in <{tag}>");
            assert!(!tag.contains("=\"javascript:"), "{name}: <{tag}>");
        }
        assert!(!html.contains("http://") && !html.contains("https://"), "{name}: something from elsewhere");
    }
}

#[test]
fn every_form_that_posts_carries_the_token_of_the_session() {
    for (name, html) in pages() {
        for form in html.split("<form").skip(1) {
            let form = form.split("</form>").next().unwrap();
            let posts = form.split('>').next().unwrap().contains("method=\"post\"");
            let login = form.contains("action=\"/login\"");
            let token = format!("name=\"_csrf\" value=\"{TOKEN}\"");
            assert_eq!(form.contains(&token), posts && !login, "{name}: {form}");
        }
        assert!(html.contains("action=\"/logout\""), "{name}: no way out");
    }
}

#[test]
fn buttons_are_exactly_what_the_phase_allows() {
    let all = ["start", "pause", "resume", "cancel", "rollback", "retry", "approve", "reject"];
    for phase in Phase::ALL {
        let mut view = rollout_view(*phase);
        // Something of everything, so that every command has a point.
        view.head.counts.rollback_failed = 1;
        view.head.causes = [PauseCause::Gate].into();
        let html = rollout::page(&frame(), &view, &members(), &timeline()).into_string();
        let allowed = allowed_commands(*phase);
        for command in all {
            let action = format!("action=\"{}/{command}\"", view.path);
            let expect = usize::from(allowed.contains(&command));
            assert_eq!(html.matches(&action).count(), expect, "{phase}: {command}");
        }
        let mut reader = frame();
        reader.may = May::default();
        let html = rollout::page(&reader, &view, &members(), &timeline()).into_string();
        assert!(!html.contains("id=\"cmd-"), "{phase}: a reader is offered a command");
    }
}

#[test]
fn a_reader_is_offered_no_form_that_changes_anything() {
    let reader = Frame { may: May::default(), ..frame() };
    let node = node::NodeView {
        slug: "p".into(),
        node: node_row(),
        names: names(),
        history: vec![],
        events: vec![],
        explain: vec![],
        src: "/x".into(),
    };
    let bundle = bundle::BundleView {
        slug: "p".into(),
        bundle: bundle_row(BundleStatus::Compiled),
        files: vec![],
        running_on: 0,
        desired_on: 0,
        rollouts: vec![],
        src: "/x".into(),
    };
    for html in [
        node::page(&reader, &node),
        bundle::page(&reader, &bundle),
        access::tokens(&reader, &Default::default()),
        access::keys(&reader, &Default::default()),
        overview::page(&reader, &Default::default()),
        people::people(&reader, &people::PeopleView { orgs: vec![organisation(false)], made: None }),
        resources::resources(&reader, &resources_view()),
        resources::rules(&reader, &rules_view()),
        retention::page(&reader, &retention_view(), None, &[]),
        trust::page(&reader, &trust_view(false)),
    ] {
        assert_eq!(html.into_string().matches("method=\"post\"").count(), 1, "only the way out");
    }
}

#[test]
fn commands_without_a_point_are_not_offered() {
    let offers = |phase, command: &str, change: fn(&mut rollout::RolloutView)| {
        let mut view = rollout_view(phase);
        change(&mut view);
        rollout::commands(&frame(), &view).into_string().contains(&format!("id=\"cmd-{command}\""))
    };
    assert!(!offers(Phase::Paused, "retry", |v| v.head.counts.failed = 0));
    assert!(!offers(Phase::Paused, "pause", |v| v.head.causes = [PauseCause::Person].into()));
    assert!(!offers(Phase::RolledBack, "retry", |v| v.head.counts.rollback_failed = 0));
    assert!(offers(Phase::Paused, "resume", |v| v.head.causes = [PauseCause::Person].into()));
}

#[test]
fn lengths_have_two_units_and_no_empty_one() {
    let shown = |s| length(Span::secs(s));
    assert_eq!([shown(5), shown(600), shown(601), shown(7_200)], ["5 s", "10 min", "10 min 1 s", "2 h"]);
}

#[test]
fn after_failures_a_person_says_what_becomes_of_the_failed() {
    let resume = |failures, causes: &[PauseCause]| {
        let mut view = rollout_view(Phase::Paused);
        view.head.failures = failures;
        view.head.causes = causes.iter().copied().collect();
        rollout::commands(&frame(), &view).into_string()
    };
    let html = resume(2, &[PauseCause::Gate]);
    assert!(html.contains("value=\"retry\"") && html.contains("value=\"accept\"") && !html.contains("value=\"plain\""));
    let html = resume(0, &[PauseCause::Person]);
    assert!(html.contains("value=\"plain\"") && !html.contains("value=\"retry\""));
}

#[test]
fn every_input_has_a_label() {
    for (name, html) in pages() {
        let labelled: Vec<&str> = html.split("<label for=\"").skip(1).map(|l| l.split('"').next().unwrap()).collect();
        for kind in ["<input", "<select", "<textarea"] {
            for tag in html.split(kind).skip(1) {
                let tag = tag.split('>').next().unwrap();
                if tag.contains("type=\"hidden\"") {
                    continue;
                }
                let id = tag.split("id=\"").nth(1).and_then(|t| t.split('"').next()).unwrap_or_default();
                assert!(labelled.contains(&id), "{name}: {kind}{tag}> has no label");
            }
        }
    }
}

#[test]
fn ids_on_a_page_are_unique() {
    for (name, html) in pages() {
        let mut seen = BTreeSet::new();
        for id in html.split(" id=\"").skip(1).map(|t| t.split('"').next().unwrap()) {
            assert!(seen.insert(id.to_string()), "{name}: {id} is there twice");
        }
    }
}

#[test]
fn the_bar_shows_every_bucket_that_has_nodes_and_fits() {
    let bar = progress_bar(&counts()).into_string();
    for bucket in ["verified", "assigned", "pending", "owed", "skipped", "failed"] {
        assert!(bar.contains(&format!("class=\"b-{bucket}\"")), "{bucket}");
    }
    assert!(!bar.contains("b-rolled_back"));
    assert_eq!(progress_text(&counts()), "9 of 30 verified, 4 in progress, 10 pending, 3 owed, 2 skipped, 2 failed");
    assert_eq!(percent_done(&counts()), 32);
    assert_eq!(percent_done(&Counts::default()), 0);
}

#[test]
fn every_phase_says_what_comes_next_unless_nothing_does() {
    let next = |phase, change: fn(&mut rollout::RolloutView)| {
        let mut view = rollout_view(phase);
        view.head.waits.clear();
        change(&mut view);
        outcome::next(&view.spec, &view.head, view.steps.len() as u32).unwrap_or_default()
    };
    assert_eq!(
        next(Phase::Running, |_| {}),
        "When all nodes of this step have verified, step 3 begins. If one fails, it pauses."
    );
    assert!(next(Phase::Running, |v| v.head.step = 2).contains("the rollout is complete"));
    assert!(next(Phase::Paused, |v| v.head.failures = 1).contains("Retry"));
    let held: fn(&mut rollout::RolloutView) = |v| (v.head.failures, v.head.causes) = (0, [PauseCause::Person].into());
    assert!(next(Phase::Paused, held).contains("Resume"));
    assert!(next(Phase::RolledBack, |v| v.head.auto_rollback = true).contains("Mend"));
    assert_eq!(next(Phase::Completed, |v| v.head.counts = Counts::default()), "");
    assert!(next(Phase::Completed, |v| v.head.counts.owed = 1).contains("return"));
}

#[test]
fn a_failure_is_said_with_the_node_and_its_words() {
    let html = rollout::page(&frame(), &rollout_view(Phase::RolledBack), &members(), &timeline()).into_string();
    assert!(html.contains("What failed") && html.contains(&format!("/nodes/{}", uuid(6))));
    let mut well = rollout_view(Phase::Running);
    well.failures.clear();
    assert!(!rollout::progress(&frame(), &well).into_string().contains("What failed"));
}

#[test]
fn one_is_one_and_more_are_many() {
    assert_eq!([count(1, "node"), count(2, "node"), count(0, "entry")], ["1 node", "2 nodes", "0 entries"]);
}

#[test]
fn times_are_relative_with_the_exact_one_beside() {
    let check = |ago: i64, expect: &str| assert_eq!(relative(NOW - Span::secs(ago), NOW), expect);
    check(0, "just now");
    check(59, "59 s ago");
    check(60, "1 min ago");
    check(7_200, "2 h ago");
    check(86_400 * 3, "3 d ago");
    check(-300, "in 5 min");
    assert_eq!(exact(Timestamp(0)), "1970-01-01 00:00:00 UTC");
    assert!(when(NOW, NOW).into_string().contains("datetime=\"2026-"));
}

#[test]
fn ids_are_short_and_keep_their_full_text() {
    let html = id(uuid(5)).into_string();
    assert!(html.contains(&format!("title=\"{}\"", uuid(5))) && html.contains("…00000005"), "{html}");
    assert!(hash("a".repeat(64)).into_string().contains(&format!(">{}…<", "a".repeat(12))));
    assert_eq!(query("a b/ü?"), "a%20b%2F%C3%BC%3F");
    assert_eq!(query_string(&[("a", Some("1")), ("b", None), ("c", Some(""))]), "?a=1");
}

#[test]
fn flashes_are_codes_and_unknown_ones_are_silent() {
    assert_eq!(Flash::parse(Flash::NodeAdopted.code()), Some(Flash::NodeAdopted));
    assert_eq!(Flash::parse("<b>"), None);
}

#[test]
fn labels_and_amounts_are_read_as_typed() {
    let labels = access::parse_labels(" env=prod , zone = a,").unwrap();
    assert_eq!(labels, Labels::from([("env".into(), "prod".into()), ("zone".into(), "a".into())]));
    assert!(access::parse_labels("env").is_err() && access::parse_labels("a b=c").is_err());
    assert!(access::parse_labels("").unwrap().is_empty());
    assert!(access::parse_amount("25%").is_ok() && access::parse_amount("x").is_err());
}

#[test]
fn an_instance_links_to_what_it_owns_and_says_how_many_more_there_are() {
    let owned = |slug: &str, id: &str| instances::OwnedRollout { slug: slug.into(), id: id.into() };
    let mut line = instances::InstanceLine {
        id: "i".into(),
        listen: "10.0.0.1:4000".into(),
        epoch: 1,
        started_at: frame().now,
        expires_at: frame().now,
        draining: false,
        this: true,
        rollouts: 12,
        shown: vec![owned("edge", "r-1"), owned("core", "r-2")],
    };
    let html = instances::page(&frame(), std::slice::from_ref(&line)).into_string();
    assert!(
        html.contains("href=\"/projects/edge/rollouts/r-1\"") && html.contains("href=\"/projects/core/rollouts/r-2\"")
    );
    assert!(html.contains("and 10 more"));
    line.rollouts = 2;
    assert!(!instances::page(&frame(), &[line]).into_string().contains("and 0 more"));
}

#[test]
fn a_long_plan_of_steps_is_shown_around_the_present_one() {
    let mut view = rollout_view(Phase::Running);
    let step = view.steps[0].clone();
    view.steps = (0..500).map(|i| Step { index: i, ..step.clone() }).collect();
    view.head.step = 250;
    let html = rollout::progress(&frame(), &view).into_string();
    assert!(html.contains("id=\"s-250\"") && !html.contains("id=\"s-0\"") && html.contains("of 500"));
    view.head.step = 500;
    assert!(rollout::progress(&frame(), &view).into_string().contains("id=\"s-499\""));
    view.all_steps = true;
    let html = rollout::progress(&frame(), &view).into_string();
    assert!(
        html.contains("id=\"s-0\"") && html.contains("?steps=all&amp;fragment=progress"),
        "kept when fetched again"
    );
}
