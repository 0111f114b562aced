//! Every page and every form, with everyone who might open it. Both tables of `src/web/ui/pages.rs` are compared with the one
//! here: what is not listed fails the test.

use crate::harness::*;
use crate::people::{self, ADMIN, Person};
use bytes::Bytes;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

on_both_databases!(every_page_and_form_answers_everyone_as_listed);

/// Nobody, an administrator of another organisation, a reader, an operator, an administrator, one of the installation.
const EVERYONE: usize = 6;

/// `L` sent to sign in, `F` 403, `N` 404, `+` none of these.
#[rustfmt::skip]
const PAGES: &[(&str, &str)] = &[
    ("/login", "++++++"),
    ("/", "L+++++"),
    ("/projects", "L+++++"),
    ("/audit", "L+++++"),
    ("/instances", "LFFFF+"),
    ("/people", "L+++++"),
    ("/users", "LFFFF+"),
    ("/account", "L+++++"),
    ("/projects/:project", "L+++++"), // leads to the next but one, which looks
    ("/projects/:project/nodes", "LN++++"),
    ("/projects/:project/nodes/:id", "LN++++"),
    ("/projects/:project/bundles", "LN++++"),
    ("/projects/:project/bundles/new", "LNF+++"),
    ("/projects/:project/bundles/:id", "LN++++"),
    ("/projects/:project/bundles/:id/diff", "LN++++"),
    ("/projects/:project/rollouts", "LN++++"),
    ("/projects/:project/rollouts/new", "LNF+++"),
    ("/projects/:project/rollouts/:id", "LN++++"),
    ("/projects/:project/rollouts/:id/events", "LN++++"),
    ("/projects/:project/audit", "LN++++"),
    ("/projects/:project/tokens", "LN++++"),
    ("/projects/:project/keys", "LNFF++"),
    ("/projects/:project/policy", "LN++++"),
    ("/projects/:project/drift", "LN++++"),
    ("/projects/:project/resources", "LN++++"),
    ("/projects/:project/rules", "LN++++"),
    ("/projects/:project/retention", "LN++++"),
    ("/projects/:project/trust", "LN++++"),
    ("/projects/:project/settings", "LN++++"),
];

/// In an order in which nothing is gone before it is asked for.
#[rustfmt::skip]
const FORMS: &[(&str, &str)] = &[
    ("/projects", "L+FF++"), // in the one's own organisation
    ("/orgs/:id/members", "LNFF++"),
    ("/orgs/:id/members/:user/role", "LNFF++"),
    ("/orgs/:id/members/:user/remove", "LNFF+N"), // gone by then
    ("/orgs/:id/invitations/:invitation/delete", "LNFF++"),
    ("/users", "LFFFF+"),
    ("/users/:id/enable", "LFFFF+"),
    ("/users/:id/disable", "LFFFF+"),
    ("/users/:id/reset-password", "LFFFF+"),
    ("/account", "LFFFFF"), // the present password is wrong
    ("/projects/:project/nodes/:id/adopt", "LNF+++"),
    ("/projects/:project/nodes/:id/revoke", "LNF+++"),
    ("/projects/:project/bundles/new", "LNF+++"),
    ("/projects/:project/bundles/:id/deprecate", "LNF+++"),
    ("/projects/:project/bundles/:id/revoke", "LNF+++"),
    ("/projects/:project/rollouts/new", "LNF+++"),
    ("/projects/:project/rollouts/:id/:command", "LNF+++"),
    ("/projects/:project/tokens", "LNF+++"),
    ("/projects/:project/tokens/:id/delete", "LNF+++"),
    ("/projects/:project/keys", "LNFF++"),
    ("/projects/:project/keys/:id/revoke", "LNFF++"),
    ("/projects/:project/policy/freezes", "LNF+++"),
    ("/projects/:project/policy/environments", "LNF+++"),
    ("/projects/:project/policy/templates", "LNF+++"),
    // There is none of these: who may ask finds nothing.
    ("/projects/:project/policy/freezes/:id/delete", "LNFNNN"),
    ("/projects/:project/policy/environments/:id/delete", "LNFNNN"),
    ("/projects/:project/policy/templates/:id/delete", "LNFNNN"),
    ("/projects/:project/drift/:id/resolve", "LNFNNN"),
    ("/projects/:project/drift/resolve-all", "LNF+++"),
    ("/projects/:project/resources", "LNF+++"),
    ("/projects/:project/resources/:id/delete", "LNF+++"),
    ("/projects/:project/rules", "LNFF++"),
    ("/projects/:project/retention", "LNF+++"),
    ("/projects/:project/retention/keep", "LNFF++"),
    ("/projects/:project/trust", "LNFF++"),
    ("/projects/:project/trust/keys", "LNFF++"),
    ("/projects/:project/trust/keys/:key_id/export", "LNFF++"),
    ("/projects/:project/trust/keys/:key_id/remove", "LNFF++"),
    ("/projects/:project/settings", "LNFF++"),
    ("/projects/:project/settings/delete", "LNFF++"),
    ("/logout", "L+++++"), // the last: it ends the session
];

#[test]
fn every_page_and_form_is_listed_and_nothing_else_is() {
    let listed = |table: &[(&'static str, &str)]| table.iter().map(|(path, _)| *path).collect::<BTreeSet<_>>();
    assert_eq!(web::ui::addresses().collect::<BTreeSet<_>>(), listed(PAGES));
    assert_eq!(web::ui::forms().collect::<BTreeSet<_>>(), listed(FORMS));
    for (path, letters) in PAGES.iter().chain(FORMS) {
        assert_eq!(letters.len(), EVERYONE, "{path}");
    }
}

/// What `:names` of a path stand for.
struct Things(Vec<(&'static str, String)>);

impl Things {
    async fn make(w: &World, org: &str) -> Things {
        let bundle = w.bundle("v1").await["id"].as_str().unwrap().to_string();
        let node = Hand::register(&w.one.url, "p", "a").await.id;
        let body =
            json!({"bundle_id": bundle, "start": false, "target_selector": {"type": "node_ids", "node_ids": [node]}});
        let rollout = w.roll_out(body).await;
        let made = async |path: &str, body, noun: &str| {
            let made = w.op.post(path, body).await.expect(201);
            made[noun]["id"].as_str().unwrap().to_string()
        };
        let token = made("/api/v1/projects/p/enrolment-tokens", json!({"name": "t"}), "enrolment_token").await;
        let key = made("/api/v1/api-keys", json!({"name": "k", "scopes": [], "project_id": "p"}), "api_key").await;
        let user = made("/api/v1/users", json!({"email": "spare@example.org"}), "user").await;
        let members = format!("/api/v1/orgs/{org}/members");
        people::join(w, &user, org, domain::Role::Operator).await;
        let invitation = made(&members, json!({"email": "invited@example.org", "role": "reader"}), "invitation").await;
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let body = json!({"path": "certs/a.pem", "text": pem});
        let resource = made("/api/v1/projects/p/resources", body, "resource").await;
        let signing = w.op.post(&format!("/api/v1/orgs/{org}/keys"), json!({"role": "bundle"})).await.expect(201);
        let signing = signing["key"]["key_id"].as_str().unwrap().to_string();
        Things(vec![
            ("/nodes/:id", format!("/nodes/{node}")),
            ("/bundles/:id", format!("/bundles/{bundle}")),
            ("/rollouts/:id", format!("/rollouts/{rollout}")),
            ("/tokens/:id", format!("/tokens/{token}")),
            ("/keys/:id", format!("/keys/{key}")),
            ("/resources/:id", format!("/resources/{resource}")),
            (":key_id", signing),
            ("/orgs/:id", format!("/orgs/{org}")),
            ("/users/:id", format!("/users/{user}")),
            (":user", user.clone()),
            (":invitation", invitation),
            (":project", "p".into()),
            (":command", "pause".into()),
        ])
    }

    fn path(&self, template: &str) -> String {
        let nobody = uuid::Uuid::nil().to_string();
        let path = self.0.iter().fold(template.to_string(), |path, (name, id)| path.replace(name, id));
        let path = path.replace("/:id", &format!("/{nobody}"));
        assert!(!path.contains(':'), "{path} is not whole");
        path
    }
}

fn letter(answer: &Answer) -> char {
    match answer.status {
        303 if answer.header("location").starts_with("/login") && answer.header("set-cookie").is_empty() => 'L',
        403 => 'F',
        404 => 'N',
        _ => '+',
    }
}

/// Asks for a page, or with `form` posts one. Without a person it is nobody who asks.
async fn ask(w: &World, who: Option<&Person>, path: &str, form: Option<&str>) -> Answer {
    let anyone = Client::new(&w.one.url, None);
    let cookie = who.map(|p| format!("sentinel_session={}", p.token()));
    let mut headers: Vec<(&str, &str)> = cookie.iter().map(|c| ("cookie", c.as_str())).collect();
    let Some(form) = form else { return anyone.raw("GET", path, &headers, Bytes::new()).await };
    headers.push(("content-type", "application/x-www-form-urlencoded"));
    anyone.raw("POST", path, &headers, Bytes::from(form.to_string())).await
}

async fn every_page_and_form_answers_everyone_as_listed(ground: Ground) {
    let w = World::on(ground, Options::default()).await;
    let orgs = w.op.get("/api/v1/orgs").await.expect(200);
    let home = orgs["orgs"][0]["id"].as_str().unwrap().to_string();
    let things = Things::make(&w, &home).await;
    let elsewhere = people::org(&w.op, "Elsewhere").await;
    let mut everyone: Vec<Option<Person>> = vec![None];
    everyone.push(Some(people::member(&w.op, &elsewhere, "other@example.org", "admin").await));
    for role in ["reader", "operator", "admin"] {
        everyone.push(Some(people::member(&w.op, &home, &format!("the-{role}@example.org"), role).await));
    }
    everyone.push(Some(Person::sign_in(&w.one.url, ADMIN.0, ADMIN.1).await));

    let mut wrong = BTreeMap::new();
    for (template, expect) in PAGES {
        let mut got = String::new();
        for who in &everyone {
            let answer = ask(&w, who.as_ref(), &things.path(template), None).await;
            assert!(answer.status < 500, "{template}: {}", answer.status);
            got.push(letter(&answer));
        }
        if got != **expect {
            wrong.insert(format!("GET {template}"), format!("listed {expect} got {got}"));
        }
    }
    for (template, expect) in FORMS {
        let path = things.path(template);
        let mut got = String::new();
        for who in &everyone {
            // The token of the session is what tells our forms from those of others.
            if let Some(person) = who {
                for forged in ["", "_csrf=wrong", &format!("_csrf={}", "0".repeat(64))] {
                    assert_eq!(ask(&w, Some(person), &path, Some(forged)).await.status, 403, "{path} {forged}");
                }
            }
            let csrf = who.as_ref().map(|p| p.csrf_token()).unwrap_or_default();
            let form = format!(
                "_csrf={csrf}&role=reader&email=somebody@example.org&name=n&current_password=wrong&new_password=12345678"
            );
            let answer = ask(&w, who.as_ref(), &path, Some(&form)).await;
            assert!(answer.status < 500, "{path}: {}", answer.status);
            got.push(letter(&answer));
        }
        if got != **expect {
            wrong.insert(format!("POST {template}"), format!("listed {expect} got {got}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    w.end().await;
}
