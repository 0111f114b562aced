//! Tokens of nodes, and keys that change while they work.

use crate::harness::*;
use crate::people;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

on_both_databases!(
    a_token_does_what_its_key_does_and_nothing_else,
    a_token_ends_with_its_key,
    a_forged_token_opens_nothing,
    a_node_changes_its_key_without_missing_a_beat,
    an_operator_may_let_the_old_key_live_for_a_while,
    a_key_that_an_operator_replaced_leaves_nothing_behind,
    the_nodes_of_a_deleted_project_are_nobodys,
);

async fn token_of(node: &Hand) -> Value {
    node.http.post(&format!("/api/v1/nodes/{}/token", node.id), json!({})).await.expect(200)
}

async fn beats(http: &Client, id: &str) -> u16 {
    http.post(&format!("/api/v1/nodes/{id}/heartbeat"), json!({})).await.status
}

async fn a_token_does_what_its_key_does_and_nothing_else(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let other = Hand::register(&w.one.url, "p", "b").await;
    let made = token_of(&node).await;
    assert_eq!((&made["token_type"], &made["expires_in"]), (&json!("Bearer"), &json!(12 * 3600)), "{made:#}");
    let text = made["token"].as_str().unwrap();
    let header: Value = serde_json::from_slice(&BASE64.decode(text.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!((&header["alg"], header["kid"].as_str().unwrap().len()), (&json!("EdDSA"), 64));
    let by_token = Client::new(&w.one.url, Some(text));
    assert_eq!(beats(&by_token, &node.id).await, 200);
    by_token.get(&format!("/api/v1/nodes/{}/bundles/latest", node.id)).await.expect(200);
    let report = by_token.post(&node.report_path("baseline", "verified"), json!({})).await;
    assert_eq!(report.status, 200, "{:#}", report.body);
    assert_eq!(beats(&by_token, &other.id).await, 403, "another node's path");
    // A steady heartbeat by token asks the database nothing; the sweeps, which come now and then, ask a handful each.
    eventually("20 heartbeats and fewer statements", async || {
        let before = w.one.tree.plane.store().statements();
        for _ in 0..20 {
            assert_eq!(beats(&by_token, &node.id).await, 200);
        }
        (w.one.tree.plane.store().statements() - before < 20).then_some(())
    })
    .await;
    for what in ["token", "rotate-key"] {
        is_problem(&by_token.post(&format!("/api/v1/nodes/{}/{what}", node.id), json!({})).await, 403, None);
    }
    // It is no operator's key.
    for path in ["/api/v1/projects", "/api/v1/session", "/api/v1/projects/p/nodes", "/api/v1/events/stream"] {
        is_problem(&by_token.get(path).await, 401, None);
    }
    w.end().await;
}

async fn a_token_ends_with_its_key(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let path = format!("/api/v1/projects/p/nodes/{}", node.id);
    let first = token_of(&node).await;
    let first = Client::new(&w.one.url, first["token"].as_str());
    assert_eq!(beats(&first, &node.id).await, 200);
    let rotated = w.op.post(&format!("{path}/rotate-key"), json!({})).await.expect(200);
    assert_eq!(beats(&first, &node.id).await, 401);
    assert_eq!(beats(&node.http, &node.id).await, 401);
    let node = Hand {
        http: Client::node(&w.one.url, rotated["node_key"].as_str().unwrap()),
        key: rotated["node_key"].as_str().unwrap().into(),
        ..node
    };
    let second = token_of(&node).await;
    let second = Client::new(&w.one.url, second["token"].as_str());
    assert_eq!(beats(&second, &node.id).await, 200);
    w.op.post(&format!("{path}/revoke"), json!({})).await.expect(200);
    assert_eq!(beats(&second, &node.id).await, 401);
    assert_eq!(node.http.post(&format!("/api/v1/nodes/{}/token", node.id), json!({})).await.status, 401);
    w.end().await;
}

async fn a_forged_token_opens_nothing(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let good = token_of(&node).await["token"].as_str().unwrap().to_string();
    let parts: Vec<&str> = good.split('.').collect();
    let claims: Value = serde_json::from_slice(&BASE64.decode(parts[1]).unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&BASE64.decode(parts[0]).unwrap()).unwrap();
    let part = |v: &Value| BASE64.encode(v.to_string());
    let with = |field: &str, value: Value| {
        let mut c = claims.clone();
        c[field] = value;
        c
    };
    // A whole other organisation, with a node and a token of its own.
    let other = people::org(&w.op, "Other").await;
    let settings = json!({"open_registration": true, "adopt_on_registration": true});
    let body = json!({"name": "z", "slug": "z", "org_id": other, "settings": settings});
    w.op.post("/api/v1/projects", body).await.expect(201);
    let theirs = Hand::register(&w.one.url, "z", "a").await;
    let foreign = token_of(&theirs).await["token"].as_str().unwrap().to_string();
    let foreign_kid: Value =
        serde_json::from_slice(&BASE64.decode(foreign.split('.').next().unwrap()).unwrap()).unwrap();
    let none = json!({"alg": "none", "typ": "JWT", "kid": header["kid"]});
    let unknown = json!({"alg": "EdDSA", "typ": "JWT", "kid": "0".repeat(64)});
    let tries = [
        ("alg none", format!("{}.{}.", part(&none), parts[1])),
        ("alg none with a signature", format!("{}.{}.{}", part(&none), parts[1], parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("an unknown key", format!("{}.{}.{}", part(&unknown), parts[1], parts[2])),
        ("the key of another organisation", format!("{}.{}.{}", part(&foreign_kid), parts[1], parts[2])),
        ("a longer life", format!("{}.{}.{}", parts[0], part(&with("exp", json!(i64::MAX))), parts[2])),
        ("another audience", format!("{}.{}.{}", parts[0], part(&with("aud", json!("operators"))), parts[2])),
        ("another node", format!("{}.{}.{}", parts[0], part(&with("sub", json!(theirs.id))), parts[2])),
    ];
    for (what, token) in tries {
        let status = beats(&Client::new(&w.one.url, Some(&token)), &node.id).await;
        assert_eq!(status, 401, "{what}");
    }
    // Their genuine token names their node, and only that.
    let theirs_by_token = Client::new(&w.one.url, Some(&foreign));
    assert_eq!(beats(&theirs_by_token, &theirs.id).await, 200);
    assert_eq!(beats(&theirs_by_token, &node.id).await, 403);
    assert_eq!(beats(&Client::new(&w.one.url, Some(&good)), &node.id).await, 200);
    w.end().await;
}

async fn a_node_changes_its_key_without_missing_a_beat(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let rotate = format!("/api/v1/nodes/{}/rotate-key", node.id);
    // The answer is lost, and the node asks again with the key that it has.
    node.http.post(&rotate, json!({})).await.expect(200);
    assert_eq!(beats(&node.http, &node.id).await, 200);
    let second = node.http.post(&rotate, json!({})).await.expect(200);
    assert_eq!(beats(&node.http, &node.id).await, 200, "the old key works until the new one is used");
    let new = Client::node(&w.one.url, second["node_key"].as_str().unwrap());
    assert_eq!(beats(&new, &node.id).await, 200);
    assert_eq!(beats(&node.http, &node.id).await, 401, "and not a call longer");
    assert_eq!(beats(&new, &node.id).await, 200);
    w.end().await;
}

/// As if the old key had been stolen: with a grace for the node, which must not become one for the thief.
async fn a_key_that_an_operator_replaced_leaves_nothing_behind(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let path = format!("/api/v1/projects/p/nodes/{}/rotate-key", node.id);
    let rotated = w.op.post(&path, json!({"grace_seconds": 600})).await.expect(200);
    let minted = token_of(&node).await;
    assert!(minted["expires_in"].as_i64().unwrap() <= 600, "no longer than the key: {minted:#}");
    let by_token = Client::new(&w.one.url, minted["token"].as_str());
    assert_eq!(beats(&by_token, &node.id).await, 200);
    is_problem(&node.http.post(&format!("/api/v1/nodes/{}/rotate-key", node.id), json!({})).await, 403, None);
    let new = Client::node(&w.one.url, rotated["node_key"].as_str().unwrap());
    assert_eq!(beats(&new, &node.id).await, 200, "the operator's key was not replaced");
    assert_eq!(beats(&node.http, &node.id).await, 401);
    assert_eq!(beats(&by_token, &node.id).await, 401, "the token ends with the key it was made for");
    assert_eq!(beats(&new, &node.id).await, 200);
    w.end().await;
}

async fn the_nodes_of_a_deleted_project_are_nobodys(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    open_project(&w.op, "gone").await;
    let node = Hand::register(&w.one.url, "gone", "a").await;
    assert_eq!(beats(&node.http, &node.id).await, 200);
    let by_token = token_of(&node).await;
    let by_token = Client::new(&w.one.url, by_token["token"].as_str());
    assert_eq!(beats(&by_token, &node.id).await, 200);
    assert_eq!(w.op.send("DELETE", "/api/v1/projects/gone", json!({})).await.status, 204);
    for http in [&node.http, &by_token] {
        eventually("every instance forgets the node", async || (beats(http, &node.id).await == 401).then_some(()))
            .await;
    }
    assert_eq!(node.http.post(&format!("/api/v1/nodes/{}/token", node.id), json!({})).await.status, 401);
    w.end().await;
}

async fn an_operator_may_let_the_old_key_live_for_a_while(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.one.url, "p", "a").await;
    let path = format!("/api/v1/projects/p/nodes/{}/rotate-key", node.id);
    is_problem(&w.op.post(&path, json!({"grace_seconds": 10_000_000})).await, 422, Some("grace_seconds"));
    w.op.post(&path, json!({"grace_seconds": 1})).await.expect(200);
    eventually("the old key ends with its grace", async || (beats(&node.http, &node.id).await == 401).then_some(()))
        .await;
    w.end().await;
}
