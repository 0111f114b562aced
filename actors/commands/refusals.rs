//! What was not allowed, for the audit log: the first refusal of somebody at some route at once, those that follow within a minute
//! as one entry with their number.
//!
//! Owns: the counts of the minutes that are not over. Rebuilt from: nothing; a restart forgets at most a minute of them.

use crate::command::CommandResult;
use crate::plane::ControlPlane;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use domain::audit::NewEntry;
use domain::*;
use serde_json::json;
use store::Write;

/// Refusals of one caller at one route within this are one entry after the first.
const JOIN_WITHIN: Span = Span::secs(60);
/// Callers and routes that are being counted; beyond this the others are counted together.
const JOINED: usize = 10_000;

/// Who, and where: method and path of the route.
type Key = (Actor, &'static str, &'static str);

#[derive(Default)]
pub(crate) struct Refusals(DashMap<Key, Count>);

struct Count {
    since: Timestamp,
    more: u32,
    /// Of the newest.
    ctx: Ctx,
}

impl ControlPlane {
    /// To be called for every 403 whose caller is known. What cannot be written is only logged: nothing was done.
    pub async fn note_refusal(&self, ctx: &Ctx, method: &'static str, route: &'static str) {
        let (counts, now) = (&self.inner.keys.doorman().refusals.0, self.now());
        let key = match counts.len() < JOINED {
            true => (ctx.actor, method, route),
            false => (Actor::System, "", "many"),
        };
        let due = match counts.entry(key) {
            Entry::Vacant(first) => {
                first.insert(Count { since: now, more: 0, ctx: ctx.clone() });
                Some(1)
            }
            Entry::Occupied(mut entry) => {
                let count = entry.get_mut();
                count.more += 1;
                count.ctx = ctx.clone();
                match now.since(count.since) < JOIN_WITHIN {
                    true => None,
                    false => {
                        count.since = now;
                        Some(std::mem::take(&mut count.more))
                    }
                }
            }
        };
        if let Some(n) = due
            && let Err(why) = self.write_refusals(ctx, key, n).await
        {
            tracing::warn!(?why, ?ctx, route, "a refusal was not written to the audit log");
        }
    }

    /// The minutes that are over.
    pub(crate) async fn flush_refusals(&self) -> CommandResult<()> {
        let (counts, now) = (&self.inner.keys.doorman().refusals.0, self.now());
        let over = |c: &Count| now.since(c.since) >= JOIN_WITHIN;
        let keys: Vec<Key> = counts.iter().filter(|e| over(e.value())).map(|e| *e.key()).collect();
        for key in keys {
            let taken = counts.get_mut(&key).map(|mut c| (std::mem::take(&mut c.more), c.ctx.clone()));
            if let Some((more, ctx)) = taken.filter(|(more, _)| *more > 0) {
                self.write_refusals(&ctx, key, more).await?;
            }
            counts.remove_if(&key, |_, c| c.more == 0);
        }
        Ok(())
    }

    async fn write_refusals(&self, ctx: &Ctx, (actor, method, route): Key, count: u32) -> CommandResult<()> {
        let now = self.now();
        let entry = NewEntry {
            actor,
            action: "permission.refused",
            resource_type: "route",
            resource_id: None,
            project: None,
            changes: json!({"method": method, "route": route, "count": count}),
            request_id: ctx.request_id,
            ip: ctx.address.map(|a| a.to_string()),
        };
        Ok(self.inner.store.append_audit(Write::at(now).audit(self.fresh().id(now), entry)).await?)
    }
}
