//! `/projects/:project/audit_logs`, `/orgs/:id/audit_logs`, `/audit_logs` and `/audit/verify`

use crate::artifact::Shared;
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use crate::reply;
use actors::command::Caller;
use bytes::Bytes;
use domain::access::{Actor, KeyScope};
use domain::audit::{Entry, Verdict};
use domain::{OrgId, ProjectId, Scope, Timestamp};
use futures_util::StreamExt;
use http::header::{self, HeaderValue};
use std::collections::HashMap;
use std::sync::Mutex;
use store::{AuditFilter, Page};
use uuid::Uuid;
use warp::reply::{Reply, Response};

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    entries(&call, Scope::Project(project.id)).await
}

/// Of the organisation's projects; for its administrators also what the system's chain tells of it: who was invited, which keys
/// were made.
pub async fn list_org(call: Call) -> Outcome<Response> {
    let org = super::orgs::named(&call).await?;
    entries(&call, Scope::Org(org.id)).await
}

/// Of all chains, the system's too: who joined an organisation, who signed in, what was refused.
pub async fn list_all(call: Call) -> Outcome<Response> {
    let scope = everything(&call)?;
    entries(&call, scope).await
}

fn everything(call: &Call) -> Outcome<Scope> {
    super::people::instance_admin(call)?;
    Ok(Scope::System("the instance administrator reads every log"))
}

async fn entries(call: &Call, scope: Scope) -> Outcome<Response> {
    let filter = readable(call, scope)?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.audit_entries(scope, filter, asked).await)?;
    Ok(reply::ok(&listed(found, |e| e).under("audit_logs")))
}

/// What the request's filters leave of what the caller may read in `scope`.
fn readable(call: &Call, scope: Scope) -> Outcome<AuditFilter> {
    let org_itself = match scope {
        Scope::Org(org) => reads_org_itself(call.caller()?, org),
        Scope::Project(_) | Scope::System(_) => false,
    };
    Ok(AuditFilter { org_itself, ..filter(&call.query)? })
}

/// Whether what was done to the organisation itself is shown, and not only what was done in its projects: to its administrators,
/// and to keys with the scope that only they have.
pub fn reads_org_itself(caller: &Caller, org: OrgId) -> bool {
    caller.may(KeyScope::AuditWrite, org, None)
}

/// Entries of a page of an export.
const EXPORT_PAGE: u32 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

pub async fn export(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    exported(&call, Scope::Project(project.id), &project.slug)
}

pub async fn export_org(call: Call) -> Outcome<Response> {
    let org = super::orgs::named(&call).await?;
    exported(&call, Scope::Org(org.id), &org.slug)
}

pub async fn export_all(call: Call) -> Outcome<Response> {
    let scope = everything(&call)?;
    exported(&call, scope, "all")
}

/// Everything that the filters leave, newest first, page by page as the client takes it: an array of JSON, or CSV.
fn exported(call: &Call, scope: Scope, named: &str) -> Outcome<Response> {
    let filter = readable(call, scope)?;
    let format = call.query.read("format", "json or csv", |f| match f {
        "json" => Some(Format::Json),
        "csv" => Some(Format::Csv),
        _ => None,
    })?;
    let format = format.unwrap_or(Format::Json);
    let export = Export {
        store: call.app.plane.store().clone(),
        scope,
        filter,
        format,
        page: Some(Page::first(EXPORT_PAGE)),
        begun: false,
    };
    let pieces = futures_util::stream::unfold(export, |mut export| async move {
        let text = export.next().await?;
        // The status is sent already: an export that cannot go on breaks off, so that nobody takes it for whole.
        let piece = text.map(Bytes::from).map_err(|e| std::io::Error::other(e.to_string()));
        Some((piece, export))
    });
    let mut response = warp::reply::stream(Shared(Mutex::new(pieces.boxed()))).into_response();
    let (kind, name) = match format {
        Format::Json => ("application/json", "json"),
        Format::Csv => ("text/csv; charset=utf-8", "csv"),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let disposition = format!("attachment; filename=\"audit-{named}.{name}\"");
    if let Ok(value) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

struct Export {
    store: store::Store,
    scope: Scope,
    filter: AuditFilter,
    format: Format,
    /// `None`: all was sent.
    page: Option<Page>,
    begun: bool,
}

impl Export {
    async fn next(&mut self) -> Option<store::Result<String>> {
        let page = self.page.take()?;
        let listing = match self.store.audit_entries(self.scope, self.filter.clone(), page).await {
            Ok(listing) => listing,
            Err(e) => return Some(Err(e)),
        };
        let last = listing.next_cursor.is_none();
        let text = match self.format {
            Format::Json => json_piece(&listing.rows, !self.begun, last),
            Format::Csv => csv_piece(&listing.rows, !self.begun),
        };
        self.begun = true;
        self.page = listing.next_cursor.map(|cursor| Page { limit: EXPORT_PAGE, cursor: Some(cursor) });
        Some(Ok(text))
    }
}

fn json_piece(entries: &[Entry], first: bool, last: bool) -> String {
    let lines: Vec<String> = entries.iter().filter_map(|e| serde_json::to_string(e).ok()).collect();
    let open = match (first, lines.is_empty()) {
        (true, _) => "[\n",
        (false, true) => "",
        (false, false) => ",\n",
    };
    format!("{open}{}{}", lines.join(",\n"), if last { "\n]\n" } else { "" })
}

const COLUMNS: &str =
    "seq,at,actor_type,actor_id,action,resource_type,resource_id,project_id,request_id,ip,changes,prev_hash,hash,id";

fn csv_piece(entries: &[Entry], first: bool) -> String {
    let mut out = if first { format!("{COLUMNS}\r\n") } else { String::new() };
    let id = |id: Option<Uuid>| id.map(|u| u.to_string()).unwrap_or_default();
    for e in entries {
        let cells = [
            e.seq.to_string(),
            e.at.to_rfc3339(),
            e.actor_type.clone(),
            id(e.actor_id),
            e.action.clone(),
            e.resource_type.clone(),
            id(e.resource_id),
            id(e.project_id.map(|p| p.0)),
            id(e.request_id.map(|r| r.0)),
            e.ip.clone().unwrap_or_default(),
            e.changes.to_string(),
            e.prev_hash.to_string(),
            e.hash.to_string(),
            e.id.to_string(),
        ];
        out.push_str(&cells.map(|c| cell(&c)).join(","));
        out.push_str("\r\n");
    }
    out
}

/// Quoted where it must be (RFC 4180), and never a formula: spreadsheets run what begins with `=`, `+`, `-` or `@`.
fn cell(text: &str) -> String {
    let tame = match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_string(),
    };
    match tame.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", tame.replace('"', "\"\"")),
        false => tame,
    }
}

/// `actor` and `resource` are ids or kinds.
fn filter(query: &Query) -> Outcome<AuditFilter> {
    let time = |name| query.read(name, "an RFC 3339 time", Timestamp::parse_rfc3339);
    let mut filter = AuditFilter { since: time("since")?, until: time("until")?, ..AuditFilter::default() };
    filter.action = query.text("action").map(str::to_string);
    match query.text("actor") {
        None => {}
        Some(id) if Uuid::parse_str(id).is_ok() => filter.actor = Uuid::parse_str(id).ok(),
        Some(kind) => {
            let known = [Actor::System.kind(), "user", "api_key", "node"];
            if !known.contains(&kind) {
                return Err(Refusal::invalid("actor", "must be an id, or user, api_key, node or system"));
            }
            filter.actor_type = Some(kind.to_string());
        }
    }
    match query.text("resource") {
        None => {}
        Some(id) if Uuid::parse_str(id).is_ok() => filter.resource = Uuid::parse_str(id).ok(),
        Some(kind) => filter.resource_type = Some(kind.to_string()),
    }
    Ok(filter)
}

/// One chain with `?project=`, else all that the caller may read; the system's only for instance administrators.
pub async fn verify(call: Call) -> Outcome<Response> {
    let store = call.app.plane.store();
    if let Some(name) = call.query.text("project") {
        let project = call.project_named(name).await?;
        return Ok(reply::ok(&store.audit_verify(Some(project.id)).await?));
    }
    let caller = call.caller()?;
    let orgs: HashMap<ProjectId, OrgId> = store.all_projects().await?.into_iter().map(|p| (p.id, p.org)).collect();
    let mut whole: Option<Verdict> = None;
    for chain in store.audit_chain_names().await? {
        let readable = match chain {
            Some(project) => orgs.get(&project).is_some_and(|org| {
                caller.sees(*org, Some(project)) && caller.may(KeyScope::AuditRead, *org, Some(project))
            }),
            None => caller.instance_admin,
        };
        if !readable {
            continue;
        }
        let verdict = store.audit_verify(chain).await?;
        whole = Some(joined(whole, chain, verdict));
    }
    match whole {
        Some(verdict) => Ok(reply::ok(&verdict)),
        // Nothing to verify: is that because nothing may be read?
        None => {
            let org = super::own_org(caller)?;
            crate::call::allowed(caller, KeyScope::AuditRead, org, None)?;
            Ok(reply::ok(&Verdict { valid: true, entries: 0, first_bad_seq: None, reason: None, uncompared: 0 }))
        }
    }
}

/// The first chain that is broken gives the number and the reason.
fn joined(before: Option<Verdict>, chain: Option<ProjectId>, next: Verdict) -> Verdict {
    let named = match (chain, next.reason) {
        (Some(project), Some(reason)) => Some(format!("project {project}: {reason}")),
        (None, Some(reason)) => Some(format!("system: {reason}")),
        (_, None) => None,
    };
    let next = Verdict { reason: named, ..next };
    match before {
        None => next,
        Some(before) => Verdict {
            valid: before.valid && next.valid,
            entries: before.entries + next.entries,
            first_bad_seq: before.first_bad_seq.or(next.first_bad_seq),
            reason: before.reason.or(next.reason),
            uncompared: before.uncompared + next.uncompared,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn filters_are_ids_or_kinds() {
        let f =
            filter(&Query::parse("actor=node&resource=rollout&action=rollout.&since=2026-01-01T00:00:00Z").unwrap())
                .unwrap();
        assert_eq!((f.actor_type.as_deref(), f.resource_type.as_deref()), (Some("node"), Some("rollout")));
        assert!(f.since.is_some());
        let id = "0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f";
        let f = filter(&Query::parse(&format!("actor={id}&resource={id}")).unwrap()).unwrap();
        assert!(f.actor.is_some() && f.resource.is_some());
        for bad in ["actor=nobody", "since=yesterday"] {
            assert!(filter(&Query::parse(bad).unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cell_is_quoted_where_it_must_be_and_never_a_formula() {
        for (text, expect) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("a\r\nb", "\"a\r\nb\""),
            ("=1+1", "'=1+1"),
            ("@x,y", "\"'@x,y\""),
            ("", ""),
        ] {
            assert_eq!(cell(text), expect, "{text:?}");
        }
        assert_eq!(COLUMNS.split(',').count(), 14);
    }

    #[test]
    fn pieces_of_json_are_one_array_together() {
        let entries = |n: i64| {
            let new = domain::audit::NewEntry {
                actor: Actor::System,
                action: "rollout.paused",
                resource_type: "rollout",
                resource_id: None,
                project: None,
                changes: serde_json::json!({"reason": "=x, \"y\""}),
                request_id: None,
                ip: None,
            };
            let one = Entry::chain(new, domain::audit::Head::EMPTY, domain::AuditId::NIL, Timestamp(1));
            (0..n).map(|_| one.clone()).collect::<Vec<_>>()
        };
        for pages in [vec![0], vec![1], vec![2, 3], vec![2, 2, 1]] {
            let last = pages.len() - 1;
            let text: String =
                pages.iter().enumerate().map(|(i, n)| json_piece(&entries(*n), i == 0, i == last)).collect();
            let read: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.len() as i64, pages.iter().sum::<i64>());
        }
        assert_eq!(csv_piece(&entries(2), true).lines().count(), 3);
    }

    #[test]
    fn chains_are_valid_together_only_when_each_is() {
        let good = Verdict { valid: true, entries: 5, first_bad_seq: None, reason: None, uncompared: 0 };
        let bad =
            Verdict { valid: false, entries: 2, first_bad_seq: Some(3), reason: Some("cut".into()), uncompared: 0 };
        let v = joined(Some(joined(None, None, good)), Some(ProjectId::NIL), bad);
        assert_eq!((v.valid, v.entries, v.first_bad_seq), (false, 7, Some(3)));
        assert!(v.reason.unwrap().starts_with("project "));
    }
}
