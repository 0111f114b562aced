//! The actor: gathers what arrives, decides once for all of it, commits, acts.

use super::commit::{Attempt, Extra, Failure, Lost, NO_ROOM};
use super::measure::Bases;
use super::time::RETRY_AFTER;
use super::{Delivered, Delivery, Taken, rollout_of};
use crate::command::{CommandError, CommandResult, start_failed};
use crate::plane::{ControlPlane, Inner};
use crate::supervision::TaskGuard;
use domain::rollout::*;
use domain::*;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Weak;

/// How often in a row another instance's commit may come before ours.
const MAX_RELOADS: u32 = 5;

pub(crate) enum RolloutMsg {
    /// News of a node, from its session here. The answer comes after the commit.
    Input {
        node: NodeId,
        delivery: Box<Delivery>,
        begun: Timestamp,
        reply: RpcReplyPort<CommandResult<Taken>>,
    },
    /// Stored already; nobody waits.
    Presence(PresenceChange),
    Command {
        event: Box<Event>,
        attempt: Box<Attempt>,
        reply: RpcReplyPort<Result<CommandResult<Decision>, Lost>>,
    },
    /// Decide on what was gathered.
    Flush,
    /// A timer, new mail, the next portion, or the scan: look what there is to do.
    Wake,
    /// Somebody else committed this version.
    Newer(u64),
    /// Others gave back some of the project's budget.
    Starved,
    /// Compare what we believe of the nodes with what is stored: a word may have been lost between two processes.
    Reconcile,
}

pub(super) struct RolloutActor;

pub(super) struct Brain {
    pub(super) plane: ControlPlane,
    pub(super) org: OrgId,
    pub(super) rollout: Rollout,
    pub(super) fence: i64,
    pub(super) inputs: Vec<Input>,
    pub(super) presence: Vec<PresenceChange>,
    pub(super) flush_sent: bool,
    /// The engine has more to assign at once; true after a start, because the effect that says so may have been lost.
    pub(super) more: bool,
    pub(super) timer: Option<TaskGuard>,
    /// When what was measured is looked at next. Words that come meanwhile do not put it off.
    pub(super) look_at: Option<Timestamp>,
    /// A canary's counts, when its comparison began.
    pub(super) bases: Bases,
    /// When an ended rollout's actor goes.
    pub(super) leave_at: Option<Timestamp>,
    /// Since when the database has not taken our decisions: no clock of the rollout counts that time.
    pub(super) unavailable_since: Option<Timestamp>,
    /// How soon a pending rollout looks whether it may start.
    pub(super) hold_off: Span,
    /// Time in which this process heard nobody, as far as the rollout's clocks have been told.
    pub(super) lost: Span,
}

pub(super) struct Input {
    pub(super) node: NodeId,
    pub(super) delivery: Delivery,
    pub(super) begun: Timestamp,
    pub(super) reply: RpcReplyPort<CommandResult<Taken>>,
}

pub(super) type Me = ActorRef<RolloutMsg>;
pub(super) type Done = Result<(), ActorProcessingErr>;

impl Actor for RolloutActor {
    type Msg = RolloutMsg;
    /// `None`: another live instance owns it, or it has nothing to do.
    type State = Option<Brain>;
    type Arguments = (Weak<Inner>, RolloutId);

    async fn pre_start(&self, _: Me, (plane, id): Self::Arguments) -> Result<Option<Brain>, ActorProcessingErr> {
        let plane = ControlPlane { inner: plane.upgrade().ok_or("the control plane has ended")? };
        let (store, me) = (&plane.inner.store, plane.inner.instance);
        let Some(mine) = store.acquire_rollout(me, id).await.map_err(start_failed)? else { return Ok(None) };
        let loaded = store.load_rollout(id).await.map_err(start_failed)?;
        plane.inner.rollouts.unstored.remove(&id);
        let org = loaded.org;
        Ok(Some(Brain {
            org,
            rollout: rollout_of(loaded),
            fence: mine.fence,
            inputs: Vec::new(),
            presence: Vec::new(),
            flush_sent: false,
            more: true,
            timer: None,
            look_at: None,
            bases: Bases::default(),
            leave_at: None,
            unavailable_since: None,
            hold_off: Span::ZERO,
            lost: plane.attended().lost,
            plane,
        }))
    }

    async fn post_start(&self, me: Me, brain: &mut Option<Brain>) -> Done {
        let Some(b) = brain else {
            me.stop(None);
            return Ok(());
        };
        b.took_over(&me).await?;
        b.rest(&me).await
    }

    async fn handle(&self, me: Me, message: RolloutMsg, brain: &mut Option<Brain>) -> Done {
        let Some(b) = brain else { return Ok(()) };
        let done = match b.take(&me, message).await {
            Ok(()) => b.rest(&me).await,
            failed => failed,
        };
        b.live_on(&me, done).await
    }
}

impl Brain {
    async fn take(&mut self, me: &Me, message: RolloutMsg) -> Done {
        match message {
            RolloutMsg::Input { node, delivery, begun, reply } => {
                self.inputs.push(Input { node, delivery: *delivery, begun, reply });
                self.gather(me);
            }
            RolloutMsg::Presence(change) => {
                self.presence.push(change);
                self.gather(me);
            }
            RolloutMsg::Flush => {
                self.flush_sent = false;
                self.flush(me).await?;
            }
            RolloutMsg::Command { event, attempt, reply } => {
                self.flush(me).await?;
                match self.step(me, &event, &attempt, Extra::default()).await {
                    Ok(decision) => {
                        let _ = reply.send(Ok(Ok(decision)));
                    }
                    Err(Failure::Refused(e)) => {
                        let _ = reply.send(Ok(Err(e)));
                    }
                    Err(Failure::Moved(why) | Failure::Reload(why)) => {
                        let _ = reply.send(Err(Lost));
                        return Err(why.into());
                    }
                    Err(Failure::Budget) => {
                        let _ = reply.send(Err(Lost));
                        return Err(NO_ROOM.into());
                    }
                }
            }
            RolloutMsg::Reconcile => {
                let found = self.reconcile(me).await?;
                self.plane.inner.rollouts.metrics.sweep_corrections.inc_by(found);
            }
            RolloutMsg::Wake => {
                self.flush(me).await?;
                self.read_mail(me).await?;
                self.look(me).await?;
            }
            RolloutMsg::Starved => self.take_room(me).await?,
            RolloutMsg::Newer(version) => {
                if version > self.rollout.head.version {
                    self.reload().await?;
                    self.look(me).await?;
                }
            }
        }
        Ok(())
    }

    /// A question to a database that is away changed nothing, here or there: it is asked again. A rollout that was taken from us is no
    /// failure of its actor, which ends quietly: else it would be given up, and paused under the hands of whoever owns it. Everything
    /// else ends the actor.
    async fn live_on(&mut self, me: &Me, done: Done) -> Done {
        let Err(why) = done else { return Ok(()) };
        if let Some(store::Error::Unavailable(why)) = why.downcast_ref::<store::Error>() {
            self.not_taken(&CommandError::Unavailable(why.clone()));
            self.more = true;
            self.wake_at(me, self.plane.now() + RETRY_AFTER);
            return Ok(());
        }
        if self.is_lost().await {
            tracing::info!(rollout = %self.rollout.id, %why, "it is not ours any more");
            me.stop(None);
            return Ok(());
        }
        Err(why)
    }

    /// Ours no more: somebody else goes on, or whoever looks first will.
    async fn is_lost(&self) -> bool {
        let inner = &self.plane.inner;
        let owner = inner.store.owner_of(self.rollout.id).await;
        owner.is_ok_and(|o| o.is_none_or(|o| o.instance != inner.instance))
    }
}

impl Brain {
    /// What must be known before anything else is decided: how long nobody listened, and who went or came meanwhile.
    async fn took_over(&mut self, me: &Me) -> Done {
        let down = self.plane.inner.down_before_start();
        let head = &self.rollout.head;
        if down > Span::ZERO && (head.phase.is_active() || head.lane_open > 0) {
            self.event(me, Event::OwnerStarted { down }).await?;
        }
        self.reconcile(me).await?;
        // What this rollout told nodes before a crash may not have reached their sessions.
        let all: Vec<NodeId> = self.rollout.members.values().filter(|m| m.state.in_flight()).map(|m| m.node).collect();
        self.plane.notify_assigned(&self.rollout, &all).await;
        self.read_mail(me).await?;
        self.look(me).await
    }

    /// Another instance committed a command: certainly nothing of ours is half done, so only the memory is renewed.
    pub(super) async fn reload(&mut self) -> Done {
        let store = &self.plane.inner.store;
        let id = self.rollout.id;
        let mine = store.acquire_rollout(self.plane.inner.instance, id).await?.ok_or("another instance owns it now")?;
        self.rollout = rollout_of(store.load_rollout(id).await?);
        self.fence = mine.fence;
        self.more = true;
        Ok(())
    }

    fn gather(&mut self, me: &Me) {
        if !self.flush_sent {
            self.flush_sent = true;
            // Whatever is in the mailbox now comes before this and goes into the same commit.
            let _ = me.cast(RolloutMsg::Flush);
        }
    }

    /// One event of our own: refused means the database is away, and it is tried again.
    pub(super) async fn event(&mut self, me: &Me, event: Event) -> Done {
        match self.step(me, &event, &Attempt::system(), Extra::default()).await {
            Ok(_) => Ok(()),
            Err(Failure::Refused(e)) => {
                self.not_taken(&e);
                Ok(())
            }
            Err(Failure::Moved(why) | Failure::Reload(why)) => Err(why.into()),
            Err(Failure::Budget) => Err(NO_ROOM.into()),
        }
    }

    /// Decide and store. When another commit came first, certainly nothing was done: the memory is renewed and it is decided again.
    pub(super) async fn settle(&mut self, event: &Event, attempt: &Attempt, extra: Extra) -> Result<Decision, Failure> {
        let mut tries = 0;
        loop {
            let commit = self.plane.commit(&self.rollout, self.fence, event, attempt, extra.clone());
            match commit.await {
                Ok(decision) => {
                    apply_all(&mut self.rollout, &decision);
                    return Ok(decision);
                }
                Err(Failure::Moved(_)) if tries < MAX_RELOADS => {
                    tries += 1;
                    self.reload().await.map_err(|e| match e.downcast_ref::<store::Error>() {
                        Some(store::Error::Unavailable(why)) => {
                            Failure::Refused(CommandError::Unavailable(why.clone()))
                        }
                        Some(_) | None => Failure::Reload(e.to_string()),
                    })?;
                }
                Err(Failure::Budget) if tries < MAX_RELOADS => {
                    tries += 1;
                    // Others were faster. Without room it decides anew; what is free now is granted at the next look.
                    let none = Event::CapacityGranted { k: Some(self.rollout.head.budget.updating) };
                    let (me, extra) = (Attempt::system(), Extra::default());
                    let commit = self.plane.commit(&self.rollout, self.fence, &none, &me, extra);
                    let decision = commit.await?;
                    apply_all(&mut self.rollout, &decision);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for room in the budget: is there some?
    pub(super) async fn take_room(&mut self, me: &Me) -> Done {
        if !self.is_starved() {
            return Ok(());
        }
        match self.plane.grant(self.rollout.project, &self.rollout.head).await? {
            Some(grant) => self.event(me, grant).await,
            None => Ok(()),
        }
    }

    /// Members wait, and the budget has no room for them.
    pub(super) fn is_starved(&self) -> bool {
        let (head, waits) = (&self.rollout.head, self.rollout.head.counts.pending + self.rollout.head.counts.owed);
        matches!(head.phase, Phase::Running | Phase::Completed) && head.budget.is_full() && waits > 0
    }

    /// The time in which nobody could report is not counted, before anything else is decided.
    pub(super) async fn discount(&mut self) -> Result<(), Failure> {
        let lost = self.plane.attended().lost;
        let down = match self.unavailable_since {
            Some(since) => self.plane.now().since(since),
            None => Span(lost.0 - self.lost.0),
        };
        if down > Span::ZERO {
            self.settle(&Event::OwnerStarted { down }, &Attempt::system(), Extra::default()).await?;
        }
        self.lost = lost;
        if self.unavailable_since.take().is_some() {
            self.plane.inner.rollouts.unstored.remove(&self.rollout.id);
        }
        Ok(())
    }

    /// Decide, store, act.
    pub(super) async fn step(
        &mut self,
        me: &Me,
        event: &Event,
        attempt: &Attempt,
        extra: Extra,
    ) -> Result<Decision, Failure> {
        self.discount().await?;
        self.heed_freeze(me).await?;
        let grant =
            self.plane.grant(self.rollout.project, &self.rollout.head).await.map_err(|e| Failure::Refused(e.into()))?;
        if let Some(grant) = grant {
            self.carry_out(me, &grant, &Attempt::system(), Extra::default()).await?;
        }
        self.carry_out(me, event, attempt, extra).await
    }

    /// A freeze holds at every transition: before anything is decided, it is known whether one does.
    async fn heed_freeze(&mut self, me: &Me) -> Result<(), Failure> {
        match self.freeze_news().await? {
            Some(event) => self.carry_out(me, &event, &Attempt::system(), Extra::default()).await.map(drop),
            None => Ok(()),
        }
    }

    /// A freeze that began or ended for the members as they are now, and the rollout has not heard of it.
    pub(super) async fn freeze_news(&self) -> Result<Option<Event>, Failure> {
        let r = &self.rollout;
        let can_move = match r.head.phase {
            Phase::Running | Phase::Paused => true,
            Phase::Completed => self.owes_after_end(),
            Phase::Pending | Phase::RollingBack | Phase::Failed | Phase::Cancelled | Phase::RolledBack => false,
        };
        if !can_move {
            return Ok(None);
        }
        let nodes = || r.members.keys().copied().collect();
        let frozen = self.plane.frozen(self.org, r.project, r.id, nodes).await.map_err(Failure::Refused)?;
        Ok(match (frozen, r.head.causes.contains(&PauseCause::Freeze)) {
            (Some(_), false) => Some(Event::FreezeBegan),
            (None, true) => Some(Event::FreezeEnded),
            (Some(_), true) | (None, false) => None,
        })
    }

    async fn carry_out(
        &mut self,
        me: &Me,
        event: &Event,
        attempt: &Attempt,
        extra: Extra,
    ) -> Result<Decision, Failure> {
        let before = self.rollout.head.phase;
        let decision = self.settle(event, attempt, extra).await?;
        self.plane.act(&self.rollout, &decision).await;
        for effect in &decision.effects {
            match effect {
                Effect::Notify { .. } => {}
                Effect::Continue => {
                    self.more = true;
                    let _ = me.cast(RolloutMsg::Wake);
                }
                Effect::FetchFacts { nodes } => match self.fetch(nodes.clone()).await {
                    Ok(()) => {}
                    // What was asked for is done; the lane is filled at the next look.
                    Err(Failure::Refused(e)) => self.not_taken(&e),
                    Err(other) => return Err(other),
                },
            }
        }
        if before != Phase::Completed && self.rollout.head.phase == Phase::Completed {
            self.plane.join_missing(&self.rollout).await;
        }
        Ok(decision)
    }

    pub(super) fn not_taken(&mut self, e: &CommandError) {
        if matches!(e, CommandError::Unavailable(_)) {
            let now = self.plane.now();
            self.unavailable_since.get_or_insert(now);
            self.plane.inner.rollouts.unstored.insert(self.rollout.id);
        }
        tracing::warn!(rollout = %self.rollout.id, error = ?e, "a decision was not stored; it is made again");
    }

    /// Does anything of this node still belong to this rollout?
    pub(super) fn holds(&self, node: NodeId) -> bool {
        let Some(m) = self.rollout.members.get(&node) else { return false };
        if matches!(m.state, NodeState::Skipped { .. }) {
            return false;
        }
        self.rollout.head.phase.is_active()
            || m.state.in_flight()
            || matches!(m.state, NodeState::Owed | NodeState::RollingBack { .. })
            || (self.rollout.head.phase == Phase::Completed && m.state == NodeState::Pending)
    }

    pub(super) fn delivered(&self, node: NodeId) -> Delivered {
        Delivered { state: self.rollout.members.get(&node).map(|m| m.state.kind()), unengaged: !self.holds(node) }
    }
}
