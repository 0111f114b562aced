//! What time alone, or the database alone, makes due; and when the actor rests or goes.

use super::actor::{Brain, Done, Me, RolloutMsg};
use super::commit::{Attempt, Extra, Failure, NO_ROOM};
use super::facts::Resolved;
use super::measure::LOOK_EVERY;
use crate::command::{CommandError, CommandResult};
use crate::node_session::SessionMsg;
use crate::supervision::spawn_task;
use domain::rollout::*;
use domain::*;
use std::sync::atomic::Ordering;

/// An ended rollout's actor stays for this long, so that no question to it is lost with its mailbox.
const LINGER: Span = Span::secs(10);
/// When the database did not take a decision, the next try is made after this.
pub(super) const RETRY_AFTER: Span = Span::secs(1);
/// A vote and the end of a freeze wake whoever waits for them; this is for what no wake-up told.
const HELD_AFTER: Span = Span::secs(30);

impl Brain {
    /// While nobody could fetch the bundle nothing is assigned, and no deadline runs.
    pub(super) async fn wait_for_artifacts(&mut self, me: &Me) -> Done {
        let wait = Wait::Artifact;
        let away = self.plane.inner.artifacts_away.load(Ordering::Relaxed)
            || self.plane.inner.sound.is_broken(self.rollout.spec.bundle);
        let phase = self.rollout.head.phase;
        let may_wait = phase.is_active() || phase == Phase::Completed;
        match (away, self.rollout.head.waits.contains(&wait)) {
            (true, false) if may_wait => self.event(me, Event::WaitBegan { wait }).await,
            (false, true) => self.event(me, Event::WaitEnded { wait }).await,
            (true, _) | (false, false) => Ok(()),
        }
    }

    /// What time alone, or the database alone, makes due.
    pub(super) async fn look(&mut self, me: &Me) -> Done {
        self.look_at = None;
        self.wait_for_artifacts(me).await?;
        let now = self.plane.now();
        if self.rollout.head.phase == Phase::Pending {
            return self.start_if_due(me, now).await;
        }
        // Before the clock: what is known by now counts also when it is the last moment.
        if let Some(answer) = self.plane.ask_untouched(&self.rollout).await? {
            self.event(me, answer).await?;
        }
        let due = self.rollout.head.wake_at.is_some_and(|t| t <= now);
        if due || std::mem::take(&mut self.more) {
            self.event(me, Event::Timer).await?;
        }
        self.take_room(me).await?;
        if self.rollout.head.phase == Phase::Completed && !self.rollout.head.lane_halted {
            self.refill_lane().await?;
        }
        if let Some(readings) = self.plane.measure(&self.rollout, &mut self.bases).await? {
            self.event(me, readings).await?;
        }
        Ok(())
    }

    pub(super) async fn start_if_due(&mut self, me: &Me, now: Timestamp) -> Done {
        let spec = &self.rollout.spec;
        let due = spec.start && spec.scheduled_at.is_none_or(|t| t <= now) && !domain::rollout::plan::missed(spec, now);
        if !due {
            return Ok(());
        }
        let resolved = match self.plane.resolve(self.rollout.project, spec).await {
            Ok(r) => r,
            Err(CommandError::Unknown(e)) => return Err(e.into()),
            Err(_) => return Ok(()),
        };
        let supersede = spec.supersede;
        self.hold_off = RETRY_AFTER;
        let others = resolved.others(self.rollout.id);
        if !others.is_empty() && !supersede {
            // Waits for the overlap to end: asked again by the timer.
            return Ok(());
        }
        if !self.may_start(&resolved).await {
            self.hold_off = HELD_AFTER;
            return Ok(());
        }
        let facts = resolved.members().into_iter().map(|c| c.facts).collect();
        let attempt = Attempt { takes: others, ..Attempt::system() };
        match self.step(me, &Event::Start { facts }, &attempt, Extra::default()).await {
            Ok(_) => Ok(()),
            // Another rollout holds a node and cannot be made to let go now, or the database is away: asked again by the timer.
            Err(Failure::Refused(e)) => {
                self.not_taken(&e);
                Ok(())
            }
            Err(Failure::Moved(why) | Failure::Reload(why)) => Err(why.into()),
            Err(Failure::Budget) => Err(NO_ROOM.into()),
        }
    }

    /// Do freezes and people allow it now? What cannot be read does not.
    async fn may_start(&self, resolved: &Resolved) -> bool {
        let r = &self.rollout;
        let nodes = || r.members.keys().copied().collect();
        let asked = async {
            let frozen = self.plane.frozen(self.org, r.project, r.id, nodes).await?;
            let approvals = self.plane.approvals(r.id, r.project, &r.spec, resolved).await?;
            CommandResult::Ok(frozen.is_none() && approvals.standing.allows_start())
        };
        asked.await.unwrap_or_else(|e| {
            tracing::warn!(rollout = %r.id, error = ?e, "whether the rollout may start is not known yet");
            false
        })
    }

    /// Set the timer; end when nothing is left to do.
    pub(super) async fn rest(&mut self, me: &Me) -> Done {
        let head = &self.rollout.head;
        if head.phase.is_end() && !self.owes_after_end() {
            // News of its nodes may be under way: whoever asks a while longer is told that nothing is held any more.
            let now = self.plane.now();
            let leave_at = *self.leave_at.get_or_insert(now + LINGER);
            if now >= leave_at && self.inputs.is_empty() && self.presence.is_empty() {
                self.plane.inner.store.release_rollout(self.plane.inner.instance, self.rollout.id, self.fence).await?;
                me.stop(None);
            } else {
                self.wake_at(me, leave_at);
            }
            return Ok(());
        }
        self.leave_at = None;
        let clock = self.plane.clock().clone();
        let now = clock.now();
        let held_up = head.phase == Phase::Pending
            && self.rollout.spec.start
            && head.wake_at.is_none_or(|t| t <= now)
            && !domain::rollout::plan::missed(&self.rollout.spec, now);
        let retry = match self.unavailable_since {
            Some(_) => Some(now + RETRY_AFTER),
            None if self.is_starved() => Some(now + RETRY_AFTER),
            None => held_up.then_some(now + self.hold_off.max(RETRY_AFTER)),
        };
        let compares = head.phase == Phase::Running && head.analysis.is_some_and(|a| !a.done);
        let looks = compares || head.asked.is_some();
        if looks && self.look_at.is_none() {
            self.look_at = Some(now + LOOK_EVERY);
            if let Some(nodes) = domain::rollout::asked(&self.rollout) {
                // The sessions here write what they remember, and what they count from now on; those of other instances when they next scan.
                self.plane.inner.measured.add(self.rollout.project);
                for node in nodes {
                    self.plane.inner.sessions.tell(node, SessionMsg::Recall);
                }
            }
        }
        let look = self.look_at.filter(|_| looks);
        let due = head.wake_at.filter(|t| head.phase != Phase::Pending || *t > now);
        let at = [due, retry, look].into_iter().flatten().min();
        match at {
            Some(at) => self.wake_at(me, at),
            None => self.timer = None,
        }
        Ok(())
    }

    /// Ended, but nodes are still to be served when they return. Walks the members: only ended rollouts are asked.
    pub(super) fn owes_after_end(&self) -> bool {
        let head = &self.rollout.head;
        matches!(head.phase, Phase::Completed | Phase::RolledBack)
            && (head.counts.owed > 0 || head.lane_open > 0 || self.rollout.members.values().any(waits_after_end))
    }

    pub(super) fn wake_at(&mut self, me: &Me, at: Timestamp) {
        let (clock, me) = (self.plane.clock().clone(), me.clone());
        self.timer = Some(spawn_task("rollout timer", async move {
            clock.sleep_until(at).await;
            let _ = me.cast(RolloutMsg::Wake);
        }));
    }
}

fn waits_after_end(m: &Member) -> bool {
    matches!(m.state, NodeState::RollingBack { .. }) || (m.step.is_none() && m.state == NodeState::Pending)
}
