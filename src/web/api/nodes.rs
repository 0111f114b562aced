//! `/projects/:project/nodes`

use super::{bundle_field, is_change, show};
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::commands::nodes::NodePatch as Patch;
use api::credential::RotateKeyRequest;
use api::fleet::{BundleCount, NodeLogLine, NodePatch, NodeStats};
use api::telemetry::{NodeSample, RunningConfig};
use domain::node::{Labels, Node, Presence, SampleKind, Standing, check_labels};
use domain::project::Project;
use domain::{NodeId, Scope, Span};
use http::StatusCode;
use store::NodeFilter;
use warp::reply::Response;

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let filter = filter(&call, &project).await?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.nodes(Scope::Project(project.id), filter, asked).await)?;
    let names = call.app.names.of(store, found.rows.iter().flat_map(show::bundles_of)).await?;
    Ok(reply::ok(&listed(found, |n| show::node(n, &names)).under("nodes")))
}

/// Also what a list of nodes on a page is filtered by. Errors: 422.
async fn filter(call: &Call, project: &Project) -> Outcome<NodeFilter> {
    let mut filter = NodeFilter { labels: call.query.keyed("labels"), ..NodeFilter::default() };
    for (key, value) in &filter.labels {
        // Databases read more than a key into some texts.
        let one = Labels::from([(key.clone(), value.clone())]);
        check_labels(&one).map_err(|why| Refusal::invalid("labels", why))?;
    }
    if let Some(status) = call.query.text("status") {
        // A standing is accepted as well: people look for quarantined nodes by this name.
        match (Presence::parse(status), Standing::parse(status)) {
            (Some(presence), _) => filter.presence = Some(presence),
            (None, Some(standing)) => filter.standing = Some(standing),
            (None, None) => {
                return Err(Refusal::invalid(
                    "status",
                    "must be online, offline, unknown, adopted, quarantined or revoked",
                ));
            }
        }
    }
    if let Some(standing) =
        call.query.read("standing", "adopted, quarantined, conflicted or revoked", Standing::parse)?
    {
        filter.standing = Some(standing);
    }
    if let Some(name) = call.query.text("bundle") {
        filter.bundle = Some(bundle_field(call, project, "bundle", name).await?);
    }
    filter.q = call.query.text("q").map(str::to_string);
    Ok(filter)
}

pub async fn stats(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let store = call.app.plane.store();
    let stats = store.node_stats(project.id).await?;
    let names = call.app.names.of(store, stats.by_bundle.iter().filter_map(|(b, _)| *b)).await?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let shown = NodeStats {
        total: count(stats.total),
        online: count(stats.online),
        offline: count(stats.offline),
        unknown: count(stats.unknown),
        adopted: count(stats.adopted),
        quarantined: count(stats.quarantined),
        revoked: count(stats.revoked),
        by_bundle: stats
            .by_bundle
            .into_iter()
            .map(|(b, n)| BundleCount { bundle_id: names.text(b), version: names.version(b), nodes: count(n) })
            .collect(),
    };
    Ok(reply::one(StatusCode::OK, "stats", &shown))
}

pub async fn events(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let scope = Scope::Project(project.id);
    let found = listing(asked.cursor.is_some(), store.node_events(scope, node.id, asked).await)?;
    let line = |e: store::StoredNodeEvent| NodeLogLine {
        seq: e.seq,
        at: e.event.at,
        kind: e.event.kind,
        detail: e.event.detail,
        rollout_id: e.event.rollout,
    };
    Ok(reply::ok(&listed(found, line).under("events")))
}

pub async fn config(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let found = call.app.plane.store().node_config(Scope::Project(project.id), node.id).await;
    let found = found.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("configuration of this node: it has told none"),
        other => other.into(),
    })?;
    let shown = RunningConfig { config_hash: found.hash, config_kdl: found.config, received_at: found.at };
    Ok(reply::one(StatusCode::OK, "config", &shown))
}

pub async fn metrics(call: Call) -> Outcome<Response> {
    samples(call, SampleKind::Metrics, "metrics").await
}

pub async fn request_logs(call: Call) -> Outcome<Response> {
    samples(call, SampleKind::Request, "request_logs").await
}

pub async fn waf_events(call: Call) -> Outcome<Response> {
    samples(call, SampleKind::Waf, "waf_events").await
}

async fn samples(call: Call, kind: SampleKind, noun: &str) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let scope = Scope::Project(project.id);
    let found = listing(asked.cursor.is_some(), store.samples(scope, node.id, kind, asked).await)?;
    let shown = |s: store::StoredSample| NodeSample {
        seq: s.seq,
        at: s.at,
        said: s.detail.as_object().cloned().unwrap_or_default(),
    };
    Ok(reply::ok(&listed(found, shown).under(noun)))
}

/// The node of the path. Errors: 404.
pub async fn named(call: &Call, project: &Project) -> Outcome<Node> {
    let id: NodeId = call.id("id", "node")?;
    call.app.plane.store().node(Scope::Project(project.id), id).await.map_err(|e| match e {
        store::Error::NotFound => Refusal::not_found("node"),
        other => other.into(),
    })
}

async fn shown(call: &Call, node: Node) -> Outcome<api::fleet::Node> {
    let names = call.app.names.of(call.app.plane.store(), show::bundles_of(&node)).await?;
    Ok(show::node(node, &names))
}

pub async fn show(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    Ok(reply::one(StatusCode::OK, "node", &shown(&call, node).await?))
}

pub async fn update(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let said: NodePatch = call.json()?;
    if let Some(labels) = &said.labels {
        let set: Labels = labels.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect();
        check_labels(&set).map_err(|why| Refusal::invalid("labels", why))?;
    }
    let pinned_bundle = match &said.pinned_bundle_id {
        None => None,
        Some(None) => Some(None),
        Some(Some(name)) => Some(Some(bundle_field(&call, &project, "pinned_bundle_id", name).await?)),
    };
    let caller = call.commander()?;
    let patch = Patch { labels: said.labels, pinned_bundle };
    let node = call.app.plane.patch_node(&caller, project.id, node.id, patch).await?;
    Ok(reply::one(StatusCode::OK, "node", &shown(&call, node).await?))
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id: NodeId = call.id("id", "node")?;
    let caller = call.commander()?;
    call.app.plane.delete_node(&caller, project.id, id).await?;
    Ok(reply::no_content())
}

pub async fn rotate_key(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let said: RotateKeyRequest = call.json_or_empty()?;
    let caller = call.commander()?;
    let grace = Span::secs(i64::from(said.grace_seconds.unwrap_or(0)));
    let key = call.app.plane.rotate_node_key(&caller, project.id, node.id, grace).await?;
    let node = shown(&call, named(&call, &project).await?).await?;
    Ok(reply::ok(&serde_json::json!({"node": node, "key": key, "node_key": key})))
}

pub async fn revoke(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let caller = call.commander()?;
    let done = call.app.plane.revoke_node(&caller, project.id, node.id).await?;
    let node = shown(&call, named(&call, &project).await?).await?;
    Ok(reply::changed("node", &node, is_change(done)))
}

pub async fn adopt(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = named(&call, &project).await?;
    let caller = call.commander()?;
    let done = call.app.plane.adopt_node(&caller, project.id, node.id).await?;
    let node = shown(&call, named(&call, &project).await?).await?;
    Ok(reply::changed("node", &node, is_change(done)))
}
