//! Looking back on a rollout: its log to take away, its report, what its failures have in common, and what changed lately.

use super::rollouts;
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use api::rollout::{ChangedRollout, FailureGroup, WhatChanged};
use domain::node::Labels;
use domain::rollout::failures::{Failed, Group, group};
use domain::rollout::replay::{FORMAT, Opening};
use domain::rollout::report::{About, report};
use domain::rollout::{LoggedEvent, Member, NodeStateKind, replay};
use domain::{NodeId, RolloutId, Scope, Timestamp};
use http::{HeaderValue, StatusCode, header};
use std::collections::{BTreeMap, HashMap};
use store::{MemberFilter, Page, RolloutSummary};
use warp::reply::Response;

/// Events read at once.
const PAGE: u32 = 500;
/// Events of one log: at 1 KiB each 200 MiB, far beyond any rollout that ended.
const MAX_EVENTS: usize = 200_000;
/// Nodes of a group that are listed.
const MAX_LISTED: usize = 100;
/// Audit entries that `what-changed` counts, rollouts that it lists.
const MAX_CHANGES: u32 = 5_000;

async fn log(call: &Call, id: RolloutId) -> Outcome<(domain::rollout::Origin, Vec<LoggedEvent>)> {
    let store = call.app.plane.store();
    let origin = match store.rollout_origin(id).await {
        Ok(origin) => origin,
        Err(store::Error::NotFound) => {
            return Err(Refusal::conflict("no_log", "this rollout was made before logs could be replayed"));
        }
        Err(e) => return Err(e.into()),
    };
    let mut events: Vec<LoggedEvent> = Vec::new();
    loop {
        let after = events.last().map_or(0, |e| e.seq);
        let more = store.rollout_events(id, after, PAGE).await?;
        let last = (more.len() as u32) < PAGE;
        events.extend(more);
        if last || events.len() >= MAX_EVENTS {
            return Ok((origin, events));
        }
    }
}

fn text(kind: &'static str, body: String) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// One line of JSON for what it began with, and one for each event: what `sentinel-cp rollout replay` reads.
pub async fn export(call: Call) -> Outcome<Response> {
    let rollout = rollouts::named(&call).await?;
    let (origin, events) = log(&call, rollout.id).await?;
    let line = |value: serde_json::Result<String>| value.map_err(|e| Refusal::internal(e.to_string()));
    let mut out = line(serde_json::to_string(&Opening { format: FORMAT.to_string(), origin }))?;
    for e in &events {
        out.push('\n');
        out += &line(serde_json::to_string(e))?;
    }
    out.push('\n');
    Ok(text("application/x-ndjson", out))
}

/// What is known of the nodes that failed.
struct Suffering {
    members: Vec<Member>,
    names: HashMap<NodeId, String>,
    nodes: HashMap<NodeId, (Option<String>, Labels)>,
}

impl Suffering {
    async fn of(call: &Call, r: &RolloutSummary) -> Outcome<Suffering> {
        let store = call.app.plane.store();
        let mut found = Suffering { members: Vec::new(), names: HashMap::new(), nodes: HashMap::new() };
        for state in [NodeStateKind::Failed, NodeStateKind::RollbackFailed] {
            let mut cursor = None;
            loop {
                let filter = MemberFilter { state: Some(state), step: None };
                let page = Page { limit: PAGE, cursor };
                let rows = store.rollout_members(Scope::Project(r.project), r.id, filter, page).await?;
                for row in rows.rows {
                    found.names.insert(row.member.node, row.name);
                    found.members.push(row.member);
                }
                cursor = rows.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
        let ids = found.members.iter().map(|m| m.node).collect();
        found.nodes = store.fleet_nodes(ids).await?.into_iter().map(|n| (n.id, (n.version, n.labels))).collect();
        Ok(found)
    }

    fn groups(&self) -> Vec<Group> {
        let none = (None, Labels::new());
        group(self.members.iter().map(|member| {
            let (version, labels) = self.nodes.get(&member.node).unwrap_or(&none);
            Failed { member, version: version.as_deref(), labels }
        }))
    }
}

pub async fn failures(call: Call) -> Outcome<Response> {
    let rollout = rollouts::named(&call).await?;
    let found = Suffering::of(&call, &rollout).await?;
    let shown = |g: Group| FailureGroup {
        reason: g.reason,
        error: g.error,
        count: g.nodes.len() as u32,
        node_ids: g.nodes.into_iter().take(MAX_LISTED).collect(),
        versions: g.versions,
        labels: g.labels,
    };
    let groups: Vec<FailureGroup> = found.groups().into_iter().map(shown).collect();
    let total = groups.len();
    Ok(reply::ok(&serde_json::json!({"failures": groups, "total": total, "next_cursor": null})))
}

/// In Markdown.
pub async fn markdown(call: Call) -> Outcome<Response> {
    let rollout = rollouts::named(&call).await?;
    let (origin, events) = log(&call, rollout.id).await?;
    let replayed = replay(origin, events).map_err(|e| Refusal::conflict("replay_differs", e.to_string()))?;
    let found = Suffering::of(&call, &rollout).await?;
    let groups = found.groups();
    let bundle = rollout.bundle.as_ref().and_then(|b| b.version.clone());
    let bundle = bundle.unwrap_or_else(|| rollout.spec.bundle.to_string());
    let project = call.app.plane.store().project(Scope::Project(rollout.project), &rollout.project.to_string()).await?;
    let name = |n: NodeId| found.names.get(&n).cloned().unwrap_or_else(|| n.to_string());
    let about = About { bundle: &bundle, project: &project.name, groups: &groups, name: &name };
    Ok(text("text/markdown; charset=utf-8", report(&replayed, &about)))
}

/// Rollouts that began, ended or moved since, and how often each action was taken.
pub async fn what_changed(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let store = call.app.plane.store();
    let said = call.query.text("since").ok_or_else(|| Refusal::invalid("since", "is required"))?;
    let since = Timestamp::parse_rfc3339(said)
        .ok_or_else(|| Refusal::invalid("since", "must be a time, as RFC 3339 has it"))?;
    let mut actions: BTreeMap<String, u32> = BTreeMap::new();
    let (mut cursor, mut counted) = (None, 0);
    loop {
        let filter = store::AuditFilter { since: Some(since), ..store::AuditFilter::default() };
        let page = store.audit_entries(Scope::Project(project.id), filter, Page { limit: PAGE, cursor }).await?;
        counted += page.rows.len() as u32;
        for e in page.rows {
            *actions.entry(e.action).or_default() += 1;
        }
        cursor = page.next_cursor;
        if cursor.is_none() || counted >= MAX_CHANGES {
            break;
        }
    }
    let page = store.rollouts(Scope::Project(project.id), store::RolloutFilter::default(), Page::first(PAGE)).await?;
    let moved = page.rows.into_iter().filter(|r| r.updated_at >= since);
    let rollouts = moved
        .map(|r| ChangedRollout {
            id: r.id,
            state: r.head.phase,
            bundle: r.bundle.as_ref().map(crate::names::brief),
            started_at: r.head.started_at,
            ended_at: r.head.ended_at,
            progress: r.head.counts.into(),
        })
        .collect();
    Ok(reply::ok(&WhatChanged { since, complete: cursor.is_none(), rollouts, actions }))
}
