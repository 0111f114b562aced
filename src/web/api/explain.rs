//! `explain`: the one reason that counts, and what is behind it, in order.

use super::{nodes, rollouts};
use crate::call::Call;
use crate::problem::Outcome;
use crate::reply;
use api::rollout::{Cause, Explanation};
use domain::bundle::BundleStatus;
use domain::node::{Node, Presence, Standing, skew};
use domain::rollout::{Event, LoggedEvent, Member, NodeState};
use domain::{BundleId, RolloutId, Timestamp};
use warp::reply::Response;

/// How many of a rollout's newest events are looked at for what brought it here.
const EVENTS_BACK: u32 = 200;

fn cause(code: &str, text: impl Into<String>, at: Option<Timestamp>) -> Cause {
    Cause { code: code.into(), text: text.into(), event_id: None, at }
}

pub async fn rollout(call: Call) -> Outcome<Response> {
    let summary = rollouts::named(&call).await?;
    let view = call.app.plane.rollout_view(summary.id).await?;
    let after = view.head.version.saturating_sub(u64::from(EVENTS_BACK));
    let events = call.app.plane.store().rollout_events(summary.id, after, EVENTS_BACK).await?;
    let mut causes: Vec<Cause> = Vec::new();
    for paused in &view.head.causes {
        causes.push(cause(paused.as_str(), format!("paused: {}", words(paused.as_str())), None));
    }
    for wait in &view.head.waits {
        causes.push(cause(wait.as_str(), format!("waits: {}", words(wait.as_str())), None));
    }
    if let Some(note) = &view.head.note {
        causes.push(cause("note", note.clone(), None));
    }
    // What people, freezes and the instance did to it, newest first.
    causes.extend(events.iter().rev().filter(|e| is_turn(&e.event)).map(turn));
    let primary = cause(&view.primary.code, view.primary.text, None);
    Ok(reply::ok(&Explanation { primary, causes }))
}

fn words(code: &str) -> String {
    code.replace('_', " ")
}

/// Does this kind of event by itself change where a rollout stands?
fn is_turn(event: &Event) -> bool {
    matches!(
        event,
        Event::Start { .. }
            | Event::Pause { .. }
            | Event::Resume { .. }
            | Event::Cancel { .. }
            | Event::Rollback { .. }
            | Event::Retry { .. }
            | Event::Untouched { .. }
            | Event::FreezeBegan
            | Event::FreezeEnded
            | Event::BundleRevoked { .. }
            | Event::WaitBegan { .. }
            | Event::WaitEnded { .. }
            | Event::ControllerFailed { .. }
            | Event::OwnerStarted { .. }
    )
}

fn turn(e: &LoggedEvent) -> Cause {
    let note = match &e.event {
        Event::Pause { note } | Event::Cancel { note } | Event::Rollback { note, .. } => note.clone(),
        Event::ControllerFailed { note } => Some(note.clone()),
        _ => None,
    };
    let text = match note {
        Some(note) => format!("{}: {note}", words(e.event.name())),
        None => words(e.event.name()),
    };
    Cause { code: e.event.name().into(), text, event_id: Some(e.seq), at: Some(e.at) }
}

/// Everything that decides what one node runs.
struct About {
    node: Node,
    desired: Option<(String, BundleStatus)>,
    pinned: Option<(String, BundleStatus)>,
    active: Option<String>,
    holder: Option<(RolloutId, Member)>,
    owed: Option<(RolloutId, bool, Timestamp)>,
}

pub async fn node(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let node = nodes::named(&call, &project).await?;
    let store = call.app.plane.store();
    let named = [node.desired_bundle, node.active_bundle, node.pinned_bundle];
    let facts = store.bundle_facts(named.into_iter().flatten().collect()).await?;
    let name = |id: BundleId| {
        let facts = facts.iter().map(|(f, _)| f).find(|f| f.id == id)?;
        let content = facts.content_id.map_or_else(|| id.to_string(), |c| c.to_string());
        let text = facts.version.as_ref().map_or_else(|| content.clone(), |v| format!("{v} ({content})"));
        Some((text, facts.status))
    };
    let holder = match store.holder_of(node.id).await? {
        Some(rollout) => store.rollout_member(rollout, node.id).await.ok().map(|m| (rollout, m)),
        None => None,
    };
    let owed = store.debt_of_node(node.id).await?.map(|d| (d.rollout, d.restore, d.at));
    let about = About {
        desired: node.desired_bundle.and_then(name),
        pinned: node.pinned_bundle.and_then(name),
        active: node.active_bundle.and_then(name).map(|(text, _)| text),
        holder,
        owed,
        node,
    };
    let mut causes = why(&about, call.app.plane.now());
    // `why` always ends with what the node runs, so there is a first one.
    let primary =
        if causes.is_empty() { cause("unknown", "nothing is known of this node", None) } else { causes.remove(0) };
    Ok(reply::ok(&Explanation { primary, causes }))
}

/// Strongest first: what keeps the node from updates, what moves it, then where it stands.
fn why(about: &About, now: Timestamp) -> Vec<Cause> {
    let node = &about.node;
    let mut out = Vec::new();
    match node.standing {
        Standing::Revoked => out.push(cause("revoked", "the node is revoked: it gets nothing", Some(node.updated_at))),
        Standing::Quarantined => {
            out.push(cause(
                "quarantined",
                "the node registered openly and waits to be adopted: it gets no bundle",
                None,
            ));
        }
        Standing::Conflicted => {
            let text = "two processes say that they are this node: it gets nothing until its key is rotated and it is adopted again";
            out.push(cause("identity_conflict", text, Some(node.updated_at)));
        }
        Standing::Adopted => {}
    }
    if let Some((name, BundleStatus::Revoked)) = &about.desired {
        out.push(cause("bundle_revoked", format!("its bundle {name} is revoked: it is not handed out"), None));
    }
    if let Some((rollout, member)) = &about.holder {
        let state = member.state.kind();
        let text = match &member.state {
            NodeState::Failed { reason, error, .. } => {
                let error = error.as_deref().unwrap_or("no error given");
                format!("rollout {rollout} holds it: failed ({reason}): {error}")
            }
            NodeState::Skipped { reason } => format!("rollout {rollout} skips it: {}", words(reason.as_str())),
            _ => format!("rollout {rollout} holds it: {}", words(state.as_str())),
        };
        out.push(cause(&format!("rollout_{state}"), text, None));
    }
    if let Some((rollout, restore, at)) = &about.owed {
        let what = if *restore { "its earlier bundle, to be restored" } else { "its bundle" };
        out.push(cause("owed", format!("rollout {rollout} owes it {what}, when it is back or free"), Some(*at)));
    }
    if let Some(busy) = node.busy.filter(|b| b.holds(now)) {
        let text = format!("it says \"not now\", and is granted it until {}", busy.until);
        out.push(cause("busy", text, Some(busy.since)));
    }
    match &about.pinned {
        Some((pin, BundleStatus::Revoked)) => {
            out.push(cause(
                "pin_suspended",
                format!("pinned to {pin}, which is revoked: rollouts take it along"),
                None,
            ));
        }
        Some((pin, _)) => out.push(cause("pinned", format!("pinned to {pin}: rollouts skip it"), None)),
        None => {}
    }
    match node.presence {
        Presence::Online => {}
        Presence::Offline => out.push(cause("offline", "not heard within the stale time", node.last_seen)),
        Presence::Unknown => out.push(cause("never_heard", "never heard", None)),
    }
    if let Some(error) = &node.last_error {
        out.push(cause("last_error", format!("its last failure: {error}"), None));
    }
    match (&about.desired, node.desired_rollout) {
        (Some((name, _)), Some(rollout)) => {
            let text = format!("rollout {rollout} wants {name} on it (generation {})", node.generation);
            out.push(cause("desired", text, None));
        }
        (Some((name, _)), None) => {
            out.push(cause("desired", format!("it is to run {name} (generation {})", node.generation), None));
        }
        (None, _) if node.generation > 0 => {
            out.push(cause(
                "desired_baseline",
                format!("it is to run its baseline (generation {})", node.generation),
                None,
            ));
        }
        (None, _) => out.push(cause("never_assigned", "no rollout has reached it yet", None)),
    }
    out.push(match &about.active {
        Some(name) if node.active_bundle == node.desired_bundle => {
            cause("current", format!("it runs {name}, as it should"), None)
        }
        Some(name) => cause("differs", format!("it runs {name}"), None),
        None => cause("baseline", "it runs what it had at enrolment, or has not said", None),
    });
    // Last: it decides nothing, but explains certificates that are refused and logs that seem to lie.
    if let Some(skew) = node.clock_skew.filter(|s| skew::is_worth_a_warning(*s)) {
        let text = format!(
            "its clock is about {} of ours: nothing is decided by it here, but the node judges certificates by it",
            skew::in_words(skew)
        );
        out.push(cause("clock_skew", text, None));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::node::{Busy, HealthClass};
    use domain::{Digest, NodeId, OrgId, ProjectId, Span};

    fn about() -> About {
        About {
            node: Node {
                id: NodeId::NIL,
                org: OrgId::NIL,
                project: ProjectId::NIL,
                name: "n".into(),
                standing: Standing::Adopted,
                key_hash: Digest::ZERO,
                credential_epoch: 0,
                labels: Default::default(),
                capabilities: vec![],
                version: None,
                ip: None,
                hostname: None,
                metadata: serde_json::Value::Null,
                presence: Presence::Online,
                health: HealthClass::Healthy,
                last_seen: None,
                instance: None,
                generation: 0,
                handed_over: 0,
                desired_bundle: None,
                desired_rollout: None,
                traffic_weight: 100,
                busy: None,
                clock_skew: None,
                active_bundle: None,
                staged_bundle: None,
                verified_bundle: None,
                pinned_bundle: None,
                last_error: None,
                inserted_at: Timestamp(0),
                updated_at: Timestamp(0),
            },
            desired: None,
            pinned: None,
            active: None,
            holder: None,
            owed: None,
        }
    }

    fn codes(about: &About) -> Vec<String> {
        why(about, Timestamp(0)).into_iter().map(|c| c.code).collect()
    }

    #[test]
    fn there_is_always_a_reason() {
        assert_eq!(codes(&about()), ["never_assigned", "baseline"]);
    }

    #[test]
    fn what_keeps_a_node_from_updates_comes_first() {
        let mut a = about();
        a.node.standing = Standing::Quarantined;
        a.node.presence = Presence::Offline;
        a.node.pinned_bundle = Some(BundleId::NIL);
        a.pinned = Some(("v1".into(), BundleStatus::Compiled));
        a.owed = Some((RolloutId::NIL, false, Timestamp(0)));
        assert_eq!(codes(&a), ["quarantined", "owed", "pinned", "offline", "never_assigned", "baseline"]);
        a.node.busy = Some(Busy { since: Timestamp(-9), until: Timestamp(1) });
        assert!(codes(&a).contains(&"busy".into()));
        for (ahead, said) in [(4, false), (5, true), (-600, true)] {
            a.node.clock_skew = Some(Span::secs(ahead));
            assert_eq!(codes(&a).last().is_some_and(|c| c == "clock_skew"), said, "{ahead} s");
        }
        a.node.busy = Some(Busy { since: Timestamp(-9), until: Timestamp(0) });
        assert!(!codes(&a).contains(&"busy".into()), "its time is over");
        a.pinned = Some(("v1".into(), BundleStatus::Revoked));
        assert_eq!(codes(&a)[2], "pin_suspended");
    }

    #[test]
    fn a_current_node_says_so() {
        let mut a = about();
        a.node.generation = 3;
        a.node.desired_bundle = Some(BundleId::NIL);
        a.node.active_bundle = Some(BundleId::NIL);
        a.desired = Some(("v1".into(), BundleStatus::Compiled));
        a.active = Some("v1".into());
        assert_eq!(codes(&a), ["desired", "current"]);
    }
}
