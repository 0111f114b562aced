//! `/`: every project the caller sees, and making one.

use super::ask::Ask;
use super::rollouts::row;
use super::view::overview::{BundleLine, OverviewView, ProjectCard, RolloutLine, page, region};
use super::view::{Flash, bundles as show_bundles, parts};
use crate::problem::Outcome;
use actors::command::Grant;
use actors::commands::projects::NewProject;
use domain::access::KeyScope;
use domain::project::Project;
use domain::rollout::Phase;
use domain::{OrgId, Scope};
use store::{BundleFilter, Page, RolloutFilter};
use warp::reply::Response;

/// Projects on a page: three queries for each.
const CARDS: usize = 12;
/// Active rollouts and bundles on a card.
const ROLLOUTS: u32 = 3;
const BUNDLES: u32 = 3;
/// Projects of an organisation that are looked at; an installation has few.
const MAX_PROJECTS: u32 = 500;

fn orgs(ask: &Ask) -> Vec<OrgId> {
    match &ask.caller().grant {
        Grant::Roles(roles) => roles.iter().map(|(org, _)| *org).collect(),
        Grant::Key { org, .. } => vec![*org],
    }
}

pub async fn show(ask: &Ask) -> Outcome<Response> {
    let mut frame = ask.frame();
    let mut projects: Vec<Project> = Vec::new();
    for org in orgs(ask) {
        frame.may.projects_write |= ask.caller().may(KeyScope::ProjectsWrite, org, None);
        let found = ask.store().projects(Scope::Org(org), Page::first(MAX_PROJECTS)).await?;
        let readable = |p: &Project| ask.caller().may(KeyScope::ProjectsRead, p.org, Some(p.id));
        projects.extend(found.rows.into_iter().filter(readable));
    }
    projects.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    let total = projects.len();
    let from = ask.query.parsed::<usize>("from", "a number")?.unwrap_or(0).min(total);
    let mut view = OverviewView { total: total as i64, src: format!("/?from={from}"), ..OverviewView::default() };
    view.next = (from + CARDS < total).then(|| format!("/?from={}", from + CARDS));
    view.first = (from > 0).then(|| "/".to_string());
    for project in projects.into_iter().skip(from).take(CARDS) {
        view.projects.push(card(ask, project).await?);
    }
    match ask.fragment() {
        Some(_) => ask.ok(region(&frame, &view)),
        None => ask.ok(page(&frame, &view)),
    }
}

async fn card(ask: &Ask, project: Project) -> Outcome<ProjectCard> {
    let (store, scope) = (ask.store(), Scope::Project(project.id));
    let stats = store.node_stats(project.id).await?;
    let active = RolloutFilter {
        phases: vec![Phase::Pending, Phase::Running, Phase::Paused, Phase::RollingBack],
        ..RolloutFilter::default()
    };
    let rollouts = store.rollouts(scope, active, Page::first(ROLLOUTS)).await?;
    let bundles = store.bundles(scope, BundleFilter::default(), Page::first(BUNDLES)).await?;
    let more_rollouts = rollouts.total - rollouts.rows.len() as i64;
    let mut lines = Vec::new();
    for rollout in rollouts.rows {
        let r = row(ask, rollout).await?;
        lines.push(RolloutLine { id: r.id, phase: r.phase, counts: r.counts, bundle: r.bundle, reason: r.reason });
    }
    Ok(ProjectCard {
        name: project.name,
        slug: project.slug,
        description: project.description,
        nodes: stats.total,
        online: stats.online,
        offline: stats.offline,
        quarantined: stats.quarantined,
        rollouts: lines,
        more_rollouts,
        bundles: bundles
            .rows
            .iter()
            .map(|b| BundleLine {
                id: b.id.to_string(),
                name: show_bundles::name(b),
                status: b.status,
                risk: b.risk,
                created_at: b.created_at,
            })
            .collect(),
    })
}

pub async fn create(ask: &Ask) -> Outcome<Response> {
    let new = NewProject {
        name: ask.field("name").unwrap_or_default().to_string(),
        description: ask.field("description").unwrap_or_default().to_string(),
        ..NewProject::default()
    };
    let made = ask.plane().create_project(ask.caller(), new).await?;
    ask.redirect(&format!("/projects/{}/nodes", parts::query(&made.slug)), Some(Flash::ProjectCreated))
}
