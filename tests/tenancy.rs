//! Who may see and do what: keys of one project, enrolment tokens, rotated and revoked credentials.

use crate::harness::*;
use serde_json::{Value, json};

everywhere!(
    what_belongs_to_another_project_is_not_there,
    a_key_does_what_its_scopes_say_and_mints_no_more,
    an_enrolment_token_counts_its_uses_and_expires,
    a_rotated_or_revoked_node_key_is_void_at_once,
    a_quarantined_node_gets_nothing_until_it_is_adopted,
    two_processes_with_one_key_get_nothing_until_the_node_is_adopted_again,
);

async fn key(op: &Client, body: Value) -> String {
    op.post("/api/v1/api-keys", body).await.expect(201)["key"].as_str().unwrap().to_string()
}

async fn what_belongs_to_another_project_is_not_there(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    open_project(&w.op, "q").await;
    let node = Hand::register(&w.at, "p", "a").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"], "start": false})).await;
    let scopes = [
        "projects:read",
        "projects:write",
        "nodes:read",
        "nodes:write",
        "bundles:read",
        "bundles:write",
        "rollouts:read",
        "rollouts:write",
        "audit:read",
    ];
    let text = key(&w.op, json!({"name": "of q", "scopes": scopes, "project_id": "q"})).await;
    let of_q = Client::new(&w.at, Some(&text));
    of_q.get("/api/v1/projects/q").await.expect(200);
    of_q.get("/api/v1/projects/q/nodes").await.expect(200);
    let (bundle, hand) = (b["bundle_id"].as_str().unwrap(), &node.id);
    for (method, path) in [
        ("GET", "/api/v1/projects/p".to_string()),
        ("PATCH", "/api/v1/projects/p".into()),
        ("DELETE", "/api/v1/projects/p".into()),
        ("GET", "/api/v1/projects/p/nodes".into()),
        ("GET", format!("/api/v1/projects/p/nodes/{hand}")),
        ("DELETE", format!("/api/v1/projects/p/nodes/{hand}")),
        ("POST", format!("/api/v1/projects/p/nodes/{hand}/revoke")),
        ("GET", "/api/v1/projects/p/bundles".into()),
        ("GET", format!("/api/v1/projects/p/bundles/{bundle}/download")),
        ("POST", format!("/api/v1/projects/p/bundles/{bundle}/revoke")),
        ("POST", "/api/v1/projects/p/rollouts".into()),
        ("GET", format!("/api/v1/rollouts/{id}")),
        ("GET", format!("/api/v1/rollouts/{id}/events")),
        ("POST", format!("/api/v1/rollouts/{id}/start")),
        ("GET", "/api/v1/projects/p/audit_logs".into()),
        ("GET", "/api/v1/projects/p/enrolment-tokens".into()),
        ("GET", "/api/v1/audit/verify?project=p".into()),
        // Under its own project the other's things are not there either.
        ("GET", format!("/api/v1/projects/q/nodes/{hand}")),
        ("DELETE", format!("/api/v1/projects/q/nodes/{hand}")),
        ("GET", format!("/api/v1/projects/q/bundles/{bundle}")),
        ("GET", format!("/api/v1/projects/q/rollouts/{id}")),
    ] {
        let answer = of_q.send(method, &path, json!({})).await;
        if let Err(why) = problem(&answer, 404, None) {
            panic!("{method} {path}: {why}");
        }
    }
    let seen = of_q.get("/api/v1/projects").await.expect(200);
    assert_eq!((&seen["total"], &seen["projects"][0]["slug"]), (&json!(1), &json!("q")), "{seen:#}");
    // A bundle of the other project is an unknown one.
    let refused = of_q.post("/api/v1/projects/q/rollouts", json!({"bundle_id": bundle})).await;
    is_problem(&refused, 422, Some("bundle_id"));
    assert_eq!(rollout(&w.op, &id).await["state"], "pending");
    // The node's key opens nothing of another project.
    assert_eq!(nodes(&w.op, "p").await["a"]["standing"], "adopted");
    w.end().await;
}

async fn a_key_does_what_its_scopes_say_and_mints_no_more(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let reader = Client::new(&w.at, Some(&key(&w.op, json!({"name": "r", "scopes": ["nodes:read"]})).await));
    reader.get("/api/v1/projects/p/nodes").await.expect(200);
    for (method, path, scope) in [
        ("POST", "/api/v1/projects/p/enrolment-tokens", "nodes:write"),
        ("GET", "/api/v1/projects/p/bundles", "bundles:read"),
        ("POST", "/api/v1/projects/p/rollouts", "rollouts:write"),
        ("GET", "/api/v1/projects/p/audit_logs", "audit:read"),
        ("POST", "/api/v1/api-keys", "api_keys:admin"),
    ] {
        let answer = reader.send(method, path, json!({"name": "x", "scopes": []})).await;
        is_problem(&answer, 403, None);
        let said = answer.body["detail"].as_str().unwrap();
        assert!(said.contains(scope), "{path}: {said:?} does not name {scope}");
    }
    let nothing = Client::new(&w.at, Some(&key(&w.op, json!({"name": "0", "scopes": []})).await));
    is_problem(&nothing.get("/api/v1/projects/p/nodes").await, 403, None);
    let minter = key(&w.op, json!({"name": "m", "scopes": ["api_keys:read", "api_keys:admin", "nodes:read"]})).await;
    let minter = Client::new(&w.at, Some(&minter));
    let more = minter.post("/api/v1/api-keys", json!({"name": "x", "scopes": ["rollouts:write"]})).await;
    assert!(matches!(more.status, 403 | 422), "{} {:#}", more.status, more.body);
    let made = minter.post("/api/v1/api-keys", json!({"name": "x", "scopes": ["nodes:read"]})).await.expect(201);
    let child = Client::new(&w.at, made["key"].as_str());
    child.get("/api/v1/projects/p/nodes").await.expect(200);
    let id = made["api_key"]["id"].as_str().unwrap();
    w.op.post(&format!("/api/v1/api-keys/{id}/revoke"), json!({})).await.expect(200);
    is_problem(&child.get("/api/v1/projects/p/nodes").await, 401, None);
    w.end().await;
}

async fn an_enrolment_token_counts_its_uses_and_expires(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    w.op.post("/api/v1/projects", json!({"name": "Closed", "slug": "c"})).await.expect(201);
    let path = "/api/v1/projects/c/nodes/register";
    let token = async |body: Value| {
        let made = w.op.post("/api/v1/projects/c/enrolment-tokens", body).await.expect(201);
        Client::new(&w.at, made["token"].as_str())
    };
    let two =
        token(json!({"name": "two", "max_uses": 2, "labels": {"env": "prod"}, "allowed_label_keys": ["rack"]})).await;
    let body = json!({"name": "a", "labels": {"env": "dev", "rack": "r1", "evil": "yes"}});
    two.post(path, body).await.expect(201);
    assert_eq!(nodes(&w.op, "c").await["a"]["labels"], json!({"env": "prod", "rack": "r1"}));
    // A refused registration uses nothing up.
    is_problem(&two.post(path, json!({"name": "a"})).await, 409, None);
    two.post(path, json!({"name": "b"})).await.expect(201);
    is_problem(&two.post(path, json!({"name": "c"})).await, 401, None);
    let short = token(json!({"name": "short", "expires_in_seconds": 1})).await;
    eventually("the token has expired", async || {
        (short.post(path, json!({"name": "a"})).await.status == 401).then_some(())
    })
    .await;
    is_problem(&short.post(path, json!({"name": "late"})).await, 401, None);
    // Of another project.
    let body = json!({"name": "t"});
    let made = w.op.post("/api/v1/projects/p/enrolment-tokens", body).await.expect(201);
    let foreign = Client::new(&w.at, made["token"].as_str());
    is_problem(&foreign.post(path, json!({"name": "x"})).await, 401, None);
    let id = made["enrolment_token"]["id"].as_str().unwrap();
    assert_eq!(w.op.send("DELETE", &format!("/api/v1/projects/p/enrolment-tokens/{id}"), json!({})).await.status, 204);
    is_problem(&foreign.post("/api/v1/projects/p/nodes/register", json!({"name": "x"})).await, 401, None);
    assert_eq!(nodes(&w.op, "c").await.keys().collect::<Vec<_>>(), ["a", "b"]);
    w.end().await;
}

/// At once where the key was changed; another instance hears of it by the change feed, some milliseconds later.
async fn shut_out(ground: Ground, node: &Client, path: &str) {
    let refused = async || matches!(node.post(path, json!({})).await.status, 401 | 403);
    if ground != Ground::TwoInstances {
        assert!(refused().await, "{path}: a void key was taken");
        return;
    }
    eventually("both instances refuse the key", async || (refused().await && refused().await).then_some(())).await;
}

async fn a_rotated_or_revoked_node_key_is_void_at_once(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "a").await;
    let b = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": b["bundle_id"]})).await;
    let told = node.told().await;
    let path = format!("/api/v1/projects/p/nodes/{}", node.id);
    let rotated = w.op.post(&format!("{path}/rotate-key"), json!({})).await.expect(200);
    let beat = format!("/api/v1/nodes/{}/heartbeat", node.id);
    shut_out(ground, &node.http, &beat).await;
    let new = rotated["node_key"].as_str().or(rotated["key"].as_str()).unwrap();
    let renewed = Client::node(&w.at, new);
    renewed.post(&beat, json!({})).await.expect(200);
    w.op.post(&format!("{path}/revoke"), json!({})).await.expect(200);
    shut_out(ground, &renewed, &beat).await;
    let url = told["artifact_url"].as_str().unwrap();
    assert_eq!(Client::new(&w.at, None).get(url).await.status, 403, "the URL of a revoked node worked on");
    eventually("the revoked node is taken out of the step", async || {
        let m = members(&w.op, &id).await["a"].clone();
        (m["state"] == "skipped" && m["reason"] == "revoked").then_some(())
    })
    .await;
    w.end().await;
}

async fn two_processes_with_one_key_get_nothing_until_the_node_is_adopted_again(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let twice = Hand::register(&w.at, "p", "twice").await;
    let other = Hand::register(&w.at, "p", "other").await;
    let v1 = w.bundle("v1").await;
    let id = w.roll_out(json!({"bundle_id": v1["bundle_id"], "batch_size": 2})).await;
    let update = twice.told().await;
    for seq in 1..4 {
        // A restart, and one after it: another instance each time, and no way back.
        twice.beat(json!({"instance": format!("boot {seq}"), "seq": seq})).await;
    }
    assert_eq!(nodes(&w.op, "p").await["twice"]["standing"], "adopted");
    eventually("two that take turns are noticed", async || {
        for instance in ["here", "there"] {
            twice.beat(json!({"instance": instance})).await;
        }
        (nodes(&w.op, "p").await["twice"]["standing"] == "conflicted").then_some(())
    })
    .await;
    eventually("it is out of its rollout", async || {
        let m = members(&w.op, &id).await["twice"].clone();
        (m["state"] == "skipped" && m["reason"] == "identity_conflict").then_some(())
    })
    .await;
    assert_eq!(twice.poll(0).await["no_update"], true);
    let why = w.op.get(&format!("/api/v1/projects/p/nodes/{}/explain", twice.id)).await.expect(200);
    assert_eq!(why["primary"]["code"], "identity_conflict", "{why:#}");
    let audit = w.op.get("/api/v1/projects/p/audit_logs?limit=500&action=node.identity_conflict").await.expect(200);
    assert_eq!(audit["total"], 1, "{audit:#}");
    other.run(&other.told().await).await;
    reaches(&w.op, &id, "completed").await;

    w.op.post(&format!("/api/v1/projects/p/nodes/{}/adopt", twice.id), json!({})).await.expect(200);
    let again = w.roll_out(json!({"bundle_id": v1["bundle_id"], "strategy": "all_at_once"})).await;
    let second = eventually("it is told again", async || {
        let answer = twice.poll(1).await;
        (answer["rollout_id"] == again.as_str()).then_some(answer)
    })
    .await;
    assert!(second["generation"].as_u64() > update["generation"].as_u64());
    w.end().await;
}

async fn a_quarantined_node_gets_nothing_until_it_is_adopted(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let body = json!({"name": "Open", "slug": "o", "settings": {"open_registration": true}});
    w.op.post("/api/v1/projects", body).await.expect(201);
    let first = Hand::register(&w.at, "o", "a").await;
    assert_eq!(nodes(&w.op, "o").await["a"]["standing"], "quarantined");
    w.op.post(&format!("/api/v1/projects/o/nodes/{}/adopt", first.id), json!({})).await.expect(200);
    let late = Hand::register(&w.at, "o", "b").await;
    let v1 = bundle_of(&w.op, "o", "v1").await;
    let id = roll_out(&w.op, "o", json!({"bundle_id": v1["bundle_id"]})).await;
    first.run(&first.told().await).await;
    let r = reaches(&w.op, &id, "completed").await;
    assert_eq!(r["progress"]["verified"], 1, "{r:#}");
    assert_eq!(late.poll(0).await["no_update"], true);
    let adopt = format!("/api/v1/projects/o/nodes/{}/adopt", late.id);
    assert_eq!(w.op.post(&adopt, json!({})).await.expect(200)["changed"], true);
    assert_eq!(w.op.post(&adopt, json!({})).await.expect(200)["changed"], false);
    assert_eq!(late.told().await["bundle_id"], v1["bundle_id"]);
    w.end().await;
}
