//! The actor: gathers what arrives, decides once for all of it, commits, acts.

use super::commit::{Attempt, Extra, Failure, Lost};
use super::{Delivered, Delivery, Mail, Taken, rollout_of};
use crate::command::{CommandError, CommandResult};
use crate::plane::{ControlPlane, Inner};
use crate::supervision::{TaskGuard, spawn_task};
use domain::node::GateWindow;
use domain::rollout::*;
use domain::*;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::collections::HashMap;
use std::sync::Weak;

/// Mail of other instances taken into one decision.
const MAIL_BATCH: u32 = 1_000;
/// How often in a row another instance's commit may come before ours.
const MAX_RELOADS: u32 = 5;
/// An ended rollout's actor stays for this long, so that no question to it is lost with its mailbox.
const LINGER: Span = Span::secs(10);
/// When the database did not take a decision, the next try is made after this.
const RETRY_AFTER: Span = Span::secs(1);

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
    /// Compare what we believe of the nodes with what is stored: a word may have been lost between two processes.
    Reconcile,
}

pub(super) struct RolloutActor;

pub(super) struct Brain {
    plane: ControlPlane,
    org: OrgId,
    rollout: Rollout,
    fence: i64,
    inputs: Vec<Input>,
    presence: Vec<PresenceChange>,
    flush_sent: bool,
    /// The engine has more to assign at once; true after a start, because the effect that says so may have been lost.
    more: bool,
    timer: Option<TaskGuard>,
    /// When an ended rollout's actor goes.
    leave_at: Option<Timestamp>,
    /// Since when the database has not taken our decisions: no clock of the rollout counts that time.
    unavailable_since: Option<Timestamp>,
}

struct Input {
    node: NodeId,
    delivery: Delivery,
    begun: Timestamp,
    reply: RpcReplyPort<CommandResult<Taken>>,
}

type Me = ActorRef<RolloutMsg>;
type Done = Result<(), ActorProcessingErr>;

impl Actor for RolloutActor {
    type Msg = RolloutMsg;
    /// `None`: another live instance owns it, or it has nothing to do.
    type State = Option<Brain>;
    type Arguments = (Weak<Inner>, RolloutId);

    async fn pre_start(&self, _: Me, (plane, id): Self::Arguments) -> Result<Option<Brain>, ActorProcessingErr> {
        let plane = ControlPlane { inner: plane.upgrade().ok_or("the control plane has ended")? };
        let Some(mine) = plane.inner.store.acquire_rollout(plane.inner.instance, id).await? else { return Ok(None) };
        let loaded = plane.inner.store.load_rollout(id).await?;
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
            leave_at: None,
            unavailable_since: None,
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
        match message {
            RolloutMsg::Input { node, delivery, begun, reply } => {
                b.inputs.push(Input { node, delivery: *delivery, begun, reply });
                b.gather(&me);
            }
            RolloutMsg::Presence(change) => {
                b.presence.push(change);
                b.gather(&me);
            }
            RolloutMsg::Flush => {
                b.flush_sent = false;
                b.flush(&me).await?;
            }
            RolloutMsg::Command { event, attempt, reply } => {
                b.flush(&me).await?;
                match b.step(&me, &event, &attempt, Extra::default()).await {
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
                }
            }
            RolloutMsg::Reconcile => {
                let found = b.reconcile(&me).await?;
                b.plane.inner.rollouts.metrics.sweep_corrections.inc_by(found);
            }
            RolloutMsg::Wake => {
                b.flush(&me).await?;
                b.read_mail(&me).await?;
                b.look(&me).await?;
            }
            RolloutMsg::Newer(version) => {
                if version > b.rollout.head.version {
                    b.reload().await?;
                    b.look(&me).await?;
                }
            }
        }
        b.rest(&me).await
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

    /// What the database says of our nodes, our debts and our bundle, against what we believe. Answers how much differed.
    async fn reconcile(&mut self, me: &Me) -> Result<u64, ActorProcessingErr> {
        let phase = self.rollout.head.phase;
        let mut found = 0;
        if phase.is_active() || phase == Phase::Completed {
            let bundle = self.rollout.spec.bundle;
            let facts = self.plane.inner.store.bundle_facts(vec![bundle]).await?;
            let revoked = facts.iter().any(|(f, _)| f.status == domain::bundle::BundleStatus::Revoked);
            // A rollback has heard of it already; a completed rollout has only its lane left to stop.
            let lane = self.rollout.members.values().any(|m| m.state == NodeState::Owed);
            if revoked && (matches!(phase, Phase::Running | Phase::Paused) || (phase == Phase::Completed && lane)) {
                self.event(me, Event::BundleRevoked { revoked: [bundle].into() }).await?;
                found += 1;
            }
            found += self.reconcile_nodes(me).await?;
        }
        let owed: Vec<NodeId> =
            self.rollout.members.values().filter(|m| m.state == NodeState::Owed).map(|m| m.node).collect();
        if !owed.is_empty() {
            let debts = self.plane.inner.store.debts_of_rollout(self.rollout.id).await?;
            let nodes: Vec<NodeId> = owed.into_iter().filter(|n| !debts.iter().any(|d| d.node == *n)).collect();
            if !nodes.is_empty() {
                found += nodes.len() as u64;
                self.event(me, Event::DebtsDropped { nodes }).await?;
            }
        }
        Ok(found)
    }

    async fn reconcile_nodes(&mut self, me: &Me) -> Result<u64, ActorProcessingErr> {
        let ids: Vec<NodeId> = self
            .rollout
            .members
            .values()
            .filter(|m| !matches!(m.state, NodeState::Skipped { .. }))
            .map(|m| m.node)
            .collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let rows: HashMap<NodeId, store::FleetNode> =
            self.plane.inner.store.fleet_nodes(ids.clone()).await?.into_iter().map(|n| (n.id, n)).collect();
        let (mut deleted, mut revoked, mut presence, mut health) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            let (Some(m), row) = (self.rollout.members.get(&id), rows.get(&id)) else { continue };
            match row {
                None => deleted.push(id),
                Some(n) if n.standing == domain::node::Standing::Revoked => revoked.push(id),
                Some(n) => {
                    let online = n.presence == domain::node::Presence::Online;
                    if online != m.online {
                        presence.push(PresenceChange { node: id, online, handed_over: n.handed_over });
                    }
                    if n.health != m.health {
                        health.push(Report { node: id, generation: None, said: Said::Health { class: n.health } });
                    }
                }
            }
        }
        let found = deleted.len() + revoked.len() + presence.len() + health.len();
        for event in [
            (!deleted.is_empty()).then_some(Event::Removed { nodes: deleted, reason: SkipReason::Deleted }),
            (!revoked.is_empty()).then_some(Event::Removed { nodes: revoked, reason: SkipReason::Revoked }),
            (!health.is_empty()).then_some(Event::Reports { reports: health }),
            (!presence.is_empty()).then_some(Event::Presence { changes: presence }),
        ]
        .into_iter()
        .flatten()
        {
            self.event(me, event).await?;
        }
        Ok(found as u64)
    }

    /// Another instance committed a command: certainly nothing of ours is half done, so only the memory is renewed.
    async fn reload(&mut self) -> Done {
        let store = &self.plane.inner.store;
        let id = self.rollout.id;
        let mine = store.acquire_rollout(self.plane.inner.instance, id).await?.ok_or("another instance owns it now")?;
        self.rollout = rollout_of(store.load_rollout(id).await?);
        self.fence = mine.fence;
        self.more = true;
        Ok(())
    }

    /// What time alone, or the database alone, makes due.
    async fn look(&mut self, me: &Me) -> Done {
        let now = self.plane.now();
        if self.rollout.head.phase == Phase::Pending {
            return self.start_if_due(me, now).await;
        }
        let due = self.rollout.head.wake_at.is_some_and(|t| t <= now);
        if due || std::mem::take(&mut self.more) {
            self.event(me, Event::Timer).await?;
        }
        if self.rollout.head.phase == Phase::Completed && !self.rollout.head.lane_halted {
            self.refill_lane().await?;
        }
        Ok(())
    }

    async fn start_if_due(&mut self, me: &Me, now: Timestamp) -> Done {
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
        if resolved.held.iter().any(|(_, r)| *r != self.rollout.id) {
            // Waits for the overlap to end: asked again by the timer.
            return Ok(());
        }
        let facts = resolved.members().into_iter().map(|c| c.facts).collect();
        self.event(me, Event::Start { facts }).await
    }

    fn gather(&mut self, me: &Me) {
        if !self.flush_sent {
            self.flush_sent = true;
            // Whatever is in the mailbox now comes before this and goes into the same commit.
            let _ = me.cast(RolloutMsg::Flush);
        }
    }

    /// Everything gathered: at most one commit each for presence, reports and gates. Whoever waits is answered after the last.
    async fn flush(&mut self, me: &Me) -> Done {
        let inputs = std::mem::take(&mut self.inputs);
        let mut presence = std::mem::take(&mut self.presence);
        let stored = presence.clone();
        if inputs.is_empty() && presence.is_empty() {
            return Ok(());
        }
        let (mut reports, mut windows, mut columns, mut waiting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for input in inputs {
            if !self.holds(input.node) {
                let _ = input.reply.send(Ok(Taken::NotMine(Box::new(input.delivery))));
                continue;
            }
            let Delivery { change, reports: said, windows: seen, online } = input.delivery;
            columns.push(change);
            reports.extend(said);
            windows.extend(seen);
            if online {
                presence.push(PresenceChange { node: input.node, online: true, handed_over: 0 });
            }
            waiting.push((input.node, input.begun, input.reply));
        }
        let mail = Mail { reports, windows, presence };
        let outcome = self.observe(me, mail, columns, Vec::new()).await;
        if matches!(outcome, Err(Failure::Refused(_))) {
            // Nobody waits for these and nobody says them again: they are decided on with the next try.
            self.presence.splice(0..0, stored);
        }
        for (node, begun, reply) in waiting {
            let answer = match &outcome {
                Ok(()) => {
                    self.plane
                        .inner
                        .rollouts
                        .metrics
                        .propagation_seconds
                        .observe(self.plane.now().since(begun).as_secs_f64());
                    Ok(Taken::Yes(self.delivered(node)))
                }
                Err(Failure::Refused(e)) => Err(e.clone()),
                Err(Failure::Moved(why) | Failure::Reload(why)) => Err(CommandError::Unknown(why.clone())),
            };
            let _ = reply.send(answer);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(Failure::Refused(e)) => {
                self.not_taken(&e);
                Ok(())
            }
            Err(Failure::Moved(why) | Failure::Reload(why)) => Err(why.into()),
        }
    }

    /// The columns of the nodes' rows and the mail go with the last commit: what is stored of a node never runs ahead of what
    /// its rollout was told, and whoever repeats a report after a crash is heard again.
    async fn observe(
        &mut self,
        me: &Me,
        mail: Mail,
        columns: Vec<store::NodeChange>,
        inbox: Vec<uuid::Uuid>,
    ) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(3);
        if !mail.presence.is_empty() {
            events.push(Event::Presence { changes: mail.presence });
        }
        if !mail.reports.is_empty() {
            events.push(Event::Reports { reports: mail.reports });
        }
        if !mail.windows.is_empty() {
            events.push(Event::Gates { windows: mail.windows });
        }
        if events.is_empty() && !inbox.is_empty() {
            // Mail that says nothing (or cannot be read) must be taken out of the box all the same.
            events.push(Event::Timer);
        }
        let mut extra = Extra { reports: merge(columns), inbox };
        let count = events.len();
        for (i, mut event) in events.into_iter().enumerate() {
            if let Event::Gates { windows } = &mut event {
                self.by_our_clock(windows);
            }
            let with = if i + 1 == count { std::mem::take(&mut extra) } else { Extra::default() };
            self.step(me, &event, &Attempt::system(), with).await?;
        }
        if count == 0 && !extra.reports.is_empty() {
            let write = store::Write::at(self.plane.now());
            self.plane.inner.store.observe(extra.reports, write).await.map_err(|e| Failure::Refused(e.into()))?;
        }
        Ok(())
    }

    /// A session judges only what was measured after it received the activation itself. When the word of that came by mail, our
    /// receipt is later than the session's, so what it says of the time just after is moved to just after ours.
    fn by_our_clock(&self, windows: &mut [GateWindow]) {
        for w in windows {
            let activated = match self.rollout.members.get(&w.node).map(|m| (m.generation, &m.state)) {
                Some((generation, NodeState::Activated { at })) if generation == w.generation => *at,
                Some((generation, NodeState::RollingBack { activated: Some(at), .. }))
                    if generation == w.generation =>
                {
                    *at
                }
                _ => continue,
            };
            let after = activated + Span(1);
            w.last_fresh = w.last_fresh.max(after);
            w.first_pass = w.first_pass.map(|t| t.max(after));
        }
    }

    async fn read_mail(&mut self, me: &Me) -> Done {
        loop {
            let items = self.plane.inner.store.inbox(self.rollout.id, MAIL_BATCH).await?;
            if items.is_empty() {
                return Ok(());
            }
            let mut all = Mail::default();
            let mut ids = Vec::with_capacity(items.len());
            for item in items {
                ids.push(item.id);
                match serde_json::from_value::<Mail>(item.payload) {
                    Ok(mail) => {
                        all.reports.extend(mail.reports);
                        all.windows.extend(mail.windows);
                        all.presence.extend(mail.presence);
                    }
                    Err(e) => tracing::error!(rollout = %self.rollout.id, error = %e, "unreadable mail dropped"),
                }
            }
            match self.observe(me, all, Vec::new(), ids).await {
                Ok(()) => {}
                Err(Failure::Refused(e)) => {
                    self.not_taken(&e);
                    return Ok(());
                }
                Err(Failure::Moved(why) | Failure::Reload(why)) => return Err(why.into()),
            }
        }
    }

    /// One event of our own: refused means the database is away, and it is tried again.
    async fn event(&mut self, me: &Me, event: Event) -> Done {
        match self.step(me, &event, &Attempt::system(), Extra::default()).await {
            Ok(_) => Ok(()),
            Err(Failure::Refused(e)) => {
                self.not_taken(&e);
                Ok(())
            }
            Err(Failure::Moved(why) | Failure::Reload(why)) => Err(why.into()),
        }
    }

    /// Decide and store. When another commit came first, certainly nothing was done: the memory is renewed and it is decided again.
    async fn settle(&mut self, event: &Event, attempt: &Attempt, extra: Extra) -> Result<Decision, Failure> {
        let mut tries = 0;
        loop {
            let commit = self.plane.commit(&self.rollout, self.org, self.fence, event, attempt, extra.clone());
            match commit.await {
                Ok(decision) => {
                    apply_all(&mut self.rollout, &decision);
                    return Ok(decision);
                }
                Err(Failure::Moved(_)) if tries < MAX_RELOADS => {
                    tries += 1;
                    self.reload().await.map_err(|e| Failure::Reload(e.to_string()))?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Decide, store, act.
    async fn step(&mut self, me: &Me, event: &Event, attempt: &Attempt, extra: Extra) -> Result<Decision, Failure> {
        if let Some(since) = self.unavailable_since {
            // The time in which nobody could report is not counted, before anything else is decided.
            let down = self.plane.now().since(since);
            self.settle(&Event::OwnerStarted { down }, &Attempt::system(), Extra::default()).await?;
            self.unavailable_since = None;
        }
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

    /// Members of the lane are back: what does the database know of them now?
    async fn fetch(&mut self, nodes: Vec<NodeId>) -> Result<(), Failure> {
        let id = self.rollout.id;
        let facts = self
            .plane
            .facts_of(self.rollout.project, &self.rollout.spec, nodes.clone())
            .await
            .map_err(Failure::Refused)?;
        let debts = self.plane.inner.store.debts_of_rollout(id).await.map_err(|e| Failure::Refused(e.into()))?;
        let mut ready = Vec::new();
        let mut dropped = Vec::new();
        for (f, held) in facts {
            let owed = self.rollout.members.get(&f.node).is_some_and(|m| m.state == NodeState::Owed);
            if owed && !debts.iter().any(|d| d.node == f.node) {
                // A newer commit covers the node.
                dropped.push(f.node);
            } else if held.is_none_or(|h| h == id) {
                ready.push(f);
            }
        }
        for event in [
            (!dropped.is_empty()).then_some(Event::DebtsDropped { nodes: dropped }),
            (!ready.is_empty()).then_some(Event::LaneReady { facts: ready }),
        ]
        .into_iter()
        .flatten()
        {
            let d = self.settle(&event, &Attempt::system(), Extra::default()).await?;
            self.plane.act(&self.rollout, &d).await;
        }
        Ok(())
    }

    /// After completion: owed members that are online and found no room before.
    async fn refill_lane(&mut self) -> Done {
        let waiting: Vec<NodeId> = self
            .rollout
            .members
            .values()
            .filter(|m| m.online && (m.state == NodeState::Owed || (m.step.is_none() && m.state == NodeState::Pending)))
            .map(|m| m.node)
            .take(MAX_ASSIGN_PER_COMMIT as usize)
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        match self.fetch(waiting).await {
            Ok(()) => Ok(()),
            Err(Failure::Refused(e)) => {
                self.not_taken(&e);
                Ok(())
            }
            Err(Failure::Moved(why) | Failure::Reload(why)) => Err(why.into()),
        }
    }

    fn not_taken(&mut self, e: &CommandError) {
        if matches!(e, CommandError::Unavailable(_)) {
            let now = self.plane.now();
            self.unavailable_since.get_or_insert(now);
        }
        tracing::warn!(rollout = %self.rollout.id, error = ?e, "a decision was not stored; it is made again");
    }

    /// Does anything of this node still belong to this rollout?
    fn holds(&self, node: NodeId) -> bool {
        let Some(m) = self.rollout.members.get(&node) else { return false };
        if matches!(m.state, NodeState::Skipped { .. }) {
            return false;
        }
        self.rollout.head.phase.is_active()
            || m.state.in_flight()
            || matches!(m.state, NodeState::Owed | NodeState::RollingBack { .. })
            || (self.rollout.head.phase == Phase::Completed && m.state == NodeState::Pending)
    }

    fn delivered(&self, node: NodeId) -> Delivered {
        Delivered { state: self.rollout.members.get(&node).map(|m| m.state.kind()), unengaged: !self.holds(node) }
    }

    /// Set the timer; end when nothing is left to do.
    async fn rest(&mut self, me: &Me) -> Done {
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
        let retry = (held_up || self.unavailable_since.is_some()).then_some(now + RETRY_AFTER);
        let at = [head.wake_at.filter(|t| head.phase != Phase::Pending || *t > now), retry].into_iter().flatten().min();
        match at {
            Some(at) => self.wake_at(me, at),
            None => self.timer = None,
        }
        Ok(())
    }

    /// Ended, but nodes are still to be served when they return. Walks the members: only ended rollouts are asked.
    fn owes_after_end(&self) -> bool {
        let head = &self.rollout.head;
        matches!(head.phase, Phase::Completed | Phase::RolledBack)
            && (head.counts.owed > 0 || head.lane_open > 0 || self.rollout.members.values().any(waits_after_end))
    }

    fn wake_at(&mut self, me: &Me, at: Timestamp) {
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

/// One change per node, later values over earlier ones: one row is written once per commit.
fn merge(columns: Vec<store::NodeChange>) -> Vec<store::NodeChange> {
    let mut at: HashMap<NodeId, usize> = HashMap::with_capacity(columns.len());
    let mut out: Vec<store::NodeChange> = Vec::with_capacity(columns.len());
    for c in columns {
        match at.get(&c.node) {
            Some(i) => {
                let o = &mut out[*i];
                macro_rules! take { ($($f:ident),+) => { $( if c.$f.is_some() { o.$f = c.$f; } )+ } }
                take!(
                    expect_epoch,
                    last_seen,
                    presence,
                    health,
                    active_bundle,
                    staged_bundle,
                    version,
                    ip,
                    hostname,
                    instance,
                    metadata,
                    last_error
                );
                o.events.extend(c.events);
            }
            None => {
                at.insert(c.node, out.len());
                out.push(c);
            }
        }
    }
    out
}
