//! `/projects/:project/audit_logs` and `/audit/verify`

use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use crate::reply;
use domain::access::{Actor, KeyScope};
use domain::audit::Verdict;
use domain::{ProjectId, Scope, Timestamp};
use std::collections::HashMap;
use store::AuditFilter;
use uuid::Uuid;
use warp::reply::Response;

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let filter = filter(&call.query)?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.audit_entries(Scope::Project(project.id), filter, asked).await)?;
    Ok(reply::ok(&listed(found, |e| e).under("audit_logs")))
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
    let orgs: HashMap<ProjectId, domain::OrgId> =
        store.all_projects().await?.into_iter().map(|p| (p.id, p.org)).collect();
    let mut whole: Option<Verdict> = None;
    for (chain, _) in store.audit_chains().await? {
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
            Ok(reply::ok(&Verdict { valid: true, entries: 0, first_bad_seq: None, reason: None }))
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
    fn chains_are_valid_together_only_when_each_is() {
        let good = Verdict { valid: true, entries: 5, first_bad_seq: None, reason: None };
        let bad = Verdict { valid: false, entries: 2, first_bad_seq: Some(3), reason: Some("cut".into()) };
        let v = joined(Some(joined(None, None, good)), Some(ProjectId::NIL), bad);
        assert_eq!((v.valid, v.entries, v.first_bad_seq), (false, 7, Some(3)));
        assert!(v.reason.unwrap().starts_with("project "));
    }
}
