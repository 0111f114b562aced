//! `/projects/:project/rollouts`

use super::ask::{Ask, ROWS};
use super::view::parts::short;
use super::view::rollouts::{RolloutRow, RolloutsView, page, region};
use crate::page::listing;
use crate::problem::Outcome;
use domain::Scope;
use domain::access::KeyScope;
use domain::rollout::{Phase, explain_head};
use store::{RolloutFilter, RolloutSummary};
use warp::reply::Response;

/// Characters of a content id that stand for a bundle without a version.
const SHORT: usize = 12;

pub async fn list(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsRead).await?;
    let state = ask.given("state");
    let mut filter = RolloutFilter::default();
    match (Phase::parse(&state), state.as_str()) {
        (Some(phase), _) => filter.phases.push(phase),
        (None, "active") => filter.phases.extend(Phase::ALL.iter().filter(|p| !p.is_end())),
        (None, _) => {}
    }
    let asked = ask.page(ROWS)?;
    let found = listing(asked.cursor.is_some(), ask.store().rollouts(Scope::Project(project.id), filter, asked).await)?;
    let links = ask.links(&[("state", Some(&state))], found.next_cursor.as_deref());
    let mut rollouts = Vec::with_capacity(found.rows.len());
    for rollout in found.rows {
        rollouts.push(row(ask, rollout).await?);
    }
    let view = RolloutsView {
        slug: project.slug,
        rollouts,
        total: found.total,
        state,
        next: links.next,
        first: links.first,
        src: links.here,
    };
    match ask.fragment() {
        Some(_) => ask.ok(region(&frame, &view)),
        None => ask.ok(page(&frame, &view)),
    }
}

/// A line of a list. The steps are looked at only where the reason needs them: few rollouts run at once.
pub async fn row(ask: &Ask, r: RolloutSummary) -> Outcome<RolloutRow> {
    let open = match r.head.phase {
        Phase::Running => {
            let steps = ask.store().rollout_steps(r.id).await?;
            steps.get(r.head.step as usize).map_or(0, |s| s.open)
        }
        _ => 0,
    };
    let bundle = match r.bundle.as_ref().map(|b| (&b.version, &b.content_id)) {
        Some((Some(version), _)) => version.clone(),
        Some((None, Some(content))) => content.to_string().chars().take(SHORT).collect(),
        Some((None, None)) | None => short(&r.spec.bundle),
    };
    Ok(RolloutRow {
        id: r.id.to_string(),
        phase: r.head.phase,
        counts: r.head.counts,
        bundle,
        strategy: r.spec.strategy.as_str(),
        reason: explain_head(&r.spec, &r.head, r.steps, open).text,
        inserted_at: r.inserted_at,
    })
}
