//! From a decision to one transaction: event, rows, audit entries, node events, change feed.

use crate::command::{Caller, CommandError, Idempotency};
use crate::commands::write::idem_record;
use crate::plane::ControlPlane;
use domain::audit::NewEntry;
use domain::rollout::*;
use domain::*;
use serde_json::json;

/// Who asks, and what must be stored with the answer.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub ctx: Ctx,
    pub idempotency: Option<Idempotency>,
}

impl Attempt {
    pub fn system() -> Attempt {
        Attempt { ctx: Ctx::system(), idempotency: None }
    }
    pub fn of(caller: &Caller) -> Attempt {
        Attempt { ctx: caller.ctx.clone(), idempotency: caller.idempotency.clone() }
    }
}

/// What goes into the same transaction beside the decision.
#[derive(Clone, Default)]
pub(crate) struct Extra {
    pub reports: Vec<store::NodeChange>,
    pub inbox: Vec<uuid::Uuid>,
}

/// Why nothing was committed (or perhaps was).
pub(crate) enum Failure {
    /// The answer is final for the asker; the rollout in memory is as it was.
    Refused(CommandError),
    /// Another commit came first: certainly nothing of ours was done. Load again and decide again.
    Moved(String),
    /// It is unknown whether ours was done: only a new actor knows.
    Reload(String),
}

/// The actor lost a race: certainly nothing was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

impl ControlPlane {
    /// Decide `event` on `rollout` and commit what follows. Nothing in memory changes.
    pub(crate) async fn commit(
        &self,
        rollout: &Rollout,
        org: OrgId,
        fence: i64,
        event: &Event,
        attempt: &Attempt,
        extra: Extra,
    ) -> Result<Decision, Failure> {
        let watch = self.clock().stopwatch();
        let now = self.now();
        let decision = match decide(rollout, event, now) {
            Ok(d) => d,
            Err(Rejection::AlreadySo) => return Ok(Decision::default()),
            Err(Rejection::NotAllowed { phase, command, allowed, why }) => {
                let why = why.map(|w| format!("; {w}")).unwrap_or_default();
                let allowed = if allowed.is_empty() { "none".to_string() } else { allowed.join(", ") };
                let detail = format!("{command} is not allowed while the rollout is {phase}; allowed: {allowed}{why}");
                return Err(Failure::Refused(CommandError::Conflict { code: "invalid_state", detail }));
            }
        };
        if decision.changes.is_empty() && extra.inbox.is_empty() {
            if !extra.reports.is_empty() {
                self.inner.store.observe(extra.reports, store::Write::at(now)).await.map_err(sort)?;
            }
            return Ok(decision);
        }
        let version = rollout.head.version;
        let events = if decision.changes.is_empty() {
            Vec::new()
        } else {
            vec![LoggedEvent {
                seq: version + 1,
                at: now,
                engine_version: ENGINE_VERSION,
                event: event.clone(),
                decision_hash: decision.hash(),
            }]
        };
        let commit = store::RolloutCommit {
            id: rollout.id,
            project: rollout.project,
            expect_version: version,
            fence,
            events,
            changes: decision.changes.clone(),
            node_events: node_events(rollout, &decision, now),
            consumed_inbox: extra.inbox,
            reports: extra.reports,
            budget: None,
        };
        let write = self.audited(rollout, org, &decision, attempt, now);
        let done = self.inner.store.commit_rollout(commit, write).await.map_err(sort)?;
        self.drop_displaced(done.displaced_debts);
        self.inner.rollouts.metrics.decision_seconds.observe(watch.elapsed().as_secs_f64());
        Ok(decision)
    }

    /// A newer commit covers what older rollouts owed: they are told beside us, because one of them may be asking us something.
    fn drop_displaced(&self, displaced: Vec<(RolloutId, NodeId)>) {
        if displaced.is_empty() {
            return;
        }
        let mut of: std::collections::BTreeMap<RolloutId, Vec<NodeId>> = Default::default();
        for (rollout, node) in displaced {
            of.entry(rollout).or_default().push(node);
        }
        let plane = self.clone();
        crate::supervision::spawn_task("drop displaced debts", async move {
            for (rollout, nodes) in of {
                let told = Box::pin(plane.decide_on(rollout, Event::DebtsDropped { nodes }, Attempt::system()));
                if let Err(e) = told.await {
                    // Found again when that rollout compares its debts.
                    tracing::debug!(%rollout, error = ?e, "a displaced debt was not dropped yet");
                }
            }
        })
        .detach();
    }

    /// One audit entry per transition; the first carries who asked, the others say what caused them.
    fn audited(
        &self,
        r: &Rollout,
        _org: OrgId,
        decision: &Decision,
        attempt: &Attempt,
        now: Timestamp,
    ) -> store::Write {
        let mut write = store::Write::at(now);
        let mut facts: Vec<_> = decision.facts.iter().filter_map(|f| Some((f, f.action()?))).collect();
        if attempt.ctx.actor != Actor::System
            && let Some(own) = facts.iter().position(|(_, action)| action.starts_with("rollout."))
        {
            // What was asked for comes first; the ends of steps are its consequences.
            facts[..=own].rotate_right(1);
        }
        let mut cause: Option<AuditId> = None;
        for (fact, action) in facts {
            let id: AuditId = self.fresh().id(now);
            let mut changes = serde_json::to_value(fact).unwrap_or_default();
            if let Some(c) = cause {
                changes["caused_by"] = json!(c);
            }
            let first = cause.is_none();
            let asker =
                if first { attempt.ctx.clone() } else { Ctx { request_id: attempt.ctx.request_id, ..Ctx::system() } };
            cause.get_or_insert(id);
            write = write.audit(
                id,
                NewEntry {
                    actor: asker.actor,
                    action,
                    resource_type: "rollout",
                    resource_id: Some(r.id.0),
                    project: Some(r.project),
                    changes,
                    request_id: asker.request_id,
                    ip: asker.address.map(|a| a.to_string()),
                },
            );
        }
        write.idem(attempt.idempotency.as_ref().map(|i| idem_record(i, "rollout", r.id.0, 200, now)))
    }
}

fn node_events(r: &Rollout, decision: &Decision, now: Timestamp) -> Vec<store::NodeEvent> {
    decision
        .facts
        .iter()
        .filter_map(|f| match f {
            Fact::NodeMoved { node, from, to, detail } => Some(store::NodeEvent {
                node: *node,
                project: r.project,
                at: now,
                kind: format!("rollout.{to}"),
                detail: json!({"from": from, "to": to, "detail": detail}),
                rollout: Some(r.id),
            }),
            _ => None,
        })
        .collect()
}

fn sort(e: store::Error) -> Failure {
    match e {
        store::Error::Conflict("rollout" | "generation") => Failure::Moved(e.to_string()),
        store::Error::Unknown(_) => Failure::Reload(e.to_string()),
        other => Failure::Refused(other.into()),
    }
}
