//! What nodes and other instances say: gathered, decided on once for all of it, and only then acknowledged.

use super::actor::{Brain, Done, Me};
use super::commit::{Attempt, Extra, Failure, NO_ROOM};
use super::{Delivery, Mail, Taken};
use crate::command::CommandError;
use domain::node::GateWindow;
use domain::rollout::*;
use domain::*;
use std::collections::HashMap;

/// Mail of other instances taken into one decision.
const MAIL_BATCH: u32 = 1_000;

impl Brain {
    /// Everything gathered: at most one commit each for presence, reports and gates. Whoever waits is answered after the last.
    pub(super) async fn flush(&mut self, me: &Me) -> Done {
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
            let Delivery { change, reports: said, windows: seen, presence: moved } = input.delivery;
            columns.push(change);
            reports.extend(said);
            windows.extend(seen);
            presence.extend(moved);
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
                Err(Failure::Budget) => Err(CommandError::Unavailable(NO_ROOM.into())),
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
            Err(Failure::Budget) => Err(NO_ROOM.into()),
        }
    }

    /// The columns of the nodes' rows and the mail go with the last commit: what is stored of a node never runs ahead of what
    /// its rollout was told, and whoever repeats a report after a crash is heard again.
    pub(super) async fn observe(
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
    pub(super) fn by_our_clock(&self, windows: &mut [GateWindow]) {
        for w in windows {
            let activated = match self.rollout.members.get(&w.node).map(|m| (m.generation, &m.state)) {
                Some((generation, NodeState::Activated { at, .. })) if generation == w.generation => *at,
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

    pub(super) async fn read_mail(&mut self, me: &Me) -> Done {
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
                Err(Failure::Budget) => return Err(NO_ROOM.into()),
            }
        }
    }
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
                    last_error,
                    busy
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
