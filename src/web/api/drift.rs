//! `/projects/:project/drift`: nodes that run something else than they shall.

use super::{is_change, show};
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use api::fleet::{DriftItem, ResolveRequest};
use domain::node::drift::Drift;
use domain::{BundleId, NodeId};
use http::{HeaderValue, header};
use serde_json::json;
use std::collections::HashMap;
use store::{DriftFilter, Page};
use warp::reply::Response;

/// Rows of an export: at 200 bytes each 2 MB.
const MAX_EXPORTED: usize = 10_000;

/// Names of nodes and bundles, for people.
#[derive(Default)]
struct Names {
    nodes: HashMap<NodeId, String>,
    bundles: HashMap<BundleId, String>,
}

impl Names {
    async fn of(call: &Call, drifts: &[Drift]) -> Outcome<Names> {
        let store = call.app.plane.store();
        let nodes = store.fleet_nodes(drifts.iter().map(|d| d.node).collect()).await?;
        let bundles = store.bundle_facts(drifts.iter().flat_map(|d| [d.expected, d.found]).flatten().collect()).await?;
        let shown = |f: &store::BundleFacts| f.content_id.map_or_else(|| f.id.to_string(), |c| c.to_string());
        Ok(Names {
            nodes: nodes.into_iter().map(|n| (n.id, n.name)).collect(),
            bundles: bundles.iter().map(|(f, _)| (f.id, shown(f))).collect(),
        })
    }

    fn item(&self, d: Drift) -> DriftItem {
        let bundle = |b: Option<BundleId>| b.map(|b| self.bundles.get(&b).cloned().unwrap_or_else(|| b.to_string()));
        DriftItem {
            id: d.id,
            node_id: d.node,
            node_name: self.nodes.get(&d.node).cloned(),
            expected_bundle_id: bundle(d.expected),
            found_bundle_id: bundle(d.found),
            severity: d.severity,
            detected_at: d.detected_at,
            resolved_at: d.resolved_at,
            resolved_by_id: d.resolved_by,
            resolution: d.resolution,
        }
    }
}

fn filter(call: &Call) -> Outcome<DriftFilter> {
    let open = match call.query.text("status") {
        None => None,
        Some("open") => Some(true),
        Some("resolved") => Some(false),
        Some(_) => return Err(Refusal::invalid("status", "must be open or resolved")),
    };
    Ok(DriftFilter { open, node: call.query.parsed::<NodeId>("node", "the id of a node")? })
}

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let (filter, asked) = (filter(&call)?, page(&call.query)?);
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.drifts(project.id, filter, asked).await)?;
    let names = Names::of(&call, &found.rows).await?;
    Ok(reply::ok(&listed(found, |d| names.item(d)).under("drift")))
}

pub async fn stats(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let (by_severity, resolved) = call.app.plane.store().drift_stats(project.id).await?;
    let open: i64 = by_severity.iter().map(|(_, n)| n).sum();
    let by: HashMap<&str, i64> = by_severity.iter().map(|(s, n)| (s.as_str(), *n)).collect();
    Ok(reply::ok(&json!({"stats": {"open": open, "resolved": resolved, "by_severity": by}})))
}

/// As CSV, newest first.
pub async fn export(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let filter = filter(&call)?;
    let store = call.app.plane.store();
    let (mut out, mut cursor, mut rows) = (String::new(), None, 0);
    out.push_str(
        "id,node_id,node_name,expected_bundle_id,found_bundle_id,severity,detected_at,resolved_at,resolution\r\n",
    );
    loop {
        let found = store.drifts(project.id, filter, Page { limit: 500, cursor }).await?;
        let names = Names::of(&call, &found.rows).await?;
        rows += found.rows.len();
        for d in found.rows {
            let i = names.item(d);
            let time = |t: Option<domain::Timestamp>| t.map(|t| t.to_string()).unwrap_or_default();
            // Names are of letters, digits and `_.-`; nothing here needs quotes, and no cell is a formula.
            let cells = [
                i.id.to_string(),
                i.node_id.to_string(),
                i.node_name.unwrap_or_default(),
                i.expected_bundle_id.unwrap_or_default(),
                i.found_bundle_id.unwrap_or_default(),
                i.severity.to_string(),
                time(Some(i.detected_at)),
                time(i.resolved_at),
                i.resolution.map(|r| r.to_string()).unwrap_or_default(),
            ];
            out.push_str(&cells.join(","));
            out.push_str("\r\n");
        }
        cursor = found.next_cursor;
        if cursor.is_none() || rows >= MAX_EXPORTED {
            break;
        }
    }
    let mut response = Response::new(out.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    Ok(response)
}

pub async fn one(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id: uuid::Uuid = call.id("id", "drift")?;
    let found = found(call.app.plane.store().drift(project.id, id).await)?;
    let names = Names::of(&call, std::slice::from_ref(&found)).await?;
    Ok(reply::one(http::StatusCode::OK, "drift", &names.item(found)))
}

fn found<T>(r: store::Result<T>) -> Outcome<T> {
    r.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("drift"),
        other => other.into(),
    })
}

pub async fn resolve(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id: uuid::Uuid = call.id("id", "drift")?;
    found(call.app.plane.store().drift(project.id, id).await)?;
    let said: ResolveRequest = call.json_or_empty()?;
    let caller = call.commander()?;
    let repair = said.remediate.unwrap_or(false);
    let (drift, done, rollout) = call.app.plane.resolve_drift(&caller, project.id, id, repair).await?;
    let names = Names::of(&call, std::slice::from_ref(&drift)).await?;
    let rollout = rollout.map(|v| show::rollout(v, None, HashMap::new()));
    Ok(reply::ok(&json!({"drift": names.item(drift), "changed": is_change(done), "rollout": rollout})))
}

pub async fn resolve_all(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: ResolveRequest = call.json_or_empty()?;
    let caller = call.commander()?;
    let done = call.app.plane.resolve_all_drift(&caller, project.id, said.remediate.unwrap_or(false)).await?;
    let rollouts: Vec<_> = done.rollouts.into_iter().map(|v| show::rollout(v, None, HashMap::new())).collect();
    Ok(reply::ok(&json!({"resolved": done.resolved, "left": done.left, "rollouts": rollouts})))
}
