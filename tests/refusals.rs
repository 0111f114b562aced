//! Bad input: the right 4xx as a problem document, and nothing stored.

use crate::harness::*;
use bytes::Bytes;
use serde_json::{Value, json};

everywhere!(
    bad_input_gets_the_right_4xx_and_stores_nothing,
    a_body_beyond_the_limit_is_413,
    who_is_not_known_sends_64_kib_at_most_and_a_form_of_nobody_is_not_read,
    the_same_idempotency_key_does_it_once,
    too_many_requests_are_429_and_say_when_to_come_back,
    wrong_credentials_are_slowed_by_their_address_and_good_ones_are_not,
);

/// Everything that a refused request could have stored.
async fn stored(op: &Client) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for path in [
        "/api/v1/projects",
        "/api/v1/api-keys",
        "/api/v1/projects/p/nodes",
        "/api/v1/projects/p/bundles",
        "/api/v1/projects/p/rollouts",
        "/api/v1/projects/p/enrolment-tokens",
        "/api/v1/projects/p/audit_logs",
    ] {
        out.push((path.to_string(), op.get(path).await.expect(200)["total"].clone()));
    }
    out.push(("entries of all chains".into(), op.get("/api/v1/audit/verify").await.expect(200)["entries"].clone()));
    out
}

/// Who sends a request of the table.
#[derive(Clone, Copy, Debug)]
enum By {
    Operator,
    Nobody,
    WrongKey,
    /// The node `a`, with its key.
    Node,
    WrongNodeKey,
}
use By::{Nobody, Node, Operator, WrongKey, WrongNodeKey};

async fn bad_input_gets_the_right_4xx_and_stores_nothing(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let node = Hand::register(&w.at, "p", "a").await;
    let other = Hand::register(&w.at, "p", "b").await;
    node.beat(json!({})).await;
    let b = w.bundle("v1").await;
    let bundle = b["bundle_id"].as_str().unwrap().to_string();
    let (mine, foreign) = (format!("/api/v1/nodes/{}", node.id), format!("/api/v1/nodes/{}", other.id));
    let (beat, report) = (format!("{mine}/heartbeat"), format!("{mine}/bundles/{bundle}/staged"));
    let (foreign_beat, foreign_poll) = (format!("{foreign}/heartbeat"), format!("{foreign}/bundles/latest"));
    let foreign_report = format!("{foreign}/bundles/{bundle}/activated");
    let patch = format!("/api/v1/projects/p/nodes/{}", node.id);
    let nowhere = format!("/api/v1/rollouts/{}", uuid::Uuid::nil());
    let (nowhere_pause, nobody_node) =
        (format!("{nowhere}/pause"), format!("/api/v1/projects/p/nodes/{}", uuid::Uuid::nil()));
    let long = "x".repeat(101);
    let many = "x".repeat(300);
    let (projects, tokens, keys) = ("/api/v1/projects", "/api/v1/projects/p/enrolment-tokens", "/api/v1/api-keys");
    let (rollouts, plan) = ("/api/v1/projects/p/rollouts", "/api/v1/projects/p/rollouts/plan");
    let (bundles, compile, desired) =
        ("/api/v1/projects/p/bundles", "/api/v1/projects/p/compile", "/api/v1/projects/p/desired_config");
    let register = "/api/v1/projects/p/nodes/register";
    let of_bundle = |rest: &str| format!("{{\"bundle_id\":\"{bundle}\",{rest}}}");
    let name = |n: &str| json!({"name": n}).to_string();
    let unknown_bundle = json!({"bundle_id": "ab".repeat(32)}).to_string();

    // Who, method, path, body, status, the field that a 422 names.
    #[allow(clippy::type_complexity)] // a table, read as one
    let table: Vec<(By, &str, &str, String, u16, Option<&str>)> = vec![
        // Text that is not JSON.
        (Operator, "POST", projects, "{".into(), 400, None),
        (Operator, "POST", projects, "nonsense".into(), 400, None),
        (Operator, "POST", projects, "".into(), 400, None),
        (Operator, "POST", rollouts, "{\"bundle_id\": }".into(), 400, None),
        (Node, "POST", &beat, "{".into(), 400, None),
        (Node, "POST", &report, "}".into(), 400, None),
        (Nobody, "POST", register, "{\"name\"".into(), 400, None),
        // JSON of the wrong kind.
        (Operator, "POST", projects, "[]".into(), 422, Some("body")),
        (Operator, "POST", projects, "null".into(), 422, Some("body")),
        (Operator, "POST", projects, "{}".into(), 422, Some("name")),
        (Operator, "POST", projects, r#"{"name": 7}"#.into(), 422, Some("name")),
        (Operator, "POST", projects, r#"{"name": "x", "slug": "Not A Slug"}"#.into(), 422, Some("slug")),
        (Operator, "POST", projects, r#"{"name": "x", "settings": "open"}"#.into(), 422, Some("settings")),
        (Operator, "POST", projects, r#"{"name": "x\u0000"}"#.into(), 422, Some("body")),
        (Operator, "POST", projects, r#"{"name": "x", "colour": "red"}"#.into(), 422, Some("colour")),
        (Operator, "POST", projects, r#"{"name": "P again", "slug": "p"}"#.into(), 409, None),
        (Operator, "PATCH", "/api/v1/projects/p", r#"{"name": ""}"#.into(), 422, Some("name")),
        (Operator, "PATCH", "/api/v1/projects/p", r#"{"slug": "q"}"#.into(), 422, Some("slug")),
        (
            Operator,
            "PATCH",
            "/api/v1/projects/p",
            r#"{"settings": {"max_updating": "lots"}}"#.into(),
            422,
            Some("settings.max_updating"),
        ),
        (Operator, "POST", tokens, r#"{"name": "t", "max_uses": 0}"#.into(), 422, Some("max_uses")),
        (Operator, "POST", tokens, r#"{"name": "t", "max_uses": "many"}"#.into(), 422, Some("max_uses")),
        (Operator, "POST", tokens, r#"{"name": "t", "expires_at": "tomorrow"}"#.into(), 422, Some("expires_at")),
        (
            Operator,
            "POST",
            tokens,
            r#"{"name": "t", "expires_at": "2001-01-01T00:00:00Z"}"#.into(),
            422,
            Some("expires_at"),
        ),
        (Operator, "POST", keys, r#"{"name": "k"}"#.into(), 422, Some("scopes")),
        (Operator, "POST", keys, r#"{"name": "k", "scopes": ["everything"]}"#.into(), 422, Some("scopes[0]")),
        (Operator, "PATCH", &patch, r#"{"labels": {"a b": "c"}}"#.into(), 422, Some("labels")),
        (Operator, "PATCH", &patch, r#"{"labels": []}"#.into(), 422, Some("labels")),
        (Operator, "PATCH", &patch, r#"{"pinned_bundle_id": 7}"#.into(), 422, Some("pinned_bundle_id")),
        (Operator, "PATCH", &patch, r#"{"pinned_bundle_id": "nothing"}"#.into(), 422, Some("pinned_bundle_id")),
        (Operator, "POST", desired, "{}".into(), 422, Some("config")),
        (Operator, "POST", desired, r#"{"config": "a", "config_kdl": "b"}"#.into(), 422, Some("config")),
        (Operator, "POST", desired, r#"{"files": {}}"#.into(), 422, Some("files")),
        (Operator, "POST", desired, r#"{"files": {"config.kdl": 1}}"#.into(), 422, Some("files.config.kdl")),
        (Operator, "POST", compile, r#"{"desired_config_id": "x"}"#.into(), 422, Some("desired_config_id")),
        (Operator, "POST", bundles, r#"{"version": "", "config_source": "a"}"#.into(), 422, Some("version")),
        (Operator, "POST", bundles, r#"{"version": "baseline", "config_source": "a"}"#.into(), 422, Some("version")),
        (Operator, "POST", bundles, r#"{"version": "v9"}"#.into(), 422, Some("config_source")),
        (Operator, "POST", rollouts, "{}".into(), 422, Some("bundle_id")),
        (Operator, "POST", rollouts, r#"{"bundle_id": 5}"#.into(), 422, Some("bundle_id")),
        (Operator, "POST", rollouts, unknown_bundle.clone(), 422, Some("bundle_id")),
        (Operator, "POST", plan, unknown_bundle, 422, Some("bundle_id")),
        (Operator, "POST", rollouts, of_bundle(r#""batch_size": 0"#), 422, Some("batch_size")),
        (Operator, "POST", rollouts, of_bundle(r#""batch_size": "150%""#), 422, Some("batch_size")),
        (Operator, "POST", rollouts, of_bundle(r#""strategy": "sideways""#), 422, Some("strategy")),
        (Operator, "POST", rollouts, of_bundle(r#""ramp": 0.1"#), 422, Some("ramp")),
        (Operator, "POST", rollouts, of_bundle(r#""on_failure": "panic""#), 422, Some("on_failure")),
        (
            Operator,
            "POST",
            rollouts,
            of_bundle(r#""health_gates": {"max_error_rate": 400}"#),
            422,
            Some("max_error_rate"),
        ),
        (
            Operator,
            "POST",
            rollouts,
            of_bundle(r#""health_gates": {"max_sadness": 4}"#),
            422,
            Some("health_gates.max_sadness"),
        ),
        (
            Operator,
            "POST",
            rollouts,
            of_bundle(r#""target_selector": {"type": "psychic"}"#),
            422,
            Some("target_selector"),
        ),
        (
            Operator,
            "POST",
            rollouts,
            of_bundle(
                r#""target_selector": {"type": "node_ids", "node_ids": ["0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f"]}"#,
            ),
            422,
            Some("target_selector.node_ids"),
        ),
        (Operator, "POST", rollouts, of_bundle(r#""scheduled_at": "2001-01-01T00:00:00Z""#), 422, Some("scheduled_at")),
        (
            Operator,
            "POST",
            rollouts,
            of_bundle(r#""min_healthy_seconds": 900"#),
            422,
            Some("progress_deadline_seconds"),
        ),
        (Operator, "POST", rollouts, of_bundle(r#""surprise": true"#), 422, Some("surprise")),
        (Operator, "GET", "/api/v1/projects/p/nodes?limit=0", "".into(), 422, Some("limit")),
        (Operator, "GET", "/api/v1/projects/p/nodes?limit=lots", "".into(), 422, Some("limit")),
        (Operator, "GET", "/api/v1/projects/p/nodes?cursor=xyz", "".into(), 422, Some("cursor")),
        (Operator, "GET", "/api/v1/projects/p/nodes?status=sleepy", "".into(), 422, Some("status")),
        (Operator, "GET", "/api/v1/projects/p/nodes?labels%5B%5D=x", "".into(), 422, Some("labels")),
        (Operator, "GET", "/api/v1/projects/p/nodes?labels%5B%24x%5D=1", "".into(), 422, Some("labels")),
        (Operator, "GET", "/api/v1/projects/p/nodes?labels%5B%5Bx%5D%5D=1", "".into(), 422, Some("labels")),
        (Operator, "GET", "/api/v1/projects/p/bundles?status=lost", "".into(), 422, Some("status")),
        (Operator, "GET", "/api/v1/projects/p/rollouts?state=lost", "".into(), 422, Some("state")),
        (Operator, "GET", "/api/v1/projects/p/audit_logs?since=noon", "".into(), 422, Some("since")),
        (Operator, "GET", "/api/v1/projects/p/bundles/v1/manifest?%00", "".into(), 422, None),
        // Bad names of nodes, bad words of nodes.
        (Nobody, "POST", register, "{}".into(), 422, Some("name")),
        (Nobody, "POST", register, name(""), 422, Some("name")),
        (Nobody, "POST", register, name("-a"), 422, Some("name")),
        (Nobody, "POST", register, name("a b"), 422, Some("name")),
        (Nobody, "POST", register, name("a/../b"), 422, Some("name")),
        (Nobody, "POST", register, name("ä"), 422, Some("name")),
        (Nobody, "POST", register, name(&long), 422, Some("name")),
        (Nobody, "POST", register, name("a"), 409, None),
        (Nobody, "POST", register, r#"{"name": "c", "labels": {"k": 1}}"#.into(), 422, Some("labels.k")),
        (Nobody, "POST", register, json!({"name": "c", "hostname": many}).to_string(), 422, Some("hostname")),
        (Node, "POST", &beat, r#"{"seq": "one"}"#.into(), 422, Some("seq")),
        (Node, "POST", &beat, r#"{"active_bundle_id": "v1"}"#.into(), 422, Some("active_bundle_id")),
        (Node, "POST", &beat, r#"{"metrics": {"error_rate": -1}}"#.into(), 422, Some("metrics.error_rate")),
        (Node, "POST", &beat, r#"{"health": 7}"#.into(), 422, Some("health")),
        (Node, "POST", &beat, "[1]".into(), 422, Some("body")),
        (Node, "POST", &report, r#"{"generation": "two"}"#.into(), 422, Some("generation")),
        // Nobody, a wrong key, another's path.
        (Nobody, "GET", projects, "".into(), 401, None),
        (WrongKey, "GET", projects, "".into(), 401, None),
        (WrongKey, "POST", projects, name("x"), 401, None),
        (WrongKey, "POST", register, name("x"), 401, None),
        (Nobody, "POST", &beat, "{}".into(), 401, None),
        (WrongNodeKey, "POST", &beat, "{}".into(), 401, None),
        (WrongNodeKey, "POST", &report, "{}".into(), 401, None),
        (Node, "GET", projects, "".into(), 401, None),
        (Node, "POST", &foreign_beat, "{}".into(), 403, None),
        (Node, "GET", &foreign_poll, "".into(), 403, None),
        (Node, "POST", &foreign_report, "{}".into(), 403, None),
        // What is not there.
        (Nobody, "POST", "/api/v1/projects/nowhere/nodes/register", name("x"), 404, None),
        (Operator, "GET", "/api/v1/projects/nowhere", "".into(), 404, None),
        (Operator, "POST", "/api/v1/projects/nowhere/rollouts", "{}".into(), 404, None),
        (Operator, "GET", &nowhere, "".into(), 404, None),
        (Operator, "POST", &nowhere_pause, "{}".into(), 404, None),
        (Operator, "GET", &nobody_node, "".into(), 404, None),
        (Operator, "DELETE", &nobody_node, "".into(), 404, None),
        (Operator, "GET", "/api/v1/projects/p/bundles/v77", "".into(), 404, None),
        (Operator, "GET", "/api/v1/nothing/here", "".into(), 404, None),
        // The wrong method.
        (Operator, "PUT", projects, "{}".into(), 405, None),
        (Operator, "DELETE", "/api/v1/projects/p/rollouts", "".into(), 405, None),
        (Operator, "GET", compile, "".into(), 405, None),
        (Node, "GET", &beat, "".into(), 405, None),
    ];
    let mut before = stored(&w.op).await;
    // A node that tries another's path is noted, and that is all.
    let noted = table.iter().filter(|(by, _, _, _, status, _)| matches!((by, status), (Node, 403))).count() as u64;
    let wrong = "scp_wrong_0123456789abcdefghijklmnopqrstuvwxyz";
    let mut wanting = Vec::new();
    for (by, method, path, body, status, field) in table {
        let client = match by {
            Operator => w.op.clone(),
            Nobody => Client::new(&w.at, None),
            WrongKey => Client::new(&w.at, Some(wrong)),
            Node => node.http.clone(),
            WrongNodeKey => Client::node(&w.at, wrong),
        };
        let answer = client.raw(method, path, &[("content-type", "application/json")], Bytes::from(body.clone())).await;
        if let Err(why) = problem(&answer, status, field) {
            wanting.push(format!("{by:?} {method} {path} {body:.80}: {why}"));
        }
    }
    let not_json = w.op.raw("POST", projects, &[("content-type", "text/plain")], Bytes::from(name("x"))).await;
    is_problem(&not_json, 415, None);
    let form = w.op.raw("POST", rollouts, &[("content-type", "application/x-www-form-urlencoded")], "a=b".into()).await;
    is_problem(&form, 415, None);
    let method = w.op.raw("PUT", projects, &[], Bytes::new()).await;
    assert!(method.header("allow").contains("POST"), "{:?}", method.headers);
    assert!(wanting.is_empty(), "{} of the table:\n{}", wanting.len(), wanting.join("\n"));
    let (_, entries) = before.last_mut().unwrap();
    *entries = (entries.as_u64().unwrap() + noted).into();
    assert_eq!(stored(&w.op).await, before, "a refused request stored something");
    w.end().await;
}

/// The answer comes before the body was read, and the connection ends: who still writes, or asks the next thing there, may find it
/// closed before an answer.
async fn early(client: &Client, path: &str, kind: &str, body: &Bytes) -> Answer {
    let answered = async || client.try_raw("POST", path, &[("content-type", kind)], body.clone()).await.ok();
    eventually("an answer that is heard", answered).await
}

async fn a_body_beyond_the_limit_is_413(ground: Ground) {
    let w = World::on(ground, Options { max_body_bytes: 64 * 1024, ..Options::default() }).await;
    let node = Hand::register(&w.at, "p", "a").await;
    node.beat(json!({})).await;
    let before = stored(&w.op).await;
    let large = "x".repeat(100 * 1024);
    let body = json!({"name": large, "version": "v", "config_source": large, "metadata": {"x": large}});
    let body = Bytes::from(body.to_string());
    let beat = format!("/api/v1/nodes/{}/heartbeat", node.id);
    let cases = [
        (&w.op, "/api/v1/projects"),
        (&w.op, "/api/v1/projects/p/bundles"),
        (&node.http, beat.as_str()),
        (&node.http, "/api/v1/projects/p/nodes/register"),
    ];
    for (client, path) in cases {
        is_problem(&early(client, path, "application/json", &body).await, 413, None);
    }
    // Within it: judged by what it says.
    let less = json!({"version": "v", "config_source": "x".repeat(50 * 1024)});
    is_problem(&w.op.post("/api/v1/projects/p/bundles?wait=30", less).await, 422, None);
    let after = stored(&w.op).await;
    let changed: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).map(|(b, _)| b.0.as_str()).collect();
    let allowed = ["/api/v1/projects/p/bundles", "/api/v1/projects/p/audit_logs", "entries of all chains"];
    assert!(changed.iter().all(|c| allowed.contains(c)), "{changed:?}: only the failed compile may have left a trace");
    w.end().await;
}

async fn who_is_not_known_sends_64_kib_at_most_and_a_form_of_nobody_is_not_read(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let anyone = Client::new(&w.one.url, None);
    let body = json!({"email": "x".repeat(65 * 1024), "password": "x", "token": "x", "name": "x"});
    let body = Bytes::from(body.to_string());
    for path in ["/api/v1/session", "/api/v1/invitations/accept", "/api/v1/projects/p/nodes/register"] {
        is_problem(&early(&anyone, path, "application/json", &body).await, 413, None);
    }
    let form = Bytes::from(format!("config={}", "x".repeat(65 * 1024)));
    let post = async |path: &str| early(&anyone, path, "application/x-www-form-urlencoded", &form).await.status;
    assert_eq!(post("/login").await, 413);
    assert_eq!(post("/no/such/place/new").await, 404);
    assert_eq!(post("/projects/p/bundles/new").await, 303, "to sign in, whatever the form says");
    w.end().await;
}

async fn the_same_idempotency_key_does_it_once(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    Hand::register(&w.at, "p", "a").await;
    let b = w.bundle("v1").await;
    let send = async |key: &str, path: &str, body: Value| {
        w.op.raw(
            "POST",
            path,
            &[("idempotency-key", key), ("content-type", "application/json")],
            Bytes::from(body.to_string()),
        )
        .await
    };
    let (rollouts, tokens, projects) =
        ("/api/v1/projects/p/rollouts", "/api/v1/projects/p/enrolment-tokens", "/api/v1/projects");
    let body = json!({"bundle_id": b["bundle_id"], "start": false});
    let first = send("r1", rollouts, body.clone()).await.expect(201);
    let second = send("r1", rollouts, body).await.expect(201);
    assert_eq!(first["rollout"]["id"], second["rollout"]["id"]);
    assert_eq!(w.op.get(rollouts).await.expect(200)["total"], 1);
    let other = send("r1", rollouts, json!({"bundle_id": b["bundle_id"], "batch_size": 2, "start": false})).await;
    is_problem(&other, 422, Some("Idempotency-Key"));
    is_problem(&send("", rollouts, json!({"bundle_id": b["bundle_id"]})).await, 422, Some("Idempotency-Key"));

    let made = send("p1", projects, json!({"name": "Twice", "slug": "twice"})).await.expect(201);
    let again = send("p1", projects, json!({"name": "Twice", "slug": "twice"})).await.expect(201);
    assert_eq!(made["project"]["id"], again["project"]["id"]);
    let before = w.op.get(tokens).await.expect(200)["total"].clone();
    for _ in 0..2 {
        let answer = send("t1", tokens, json!({"name": "t"})).await;
        assert!(matches!(answer.status, 201 | 409), "{} {:#}", answer.status, answer.body);
    }
    assert_eq!(w.op.get(tokens).await.expect(200)["total"].as_u64(), before.as_u64().map(|n| n + 1));

    let id = first["rollout"]["id"].as_str().unwrap();
    let start = format!("/api/v1/rollouts/{id}/start");
    for _ in 0..2 {
        assert_eq!(
            send("s1", &start, json!({})).await.expect(200)["changed"],
            true,
            "a repeated command answers as the first time"
        );
    }
    assert_eq!(send("s2", &start, json!({})).await.expect(200)["changed"], false);
    let audit = w.op.get("/api/v1/projects/p/audit_logs?action=rollout.started").await.expect(200);
    assert_eq!(audit["total"], 1, "{audit:#}");

    // Whoever did not hear that it is deleted asks again, and hears it; with another key it is a thing that is not there.
    let made = async |path: &str, body: Value, noun: &str| {
        let made = w.op.post(path, body).await.expect(201);
        format!("{path}/{}", made[noun]["id"].as_str().unwrap())
    };
    let node = format!("/api/v1/projects/p/nodes/{}", Hand::register(&w.at, "p", "b").await.id);
    let group = made("/api/v1/projects/p/node-groups", json!({"name": "g", "node_ids": []}), "node_group").await;
    let key = made("/api/v1/api-keys", json!({"name": "k", "scopes": ["nodes:read"]}), "api_key").await;
    let org = made("/api/v1/orgs", json!({"name": "Twice", "slug": "twice"}), "org").await;
    for path in [node, group, key, org, "/api/v1/projects/twice".to_string()] {
        let delete = async |key: &str| w.op.raw("DELETE", &path, &[("idempotency-key", key)], Bytes::new()).await;
        for _ in 0..2 {
            assert_eq!(delete("d1").await.status, 204, "{path}");
        }
        is_problem(&delete("d2").await, 404, None);
    }
    w.end().await;
}

async fn wrong_credentials_are_slowed_by_their_address_and_good_ones_are_not(ground: Ground) {
    let w = World::on(ground, Options { rate_limit_per_address: 6, ..Options::default() }).await;
    let wrong = Client::new(&w.at, Some("scp_nobody_has_this_key"));
    let instances = w.at.all().len();
    let mut answers = Vec::new();
    for _ in 0..10 * instances {
        answers.push(wrong.get("/api/v1/projects").await);
    }
    let unauthorized = answers.iter().filter(|a| a.status == 401).count();
    // One more may have been refilled on the way.
    assert!((6 * instances..10 * instances).contains(&unauthorized), "{unauthorized} of {}", answers.len());
    let refused = answers.iter().find(|a| a.status == 429).unwrap();
    is_problem(refused, 429, None);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    // Who has a key is let in from the same address.
    w.op.get("/api/v1/projects").await.expect(200);
    w.stop().await;
}

async fn too_many_requests_are_429_and_say_when_to_come_back(ground: Ground) {
    let w = World::on(ground, Options { rate_limit_per_key: 12, ..Options::default() }).await;
    let mut refused = None;
    // Each instance counts for itself.
    for _ in 0..20 * w.at.all().len() {
        let answer = w.op.get("/api/v1/projects").await;
        assert_eq!(answer.header("x-ratelimit-limit"), "12", "{:?}", answer.headers);
        assert!(answer.header("x-ratelimit-remaining").parse::<u32>().is_ok());
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 200);
    }
    let refused = refused.unwrap();
    is_problem(&refused, 429, None);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Nodes are not counted with operators, and are not refused.
    let node = Hand::register(&w.at, "p", "a").await;
    for _ in 0..20 {
        node.beat(json!({})).await;
    }
    w.stop().await;
}
