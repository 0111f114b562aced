//! `/projects/:project/rollouts/new`: the form, its plan, and the rollout made of it.

use super::ask::{Ask, is_about_the_form};
use super::view::access::{parse_amount, parse_labels};
use super::view::bundles::name;
use super::view::rollout_new::{Form, NewRolloutView, PlanStep, PlanView, page};
use super::view::{Flash, parts};
use crate::api::rollout_spec::spec;
use crate::problem::{Outcome, Refusal};
use actors::commands::rollouts as plane;
use api::rollout::RolloutRequest;
use domain::access::KeyScope;
use domain::bundle::BundleStatus;
use domain::node::Selector;
use domain::project::Project;
use domain::rollout::{HealthGates, OnFailure, Spec, StrategyKind};
use domain::{BundleId, NodeId, Scope, Timestamp};
use http::StatusCode;
use std::collections::HashMap;
use store::{BundleFilter, Page};
use warp::reply::Response;

/// Bundles to choose from.
const BUNDLES: u32 = 100;
/// What of a plan is shown.
const STEPS: usize = 30;
const NODES: usize = 8;
const EXCLUDED: usize = 30;

async fn empty(ask: &Ask, project: &Project) -> Outcome<NewRolloutView> {
    let filter = BundleFilter { status: Some(BundleStatus::Compiled) };
    let bundles = ask.store().bundles(Scope::Project(project.id), filter, Page::first(BUNDLES)).await?;
    Ok(NewRolloutView {
        slug: project.slug.clone(),
        bundles: bundles.rows.iter().map(|b| (b.id.to_string(), name(b))).collect(),
        ..NewRolloutView::default()
    })
}

pub async fn form(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let mut view = empty(ask, &project).await?;
    view.form.bundle = ask.given("bundle");
    ask.ok(page(&frame, &view))
}

pub async fn submit(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let mut view = empty(ask, &project).await?;
    view.form = typed(ask);
    let refused = |mut view: NewRolloutView, refusal: Refusal| {
        let status = refusal.status();
        view.errors = refusal.problem.errors.iter().map(|(f, m)| (f.clone(), m.clone())).collect();
        if view.errors.is_empty() {
            view.error = Some(refusal.problem.detail.clone());
        }
        Ok(ask.html(status, page(&frame, &view)))
    };
    let wanted = match read(&view.form, ask) {
        Ok(wanted) => wanted,
        Err(refusal) => return refused(view, refusal),
    };
    if ask.field("do") != Some("create") {
        return match ask.plane().plan_rollout(project.id, &wanted).await {
            Ok(plan) => {
                view.plan = Some(planned(ask, plan).await?);
                Ok(ask.html(StatusCode::OK, page(&frame, &view)))
            }
            Err(e) if is_about_the_form(&e) => refused(view, e.into()),
            Err(e) => Err(e.into()),
        };
    }
    match ask.plane().create_rollout(ask.caller(), project.id, wanted).await {
        Ok(made) => {
            let to = format!("/projects/{}/rollouts/{}", parts::query(&project.slug), made.id);
            ask.redirect(&to, Some(Flash::RolloutCreated))
        }
        Err(e) if is_about_the_form(&e) => refused(view, e.into()),
        Err(e) => Err(e.into()),
    }
}

fn typed(ask: &Ask) -> Form {
    let text = |name: &str| ask.field(name).unwrap_or_default().to_string();
    Form {
        bundle: text("bundle"),
        labels: text("labels"),
        strategy: text("strategy"),
        batch_size: text("batch_size"),
        max_unavailable: text("max_unavailable"),
        failure_threshold: text("failure_threshold"),
        on_failure: text("on_failure"),
        min_healthy: text("min_healthy"),
        deadline: text("deadline"),
        max_error_rate: text("max_error_rate"),
        scheduled_at: text("scheduled_at"),
        start: ask.field("start").is_some(),
        allow_failed: ask.field("allow_failed").is_some(),
    }
}

/// As a request to the API, so that both have the same rules. All errors at once: 422.
fn read(form: &Form, ask: &Ask) -> Outcome<Spec> {
    let (bundle, said) = request(form)?;
    spec(&said, bundle, ask.plane().config().stale_after, ask.plane().now())
}

pub fn request(form: &Form) -> Outcome<(BundleId, RolloutRequest)> {
    let mut errors: Vec<(String, String)> = Vec::new();
    let bundle = form.bundle.parse::<BundleId>();
    if bundle.is_err() {
        errors.push(("bundle".into(), "must be chosen".into()));
    }
    let mut keep = |field: &str, why: String| errors.push((field.into(), why));
    let mut said =
        RolloutRequest { start: Some(form.start), allow_failed: Some(form.allow_failed), ..Default::default() };
    match parse_labels(&form.labels) {
        Ok(labels) if labels.is_empty() => said.target_selector = Some(Selector::All),
        Ok(labels) => said.target_selector = Some(Selector::Labels { labels }),
        Err(why) => keep("labels", why),
    }
    match StrategyKind::parse(&form.strategy) {
        Some(s) => said.strategy = Some(s),
        None => keep("strategy", "must be chosen".into()),
    }
    match OnFailure::parse(&form.on_failure) {
        Some(o) => said.on_failure = Some(o),
        None => keep("on_failure", "must be chosen".into()),
    }
    for (field, text, slot) in [
        ("batch_size", &form.batch_size, &mut said.batch_size),
        ("max_unavailable", &form.max_unavailable, &mut said.max_unavailable),
        ("failure_threshold", &form.failure_threshold, &mut said.failure_threshold),
    ] {
        if !text.is_empty() {
            match parse_amount(text) {
                Ok(amount) => *slot = Some(amount),
                Err(why) => keep(field, why),
            }
        }
    }
    for (field, text, slot) in [
        ("min_healthy", &form.min_healthy, &mut said.min_healthy_seconds),
        ("deadline", &form.deadline, &mut said.progress_deadline_seconds),
    ] {
        if !text.is_empty() {
            match text.parse::<u32>() {
                Ok(seconds) => *slot = Some(seconds),
                Err(_) => keep(field, "must be a number of seconds".into()),
            }
        }
    }
    if !form.max_error_rate.is_empty() {
        match form.max_error_rate.parse::<f64>() {
            Ok(rate) => said.health_gates = Some(HealthGates { max_error_rate: Some(rate), ..HealthGates::default() }),
            Err(_) => keep("max_error_rate", "must be a percentage".into()),
        }
    }
    if !form.scheduled_at.is_empty() {
        match Timestamp::parse_rfc3339(&form.scheduled_at) {
            Some(at) => said.scheduled_at = Some(at),
            None => keep("scheduled_at", "must be a time such as 2026-12-01T06:00:00Z".into()),
        }
    }
    match bundle {
        Ok(bundle) if errors.is_empty() => Ok((bundle, said)),
        _ => Err(Refusal::all_invalid(errors)),
    }
}

async fn planned(ask: &Ask, plan: plane::PlanView) -> Outcome<PlanView> {
    let shown: Vec<NodeId> = plan
        .steps
        .iter()
        .take(STEPS)
        .flat_map(|s| s.iter().take(NODES))
        .chain(plan.excluded.iter().take(EXCLUDED).map(|(n, _)| n))
        .copied()
        .collect();
    let rows = ask.store().fleet_nodes(shown).await?;
    let names: HashMap<NodeId, String> = rows.into_iter().map(|n| (n.id, n.name)).collect();
    let name = |n: &NodeId| names.get(n).cloned().unwrap_or_else(|| n.to_string());
    Ok(PlanView {
        targets: plan.steps.iter().map(Vec::len).sum(),
        more_steps: plan.steps.len().saturating_sub(STEPS),
        steps: plan
            .steps
            .iter()
            .take(STEPS)
            .map(|s| PlanStep { size: s.len(), nodes: s.iter().take(NODES).map(name).collect() })
            .collect(),
        online: plan.online,
        offline: plan.offline,
        already: plan.already,
        more_excluded: plan.excluded.len().saturating_sub(EXCLUDED),
        excluded: plan.excluded.iter().take(EXCLUDED).map(|(n, why)| (name(n), why.as_str().to_string())).collect(),
        takes: plan.estimate.total.as_secs(),
        basis: plan.estimate.basis(),
        warnings: plan.warnings,
    })
}
