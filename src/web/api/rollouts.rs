//! `/projects/:project/rollouts` and `/rollouts/:id`

use super::rollout_spec::{bundle_name, spec};
use super::{bundle_field, is_change, plans, show};
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::commands::approvals::check_override;
use actors::commands::rollouts::{RolloutCommand, RolloutView};
use api::bundle::BundleBrief;
use api::plans::{Approvals, StartRequest, Vote};
use api::rollout::{
    DiffSummary, Excluded, NoteRequest, Plan, ResumeRequest, RetryRequest, RollbackRequest, Rollout, RolloutEvent,
};
use domain::approval::Standing;
use domain::rollout::{NodeStateKind, Phase, Spec};
use domain::{BundleId, NodeId, RolloutId, Scope};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use store::{Listing, MemberFilter, RolloutFilter, RolloutSummary};
use tokio::sync::broadcast::error::RecvError;
use warp::reply::Response;

/// Longest reason or note.
const MAX_NOTE: usize = 1_000;
/// Up to this many steps are asked for one by one.
const FEW_STEPS: usize = 4;
/// Notices may be lost, and come from this instance only: a held request looks by itself this often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let mut filter = RolloutFilter::default();
    if let Some(states) = call.query.text("state").or_else(|| call.query.text("status")) {
        for state in states.split(',') {
            match (Phase::parse(state), state) {
                (Some(phase), _) => filter.phases.push(phase),
                (None, "active") => filter.phases.extend(Phase::ALL.iter().filter(|p| p.is_active())),
                (None, _) => {
                    let all = Phase::ALL.iter().map(Phase::as_str).collect::<Vec<_>>().join(", ");
                    return Err(Refusal::invalid("state", format!("must be active or some of {all}")));
                }
            }
        }
    }
    if let Some(name) = call.query.text("bundle").or_else(|| call.query.text("bundle_id")) {
        filter.bundle = Some(bundle_field(&call, &project, "bundle", name).await?);
    }
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.rollouts(Scope::Project(project.id), filter, asked).await)?;
    Ok(reply::ok(&listed(found, show::rollout_summary).under("rollouts")))
}

/// With the reason to override freezes, if that is asked for.
async fn requested(call: &Call) -> Outcome<(domain::project::Project, Spec, Option<String>)> {
    let project = call.project().await?;
    let said = plans::complete(call, project.id, call.json()?).await?;
    // Before anything is made: whoever is refused must find nothing.
    if said.override_freeze == Some(true) {
        check_override(said.reason.as_deref().unwrap_or_default())?;
    }
    let bundle = bundle_field(call, &project, "bundle_id", bundle_name(&said)?).await?;
    let spec = spec(&said, bundle, call.app.plane.config().stale_after, call.app.plane.now())?;
    let reason = said.reason.filter(|_| said.override_freeze == Some(true));
    Ok((project, spec, reason))
}

/// With `?include=node_ids` every step lists its nodes, however many.
fn all_nodes(call: &Call) -> bool {
    call.query.text("include").is_some_and(|i| i.split(',').any(|i| i == "node_ids"))
}

pub async fn create(call: Call) -> Outcome<Response> {
    let (project, spec, override_freeze) = requested(&call).await?;
    let caller = call.commander()?;
    // A repeated request sets nothing aside: whatever freezes hold now, it did not speak of them.
    let is_new = override_freeze.is_some() && !call.app.plane.was_answered(&caller).await?;
    let mut view = call.app.plane.create_rollout(&caller, project.id, spec).await?;
    if let Some(reason) = override_freeze.filter(|_| is_new) {
        call.app.plane.override_freezes(&caller, view.id, &reason).await?;
        view = call.app.plane.rollout_view(view.id).await?;
    }
    let rollout = shown(&call, view).await?;
    Ok(reply::json(StatusCode::CREATED, &flat(&rollout)))
}

/// `{rollout, steps, progress}`, and everything of them flat at the top as well.
fn flat(rollout: &Rollout) -> Value {
    let shown = serde_json::to_value(rollout).unwrap_or(Value::Null);
    let mut out = serde_json::Map::new();
    for part in [shown.get("progress"), Some(&shown)].into_iter().flatten() {
        if let Value::Object(fields) = part {
            out.extend(fields.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    out.insert("rollout".into(), shown);
    Value::Object(out)
}

pub async fn plan(call: Call) -> Outcome<Response> {
    let (project, spec, _) = requested(&call).await?;
    let plan = call.app.plane.plan_rollout(project.id, &spec).await?;
    let all = all_nodes(&call);
    let planned: usize = plan.steps.iter().map(Vec::len).sum();
    let mut windows: Vec<Value> =
        spec.scheduled_at.map(|at| json!({"type": "schedule", "starts_at": at})).into_iter().collect();
    let now = call.app.plane.now();
    for f in call.app.plane.store().freezes(project.id).await? {
        if f.ends_at.is_none_or(|end| end > now) {
            windows.push(json!({"type": "freeze", "id": f.id, "name": f.name, "reason": f.reason,
                "environment_id": f.environment, "starts_at": f.starts_at, "ends_at": f.ends_at}));
        }
    }
    Ok(reply::ok(&Plan {
        steps: plan.steps.into_iter().enumerate().map(|(i, nodes)| show::plan_step(i, nodes, all)).collect(),
        excluded: plan
            .excluded
            .into_iter()
            .map(|(node_id, reason)| Excluded { node_id, reason: reason.as_str().to_string() })
            .collect(),
        windows,
        warnings: plan.warnings,
        diff_summary: DiffSummary {
            changing: (planned as u32).saturating_sub(plan.already),
            already: plan.already,
            online: plan.online,
            offline: plan.offline,
        },
        estimated_duration_seconds: plan.estimate.total.as_secs(),
        estimate_basis: plan.estimate.basis(),
        plan_hash: plan.plan_hash.to_string(),
        seed: plan.seed,
    }))
}

/// The rollout of the path, under either spelling, where the caller may do what the route needs. Errors: 404, 403.
pub async fn named(call: &Call) -> Outcome<RolloutSummary> {
    let id: RolloutId = call.id("id", "rollout")?;
    let found = call.app.plane.store().rollout(Scope::System("who may see it is checked next"), id).await;
    let rollout = match found {
        Ok(rollout) => rollout,
        Err(store::Error::NotFound) => return Err(Refusal::not_found("rollout")),
        Err(e) => return Err(e.into()),
    };
    call.check(rollout.org, Some(rollout.project), "rollout")?;
    if !call.param("project").is_empty() && call.project().await?.id != rollout.project {
        return Err(Refusal::not_found("rollout"));
    }
    Ok(rollout)
}

async fn brief(call: &Call, bundle: BundleId) -> Outcome<Option<BundleBrief>> {
    let facts = call.app.plane.store().bundle_facts(vec![bundle]).await?;
    Ok(facts.first().map(|(f, _)| crate::names::brief(f)))
}

async fn shown(call: &Call, view: RolloutView) -> Outcome<Rollout> {
    let bundle = brief(call, view.spec.bundle).await?;
    let nodes = listed_nodes(call, &view).await?;
    Ok(show::rollout(view, bundle, nodes))
}

/// The nodes of those steps that are shown with them; one query, or one for each when there are few.
async fn listed_nodes(call: &Call, view: &RolloutView) -> Outcome<HashMap<u32, Vec<NodeId>>> {
    let all = all_nodes(call);
    let wanted: Vec<u32> = view.steps.iter().filter(|s| show::lists_nodes(s.size, all)).map(|s| s.index).collect();
    let mut nodes: HashMap<u32, Vec<NodeId>> = wanted.iter().map(|s| (*s, Vec::new())).collect();
    let store = call.app.plane.store();
    let everything = wanted.len() == view.steps.len() || wanted.len() > FEW_STEPS;
    let rows = if everything {
        store.rollout_step_nodes(view.id, None).await?
    } else {
        let mut rows = Vec::new();
        for step in wanted {
            rows.extend(store.rollout_step_nodes(view.id, Some(step)).await?);
        }
        rows
    };
    for (step, node) in rows {
        if let Some(listed) = nodes.get_mut(&step) {
            listed.push(node);
        }
    }
    Ok(nodes)
}

pub async fn show(call: Call) -> Outcome<Response> {
    let id = named(&call).await?.id;
    let wait = call.query.wait()?;
    let view = match call.query.text("until") {
        None => call.app.plane.rollout_view(id).await?,
        Some("settled") => settled(&call, id, wait).await?,
        Some(_) => return Err(Refusal::invalid("until", "must be settled")),
    };
    let org = call.app.plane.store().rollout(Scope::Project(view.project), id).await?.org;
    let mut rollout = shown(&call, view).await?;
    rollout.org_id = Some(org);
    Ok(reply::one(StatusCode::OK, "rollout", &rollout))
}

/// Nothing happens by itself now: it ended, is paused, waits, or was not told to start.
fn is_settled(view: &RolloutView, now: domain::Timestamp) -> bool {
    match view.head.phase {
        Phase::Completed | Phase::Failed | Phase::Cancelled | Phase::RolledBack | Phase::Paused => true,
        Phase::Running | Phase::RollingBack => !view.head.waits.is_empty(),
        Phase::Pending => {
            let awaits =
                matches!(view.primary.code.as_str(), "awaiting_approval" | "rejected" | "freeze" | "schedule_missed");
            awaits || !view.spec.start || view.spec.scheduled_at.is_some_and(|at| at > now)
        }
    }
}

async fn settled(call: &Call, id: RolloutId, wait: Duration) -> Outcome<RolloutView> {
    let plane = &call.app.plane;
    let mut notices = plane.bus().subscribe();
    let end = tokio::time::Instant::now() + wait;
    loop {
        let view = plane.rollout_view(id).await?;
        if is_settled(&view, plane.now()) || tokio::time::Instant::now() >= end || call.app.is_draining() {
            return Ok(view);
        }
        let again = end.min(tokio::time::Instant::now() + LOOK_AGAIN);
        let mine = async {
            loop {
                match notices.recv().await {
                    Ok(notice) if notice.kind == "rollout" && notice.id == id.as_uuid() => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = mine => {}
            () = tokio::time::sleep_until(again) => {}
            () = call.app.drained() => {}
        }
    }
}

pub async fn events(call: Call) -> Outcome<Response> {
    let rollout = named(&call).await?;
    let asked = page(&call.query)?;
    let after = match &asked.cursor {
        None => 0,
        Some(cursor) => {
            cursor.parse::<u64>().map_err(|_| Refusal::invalid("cursor", "is not a cursor of this list"))?
        }
    };
    // One more than is shown tells whether there is a next page.
    let mut rows = call.app.plane.store().rollout_events(rollout.id, after, asked.limit + 1).await?;
    let more = rows.len() > asked.limit as usize;
    rows.truncate(asked.limit as usize);
    let next_cursor = if more { rows.last().map(|e| e.seq.to_string()) } else { None };
    let found = Listing { rows, total: rollout.head.version as i64, next_cursor };
    let show = |e: domain::rollout::LoggedEvent| RolloutEvent {
        seq: e.seq,
        at: e.at,
        kind: e.event.name().to_string(),
        engine_version: e.engine_version,
        event: serde_json::to_value(&e.event).unwrap_or(Value::Null),
        decision_hash: e.decision_hash.to_string(),
    };
    Ok(reply::ok(&listed(found, show).under("events")))
}

pub async fn nodes(call: Call) -> Outcome<Response> {
    let rollout = named(&call).await?;
    let states = NodeStateKind::ALL.iter().map(NodeStateKind::as_str).collect::<Vec<_>>().join(", ");
    let filter = MemberFilter {
        state: call.query.read("state", &format!("one of {states}"), NodeStateKind::parse)?,
        step: call.query.parsed::<u32>("step", "the number of a step")?,
    };
    let asked = page(&call.query)?;
    let scope = Scope::Project(rollout.project);
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.rollout_members(scope, rollout.id, filter, asked).await)?;
    Ok(reply::ok(&listed(found, show::rollout_node).under("nodes")))
}

async fn command(call: Call, command: RolloutCommand) -> Outcome<Response> {
    let id = named(&call).await?.id;
    let caller = call.commander()?;
    let (view, done) = call.app.plane.command_rollout(&caller, id, command).await?;
    let rollout = shown(&call, view).await?;
    Ok(reply::changed("rollout", &rollout, is_change(done)))
}

fn note(reason: Option<String>) -> Outcome<Option<String>> {
    if reason.as_ref().is_some_and(|r| r.chars().count() > MAX_NOTE) {
        return Err(Refusal::invalid("reason", format!("has more than {MAX_NOTE} characters")));
    }
    Ok(reason)
}

/// A command that freezes hold up, perhaps with `{override_freeze: true, reason}`.
async fn onward(
    call: Call,
    override_freeze: Option<bool>,
    reason: Option<String>,
    wanted: RolloutCommand,
) -> Outcome<Response> {
    let reason = note(reason)?.unwrap_or_default();
    if override_freeze == Some(true) {
        let id = named(&call).await?.id;
        call.app.plane.override_freezes_for(&call.commander()?, id, &wanted, &reason).await?;
    }
    command(call, wanted).await
}

pub async fn approve(call: Call) -> Outcome<Response> {
    vote(call, true).await
}

pub async fn reject(call: Call) -> Outcome<Response> {
    vote(call, false).await
}

async fn vote(call: Call, approves: bool) -> Outcome<Response> {
    let said: NoteRequest = call.json_or_empty()?;
    let comment = note(said.reason)?;
    let id = named(&call).await?.id;
    let caller = call.commander()?;
    let (view, done) = call.app.plane.vote_on_rollout(&caller, id, approves, comment).await?;
    let rollout = shown(&call, view).await?;
    Ok(reply::changed("rollout", &rollout, is_change(done)))
}

pub async fn approvals(call: Call) -> Outcome<Response> {
    let id = named(&call).await?.id;
    let found = call.app.plane.approvals_of(id).await?;
    let votes = found.votes.into_iter().map(|v| Vote {
        user_id: v.user,
        decision: if v.approves { "approved" } else { "rejected" }.to_string(),
        comment: v.comment,
        at: v.at,
        current: v.content == found.content,
    });
    let standing = match found.standing {
        Standing::NotNeeded => "not_needed",
        Standing::Approved => "approved",
        Standing::Waiting { .. } => "waiting",
        Standing::Rejected { .. } => "rejected",
    };
    let shown = Approvals {
        needed: found.needed,
        standing: standing.to_string(),
        content_hash: found.content.to_string(),
        votes: votes.collect(),
    };
    Ok(reply::one(StatusCode::OK, "approvals", &shown))
}

pub async fn start(call: Call) -> Outcome<Response> {
    let said: StartRequest = call.json_or_empty()?;
    onward(call, said.override_freeze, said.reason, RolloutCommand::Start).await
}

pub async fn pause(call: Call) -> Outcome<Response> {
    let said: NoteRequest = call.json_or_empty()?;
    command(call, RolloutCommand::Pause { note: note(said.reason)? }).await
}

pub async fn resume(call: Call) -> Outcome<Response> {
    let said: ResumeRequest = call.json_or_empty()?;
    let (retry, accept_failed) = (said.retry.unwrap_or(false), said.accept_failed.unwrap_or(false));
    if retry && accept_failed {
        return Err(Refusal::invalid("accept_failed", "give this or retry, not both"));
    }
    let resume = RolloutCommand::Resume { retry, accept_failed };
    onward(call, said.override_freeze, said.reason, resume).await
}

pub async fn cancel(call: Call) -> Outcome<Response> {
    let said: NoteRequest = call.json_or_empty()?;
    command(call, RolloutCommand::Cancel { note: note(said.reason)? }).await
}

pub async fn rollback(call: Call) -> Outcome<Response> {
    let said: RollbackRequest = call.json_or_empty()?;
    if said.node_ids.as_ref().is_some_and(|n| n.is_empty()) {
        return Err(Refusal::invalid("node_ids", "must name at least one node"));
    }
    command(call, RolloutCommand::Rollback { note: note(said.reason)?, nodes: said.node_ids }).await
}

pub async fn advance_traffic(call: Call) -> Outcome<Response> {
    let _: NoteRequest = call.json_or_empty()?;
    command(call, RolloutCommand::AdvanceTraffic).await
}

pub async fn swap_slot(call: Call) -> Outcome<Response> {
    let _: NoteRequest = call.json_or_empty()?;
    command(call, RolloutCommand::SwapSlot).await
}

pub async fn retry(call: Call) -> Outcome<Response> {
    let said: RetryRequest = call.json_or_empty()?;
    if said.node_ids.as_ref().is_some_and(|n| n.is_empty()) {
        return Err(Refusal::invalid("node_ids", "must name at least one node"));
    }
    onward(call, said.override_freeze, said.reason, RolloutCommand::Retry { nodes: said.node_ids }).await
}
