//! Organisations, members, invitations, users, passwords, groups of nodes.

use crate::harness::*;
use bytes::Bytes;
use serde_json::{Value, json};

on_both_databases!(
    an_organisation_is_another_world,
    an_invitation_makes_a_member_once,
    nobody_joins_without_accepting_and_roles_change,
    an_account_that_another_tenant_made_is_no_way_in,
    nobody_hands_out_more_than_they_hold,
    users_are_made_disabled_and_let_in_again_by_the_instance_administrator,
    a_changed_password_ends_other_sessions_and_a_reset_voids_it,
    a_form_of_another_site_signs_nobody_in,
    a_group_stands_for_its_nodes_in_a_selector,
);

/// A person signed in, as a browser would be.
pub struct Person {
    http: Client,
    cookie: String,
    csrf: String,
}

impl Person {
    pub async fn sign_in(at: impl Into<Addresses>, email: &str, password: &str) -> Person {
        Person::try_sign_in(at, email, password).await.unwrap_or_else(|status| panic!("{email}: {status}"))
    }

    pub async fn try_sign_in(at: impl Into<Addresses>, email: &str, password: &str) -> Result<Person, u16> {
        let http = Client::new(at, None);
        let answer = http.post("/api/v1/session", json!({"email": email, "password": password})).await;
        if answer.status != 200 {
            return Err(answer.status);
        }
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_string();
        let csrf = answer.body["csrf_token"].as_str().unwrap().to_string();
        Ok(Person { http, cookie, csrf })
    }

    /// The value of the cookie.
    pub fn token(&self) -> &str {
        self.cookie.split_once('=').unwrap().1
    }

    pub fn csrf_token(&self) -> &str {
        &self.csrf
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        let headers =
            [("content-type", "application/json"), ("cookie", self.cookie.as_str()), ("x-csrf-token", &self.csrf)];
        self.http.raw(method, path, &headers, Bytes::from(body.to_string())).await
    }

    /// As [`Client::first`].
    pub async fn first(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers =
            [("content-type", "application/json"), ("cookie", self.cookie.as_str()), ("x-csrf-token", &self.csrf)];
        let body = if method == "GET" { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.http.first(method, path, &headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.http.raw("GET", path, &[("cookie", self.cookie.as_str())], Bytes::new()).await
    }
}

pub const ADMIN: (&str, &str) = ("admin@example.org", "correct horse battery staple");
const PASSWORD: &str = "a password of some length";

pub async fn org(op: &Client, name: &str) -> String {
    let made = op.post("/api/v1/orgs", json!({"name": name})).await.expect(201);
    made["org"]["id"].as_str().unwrap().to_string()
}

async fn default_org(op: &Client) -> String {
    let all = op.get("/api/v1/orgs").await.expect(200);
    let found = all["orgs"].as_array().unwrap().iter().find(|o| o["slug"] == "default");
    found.unwrap()["id"].as_str().unwrap().to_string()
}

/// Invited, accepted, signed in.
pub async fn member(op: &Client, org: &str, email: &str, role: &str) -> Person {
    let path = format!("/api/v1/orgs/{org}/members");
    let invited = op.post(&path, json!({"email": email, "role": role})).await.expect(201);
    let body = json!({"token": invited["token"], "password": PASSWORD});
    Client::new(&op.at, None).post("/api/v1/invitations/accept", body).await.expect(200);
    Person::sign_in(&op.at, email, PASSWORD).await
}

/// Makes somebody a member as if they had accepted an invitation, which would be a password to hash.
pub async fn join(w: &World, user: &str, org: &str, role: domain::Role) {
    let write = store::Write::at(w.one.tree.plane.now());
    let (user, org) = (user.parse().unwrap(), org.parse().unwrap());
    w.one.tree.plane.store().set_member(user, org, role, write).await.unwrap();
}

async fn an_organisation_is_another_world(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let other = org(&w.op, "Other").await;
    is_problem(&w.op.post("/api/v1/orgs", json!({"name": "Other"})).await, 409, None);
    is_problem(&w.op.post("/api/v1/orgs", json!({"name": "x", "slug": "No Slug"})).await, 422, Some("slug"));
    let stranger = member(&w.op, &other, "s@example.org", "admin").await;
    let seen = stranger.get("/api/v1/orgs").await.expect(200);
    assert_eq!((&seen["total"], &seen["orgs"][0]["role"]), (&json!(1), &json!("admin")), "{seen:#}");
    let mine = default_org(&w.op).await;
    for (method, path) in [
        ("GET", format!("/api/v1/orgs/{mine}")),
        ("PATCH", format!("/api/v1/orgs/{mine}")),
        ("DELETE", format!("/api/v1/orgs/{mine}")),
        ("GET", format!("/api/v1/orgs/{mine}/members")),
        ("POST", format!("/api/v1/orgs/{mine}/members")),
        ("GET", format!("/api/v1/orgs/{mine}/invitations")),
        ("GET", "/api/v1/projects/p".into()),
        ("GET", "/api/v1/projects/p/node-groups".into()),
    ] {
        let body = json!({"email": "x@example.org", "role": "admin"});
        let answer = if method == "GET" { stranger.get(&path).await } else { stranger.send(method, &path, body).await };
        assert_eq!(answer.status, 404, "{method} {path}: {:#}", answer.body);
    }
    is_problem(&stranger.send("POST", "/api/v1/orgs", json!({"name": "Third"})).await, 403, None);
    is_problem(&stranger.get("/api/v1/users").await, 403, None);
    let path = format!("/api/v1/orgs/{other}");
    let renamed = stranger.send("PATCH", &path, json!({"name": "Renamed"})).await.expect(200);
    assert_eq!(renamed["org"]["name"], "Renamed");
    stranger.send("POST", "/api/v1/projects", json!({"name": "q"})).await.expect(201);
    is_problem(&stranger.send("DELETE", &path, json!({})).await, 409, None);
    assert_eq!(stranger.send("DELETE", "/api/v1/projects/q", json!({})).await.status, 204);
    assert_eq!(stranger.send("DELETE", &path, json!({})).await.status, 204);
    is_problem(&w.op.get(&path).await, 404, None);
    w.end().await;
}

async fn an_invitation_makes_a_member_once(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (anyone, org) = (Client::new(&w.one.url, None), default_org(&w.op).await);
    let path = format!("/api/v1/orgs/{org}/members");
    let invite = async |email: &str| w.op.post(&path, json!({"email": email, "role": "reader"})).await.expect(201);
    is_problem(&w.op.post(&path, json!({"email": "nobody", "role": "reader"})).await, 422, Some("email"));
    is_problem(&w.op.post(&path, json!({"email": "a@b.c", "role": "owner"})).await, 422, Some("role"));
    let first = invite("Ann@Example.org").await;
    let second = invite("ann@example.org").await;
    let link = second["invitation"]["link"].as_str().unwrap();
    let accept = async |token: &Value, password: &str| {
        anyone.post("/api/v1/invitations/accept", json!({"token": token, "password": password})).await
    };
    is_problem(&accept(&first["token"], PASSWORD).await, 404, None);
    is_problem(&accept(&json!("inv_made_up"), PASSWORD).await, 404, None);
    is_problem(&accept(&second["token"], "short").await, 422, Some("password"));
    // The page behind the link says the same; its form needs no script and no session.
    let page = anyone.get(link).await;
    assert!(page.status == 200 && String::from_utf8_lossy(&page.bytes).contains("ann@example.org"));
    let token = second["token"].as_str().unwrap();
    let form = format!("token={token}&password={}", PASSWORD.replace(' ', "+"));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let done = anyone.raw("POST", "/invitation", &headers, Bytes::from(form)).await;
    assert_eq!((done.status, done.header("location")), (303, "/login"));
    assert_eq!(anyone.get(link).await.status, 404, "a used link is no link");
    is_problem(&accept(&second["token"], PASSWORD).await, 404, None);
    let ann = Person::sign_in(&w.one.url, "ann@example.org", PASSWORD).await;
    ann.get("/api/v1/projects/p").await.expect(200);
    is_problem(&ann.send("POST", "/api/v1/projects", json!({"name": "x"})).await, 403, None);
    // Withdrawn before it was used.
    let third = invite("bob@example.org").await;
    let open = w.op.get(&format!("/api/v1/orgs/{org}/invitations")).await.expect(200);
    assert_eq!((&open["total"], &open["invitations"][0]["email"]), (&json!(1), &json!("bob@example.org")));
    assert!(open["invitations"][0].get("link").is_none());
    let id = third["invitation"]["id"].as_str().unwrap();
    let gone = w.op.send("DELETE", &format!("/api/v1/orgs/{org}/invitations/{id}"), json!({})).await;
    assert_eq!(gone.status, 204);
    is_problem(&accept(&third["token"], PASSWORD).await, 404, None);
    w.end().await;
}

async fn nobody_joins_without_accepting_and_roles_change(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (mine, other) = (default_org(&w.op).await, org(&w.op, "Other").await);
    let ann = member(&w.op, &mine, "ann@example.org", "operator").await;
    let path = format!("/api/v1/orgs/{other}/members");
    // Invited as nobody, accepted as somebody: the account is proved with its own password.
    let late = w.op.post(&path, json!({"email": "eve@example.org", "role": "admin"})).await.expect(201);
    w.op.post("/api/v1/users", json!({"email": "eve@example.org", "password": "the password of eve"}))
        .await
        .expect(201);
    let anyone = Client::new(&w.one.url, None);
    let accept = async |password: &str| {
        anyone.post("/api/v1/invitations/accept", json!({"token": late["token"], "password": password})).await
    };
    is_problem(&accept(PASSWORD).await, 401, None);
    accept("the password of eve").await.expect(200);
    let invited = w.op.post(&path, json!({"email": "ann@example.org", "role": "reader"})).await.expect(201);
    assert!(invited.get("member").is_none(), "known or not, the answer is the same: {invited:#}");
    is_problem(&ann.get(&format!("/api/v1/orgs/{other}")).await, 404, None);
    let body = json!({"token": invited["token"], "password": PASSWORD});
    let id = anyone.post("/api/v1/invitations/accept", body).await.expect(200)["user"]["id"].clone();
    let again = w.op.post(&path, json!({"email": "ann@example.org", "role": "reader"})).await.expect(200);
    assert_eq!(again["changed"], false);
    is_problem(&w.op.post(&path, json!({"email": "ann@example.org", "role": "admin"})).await, 409, None);
    assert_eq!((&again["member"]["role"], &again["member"]["user_id"]), (&json!("reader"), &id), "{again:#}");
    let id = id.as_str().unwrap();
    is_problem(&ann.send("PATCH", &format!("{path}/{id}"), json!({"role": "admin"})).await, 403, None);
    let up = w.op.send("PATCH", &format!("{path}/{id}"), json!({"role": "admin"})).await.expect(200);
    assert_eq!(up["member"]["role"], "admin");
    ann.send("PATCH", &format!("/api/v1/orgs/{other}"), json!({"name": "Ann's"})).await.expect(200);
    let all = ann.get(&path).await.expect(200);
    assert_eq!(all["total"], 3, "{all:#}");
    // All others are removed; the last administrator stays.
    for m in all["members"].as_array().unwrap().iter().filter(|m| m["user_id"] != id) {
        let gone = ann.send("DELETE", &format!("{path}/{}", m["user_id"].as_str().unwrap()), json!({})).await;
        assert_eq!(gone.status, 204, "{:#}", gone.body);
    }
    is_problem(&ann.send("DELETE", &format!("{path}/{id}"), json!({})).await, 409, None);
    is_problem(&ann.send("PATCH", &format!("{path}/{id}"), json!({"role": "reader"})).await, 409, None);
    w.end().await;
}

/// The administrator of one organisation makes an account in somebody's name: he has the link. Another organisation invites that
/// person later, and he signs in to the account he made.
async fn an_account_that_another_tenant_made_is_no_way_in(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let (evil, good) = (org(&w.op, "Evil").await, org(&w.op, "Good").await);
    let impostor = member(&w.op, &evil, "boss@b.example", "reader").await;
    let path = format!("/api/v1/orgs/{good}/members");
    let invited = w.op.post(&path, json!({"email": "boss@b.example", "role": "admin"})).await.expect(201);
    let seen = impostor.get("/api/v1/orgs").await.expect(200);
    assert_eq!((&seen["total"], &seen["orgs"][0]["id"]), (&json!(1), &json!(evil)), "{seen:#}");
    is_problem(&impostor.get(&format!("/api/v1/orgs/{good}")).await, 404, None);
    // The real person has the link, does not know the password, and so finds out.
    let accept = async |token: &Value, password: &str| {
        let body = json!({"token": token, "password": password});
        Client::new(&w.op.at, None).post("/api/v1/invitations/accept", body).await
    };
    is_problem(&accept(&invited["token"], "what the boss would choose").await, 401, None);
    // A reset by the instance's administrator puts the impostor out, and then it works.
    let id = impostor.get("/api/v1/session").await.expect(200)["session"]["user"]["id"].clone();
    let reset = w.op.post(&format!("/api/v1/users/{}/reset-password", id.as_str().unwrap()), json!({})).await;
    accept(&reset.expect(200)["token"], "what the boss would choose").await.expect(200);
    assert_eq!(impostor.get("/api/v1/session").await.status, 401);
    accept(&invited["token"], "what the boss would choose").await.expect(200);
    let boss = Person::sign_in(&w.op.at, "boss@b.example", "what the boss would choose").await;
    boss.get(&format!("/api/v1/orgs/{good}")).await.expect(200);
    w.end().await;
}

async fn nobody_hands_out_more_than_they_hold(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let org = default_org(&w.op).await;
    let path = format!("/api/v1/orgs/{org}/members");
    let key = async |body: Value| {
        let made = w.op.post("/api/v1/api-keys", body).await.expect(201);
        Client::new(&w.one.url, made["key"].as_str())
    };
    let projects = key(json!({"name": "projects", "scopes": ["projects:write"]})).await;
    let invite = async |by: &Client, role: &str| {
        by.post(&path, json!({"email": format!("{role}@example.org"), "role": role})).await.status
    };
    for role in ["reader", "operator", "admin"] {
        assert_eq!(invite(&projects, role).await, 403, "{role}");
    }
    let reads = ["projects:write", "nodes:read", "bundles:read", "rollouts:read", "services:read", "audit:read"];
    let reading = key(json!({"name": "reads", "scopes": reads})).await;
    assert_eq!(invite(&reading, "reader").await, 201);
    assert_eq!(invite(&reading, "operator").await, 403);
    // Bound to a project: members are not its business, whatever its scopes.
    let all = ["projects", "nodes", "bundles", "rollouts", "services"].map(|n| format!("{n}:write"));
    let bound = key(json!({"name": "bound", "scopes": all, "project_id": "p"})).await;
    assert_eq!(invite(&bound, "reader").await, 403);
    // Nor does it take away a role that holds more.
    let members = w.op.get(&path).await.expect(200);
    let admin = members["members"][0]["user_id"].as_str().unwrap();
    is_problem(&reading.send("DELETE", &format!("{path}/{admin}"), json!({})).await, 403, None);
    is_problem(&reading.send("PATCH", &format!("{path}/{admin}"), json!({"role": "reader"})).await, 403, None);
    let operator = member(&w.op, &org, "op@example.org", "operator").await;
    let body = json!({"email": "x@example.org", "role": "reader"});
    is_problem(&operator.send("POST", &path, body).await, 403, None);
    w.end().await;
}

async fn users_are_made_disabled_and_let_in_again_by_the_instance_administrator(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let admin = Person::sign_in(&w.one.url, ADMIN.0, ADMIN.1).await;
    let made = admin.send("POST", "/api/v1/users", json!({"email": "u@example.org", "password": PASSWORD})).await;
    let id = made.expect(201)["user"]["id"].as_str().unwrap().to_string();
    is_problem(&admin.send("POST", "/api/v1/users", json!({"email": "U@example.org"})).await, 409, None);
    is_problem(
        &admin.send("POST", "/api/v1/users", json!({"email": "v@example.org", "password": "x"})).await,
        422,
        Some("password"),
    );
    let user = Person::sign_in(&w.one.url, "u@example.org", PASSWORD).await;
    is_problem(&user.send("POST", "/api/v1/users", json!({"email": "z@example.org"})).await, 403, None);
    is_problem(&user.send("POST", &format!("/api/v1/users/{id}/reset-password"), json!({})).await, 403, None);
    let path = format!("/api/v1/users/{id}/disable");
    assert_eq!(admin.send("POST", &path, json!({})).await.expect(200)["changed"], true);
    assert_eq!(admin.send("POST", &path, json!({})).await.expect(200)["changed"], false);
    assert_eq!(user.get("/api/v1/session").await.status, 401);
    assert_eq!(Person::try_sign_in(&w.one.url, "u@example.org", PASSWORD).await.err(), Some(401));
    admin.send("POST", &format!("/api/v1/users/{id}/enable"), json!({})).await.expect(200);
    Person::sign_in(&w.one.url, "u@example.org", PASSWORD).await;
    let me = admin.get("/api/v1/session").await.expect(200);
    let me = me["session"]["user"]["id"].as_str().unwrap();
    is_problem(&admin.send("POST", &format!("/api/v1/users/{me}/disable"), json!({})).await, 409, None);
    w.end().await;
}

async fn a_changed_password_ends_other_sessions_and_a_reset_voids_it(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let made = w.op.post("/api/v1/users", json!({"email": "u@example.org"})).await.expect(201);
    let (id, anyone) = (made["user"]["id"].as_str().unwrap(), Client::new(&w.one.url, None));
    let accept = async |token: &Value, password: &str| {
        anyone.post("/api/v1/invitations/accept", json!({"token": token, "password": password})).await.status
    };
    assert_eq!(Person::try_sign_in(&w.one.url, "u@example.org", "!").await.err(), Some(401));
    assert_eq!(accept(&made["token"], PASSWORD).await, 200);
    let here = Person::sign_in(&w.one.url, "u@example.org", PASSWORD).await;
    let there = Person::sign_in(&w.one.url, "u@example.org", PASSWORD).await;
    let change = async |present: &str, next: &str| {
        let body = json!({"current_password": present, "new_password": next});
        here.send("POST", "/api/v1/session/password", body).await
    };
    is_problem(&change("wrong", "another password").await, 403, None);
    is_problem(&change(PASSWORD, "short").await, 422, Some("new_password"));
    assert_eq!(change(PASSWORD, "another password").await.status, 204);
    assert_eq!(here.get("/api/v1/session").await.status, 200);
    assert_eq!(there.get("/api/v1/session").await.status, 401);
    is_problem(
        &w.op.post("/api/v1/session/password", json!({"current_password": "x", "new_password": "y"})).await,
        403,
        None,
    );
    let reset = w.op.post(&format!("/api/v1/users/{id}/reset-password"), json!({})).await.expect(200);
    assert_eq!(here.get("/api/v1/session").await.status, 401);
    assert_eq!(Person::try_sign_in(&w.one.url, "u@example.org", "another password").await.err(), Some(401));
    assert_eq!(accept(&reset["token"], "a third password").await, 200);
    Person::sign_in(&w.one.url, "u@example.org", "a third password").await;
    w.end().await;
}

async fn a_group_stands_for_its_nodes_in_a_selector(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    open_project(&w.op, "q").await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(Hand::register(&w.one.url, "p", name).await.id);
    }
    let foreign = Hand::register(&w.one.url, "q", "z").await.id;
    let path = "/api/v1/projects/p/node-groups";
    let labelled = json!({"name": "edge", "selector": {"labels": {"env": "edge"}}});
    let edge = w.op.post(path, labelled.clone()).await.expect(201);
    let edge = edge["node_group"]["id"].as_str().unwrap();
    is_problem(&w.op.post(path, labelled).await, 409, None);
    for (body, field) in [
        (json!({"name": "x"}), "selector"),
        (json!({"name": "x", "selector": {"type": "all"}, "node_ids": []}), "node_ids"),
        (json!({"name": "x", "selector": {"type": "groups", "groups": ["edge"]}}), "selector"),
        (json!({"name": "x", "node_ids": [foreign]}), "node_ids"),
        (json!({"name": "", "node_ids": []}), "name"),
        (json!({"name": "x", "node_ids": [], "colour": 1}), "colour"),
    ] {
        is_problem(&w.op.post(path, body).await, 422, Some(field));
    }
    w.op.post(path, json!({"name": "two", "node_ids": [ids[0], ids[1]]})).await.expect(201);
    let b = w.bundle("v1").await;
    let plan = async |groups: Value| {
        let body = json!({"bundle_id": b["bundle_id"], "target_selector": {"type": "groups", "groups": groups}});
        w.op.post("/api/v1/projects/p/rollouts/plan", body).await
    };
    is_problem(&plan(json!(["nobody"])).await, 422, Some("target_selector"));
    let count = |plan: Value| {
        let steps = plan["steps"].as_array().unwrap().clone();
        steps.iter().map(|s| s["node_count"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(count(plan(json!(["two"])).await.expect(200)), 2);
    assert_eq!(count(plan(json!(["edge"])).await.expect(200)), 0);
    let node = format!("/api/v1/projects/p/nodes/{}", ids[2]);
    w.op.send("PATCH", &node, json!({"labels": {"env": "edge"}})).await.expect(200);
    assert_eq!(count(plan(json!(["edge", "two"])).await.expect(200)), 3);
    let replaced = w.op.send("PUT", &format!("{path}/{edge}"), json!({"name": "edge", "node_ids": []})).await;
    assert!(replaced.expect(200)["node_group"].get("selector").is_none());
    assert_eq!(count(plan(json!(["edge", "two"])).await.expect(200)), 2);
    assert_eq!(w.op.get(path).await.expect(200)["total"], 2);
    assert_eq!(w.op.send("DELETE", &format!("{path}/{edge}"), json!({})).await.status, 204);
    is_problem(&w.op.get(&format!("{path}/{edge}")).await, 404, None);
    is_problem(&w.op.get(&format!("/api/v1/projects/q/node-groups/{edge}")).await, 404, None);
    w.end().await;
}

async fn a_form_of_another_site_signs_nobody_in(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let anyone = Client::new(&w.one.url, None);
    let page = anyone.get("/login").await;
    assert_eq!(page.header("referrer-policy"), "same-origin", "with no-referrer the origin of its form would be null");
    let form = format!("email={}&password={}", ADMIN.0.replace('@', "%40"), ADMIN.1.replace(' ', "+"));
    // As a browser over plain http: it says the origin, and nothing of the site.
    let send = async |origin: &str| {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("origin", origin)];
        anyone.raw("POST", "/login", &headers, Bytes::from(form.clone())).await
    };
    for other in ["https://evil.example", "null"] {
        let answer = send(other).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (403, ""), "{other}");
    }
    let own = send(w.one.url.as_str()).await;
    assert_eq!((own.status, own.header("location")), (303, "/"));
    assert!(own.header("set-cookie").starts_with("sentinel_session="));
    w.end().await;
}
