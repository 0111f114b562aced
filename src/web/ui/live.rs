//! `/projects/:project/rollouts/:id`: one rollout, its regions one by one, and its commands.

use super::ask::{Ask, ROWS};
use super::view::approvals::{ApprovalsView, VoteLine};
use super::view::events::{EventRow, EventsView, page as events_page};
use super::view::outcome::Failure;
use super::view::rollout::*;
use super::view::{Flash, parts};
use crate::page::listing;
use crate::problem::{Outcome, Refusal};
use actors::command::Done;
use actors::commands::rollouts::RolloutCommand;
use domain::access::KeyScope;
use domain::approval::{self, Standing, Voter};
use domain::audit::Entry;
use domain::project::Project;
use domain::rollout::{Member, NodeState, NodeStateKind, Phase};
use domain::{Role, RolloutId, Scope, UserId};
use serde_json::Value;
use std::collections::BTreeMap;
use store::{AuditFilter, MemberFilter, Page, RolloutSummary};
use warp::reply::Response;

/// Lines of the timeline.
const TIMELINE: u32 = 25;
/// Longest reason or note.
const MAX_NOTE: usize = 1_000;
/// Nodes that a bundle failed on, shown with what they said.
const FAILURES: u32 = 5;

async fn named(ask: &Ask, project: &Project, id: &str) -> Outcome<RolloutSummary> {
    let missing = || Refusal::not_found("There is no such rollout in this project.");
    let id: RolloutId = id.parse().map_err(|_| missing())?;
    match ask.store().rollout(Scope::Project(project.id), id).await {
        Ok(rollout) => Ok(rollout),
        Err(store::Error::NotFound) => Err(missing()),
        Err(e) => Err(e.into()),
    }
}

fn path(project: &Project, id: RolloutId) -> String {
    format!("/projects/{}/rollouts/{id}", parts::query(&project.slug))
}

pub async fn show(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsRead).await?;
    let summary = named(ask, &project, id).await?;
    match ask.fragment() {
        Some("nodes") => ask.ok(nodes(&frame, &members(ask, &project, &summary).await?)),
        Some("timeline") => ask.ok(history(&frame, &timeline(ask, &project, &summary).await?)),
        Some(_) => ask.ok(progress(&frame, &view(ask, &project, &summary).await?)),
        None => {
            let view = view(ask, &project, &summary).await?;
            let members = members(ask, &project, &summary).await?;
            let timeline = timeline(ask, &project, &summary).await?;
            ask.ok(page(&frame, &view, &members, &timeline))
        }
    }
}

async fn view(ask: &Ask, project: &Project, summary: &RolloutSummary) -> Outcome<RolloutView> {
    let r = ask.plane().rollout_view(summary.id).await?;
    let created_by = match r.created_by {
        Some(user) => ask.store().user(user).await.map(|u| u.email).unwrap_or_default(),
        None => String::new(),
    };
    let failed = r.head.failures > 0 || matches!(r.head.phase, Phase::Failed | Phase::RollingBack | Phase::RolledBack);
    let failures = match failed {
        true => ask.store().rollout_failures(project.id, r.id, r.spec.bundle, FAILURES).await?,
        false => Vec::new(),
    };
    Ok(RolloutView {
        approvals: approvals(ask, project, summary).await?,
        failures: failures.into_iter().map(|(name, h)| Failure::of(name, h)).collect(),
        slug: project.slug.clone(),
        names: ask.names([r.spec.bundle]).await?,
        path: path(project, r.id),
        all_steps: ask.query.text("steps") == Some("all"),
        id: r.id,
        spec: r.spec,
        head: r.head,
        steps: r.steps,
        reason_code: r.primary.code,
        reason: r.primary.text,
        created_by,
        inserted_at: r.inserted_at,
    })
}

/// Where people have a say: before it has started, if anybody must agree or somebody did.
async fn approvals(ask: &Ask, project: &Project, summary: &RolloutSummary) -> Outcome<Option<ApprovalsView>> {
    if summary.head.phase != Phase::Pending {
        return Ok(None);
    }
    let found = ask.plane().approvals_of(summary.id).await?;
    if found.needed == 0 && found.votes.is_empty() {
        return Ok(None);
    }
    let members = ask.store().members(project.org).await?;
    let email =
        |user: UserId| members.iter().find(|m| m.0.id == user).map_or_else(|| user.to_string(), |m| m.0.email.clone());
    let person = ask.caller().user;
    let operator_since =
        members.iter().find(|m| Some(m.0.id) == person && m.1 >= Role::Operator).map(|(_, _, since)| *since);
    let voter = Voter { person, operator_since };
    let refused = approval::refuse(&voter, summary.created_by, summary.inserted_at).err();
    let standing = match &found.standing {
        Standing::NotNeeded => "Nobody has to agree any more.".to_string(),
        Standing::Approved => "Enough people agreed to what would start now.".to_string(),
        Standing::Waiting { have, need } => format!("{have} of {need} people have agreed to what would start now."),
        Standing::Rejected { by, .. } => format!("{} rejected it.", email(*by)),
    };
    Ok(Some(ApprovalsView {
        needed: found.needed,
        standing,
        votes: found
            .votes
            .iter()
            .map(|v| VoteLine {
                who: email(v.user),
                approves: v.approves,
                comment: v.comment.clone().unwrap_or_default(),
                at: v.at,
                stale: v.content != found.content,
            })
            .collect(),
        refused: refused.map(String::from),
    }))
}

async fn members(ask: &Ask, project: &Project, summary: &RolloutSummary) -> Outcome<MembersView> {
    let (state, step) = (ask.given("state"), ask.given("step"));
    let filter = MemberFilter { state: NodeStateKind::parse(&state), step: step.parse().ok() };
    let asked = ask.page(ROWS)?;
    let scope = Scope::Project(project.id);
    let found = listing(asked.cursor.is_some(), ask.store().rollout_members(scope, summary.id, filter, asked).await)?;
    let links = ask.links(&[("state", Some(&state)), ("step", Some(&step))], found.next_cursor.as_deref());
    Ok(MembersView {
        slug: project.slug.clone(),
        rows: found
            .rows
            .into_iter()
            .map(|r| MemberRow {
                node: r.member.node,
                name: if r.name.is_empty() { r.member.node.to_string() } else { r.name },
                step: r.member.step,
                state: r.member.state.kind(),
                detail: detail(&r.member),
                attempt: r.member.attempt,
                online: r.member.online,
                health: r.member.health.as_str(),
                updated_at: r.updated_at,
            })
            .collect(),
        total: found.total,
        state,
        step,
        next: links.next,
        first: links.first,
        src: links.here,
        path: path(project, summary.id),
        id: summary.id.to_string(),
        version: summary.head.version,
    })
}

fn detail(m: &Member) -> String {
    let because = |reason: &str, error: &Option<String>| match error {
        Some(error) => format!("{}: {error}", parts::words(reason)),
        None => parts::words(reason),
    };
    match &m.state {
        NodeState::Failed { reason, error, .. } if m.accepted => {
            format!("accepted; {}", because(reason.as_str(), error))
        }
        NodeState::Failed { reason, error, .. } => because(reason.as_str(), error),
        NodeState::RollbackFailed { error, .. } => error.clone().unwrap_or_default(),
        NodeState::Skipped { reason } => parts::words(reason.as_str()),
        NodeState::Verified { no_traffic: true, .. } => "without traffic".into(),
        NodeState::RollingBack { owed: true, .. } => "waits for its return".into(),
        NodeState::RollingBack { .. } if domain::rollout::waits_back(m) => "waits for its turn".into(),
        NodeState::Assigned if !m.handed_over => "not handed over yet".into(),
        NodeState::Pending
        | NodeState::Assigned
        | NodeState::Downloaded
        | NodeState::Staged
        | NodeState::Activated { .. }
        | NodeState::Verified { .. }
        | NodeState::Owed
        | NodeState::RollingBack { .. }
        | NodeState::RolledBack { .. } => String::new(),
    }
}

async fn timeline(ask: &Ask, project: &Project, summary: &RolloutSummary) -> Outcome<TimelineView> {
    let filter = AuditFilter { resource: Some(summary.id.0), ..AuditFilter::default() };
    let mut found = ask.store().audit_entries(Scope::Project(project.id), filter, Page::first(TIMELINE)).await?;
    super::audit::newest_first(&mut found.rows);
    let people = super::audit::people(ask, project.org, &found.rows).await?;
    Ok(TimelineView {
        slug: project.slug.clone(),
        more: found.total - found.rows.len() as i64,
        lines: found.rows.iter().map(|e| line(e, &people)).collect(),
        path: path(project, summary.id),
        id: summary.id.to_string(),
        version: summary.head.version,
    })
}

fn line(e: &Entry, people: &BTreeMap<String, String>) -> TimelineLine {
    let actor = match e.actor_id {
        Some(id) => people.get(&id.to_string()).cloned().unwrap_or_else(|| parts::words(&e.actor_type)),
        None => String::new(),
    };
    let verb = e.action.split_once('.').map_or(e.action.as_str(), |(_, verb)| verb);
    let number = |name: &str| e.changes.get(name).and_then(Value::as_u64);
    let text = |name: &str| e.changes.get(name).and_then(Value::as_str);
    let action = match (e.action.starts_with("rollout_step."), number("step")) {
        (true, Some(step)) => format!("step {} {verb}", step + 1),
        _ => parts::words(verb),
    };
    let mut said = Vec::new();
    for (name, label) in [("cause", ""), ("note", ""), ("error", "")] {
        if let Some(value) = text(name) {
            said.push(format!("{label}{}", if name == "cause" { parts::words(value) } else { value.to_string() }));
        }
    }
    for (name, noun) in [("targets", "target"), ("steps", "step"), ("nodes", "node"), ("owed", "node owed")] {
        if let Some(n) = number(name).and_then(|n| i64::try_from(n).ok()).filter(|n| *n > 0) {
            said.push(if name == "owed" { format!("{n} owed") } else { parts::count(n, noun) });
        }
    }
    if e.changes.get("automatic") == Some(&Value::Bool(true)) {
        said.push("automatically".into());
    }
    TimelineLine { at: e.at, action, actor, detail: said.join(", ") }
}

/// `/projects/:project/rollouts/:id/events`
pub async fn events(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::RolloutsRead).await?;
    let summary = named(ask, &project, id).await?;
    let invalid = || Refusal::invalid("cursor", "is not a cursor of this list");
    let after = ask.page(ROWS)?.cursor.map_or(Ok(0), |c| c.parse::<u64>().map_err(|_| invalid()))?;
    // One more than is shown tells whether there is a next page.
    let mut rows = ask.store().rollout_events(summary.id, after, ROWS + 1).await?;
    let more = rows.len() > ROWS as usize;
    rows.truncate(ROWS as usize);
    let next = rows.last().filter(|_| more).map(|e| e.seq.to_string());
    let links = ask.links(&[], next.as_deref());
    let row = |e: domain::rollout::LoggedEvent| EventRow {
        seq: e.seq,
        at: e.at,
        name: e.event.name().to_string(),
        event: serde_json::to_value(&e.event).unwrap_or(Value::Null),
    };
    let view = EventsView {
        rollout: path(&project, summary.id),
        bundle: ask.names([summary.spec.bundle]).await?.text(summary.spec.bundle),
        slug: project.slug,
        total: summary.head.version as i64,
        rows: rows.into_iter().map(row).collect(),
        next: links.next,
        first: links.first,
    };
    ask.ok(events_page(&frame, &view))
}

/// `None`: no such command.
pub async fn command(ask: &Ask, project: &str, id: &str, command: &str) -> Outcome<Option<Response>> {
    let note = ask.field("note").map(|n| n.chars().take(MAX_NOTE).collect::<String>());
    let mode = ask.field("mode");
    if let "approve" | "reject" = command {
        let (project, _) = ask.project(project, KeyScope::RolloutsWrite).await?;
        let rollout = named(ask, &project, id).await?;
        let approves = command == "approve";
        let (_, done) = ask.plane().vote_on_rollout(ask.caller(), rollout.id, approves, note).await?;
        let flash = match (done, approves) {
            (Done::Already, _) => Flash::Unchanged,
            (Done::Changed, true) => Flash::RolloutApproved,
            (Done::Changed, false) => Flash::RolloutRejected,
        };
        return ask.redirect(&path(&project, rollout.id), Some(flash)).map(Some);
    }
    let (wanted, flash) = match command {
        "start" => (RolloutCommand::Start, Flash::RolloutStarted),
        "pause" => (RolloutCommand::Pause { note }, Flash::RolloutPaused),
        "resume" => {
            let (retry, accept_failed) = (mode == Some("retry"), mode == Some("accept"));
            (RolloutCommand::Resume { retry, accept_failed }, Flash::RolloutResumed)
        }
        "cancel" => (RolloutCommand::Cancel { note }, Flash::RolloutCancelled),
        "rollback" => (RolloutCommand::Rollback { note, nodes: None }, Flash::RolloutBack),
        "retry" => (RolloutCommand::Retry { nodes: None }, Flash::RolloutRetried),
        "advance_traffic" => (RolloutCommand::AdvanceTraffic, Flash::TrafficShifted),
        "swap_slot" => (RolloutCommand::SwapSlot, Flash::TrafficShifted),
        _ => return Ok(None),
    };
    let (project, _) = ask.project(project, KeyScope::RolloutsWrite).await?;
    let rollout = named(ask, &project, id).await?;
    let (_, done) = ask.plane().command_rollout(ask.caller(), rollout.id, wanted).await?;
    let flash = match done {
        Done::Changed => flash,
        Done::Already => Flash::Unchanged,
    };
    ask.redirect(&path(&project, rollout.id), Some(flash)).map(Some)
}
