//! What people say of a rollout before it starts, and what they set aside for it.

use super::rollouts::{RolloutCommand, RolloutView};
use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use crate::rollout::permit::{APPROVED, REJECTED};
use domain::approval::{self, Voter};
use domain::bundle::BundleStatus;
use domain::rollout::{Head, PauseCause, Phase};
use domain::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use store::{ChangeKind, NewChange, RolloutSummary, Write};

impl ControlPlane {
    /// One person's word on a pending rollout. Errors: `Forbidden` for keys, the creator, newcomers and readers; 409 unless pending.
    pub async fn vote_on_rollout(
        &self,
        caller: &Caller,
        id: RolloutId,
        approves: bool,
        comment: Option<String>,
    ) -> CommandResult<(RolloutView, Done)> {
        let again = |id| async move { Ok((self.rollout_view(RolloutId(id)).await?, Done::Changed)) };
        self.once(caller, again, Box::pin(self.vote_once(caller, id, approves, comment))).await
    }

    async fn vote_once(
        &self,
        caller: &Caller,
        id: RolloutId,
        approves: bool,
        comment: Option<String>,
    ) -> CommandResult<(RolloutView, Done)> {
        if !approves && comment.as_ref().is_none_or(|c| c.trim().is_empty()) {
            return Err(CommandError::invalid("comment", "is required with a rejection"));
        }
        let system = Scope::System("a rollout whose tenant was checked at the door");
        let r = self.inner.store.rollout(system, id).await?;
        if r.head.phase != Phase::Pending {
            let detail = format!("the rollout is {}: only a pending one is approved or rejected", r.head.phase);
            return Err(CommandError::Conflict { code: "invalid_state", detail });
        }
        let person = match caller.ctx.actor {
            Actor::User(user) => Some(user),
            Actor::ApiKey(_) | Actor::Node(_) | Actor::System => None,
        };
        let members = self.inner.store.members(r.org).await?;
        let operator_since =
            members.iter().find(|m| Some(m.0.id) == person && m.1 >= Role::Operator).map(|(_, _, since)| *since);
        let voter = Voter { person, operator_since };
        let user = approval::refuse(&voter, r.created_by, r.inserted_at)
            .map_err(|why| CommandError::Forbidden(why.to_string()))?;
        let approvals = self.approvals_of(id).await?;
        let now = self.now();
        let (action, decision) = if approves { ("rollout.approved", APPROVED) } else { ("rollout.rejected", REJECTED) };
        let changes = json!({"content": approvals.content, "comment": comment, "needed": approvals.needed});
        let write = self.around(caller, &r, action, changes, now);
        let write = write.idem(idem(caller, now, 200, ChangeKind::Rollout, id.0));
        let row = store::Approval {
            rollout: id,
            user,
            decision: decision.to_string(),
            comment,
            spec_hash: approvals.content,
            at: now,
        };
        let changed = self.inner.store.put_approval(row, write).await?;
        self.wake_rollout(id).await;
        Ok((self.rollout_view(id).await?, if changed { Done::Changed } else { Done::Already }))
    }

    /// Sets aside for `command`, which follows, the freezes that hold now. Nothing is set aside for one that was carried out before, or
    /// that the rollout's state refuses: the command says so itself, and the freeze holds as it did.
    pub async fn override_freezes_for(
        &self,
        caller: &Caller,
        id: RolloutId,
        command: &RolloutCommand,
        reason: &str,
    ) -> CommandResult<()> {
        check_override(reason)?;
        if self.was_answered(caller).await? {
            return Ok(());
        }
        let system = Scope::System("a rollout whose tenant was checked at the door");
        let r = self.inner.store.rollout(system, id).await?;
        let revoked = r.bundle.as_ref().is_some_and(|b| b.status == BundleStatus::Revoked);
        if !revoked && is_held_by_freezes(command, &r.head) {
            self.override_freezes(caller, id, reason).await?;
        }
        Ok(())
    }

    /// The freezes that hold now are set aside for this rollout; whatever freezes later holds it all the same.
    pub async fn override_freezes(&self, caller: &Caller, id: RolloutId, reason: &str) -> CommandResult<Done> {
        check_override(reason)?;
        let system = Scope::System("a rollout whose tenant was checked at the door");
        let r = self.inner.store.rollout(system, id).await?;
        let now = self.now();
        let all = self.freezes().await?;
        let holding: BTreeSet<FreezeId> =
            all.iter().filter(|f| f.binds_project(r.org, r.project) && f.holds(now)).map(|f| f.id).collect();
        let mut options = r.options.clone();
        let before: BTreeSet<FreezeId> =
            options.get("overridden_freezes").and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default();
        if holding.is_subset(&before) {
            return Ok(Done::Already);
        }
        let union: BTreeSet<FreezeId> = before.union(&holding).copied().collect();
        if !options.is_object() {
            options = Value::Object(serde_json::Map::new());
        }
        options["overridden_freezes"] = json!(union);
        let changes = json!({"freezes": holding, "reason": reason});
        let write = self.around(caller, &r, "rollout.freeze_overridden", changes, now);
        self.inner.store.set_rollout_options(id, options, write).await?;
        self.wake_rollout(id).await;
        Ok(Done::Changed)
    }

    /// Beside the rollout, not a decision of it: its version stays. The second row wakes its owner, wherever that is.
    fn around(
        &self,
        caller: &Caller,
        r: &RolloutSummary,
        action: &'static str,
        changes: Value,
        now: Timestamp,
    ) -> Write {
        let (id, project) = (r.id.0, Some(r.project));
        let said = Said { action, kind: ChangeKind::Rollout, id, project, changes };
        let change = |kind| NewChange { kind, id, project, version: r.head.version as i64 };
        let write = Write::at(now).audit(self.fresh().id(now), said.entry(&caller.ctx));
        write.change(change(ChangeKind::Rollout)).change(change(ChangeKind::Inbox))
    }

    /// What held it up may be over: its owner looks now, others within a moment.
    async fn wake_rollout(&self, id: RolloutId) {
        match self.inner.rollouts.family.lookup(&id) {
            Some(actor) => {
                let _ = actor.cast(crate::rollout::RolloutMsg::Wake);
            }
            None => self.ensure_rollout(id).await,
        }
    }
}

/// Why a freeze is set aside: needed, and short enough to be kept. Errors: 422.
pub fn check_override(reason: &str) -> CommandResult<()> {
    let mut faults = Faults::default();
    if reason.trim().is_empty() {
        faults.add("reason", "is required to override a freeze");
    }
    faults.text("reason", reason, MAX_TEXT);
    faults.done()
}

/// Is it a command that freezes hold up, and one that this state allows?
fn is_held_by_freezes(command: &RolloutCommand, head: &Head) -> bool {
    match command {
        RolloutCommand::Start => head.phase == Phase::Pending,
        // After failures a resume says what becomes of them, or it is refused.
        RolloutCommand::Resume { retry, accept_failed } => {
            let answered = *retry || *accept_failed || !head.causes.contains(&PauseCause::Gate);
            head.phase == Phase::Paused && answered
        }
        RolloutCommand::Retry { .. } => matches!(head.phase, Phase::Running | Phase::Paused | Phase::Failed),
        RolloutCommand::Pause { .. } | RolloutCommand::Cancel { .. } | RolloutCommand::Rollback { .. } => false,
        RolloutCommand::AdvanceTraffic | RolloutCommand::SwapSlot => false,
    }
}
