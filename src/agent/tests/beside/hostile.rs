//! The attacks on an update system (the list of The Update Framework), each against the running agent by a server that has turned:
//! whatever it says, the proxy serves what it served, and what is true is believed again afterwards.

use crate::plane::{Serve, bundle_key, key, metadata_key, pack, recipe, root};
use crate::world::{World, eq, eventually};
use bundle::keys::Role;
use bundle::trust::Envelope;
use domain::{Digest, NodeId, ProjectId, Span};
use serde_json::{Value, json};
use std::time::Duration;

pub async fn an_arbitrary_bundle_is_refused() {
    let (w, _) = World::settled().await;
    let evil = |n: u64| recipe(&w.address, &format!("// answer evil {n}"));
    w.refuses(&pack(&evil(5), &key(Role::Bundle, 77)), 5, "bad_signature", "one").await;
    // Bytes that are not what was assigned.
    w.plane.serve(Serve::Damaged);
    w.refuses(&pack(&evil(6), &bundle_key()), 6, "artifact_hash", "one").await;
    w.plane.honest();
    // Another genuine one than the assignment names.
    w.plane.forge(|f| f.assignment.bundle_id = Some(Digest([7; 32])));
    w.refuses(&pack(&evil(7), &bundle_key()), 7, "bundle_id", "one").await;
    // From somewhere else, or by way of somewhere else.
    w.plane.forge(|f| f.say("artifact_url", json!("https://evil.example.org/x")));
    w.refuses(&pack(&evil(8), &bundle_key()), 8, "origin", "one").await;
    w.plane.honest();
    w.plane.serve(Serve::Redirect);
    w.refuses(&pack(&evil(9), &bundle_key()), 9, "redirected", "one").await;
    // An assignment that nobody has signed.
    w.plane.forge(|f| f.say("assignment", Value::Null));
    w.refuses(&pack(&evil(10), &bundle_key()), 10, "malformed", "one").await;
    w.believes("two", 11).await;
    assert!(!w.log().contains("sig=secret"), "the query of a download address is a credential");
}

pub async fn a_rollback_to_an_older_generation_is_refused() {
    let (w, one) = World::settled().await;
    w.believes("two", 5).await;
    w.plane.forge(|f| f.assignment.generation = 3);
    w.plane.order(&one, 6);
    w.fails(3, "stale_generation", "two").await;
    w.believes("three", 7).await;
}

pub async fn a_frozen_node_raises_an_alarm_and_serves_on() {
    let mut w = World::new().await;
    let hour_ago = w.plane.now() - Span::secs(3_600);
    // Accepted in time, and then no word that is signed anew.
    let soon = w.plane.now() + Span::secs(8);
    w.plane.forge(move |f| (f.assignment.issued_at, f.assignment.expires_at) = (hour_ago, soon));
    w.plane.order(&w.bundle("// answer one"), 4);
    w.said(4, "verified").await;
    eventually("a heartbeat raises the alarm", async || {
        w.plane.last_beat()["metadata"]["alarm"].as_str().filter(|a| a.contains("expired")).map(str::to_string)
    })
    .await;
    eventually("the log tells it once", async || {
        let desk = w.plane.desk.lock().unwrap();
        let told = desk.events.iter().filter(|e| e["event_type"] == "warning").count();
        (told == 1).then_some(())
    })
    .await;
    // Expiry forbids accepting, never serving: also after a crash of both, without the control plane.
    w.plane.desk.lock().unwrap().down = true;
    w.kill_agent().await;
    w.signal(w.proxy_pid(), "-9");
    w.start(&[]);
    w.serves("one").await;
    w.plane.desk.lock().unwrap().down = false;
    w.believes("two", 5).await;
    eventually("the alarm ends", async || w.plane.last_beat()["metadata"]["alarm"].is_null().then_some(())).await;
}

pub async fn a_replayed_answer_changes_nothing() {
    let (w, one) = World::settled().await;
    let old = w.plane.answered(4);
    let replay = |what: Value| {
        move |f: &mut crate::plane::Forge| {
            for (k, v) in what.as_object().unwrap() {
                f.say(k, v.clone());
            }
        }
    };
    // The very words again while they hold: no download, no switch.
    let downloads = w.plane.desk.lock().unwrap().downloads;
    let answers = w.plane.desk.lock().unwrap().answers.len();
    w.plane.forge(replay(old.clone()));
    w.plane.order(&one, 5);
    eventually("it was answered twice", async || {
        (w.plane.desk.lock().unwrap().answers.len() > answers + 1).then_some(())
    })
    .await;
    eq(w.plane.desk.lock().unwrap().downloads, downloads, &w);
    eq(w.ask().await.as_deref(), Some("one"), &w);
    // Again when something newer was accepted.
    w.believes("two", 6).await;
    w.plane.forge(replay(old));
    w.plane.order(&one, 7);
    w.fails(4, "stale_generation", "two").await;
    // What was said to somebody else.
    w.plane.forge(|f| f.assignment.node_id = NodeId::NIL);
    w.refuses(&one, 8, "wrong_node", "two").await;
    w.plane.forge(|f| f.assignment.project_id = ProjectId::NIL);
    w.refuses(&one, 9, "wrong_project", "two").await;
    w.believes("three", 10).await;
}

pub async fn an_equal_generation_with_other_content_is_refused() {
    let (w, _) = World::settled().await;
    let evil = w.bundle("// answer evil");
    w.plane.forge(|f| f.assignment.generation = 4);
    w.plane.order(&evil, 5);
    w.fails(4, "generation_reused", "one").await;
    w.believes("two", 6).await;
}

pub async fn a_mix_of_files_is_refused() {
    let (w, _) = World::settled().await;
    let (a, b) = (recipe(&w.address, "// answer a"), recipe(&w.address, "// answer b"));
    let mut mixed = a.clone();
    mixed.files.insert("config.kdl".into(), b.files["config.kdl"].clone());
    w.refuses(&pack(&mixed, &bundle_key()), 5, "payload_hash", "one").await;
    // One left out.
    let mut short = a.clone();
    short.files.remove("certs/site.pem");
    w.refuses(&pack(&short, &bundle_key()), 6, "entry_missing", "one").await;
    // The manifest of one with the name of the other.
    let mut renamed = a;
    renamed.content_id = b.content_id;
    w.refuses(&pack(&renamed, &bundle_key()), 7, "bundle_id", "one").await;
    w.believes("two", 8).await;
}

pub async fn an_extra_file_is_refused() {
    let (w, _) = World::settled().await;
    for (n, name) in (5..).zip(["certs/evil.pem", "evil", "conf.d/evil.kdl"]) {
        let mut r = recipe(&w.address, "// answer evil");
        r.files.insert(name.into(), b"x".to_vec());
        w.refuses(&pack(&r, &bundle_key()), n, "entry_not_listed", "one").await;
    }
    w.believes("two", 8).await;
}

pub async fn a_key_of_another_role_signs_nothing() {
    let (w, _) = World::settled().await;
    let r = recipe(&w.address, "// answer evil");
    w.refuses(&pack(&r, &metadata_key()), 5, "bad_signature", "one").await;
    w.plane.forge(|f| f.signer = bundle_key());
    w.refuses(&pack(&r, &bundle_key()), 6, "bad_signature", "one").await;
    w.plane.forge(|f| f.signer = root());
    w.refuses(&pack(&r, &bundle_key()), 7, "bad_signature", "one").await;
    w.believes("two", 8).await;
}

pub async fn an_expired_assignment_is_refused_and_clocks_that_jump_are_told_apart() {
    let (w, _) = World::settled().await;
    let past = w.plane.now() - Span::secs(3_600);
    w.plane.forge(move |f| f.assignment.expires_at = past);
    w.refuses(&w.bundle("// answer evil"), 5, "expired", "one").await;
    w.plane.honest();
    // This host's clock stands two days back: all that is signed comes from the future, and waits for the clock.
    w.plane.desk.lock().unwrap().ahead = 2 * 86_400;
    w.refuses(&w.bundle("// answer later"), 6, "skipped: clock_skew", "one").await;
    // Two days ahead: all that is signed looks expired.
    w.plane.desk.lock().unwrap().ahead = -2 * 86_400;
    w.refuses(&w.bundle("// answer earlier"), 7, "expired", "one").await;
    // Set right again, all is well: a clock that was wrong has left nothing behind.
    w.plane.desk.lock().unwrap().ahead = 0;
    w.believes("two", 8).await;
}

pub async fn endless_data_is_cut_off() {
    let (w, _) = World::settled().await;
    w.plane.serve(Serve::Endless);
    w.refuses(&w.bundle("// answer evil"), 5, "too_large", "one").await;
    let disk: u64 =
        std::fs::read_dir(w.state().join("download")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(disk < 1 << 20, "{disk} bytes of it were kept");
    // An assignment that allows too much.
    w.plane.forge(|f| f.assignment.size_bytes = 1 << 40);
    w.refuses(&w.bundle("// answer evil"), 6, "too_large", "one").await;
    // Every answer of the API without an end: the agent's memory stays what it is.
    let before = w.memory();
    w.plane.desk.lock().unwrap().babble = true;
    eventually("the answers are given up", async || w.log().contains("length limit exceeded").then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = w.memory().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} kB more");
    eq(w.ask().await.as_deref(), Some("one"), &w);
    w.plane.desk.lock().unwrap().babble = false;
    w.believes("two", 7).await;
}

pub async fn slow_retrieval_is_given_up_in_bounded_time() {
    let mut w = World::idle().await;
    w.start(&["--download-window", "1"]);
    w.plane.order(&w.bundle("// answer one"), 4);
    w.said(4, "verified").await;
    w.plane.serve(Serve::Slow);
    w.refuses(&w.bundle("// answer evil"), 5, "slow_retrieval", "one").await;
    let beats = w.plane.desk.lock().unwrap().beats.len();
    eventually("it beats on", async || (w.plane.desk.lock().unwrap().beats.len() > beats).then_some(())).await;
    w.believes("two", 6).await;
}

pub async fn a_stolen_key_is_worth_nothing_once_it_was_rotated() {
    let (mut w, _) = World::settled().await;
    let new = || key(Role::Metadata, 33);
    let sealed = |version: u64, roots: &[&bundle::keys::KeyPair], by: &[&bundle::keys::KeyPair]| {
        let doc = w.plane.trust_doc(version, roots, &new());
        serde_json::to_value(Envelope::sign(&doc, by).unwrap()).unwrap()
    };
    // The thief tries first: a document that the root has not signed, one that leaves a version out.
    for (n, by, version, code) in [(5, metadata_key(), 2, "bad_signature"), (6, root(), 3, "trust_version")] {
        let forged = sealed(version, &[&root()], &[&by]);
        w.plane.forge(move |f| f.say("trust", forged.clone()));
        w.refuses(&w.bundle("// answer evil"), n, code, "one").await;
    }
    // The operator rotates; the old key is not listed any more.
    let second = sealed(2, &[&root()], &[&root()]);
    w.plane.forge(move |f| {
        f.say("trust", second.clone());
        f.signer = key(Role::Metadata, 33);
    });
    w.plane.order(&w.bundle("// answer two"), 7);
    w.said(7, "verified").await;
    w.serves("two").await;
    w.plane.honest();
    w.refuses(&w.bundle("// answer evil"), 8, "bad_signature", "two").await;
    // Not even by showing the first document again, nor to an agent that was started anew.
    let first = {
        let doc = w.plane.trust_doc(1, &[&root()], &metadata_key());
        serde_json::to_value(Envelope::sign(&doc, &[&root()]).unwrap()).unwrap()
    };
    w.kill_agent().await;
    w.start(&[]);
    w.plane.forge(move |f| f.say("trust", json!([first.clone()])));
    w.refuses(&w.bundle("// answer evil"), 9, "bad_signature", "two").await;
    // The root itself changes hands: signed by the old one and the new one.
    let other = key(Role::Root, 11);
    let doc = w.plane.trust_doc(3, &[&other], &new());
    let alone = serde_json::to_value(Envelope::sign(&doc, &[&other]).unwrap()).unwrap();
    w.plane.forge(move |f| {
        f.say("trust", alone.clone());
        f.signer = key(Role::Metadata, 33);
    });
    w.refuses(&w.bundle("// answer evil"), 10, "bad_signature", "two").await;
    let both = serde_json::to_value(Envelope::sign(&doc, &[&other, &root()]).unwrap()).unwrap();
    w.plane.forge(move |f| {
        f.say("trust", both.clone());
        f.signer = key(Role::Metadata, 33);
    });
    w.plane.order(&w.bundle("// answer three"), 11);
    w.said(11, "verified").await;
    w.serves("three").await;
}

/// The server holds the metadata key and all bundles ever made; the bundle key lies in a safe.
pub async fn a_server_that_was_taken_over_cannot_ship_an_old_genuine_bundle() {
    let w = World::new().await;
    let [one, two, three, never] =
        ["one", "two", "three\n// dies-later", "never"].map(|t| w.bundle(&format!("// answer {t}")));
    let state = |made, sequence, floor, revoked: &[&crate::plane::Made]| {
        let s = w.plane.statement(made, sequence, floor, revoked, &bundle_key());
        w.plane.forge(move |f| f.say("release", s.clone()));
    };
    state(&one, 1, 0, &[]);
    w.plane.order(&one, 1);
    w.said(1, "verified").await;
    // Once releases are stated, what was never stated is none, though nothing else speaks against it.
    w.plane.honest();
    w.refuses(&never, 2, "release_missing", "one").await;
    state(&two, 2, 2, &[]);
    w.plane.order(&two, 4);
    w.said(4, "verified").await;
    w.serves("two").await;
    // With its old statement, with none, with one of its own making, and one that was never released at all.
    state(&one, 1, 0, &[]);
    w.refuses(&one, 5, "below_floor", "two").await;
    w.plane.honest();
    w.refuses(&one, 6, "below_floor", "two").await;
    let own = w.plane.statement(&one, 9, 0, &[], &metadata_key());
    w.plane.forge(move |f| f.say("release", own.clone()));
    w.refuses(&one, 7, "bad_signature", "two").await;
    w.plane.honest();
    w.refuses(&never, 8, "below_floor", "two").await;
    // A statement about something else.
    state(&two, 3, 2, &[]);
    w.refuses(&never, 9, "bundle_id", "two").await;
    // `two` is revoked by what follows it. That one does not stay up: the fall-back is not `two` either.
    state(&three, 3, 2, &[&two]);
    w.plane.order(&three, 10);
    w.said(10, "verified").await;
    w.serves("old").await;
    w.said(10, "failed").await;
    state(&two, 2, 2, &[]);
    w.refuses(&two, 11, "revoked", "old").await;
}

/// The same server, and a node that never saw a statement: the root says that they are needed.
pub async fn a_fresh_node_takes_nothing_unreleased_where_the_root_requires_statements() {
    let w = World::new().await;
    let [one, two] = ["one", "two"].map(|t| w.bundle(&format!("// answer {t}")));
    let doc = bundle::trust::TrustDoc { releases_required: true, ..w.plane.trust_doc(2, &[&root()], &metadata_key()) };
    let required = serde_json::to_value(Envelope::sign(&doc, &[&root()]).unwrap()).unwrap();
    // Genuine, signed by the bundle key once, and never released.
    let newer = required.clone();
    w.plane.forge(move |f| f.say("trust", newer.clone()));
    w.refuses(&one, 1, "release_missing", "old").await;
    // What was refused has changed nothing: the newer document is kept with the first answer that is followed.
    let statement = w.plane.statement(&one, 1, 0, &[], &bundle_key());
    w.plane.forge(move |f| {
        f.say("trust", required.clone());
        f.say("release", statement.clone());
    });
    w.plane.order(&one, 2);
    w.said(2, "verified").await;
    w.serves("one").await;
    let statement = w.plane.statement(&two, 2, 0, &[], &bundle_key());
    w.plane.forge(move |f| f.say("release", statement.clone()));
    w.plane.order(&two, 3);
    w.said(3, "verified").await;
    // What was released once is not for ever: without its statement, which may have expired, it is not taken again.
    w.plane.honest();
    w.refuses(&one, 4, "release_missing", "two").await;
}

pub async fn another_root_is_not_enrolled_with() {
    let mut w = World::idle().await;
    let mut other = w.command(&["--root", &format!("sha256:{}", Digest([0; 32]))]);
    let status = other.status().await.unwrap();
    assert!(!status.success());
    assert!(w.log().contains("wrong_root"), "{}", w.log());
    assert!(!w.state().join("identity.json").exists());
    w.start(&[]);
    w.believes("one", 1).await;
}
