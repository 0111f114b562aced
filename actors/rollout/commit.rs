//! From a decision to one transaction: event, rows, audit entries, node events, change feed.

use super::budget::{budget_move, needs_room};
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
    /// Rollouts whose nodes a start takes over, in the same commit.
    pub takes: Vec<RolloutId>,
}

impl Attempt {
    pub fn system() -> Attempt {
        Attempt { ctx: Ctx::system(), idempotency: None, takes: Vec::new() }
    }
    pub fn of(caller: &Caller) -> Attempt {
        Attempt { ctx: caller.ctx.clone(), idempotency: caller.idempotency.clone(), takes: Vec::new() }
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
    /// The project's budget has no room for what was decided: certainly nothing was done. Decide again with less.
    Budget,
    /// It is unknown whether ours was done: only a new actor knows.
    Reload(String),
}

/// Why an actor that was beaten to the budget over and over starts anew.
pub(crate) const NO_ROOM: &str = "the project's budget changes too fast";

/// The actor lost a race: certainly nothing was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

impl ControlPlane {
    /// Decide `event` on `rollout` and commit what follows. Nothing in memory changes.
    pub(crate) async fn commit(
        &self,
        rollout: &Rollout,
        fence: i64,
        event: &Event,
        attempt: &Attempt,
        extra: Extra,
    ) -> Result<Decision, Failure> {
        let watch = self.clock().stopwatch();
        let now = self.now();
        let decision = decided(rollout, event, now)?;
        if decision.changes.is_empty() && extra.inbox.is_empty() {
            if !extra.reports.is_empty() {
                self.inner.store.observe(extra.reports, store::Write::at(now)).await.map_err(sort)?;
            }
            return Ok(decision);
        }
        let mut taken = Vec::new();
        for older in taken_by(event, attempt) {
            let older = self.inner.store.load_rollout(*older).await.map_err(sort)?;
            taken.extend(self.taken_from(older, event, attempt, now)?);
        }
        let mut all: Vec<_> = taken.iter().map(|t| t.commit.clone()).collect();
        let limit = match needs_room(rollout, &decision) {
            true => self.budget_limit(rollout.project).await.map_err(sort)?,
            false => None,
        };
        let write = self.audited(rollout, &decision, attempt, now);
        let commit = written(rollout, fence, event, &decision, extra, limit, now);
        let freed = commit.budget.is_some_and(|b| b.delta < 0);
        all.push((commit, write));
        let done = match (all.len(), all.pop()) {
            (1, Some((commit, write))) => self.inner.store.commit_rollout(commit, write).await,
            (_, last) => {
                all.extend(last);
                self.inner.store.commit_rollouts(all).await
            }
        };
        self.stored(rollout.project, done.map_err(sort)?, taken, freed).await;
        self.inner.rollouts.metrics.decision_seconds.observe(watch.elapsed().as_secs_f64());
        Ok(decision)
    }

    /// Decide `event` on the rollout as it is stored, while its owner cannot commit, however busy it is. Answers the rollout as it is
    /// then, and what was decided: the last is of the event.
    pub(crate) async fn commit_held(
        &self,
        (project, id): (ProjectId, RolloutId),
        room: Room,
        event: &Event,
        attempt: &Attempt,
    ) -> Result<(Rollout, Vec<Decision>), Failure> {
        let watch = self.clock().stopwatch();
        let limit = self.budget_limit(project).await.map_err(sort)?;
        let (plane, event, attempt) = (self.clone(), event.clone(), attempt.clone());
        let ids = std::iter::once(&id).chain(taken_by(&event, &attempt)).copied().collect();
        let decide = move |loaded: Vec<store::Loaded>| match plane.decided_held(loaded, &room, &event, &attempt, limit)
        {
            Ok((commits, held)) => (commits, Ok(held)),
            Err(why) => (Vec::new(), Err(why)),
        };
        let (held, done) = self.inner.store.decide_rollouts(ids, decide).await.map_err(sort)?;
        let Held { rollout, decisions, taken, freed } = held?;
        self.stored(project, done, taken, freed).await;
        self.inner.rollouts.metrics.decision_seconds.observe(watch.elapsed().as_secs_f64());
        Ok((rollout, decisions))
    }

    /// `loaded`: the one that decides, then those whose nodes it takes over.
    fn decided_held(
        &self,
        loaded: Vec<store::Loaded>,
        room: &Room,
        event: &Event,
        attempt: &Attempt,
        limit: Option<u32>,
    ) -> Result<(Vec<(store::RolloutCommit, store::Write)>, Held), Failure> {
        let mut loaded = loaded.into_iter();
        let Some(own) = loaded.next() else { return Err(Failure::Refused(CommandError::NotFound("rollout"))) };
        let (fence, now) = (own.fence, self.now());
        let mut rollout = super::rollout_of(own);
        let first = match room {
            Room::Known => None,
            Room::Granted(grant) => Some(grant.clone()),
            Room::Gone => Some(Event::CapacityGranted { k: Some(rollout.head.budget.updating) }),
        };
        let (mut decisions, mut own, mut freed) = (Vec::new(), Vec::new(), false);
        let system = Attempt::system();
        for (event, attempt) in first.iter().map(|grant| (grant, &system)).chain([(event, attempt)]) {
            let decision = decided(&rollout, event, now)?;
            if !decision.changes.is_empty() {
                let write = self.audited(&rollout, &decision, attempt, now);
                let limit = limit.filter(|_| needs_room(&rollout, &decision));
                let commit = written(&rollout, fence, event, &decision, Extra::default(), limit, now);
                freed |= commit.budget.is_some_and(|b| b.delta < 0);
                own.push((commit, write));
                apply_all(&mut rollout, &decision);
            }
            decisions.push(decision);
        }
        let mut taken = Vec::new();
        // Where it is so already nobody loses anything.
        if decisions.last().is_some_and(|d| !d.changes.is_empty()) {
            for older in loaded {
                taken.extend(self.taken_from(older, event, attempt, now)?);
            }
        }
        let commits = taken.iter().map(|t: &TakenOver| t.commit.clone()).chain(own).collect();
        Ok((commits, Held { rollout, decisions, taken, freed }))
    }

    /// Others are told what a commit means for them.
    async fn stored(&self, project: ProjectId, done: store::Committed, taken: Vec<TakenOver>, freed: bool) {
        for t in taken {
            self.told_of_loss(t).await;
        }
        self.drop_displaced(done.displaced_debts);
        if freed {
            self.budget_freed(project);
        }
    }

    /// What an older rollout decides when `start` takes its nodes over. `None`: it holds none of them any more.
    fn taken_from(
        &self,
        older: store::Loaded,
        start: &Event,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<Option<TakenOver>, Failure> {
        let (fence, held) = (older.fence, older.claims.clone());
        let mut rollout = super::rollout_of(older);
        if rollout.head.phase == Phase::RollingBack {
            let detail = format!("rollout {} is rolling back: its nodes cannot be taken over", rollout.id);
            return Err(Failure::Refused(CommandError::Conflict { code: "overlap", detail }));
        }
        let Event::Start { facts } = start else { return Ok(None) };
        let wanted = facts.iter().filter(|f| f.skip.is_none()).map(|f| f.node);
        let nodes: Vec<NodeId> = wanted.filter(|n| held.contains(n)).collect();
        if nodes.is_empty() {
            return Ok(None);
        }
        let event = Event::Removed { nodes, reason: SkipReason::Superseded };
        let decision = match decide(&rollout, &event, now) {
            Ok(d) => d,
            Err(_) => return Ok(None),
        };
        let consequence =
            Attempt { ctx: Ctx { request_id: attempt.ctx.request_id, ..Ctx::system() }, ..Attempt::system() };
        let write = self.audited(&rollout, &decision, &consequence, now);
        // It only gives back: no limit holds it.
        let commit = written(&rollout, fence, &event, &decision, Extra::default(), None, now);
        apply_all(&mut rollout, &decision);
        Ok(Some(TakenOver { rollout, decision, commit: (commit, write) }))
    }

    /// Its actor, wherever it lives, works on what is stored now.
    async fn told_of_loss(&self, t: TakenOver) {
        self.act(&t.rollout, &t.decision).await;
        if let Some(actor) = self.inner.rollouts.family.lookup(&t.rollout.id) {
            // Lost, it is found when the next commit fails on the version.
            let _ = actor.cast(super::RolloutMsg::Newer(t.rollout.head.version));
        }
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
    fn audited(&self, r: &Rollout, decision: &Decision, attempt: &Attempt, now: Timestamp) -> store::Write {
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

/// What a rollout is told of the project's budget before it decides something else.
pub(crate) enum Room {
    /// Nothing new.
    Known,
    Granted(Event),
    /// Others were faster: there is none beyond what it has.
    Gone,
}

/// Whose nodes `event` takes over.
fn taken_by<'a>(event: &Event, attempt: &'a Attempt) -> &'a [RolloutId] {
    match event {
        Event::Start { .. } => &attempt.takes,
        _ => &[],
    }
}

/// What was decided under the lock of a rollout.
struct Held {
    /// As it is then.
    rollout: Rollout,
    decisions: Vec<Decision>,
    taken: Vec<TakenOver>,
    /// There is room in the budget that was not there.
    freed: bool,
}

/// An older rollout that lost nodes, as decided and not yet stored.
struct TakenOver {
    rollout: Rollout,
    decision: Decision,
    commit: (store::RolloutCommit, store::Write),
}

/// What `event` means, or why it is refused as the asker reads it. Who asks for what is so already leaves nothing to do.
fn decided(rollout: &Rollout, event: &Event, now: Timestamp) -> Result<Decision, Failure> {
    match decide(rollout, event, now) {
        Ok(d) => Ok(d),
        Err(Rejection::AlreadySo) => Ok(Decision::default()),
        Err(Rejection::NotAllowed { phase, command, allowed, why }) => {
            let why = why.map(|w| format!("; {w}")).unwrap_or_default();
            let allowed = if allowed.is_empty() { "none".to_string() } else { allowed.join(", ") };
            let detail = format!("{command} is not allowed while the rollout is {phase}; allowed: {allowed}{why}");
            Err(Failure::Refused(CommandError::Conflict { code: "invalid_state", detail }))
        }
    }
}

/// The one commit of a decision; `limit` is of what all rollouts of the project may have reserved after it.
fn written(
    rollout: &Rollout,
    fence: i64,
    event: &Event,
    decision: &Decision,
    extra: Extra,
    limit: Option<u32>,
    now: Timestamp,
) -> store::RolloutCommit {
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
    store::RolloutCommit {
        id: rollout.id,
        project: rollout.project,
        expect_version: version,
        fence,
        events,
        changes: decision.changes.clone(),
        node_events: node_events(rollout, decision, now),
        consumed_inbox: extra.inbox,
        reports: extra.reports,
        budget: budget_move(rollout, decision).map(|b| store::BudgetMove { limit: limit.map(i64::from), ..b }),
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
        store::Error::Conflict("budget") => Failure::Budget,
        store::Error::Conflict("rollout" | "generation") => Failure::Moved(e.to_string()),
        store::Error::Unknown(_) => Failure::Reload(e.to_string()),
        other => Failure::Refused(other.into()),
    }
}
