//! `/projects/:project/drift`

use super::ask::{Ask, ROWS};
use super::view::drift::{DriftLine, DriftView, page, region};
use super::view::{Flash, parts};
use crate::page::listing;
use crate::problem::{Outcome, Refusal};
use actors::command::Done;
use domain::access::KeyScope;
use domain::{BundleId, NodeId};
use std::collections::HashMap;
use store::DriftFilter;
use uuid::Uuid;
use warp::reply::Response;

pub async fn list(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::NodesRead).await?;
    let status = if ask.given("status") == "resolved" { "resolved" } else { "open" };
    let filter = DriftFilter { open: Some(status == "open"), node: None };
    let asked = ask.page(ROWS)?;
    let found = listing(asked.cursor.is_some(), ask.store().drifts(project.id, filter, asked).await)?;
    let nodes = ask.store().fleet_nodes(found.rows.iter().map(|d| d.node).collect()).await?;
    let called: HashMap<NodeId, String> = nodes.into_iter().map(|n| (n.id, n.name)).collect();
    let links = ask.links(&[("status", Some(status))], found.next_cursor.as_deref());
    let named: Vec<BundleId> = found.rows.iter().flat_map(|d| [d.expected, d.found]).flatten().collect();
    let view = DriftView {
        names: ask.names(named).await?,
        rows: found
            .rows
            .into_iter()
            .map(|d| DriftLine {
                id: d.id.to_string(),
                name: called.get(&d.node).cloned().unwrap_or_else(|| d.node.to_string()),
                node: d.node,
                expected: d.expected,
                found: d.found,
                severity: d.severity,
                detected_at: d.detected_at,
                ended: d.resolved_at.map(|at| (d.resolution.map(|r| r.to_string()).unwrap_or_default(), at)),
            })
            .collect(),
        slug: project.slug,
        total: found.total,
        status: status.into(),
        by_itself: project.settings.drift_remediation,
        next: links.next,
        first: links.first,
        src: links.here,
    };
    match ask.fragment() {
        Some(_) => ask.ok(region(&frame, &view)),
        None => ask.ok(page(&frame, &view)),
    }
}

/// Whether it is to be repaired; a repair is a rollout, and needs what a rollout needs.
async fn wanted(ask: &Ask, project: &str) -> Outcome<(domain::project::Project, bool)> {
    let (found, _) = ask.project(project, KeyScope::NodesWrite).await?;
    let repair = ask.field("mode") == Some("repair");
    if repair {
        ask.project(project, KeyScope::RolloutsWrite).await?;
    }
    Ok((found, repair))
}

pub async fn resolve(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, repair) = wanted(ask, project).await?;
    let missing = || Refusal::not_found("There is no such drift in this project.");
    let id: Uuid = id.parse().map_err(|_| missing())?;
    let (_, done, rollout) = ask.plane().resolve_drift(ask.caller(), project.id, id, repair).await?;
    let base = format!("/projects/{}", parts::query(&project.slug));
    match (done, rollout) {
        (_, Some(r)) => ask.redirect(&format!("{base}/rollouts/{}", r.id), Some(Flash::DriftRepaired)),
        (Done::Changed, None) => ask.redirect(&format!("{base}/drift"), Some(Flash::DriftAccepted)),
        (Done::Already, None) => ask.redirect(&format!("{base}/drift"), Some(Flash::Unchanged)),
    }
}

pub async fn resolve_all(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, repair) = wanted(ask, project).await?;
    let done = ask.plane().resolve_all_drift(ask.caller(), project.id, repair).await?;
    let flash = match (done.resolved, repair) {
        (0, _) => Flash::Unchanged,
        (_, true) => Flash::DriftRepaired,
        (_, false) => Flash::DriftAccepted,
    };
    ask.redirect(&format!("/projects/{}/drift", parts::query(&project.slug)), Some(flash))
}
