//! `/projects/:project/nodes`

use super::ask::{Ask, ROWS};
use super::view::access::parse_labels;
use super::view::audit::in_words;
use super::view::node::{self, EventLine, NodeView};
use super::view::nodes::{Filter, NodesView, page, region};
use super::view::{Flash, parts};
use crate::api::show::bundles_of;
use crate::page::listing;
use crate::problem::{Outcome, Refusal};
use actors::command::Done;
use api::rollout::Explanation;
use domain::access::KeyScope;
use domain::node::{Node, Presence, Standing};
use domain::project::Project;
use domain::{BundleId, NodeId, Scope};
use store::{NodeEvent, NodeFilter, Page};
use warp::reply::Response;

/// Lines of a node's history and events on its page.
const HISTORY: u32 = 25;
const EVENTS: u32 = 40;

pub async fn list(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::NodesRead).await?;
    let shown = Filter {
        status: ask.given("status"),
        standing: ask.given("standing"),
        label: ask.given("label"),
        q: ask.given("q"),
    };
    let mut error = None;
    let mut filter = NodeFilter {
        presence: Presence::parse(&shown.status),
        standing: Standing::parse(&shown.standing),
        bundle: ask.query.text("bundle").and_then(|b| b.parse::<BundleId>().ok()),
        q: Some(shown.q.clone()).filter(|q| !q.is_empty()),
        ..NodeFilter::default()
    };
    match parse_labels(&shown.label) {
        Ok(labels) => filter.labels = labels.into_iter().collect(),
        Err(why) => error = Some(format!("Label: {why}.")),
    }
    let asked = ask.page(ROWS)?;
    let has_cursor = asked.cursor.is_some();
    let found = listing(has_cursor, ask.store().nodes(Scope::Project(project.id), filter, asked).await)?;
    let stats = ask.store().node_stats(project.id).await?;
    let names = ask.names(found.rows.iter().flat_map(bundles_of)).await?;
    let links = ask.links(
        &[
            ("status", Some(&shown.status)),
            ("standing", Some(&shown.standing)),
            ("label", Some(&shown.label)),
            ("q", Some(&shown.q)),
            ("bundle", ask.query.text("bundle")),
        ],
        found.next_cursor.as_deref(),
    );
    let view = NodesView {
        slug: project.slug,
        nodes: found.rows,
        names,
        total: found.total,
        all: stats.total,
        online: stats.online,
        offline: stats.offline,
        quarantined: stats.quarantined,
        next: links.next,
        first: links.first,
        src: links.here,
        filter: shown,
        error,
    };
    match ask.fragment() {
        Some(_) => ask.ok(region(&frame, &view)),
        None => ask.ok(page(&frame, &view)),
    }
}

async fn named(ask: &Ask, project: &Project, id: &str) -> Outcome<Node> {
    let missing = || Refusal::not_found("There is no such node in this project.");
    let id: NodeId = id.parse().map_err(|_| missing())?;
    match ask.store().node(Scope::Project(project.id), id).await {
        Ok(node) => Ok(node),
        Err(store::Error::NotFound) => Err(missing()),
        Err(e) => Err(e.into()),
    }
}

pub async fn show(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::NodesRead).await?;
    let node = named(ask, &project, id).await?;
    let history = ask.store().node_history(node.id, HISTORY).await?;
    let events = ask.store().node_events(Scope::Project(project.id), node.id, Page::first(EVENTS)).await?;
    let names = ask.names(bundles_of(&node).chain(history.iter().filter_map(|h| h.bundle))).await?;
    let params = [("project", project.slug.as_str()), ("id", id)];
    let why: Explanation = ask.api("/api/v1/projects/:project/nodes/:id/explain", &params, "").await?;
    let explain = std::iter::once(why.primary).chain(why.causes).map(|c| c.text).collect();
    let view = NodeView {
        slug: project.slug,
        names,
        history,
        events: events.rows.into_iter().map(|e| event_line(e.event)).collect(),
        explain,
        src: ask.path.clone(),
        node,
    };
    match ask.fragment() {
        Some(_) => ask.ok(node::region(&frame, &view)),
        None => ask.ok(node::page(&frame, &view)),
    }
}

/// The kind of an event says most; of its detail remains what the kind does not say.
fn event_line(e: NodeEvent) -> EventLine {
    let mut detail = e.detail;
    let mut logs = None;
    if let Some(said) = detail.as_object_mut() {
        logs = said.remove("logs").and_then(|l| l.as_str().map(str::to_string)).filter(|l| !l.is_empty());
        if e.kind.starts_with("rollout.") {
            said.remove("from");
            said.remove("to");
        }
    }
    let text = match detail.as_object() {
        Some(said) if said.len() == 1 => said.values().next().and_then(|v| v.as_str()).map(str::to_string),
        _ => None,
    };
    let text = text.unwrap_or_else(|| in_words(&detail));
    EventLine { at: e.at, text, logs, kind: e.kind, rollout: e.rollout.map(|r| r.to_string()) }
}

fn flash(done: Done, changed: Flash) -> Option<Flash> {
    Some(match done {
        Done::Changed => changed,
        Done::Already => Flash::Unchanged,
    })
}

pub async fn adopt(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::NodesWrite).await?;
    let node = named(ask, &project, id).await?;
    let done = ask.plane().adopt_node(ask.caller(), project.id, node.id).await?;
    ask.redirect(&path(&project, node.id), flash(done, Flash::NodeAdopted))
}

pub async fn revoke(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::NodesWrite).await?;
    let node = named(ask, &project, id).await?;
    let done = ask.plane().revoke_node(ask.caller(), project.id, node.id).await?;
    ask.redirect(&path(&project, node.id), flash(done, Flash::NodeRevoked))
}

fn path(project: &Project, node: NodeId) -> String {
    format!("/projects/{}/nodes/{node}", parts::query(&project.slug))
}
