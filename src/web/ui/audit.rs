//! `/audit` and `/projects/:project/audit`

use super::ask::{Ask, ROWS};
use super::view::audit::{AuditFilter as Typed, AuditView, page};
use crate::api::audit::reads_org_itself;
use crate::page::listing;
use crate::problem::{Outcome, Refusal};
use actors::command::Grant;
use domain::access::{Actor, KeyScope};
use domain::audit::{Entry, Verdict};
use domain::{OrgId, Scope, Span, Timestamp, UserId};
use std::collections::BTreeMap;
use store::{AuditFilter, Page};
use uuid::Uuid;
use warp::reply::Response;

const DAY: Span = Span::secs(86_400);
/// Organisations and keys that are looked at for names.
const MAX_LOOKED_AT: u32 = 500;

pub async fn project(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::AuditRead).await?;
    let slug = project.slug.clone();
    let mut view = AuditView { path: ask.path.clone(), filter: typed(ask), ..AuditView::default() };
    let read = read(ask, Scope::Project(project.id), &[project.org], &mut view).await?;
    view.exports = exports(&slug, &read);
    view.actors = people(ask, project.org, &view.entries).await?;
    view.projects.insert(project.id.to_string(), slug.clone());
    if ask.query.text("verify").is_some() {
        let query = format!("project={}", super::view::parts::query(&slug));
        view.verdict = Some(ask.api::<Heard>("/api/v1/audit/verify", &[], &query).await?.into());
    }
    ask.ok(page(&frame, &view))
}

/// Everything the caller may read: an instance administrator who is in every organisation sees the system's own entries too.
pub async fn everything(ask: &Ask) -> Outcome<Response> {
    let frame = ask.frame();
    let Grant::Roles(roles) = &ask.caller().grant else {
        return Err(Refusal::forbidden("Pages are for people."));
    };
    let readable = |org: OrgId| ask.caller().may(KeyScope::AuditRead, org, None);
    let first = roles.iter().map(|(org, _)| *org).find(|org| readable(*org));
    let org = first.ok_or_else(|| Refusal::forbidden("You may not read any audit log."))?;
    let every_org = ask.caller().instance_admin && {
        let all = ask.store().orgs(None, Page::first(MAX_LOOKED_AT)).await?;
        all.next_cursor.is_none() && all.rows.iter().all(|o| readable(o.id))
    };
    let scope = match every_org {
        true => Scope::System("an instance administrator who may read every organisation's log"),
        false => Scope::Org(org),
    };
    let mut view = AuditView { path: ask.path.clone(), filter: typed(ask), ..AuditView::default() };
    let orgs: Vec<OrgId> = roles.iter().map(|(org, _)| *org).filter(|org| readable(*org)).collect();
    read(ask, scope, &orgs, &mut view).await?;
    for (org, _) in roles.iter().filter(|(org, _)| readable(*org)) {
        view.actors.extend(people(ask, *org, &view.entries).await?);
        let projects = ask.store().projects(Scope::Org(*org), Page::first(MAX_LOOKED_AT)).await?;
        view.projects.extend(projects.rows.into_iter().map(|p| (p.id.to_string(), p.slug)));
    }
    if ask.query.text("verify").is_some() {
        view.verdict = Some(ask.api::<Heard>("/api/v1/audit/verify", &[], "").await?.into());
    }
    ask.ok(page(&frame, &view))
}

/// The verdict as the API says it.
#[derive(serde::Deserialize)]
struct Heard {
    valid: bool,
    entries: i64,
    first_bad_seq: Option<i64>,
    reason: Option<String>,
}

impl From<Heard> for Verdict {
    fn from(h: Heard) -> Verdict {
        Verdict { valid: h.valid, entries: h.entries, first_bad_seq: h.first_bad_seq, reason: h.reason, uncompared: 0 }
    }
}

fn typed(ask: &Ask) -> Typed {
    Typed {
        action: ask.given("action").trim().to_string(),
        actor: ask.given("actor").trim().to_string(),
        since: ask.given("since").trim().to_string(),
        until: ask.given("until").trim().to_string(),
        resource: ask.given("resource").trim().to_string(),
    }
}

/// Fills in what the filters leave; answers how they were understood.
async fn read(ask: &Ask, scope: Scope, orgs: &[OrgId], view: &mut AuditView) -> Outcome<AuditFilter> {
    let (mut filter, error) = filter(ask, &view.filter, orgs).await?;
    view.error = error;
    if let Scope::Org(org) = scope {
        filter.org_itself = reads_org_itself(ask.caller(), org);
    }
    let asked = ask.page(ROWS)?;
    let goes_on = asked.cursor.is_some();
    let mut found = listing(goes_on, ask.store().audit_entries(scope, filter.clone(), asked).await)?;
    newest_first(&mut found.rows);
    let next = found.next_cursor.as_deref();
    view.next = next.map(|n| format!("{}{}", view.path, view.filter.query(&[("cursor", Some(n))])));
    view.first = ask.query.text("cursor").map(|_| format!("{}{}", view.path, view.filter.query(&[])));
    view.entries = found.rows;
    view.total = found.total;
    Ok(filter)
}

/// The same filters for the export of the API.
fn exports(slug: &str, filter: &AuditFilter) -> Vec<(&'static str, String)> {
    let id = |id: Option<Uuid>| id.map(|u| u.to_string());
    let (actor, resource) = (
        id(filter.actor).or_else(|| filter.actor_type.clone()),
        id(filter.resource).or_else(|| filter.resource_type.clone()),
    );
    let (since, until) = (filter.since.map(|t| t.to_rfc3339()), filter.until.map(|t| t.to_rfc3339()));
    let link = |format| {
        let pairs = [
            ("format", Some(format)),
            ("action", filter.action.as_deref()),
            ("actor", actor.as_deref()),
            ("resource", resource.as_deref()),
            ("since", since.as_deref()),
            ("until", until.as_deref()),
        ];
        let query = super::view::parts::query_string(&pairs);
        format!("/api/v1/projects/{}/audit_logs/export{query}", super::view::parts::query(slug))
    };
    vec![("JSON", link("json")), ("CSV", link("csv"))]
}

/// Entries of one moment have ids in no order; their numbers are.
pub fn newest_first(entries: &mut [Entry]) {
    entries.sort_by(|a, b| b.at.cmp(&a.at).then(b.seq.cmp(&a.seq)));
}

async fn member_named(ask: &Ask, orgs: &[OrgId], email: &str) -> Outcome<Option<UserId>> {
    for org in orgs {
        let members = ask.plane().members(*org).await?;
        if let Some(member) = members.into_iter().find(|m| m.user.email == email) {
            return Ok(Some(member.user.id));
        }
    }
    Ok(None)
}

/// What was typed, as far as it is understood, and what is wrong with the rest.
async fn filter(ask: &Ask, typed: &Typed, orgs: &[OrgId]) -> Outcome<(AuditFilter, Option<String>)> {
    let mut filter = AuditFilter::default();
    let mut wrong = Vec::new();
    filter.action = Some(typed.action.clone()).filter(|a| !a.is_empty());
    for (text, label, end, slot) in
        [(&typed.since, "Since", false, &mut filter.since), (&typed.until, "Until", true, &mut filter.until)]
    {
        if !text.is_empty() {
            *slot = time(text, end);
            if slot.is_none() {
                wrong.push(format!("{label} must be a day or a time in UTC."));
            }
        }
    }
    let kinds = [Actor::System.kind(), "user", "api_key", "node"];
    match typed.actor.as_str() {
        "" => {}
        kind if kinds.contains(&kind) => filter.actor_type = Some(kind.to_string()),
        text => match (Uuid::parse_str(text), text.contains('@')) {
            (Ok(id), _) => filter.actor = Some(id),
            (Err(_), true) => {
                // Among those who can be known here: whether a stranger has an account is nobody's business.
                let known = member_named(ask, orgs, &text.to_lowercase()).await?;
                filter.actor = Some(known.map_or(Uuid::nil(), |id| id.0));
            }
            (Err(_), false) => {
                wrong.push("Actor must be an id, an email address, or user, api_key, node or system.".into());
            }
        },
    }
    if !typed.resource.is_empty() {
        match Uuid::parse_str(&typed.resource) {
            Ok(id) => filter.resource = Some(id),
            Err(_) => filter.resource_type = Some(typed.resource.clone()),
        }
    }
    Ok((filter, (!wrong.is_empty()).then(|| wrong.join(" "))))
}

/// RFC 3339, or a day, or a time to the minute in UTC. `end`: a day is meant up to its end.
pub fn time(text: &str, end: bool) -> Option<Timestamp> {
    if let Some(t) = Timestamp::parse_rfc3339(text) {
        return Some(t);
    }
    if let Some(day) = Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")) {
        return Some(if end { day + DAY } else { day });
    }
    let text = text.trim_end_matches('Z');
    Timestamp::parse_rfc3339(&format!("{text}:00Z")).or_else(|| Timestamp::parse_rfc3339(&format!("{text}Z")))
}

/// What the people and keys behind these entries are called, as far as they belong to the organisation.
pub async fn people(ask: &Ask, org: OrgId, entries: &[Entry]) -> Outcome<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    if entries.iter().any(|e| e.actor_type == "user") {
        for (user, _, _) in ask.store().members(org).await? {
            names.insert(user.id.to_string(), user.email);
        }
    }
    if entries.iter().any(|e| e.actor_type == "api_key") {
        for key in ask.store().api_keys(Scope::Org(org), Page::first(MAX_LOOKED_AT)).await?.rows {
            names.insert(key.id.to_string(), format!("key {}", key.name));
        }
    }
    Ok(names)
}
