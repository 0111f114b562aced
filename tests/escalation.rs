//! Ways to get more than one was given, each tried and refused.

use crate::harness::*;
use crate::people;
use bytes::Bytes;
use serde_json::{Value, json};

on_both_databases!(
    a_bound_key_makes_no_key_beyond_its_project,
    a_key_of_one_organisation_reaches_into_no_other,
    a_key_makes_no_key_that_outlives_it,
    a_key_that_makes_keys_decides_nothing_about_trust,
    who_is_shut_out_hears_nothing_more,
    metrics_without_a_token_name_no_tenant,
    slugs_of_projects_and_addresses_of_strangers_cannot_be_tried,
    a_repeated_request_gives_nobody_what_is_not_theirs,
    another_organisation_hears_and_downloads_nothing,
    refusals_and_the_first_use_of_a_key_are_in_the_audit_log,
    what_was_done_to_an_organisation_is_told_to_its_own_administrators,
);

async fn key(op: &Client, body: Value) -> Client {
    let made = op.post("/api/v1/api-keys", body).await.expect(201);
    Client::new(&op.at, made["key"].as_str())
}

const MINTER: [&str; 4] = ["api_keys:read", "api_keys:admin", "nodes:read", "projects:read"];

async fn a_bound_key_makes_no_key_beyond_its_project(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    open_project(&w.op, "q").await;
    let bound = key(&w.op, json!({"name": "bound", "scopes": MINTER, "project_id": "p"})).await;
    let mint = async |body: Value| bound.post("/api/v1/api-keys", body).await;
    is_problem(&mint(json!({"name": "x", "scopes": ["nodes:read"]})).await, 403, None);
    is_problem(&mint(json!({"name": "x", "scopes": ["nodes:read"], "project_id": "q"})).await, 422, Some("project_id"));
    is_problem(&mint(json!({"name": "x", "scopes": ["nodes:write"], "project_id": "p"})).await, 403, None);
    is_problem(
        &mint(json!({"name": "x", "scopes": ["nodes:everything"], "project_id": "p"})).await,
        422,
        Some("scopes[0]"),
    );
    let child = mint(json!({"name": "x", "scopes": ["nodes:read"], "project_id": "p"})).await.expect(201);
    let child = Client::new(&w.one.url, child["key"].as_str());
    child.get("/api/v1/projects/p/nodes").await.expect(200);
    is_problem(&child.get("/api/v1/projects/q/nodes").await, 404, None);
    // Nor does it see, revoke or delete keys that are not its project's.
    let other =
        w.op.post("/api/v1/api-keys", json!({"name": "other", "scopes": [], "project_id": "q"})).await.expect(201);
    let path = format!("/api/v1/api-keys/{}", other["api_key"]["id"].as_str().unwrap());
    is_problem(&bound.get(&path).await, 404, None);
    is_problem(&bound.post(&format!("{path}/revoke"), json!({})).await, 404, None);
    is_problem(&bound.send("DELETE", &path, json!({})).await, 404, None);
    is_problem(&bound.post("/api/v1/projects", json!({"name": "z"})).await, 403, None);
    w.end().await;
}

async fn a_key_of_one_organisation_reaches_into_no_other(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let other = people::org(&w.op, "Other").await;
    let all: Vec<String> = ["projects", "nodes", "bundles", "rollouts", "audit"]
        .iter()
        .map(|noun| format!("{noun}:write"))
        .chain(["api_keys:admin".to_string()])
        .collect();
    let theirs = key(&w.op, json!({"name": "theirs", "scopes": all, "org_id": other})).await;
    let orgs = theirs.get("/api/v1/orgs").await.expect(200);
    assert_eq!((&orgs["total"], &orgs["orgs"][0]["id"]), (&json!(1), &json!(other)));
    let mine = w.op.get("/api/v1/projects/p").await.expect(200)["project"]["org_id"].clone();
    is_problem(&theirs.post("/api/v1/projects", json!({"name": "x", "org_id": mine})).await, 404, None);
    is_problem(&theirs.post("/api/v1/api-keys", json!({"name": "x", "scopes": [], "org_id": mine})).await, 404, None);
    is_problem(&theirs.get(&format!("/api/v1/api-keys?org={}", mine.as_str().unwrap())).await, 404, None);
    // A project stays in its organisation.
    theirs.post("/api/v1/projects", json!({"name": "theirs"})).await.expect(201);
    let moved = theirs.send("PATCH", "/api/v1/projects/theirs", json!({"org_id": mine})).await;
    is_problem(&moved, 422, Some("org_id"));
    is_problem(&theirs.get("/api/v1/projects/p").await, 404, None);
    is_problem(&theirs.post("/api/v1/orgs", json!({"name": "x"})).await, 403, None);
    is_problem(&theirs.get("/api/v1/users").await, 403, None);
    w.end().await;
}

async fn a_key_makes_no_key_that_outlives_it(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let in_hours = |h: i64| domain::Timestamp(w.one.tree.plane.now().0 + h * 3_600_000_000).to_rfc3339();
    let body = json!({"name": "short", "scopes": MINTER, "expires_at": in_hours(1)});
    let short = key(&w.op, body).await;
    let mint = async |body: Value| short.post("/api/v1/api-keys", body).await;
    is_problem(&mint(json!({"name": "x", "scopes": ["nodes:read"]})).await, 403, None);
    is_problem(&mint(json!({"name": "x", "scopes": ["nodes:read"], "expires_at": in_hours(2)})).await, 403, None);
    let half = domain::Timestamp(w.one.tree.plane.now().0 + 1_800_000_000).to_rfc3339();
    mint(json!({"name": "x", "scopes": ["nodes:read"], "expires_at": half})).await.expect(201);
    w.end().await;
}

async fn a_key_that_makes_keys_decides_nothing_about_trust(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = w.op.get("/api/v1/projects/p").await.expect(200)["project"]["org_id"].clone();
    let org = format!("/api/v1/orgs/{}", org.as_str().unwrap());
    let minter = key(&w.op, json!({"name": "m", "scopes": MINTER})).await;
    let keys = w.op.get(&format!("{org}/keys")).await.expect(200);
    for k in keys["keys"].as_array().unwrap() {
        let path = format!("{org}/keys/{}", k["key_id"].as_str().unwrap());
        is_problem(&minter.post(&format!("{path}/export"), json!({})).await, 403, None);
        is_problem(&minter.post(&format!("{path}/remove"), json!({})).await, 403, None);
    }
    is_problem(&minter.post(&format!("{org}/keys"), json!({"role": "root"})).await, 403, None);
    is_problem(&minter.post(&format!("{org}/trust"), json!({"root": {"threshold": 1}})).await, 403, None);
    w.end().await;
}

async fn who_is_shut_out_hears_nothing_more(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let body = json!({"name": "listener", "scopes": ["nodes:read"]});
    let made = w.op.post("/api/v1/api-keys", body).await.expect(201);
    let listener = Client::new(&w.one.url, made["key"].as_str());
    let mut events = listener.events("/api/v1/events/stream?project=p").await;
    let first = Hand::register(&w.one.url, "p", "first").await;
    assert_eq!(events.next().await["id"], json!(first.id));
    let path = format!("/api/v1/api-keys/{}/revoke", made["api_key"]["id"].as_str().unwrap());
    w.op.post(&path, json!({})).await.expect(200);
    // An instance that did not revoke it itself learns of it within a second.
    eventually("the key is void everywhere", async || {
        (listener.get("/api/v1/projects/p/nodes").await.status == 401).then_some(())
    })
    .await;
    Hand::register(&w.one.url, "p", "second").await;
    let heard = events.rest().await;
    assert!(!heard.contains("\"kind\""), "{heard}");
    w.end().await;
}

async fn metrics_without_a_token_name_no_tenant(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    open_project(&w.op, "a-name-to-keep").await;
    // Until the count of nodes by project has been taken.
    eventually("nodes are counted by project", async || {
        let families = w.one.tree.plane.registry().gather();
        let text = format!("{families:?}");
        text.contains("a-name-to-keep").then_some(())
    })
    .await;
    let page = Client::new(&w.one.url, None).get("/metrics").await;
    let text = String::from_utf8_lossy(&page.bytes).into_owned();
    assert!(page.status == 200 && text.contains("sentinel_cp_rollouts"), "{text}");
    assert!(!text.contains("a-name-to-keep"), "{text}");
    w.end().await;
}

async fn slugs_of_projects_and_addresses_of_strangers_cannot_be_tried(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let guesser = Client::new(&w.one.url, Some("set_made_up"));
    let ask = async |slug: &str, name: &str| {
        let answer = guesser.post(&format!("/api/v1/projects/{slug}/nodes/register"), json!({"name": name})).await;
        (answer.status, answer.body["detail"].clone())
    };
    for name in ["a", "-not a name-"] {
        assert_eq!(ask("p", name).await, ask("no-such-project", name).await, "{name}");
    }
    // The filter of the audit page looks for addresses among those one may know.
    let other = people::org(&w.op, "Other").await;
    let stranger = people::member(&w.op, &other, "s@example.org", "admin").await;
    stranger.send("POST", "/api/v1/projects", json!({"name": "theirs"})).await.expect(201);
    let spare = json!({"email": "hidden@example.org"});
    let hidden = w.op.post("/api/v1/users", spare).await.expect(201)["user"]["id"].as_str().unwrap().to_string();
    let asked = async |email: &str| {
        let page = stranger.get(&format!("/projects/theirs/audit?actor={email}")).await;
        assert_eq!(page.status, 200, "{email}");
        String::from_utf8_lossy(&page.bytes).into_owned()
    };
    let said = asked("hidden@example.org").await;
    assert!(!said.contains(&hidden), "{said}");
    // Once they are known here, the same question finds them.
    people::join(&w, &hidden, &other, domain::Role::Reader).await;
    let said = asked("hidden@example.org").await;
    assert!(said.contains(&hidden), "{said}");
    w.end().await;
}

async fn a_repeated_request_gives_nobody_what_is_not_theirs(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    open_project(&w.op, "q").await;
    let a = key(&w.op, json!({"name": "a", "scopes": ["nodes:write"], "project_id": "p"})).await;
    let b = key(&w.op, json!({"name": "b", "scopes": ["nodes:write"], "project_id": "q"})).await;
    let reader = key(&w.op, json!({"name": "r", "scopes": ["nodes:read"], "project_id": "p"})).await;
    let ask = async |who: &Client, project: &str, name: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "the-same")];
        let body = Bytes::from(json!({"name": name}).to_string());
        who.raw("POST", &format!("/api/v1/projects/{project}/enrolment-tokens"), &headers, body).await
    };
    let first = ask(&a, "p", "t").await.expect(201);
    assert!(!first["token"].as_str().unwrap().is_empty());
    let again = ask(&a, "p", "t").await;
    assert!(matches!(again.status, 200 | 201));
    assert_eq!(again.body["enrolment_token"]["id"], first["enrolment_token"]["id"]);
    assert_eq!(again.body["token"], "", "a secret is shown once");
    is_problem(&ask(&a, "p", "another").await, 422, Some("Idempotency-Key"));
    // The key belongs to the credential and the path: others get their own answer, or a refusal.
    is_problem(&ask(&b, "p", "t").await, 404, None);
    is_problem(&ask(&reader, "p", "t").await, 403, None);
    let own = ask(&b, "q", "t").await.expect(201);
    assert_ne!(own["enrolment_token"]["id"], first["enrolment_token"]["id"]);
    let admin = ask(&w.op, "p", "t").await.expect(201);
    assert_ne!(admin["enrolment_token"]["id"], first["enrolment_token"]["id"]);
    w.end().await;
}

async fn another_organisation_hears_and_downloads_nothing(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let other = people::org(&w.op, "Other").await;
    let stranger = people::member(&w.op, &other, "s@example.org", "admin").await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let b = w.bundle("v1").await;
    let rollout = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
    let (bundle, id) = (b["bundle_id"].as_str().unwrap(), &node.id);
    for path in [
        "/api/v1/events/stream?project=p".to_string(),
        format!("/api/v1/projects/p/bundles/{bundle}/download"),
        format!("/api/v1/projects/p/bundles/{bundle}/manifest"),
        format!("/api/v1/projects/p/nodes/{id}"),
        format!("/api/v1/rollouts/{rollout}"),
        "/api/v1/projects/p/audit_logs".into(),
        "/api/v1/projects/p/audit_logs/export".into(),
        "/api/v1/audit/verify?project=p".into(),
        "/projects/p/nodes".into(),
        "/projects/p/rollouts".into(),
        format!("/projects/p/rollouts/{rollout}"),
        "/projects/p/audit".into(),
    ] {
        let answer = stranger.get(&path).await;
        assert_eq!(answer.status, 404, "{path}");
        let said = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(!said.contains(bundle) && !said.contains(id), "{path}: {said:.300}");
    }
    // Its own audit verification counts only its own entries.
    let verdict = stranger.get("/api/v1/audit/verify").await.expect(200);
    assert_eq!((&verdict["valid"], &verdict["entries"]), (&json!(true), &json!(0)), "{verdict:#}");
    w.end().await;
}

async fn refusals_and_the_first_use_of_a_key_are_in_the_audit_log(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let made = w.op.post("/api/v1/api-keys", json!({"name": "r", "scopes": ["nodes:read"]})).await.expect(201);
    let (id, reader) = (&made["api_key"]["id"], Client::new(&w.one.url, made["key"].as_str()));
    let store = w.one.tree.plane.store().clone();
    let of_key = async |action: &str| {
        let filter = store::AuditFilter { action: Some(action.into()), ..Default::default() };
        let scope = domain::Scope::System("a test looks at every chain");
        let found = store.audit_entries(scope, filter, store::Page::first(500)).await.unwrap().rows;
        found.into_iter().filter(|e| json!(e.actor_id) == *id).collect::<Vec<_>>()
    };
    assert!(of_key("api_key.first_used").await.is_empty());
    let mut calls = Vec::new();
    for _ in 0..5 {
        let answer = reader.get("/api/v1/projects/p/nodes").await;
        calls.push(json!(answer.header("x-request-id")));
        answer.expect(200);
        is_problem(&reader.post("/api/v1/projects/p/enrolment-tokens", json!({"name": "x"})).await, 403, None);
    }
    let used = of_key("api_key.first_used").await;
    assert_eq!(used.len(), 1);
    assert_eq!((json!(used[0].request_id), used[0].ip.is_some()), (calls[0].clone(), true), "the call that it was");
    let refused = of_key("permission.refused").await;
    assert_eq!(refused.len(), 1, "those of one minute are joined: {refused:#?}");
    assert_eq!(refused[0].changes["route"], "/api/v1/projects/:project/enrolment-tokens");
    assert!(refused[0].ip.is_some() && refused[0].request_id.is_some());
    w.end().await;
}

async fn what_was_done_to_an_organisation_is_told_to_its_own_administrators(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (one, two) = (people::org(&w.op, "One").await, people::org(&w.op, "Two").await);
    let admin = people::member(&w.op, &one, "a@example.org", "admin").await;
    let reader = people::member(&w.op, &one, "r@example.org", "reader").await;
    let stranger = people::member(&w.op, &two, "s@example.org", "admin").await;
    admin.send("PATCH", &format!("/api/v1/orgs/{one}"), json!({"name": "One and only"})).await.expect(200);
    admin.send("POST", "/api/v1/api-keys", json!({"name": "k", "scopes": ["audit:read"]})).await.expect(201);
    admin.send("POST", &format!("/api/v1/orgs/{one}/keys"), json!({"role": "bundle"})).await.expect(201);

    let logs = |org: &str| format!("/api/v1/orgs/{org}/audit_logs");
    let mine = admin.get(&logs(&one)).await.expect(200);
    let told: Vec<&str> = mine["audit_logs"].as_array().unwrap().iter().filter_map(|e| e["action"].as_str()).collect();
    for action in [
        "org.created",
        "org.updated",
        "member.invited",
        "invitation.accepted",
        "api_key.created",
        "key.created",
        "trust.created",
    ] {
        assert!(told.contains(&action), "{action}: {told:?}");
    }
    // Neither what was done to the other, nor what is nobody's or of the whole instance: who signed in, what was refused.
    assert!(told.iter().all(|a| !a.starts_with("session.") && !a.starts_with("permission.")), "{told:?}");
    for of_two in [two.as_str(), "s@example.org"] {
        assert!(!mine.to_string().contains(of_two), "{of_two}: {mine:#}");
    }
    let invited = admin.get(&format!("{}?action=member.invited", logs(&one))).await.expect(200);
    assert_eq!(invited["total"], 2);
    let export = admin.get(&format!("{}/export?format=csv", logs(&one))).await;
    let export = String::from_utf8_lossy(&export.bytes).into_owned();
    assert!(export.contains("member.invited") && !export.contains(two.as_str()), "{export}");

    let theirs = stranger.get(&logs(&two)).await.expect(200).to_string();
    assert!(theirs.contains("member.invited") && !theirs.contains(one.as_str()), "{theirs}");
    for path in [logs(&one), format!("{}/export", logs(&one))] {
        is_problem(&stranger.get(&path).await, 404, None);
    }
    // Who does not administer it reads what was done in its projects: there are none.
    assert_eq!(reader.get(&logs(&one)).await.expect(200)["total"], 0);
    let page = async |person: &people::Person| {
        let page = person.get("/audit").await;
        assert_eq!(page.status, 200);
        String::from_utf8_lossy(&page.bytes).contains("member.invited")
    };
    assert!(page(&admin).await && !page(&reader).await);
    w.end().await;
}
