//! Which instance works on a rollout: owner, fence, and the inbox for reports that arrived elsewhere.

use crate::Store;
use crate::error::{Q, Result};
use crate::types::ChangeKind;
use crate::value::{Cells, Col, p};
use crate::write::{NewChange, Write, finish_with};
use domain::{InstanceId, ProjectId, RolloutId, Timestamp};
use serde_json::Value;
use std::collections::BTreeSet;
use uuid::Uuid;

/// A rollout that this instance owns now; every commit must carry the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    pub id: RolloutId,
    pub project: ProjectId,
    pub fence: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub instance: InstanceId,
    pub listen: String,
    pub fence: i64,
}

/// Reports taken by an instance that does not own the rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxItem {
    pub id: Uuid,
    pub at: Timestamp,
    pub payload: Value,
}

fn read_acquired(r: &mut Cells) -> Q<Acquired> {
    Ok(Acquired { id: r.get()?, project: r.get()?, fence: r.get()? })
}

const NO_LIVE_OWNER: &str =
    "(r.owner IS NULL OR NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = r.owner AND i.expires_at > {now}))";

/// One that is draining takes nothing; asks for its id.
const TAKES: &str = "NOT EXISTS (SELECT 1 FROM instances d WHERE d.id = ? AND d.draining)";

/// What there is to be done on a rollout `r`; asks for the time once.
const HAS_WORK: &str = "(r.state IN ('running', 'paused', 'rolling_back') \
    OR (r.state = 'pending' AND r.start_at IS NOT NULL AND r.start_at <= ?) \
    OR (r.state NOT IN ('pending', 'running', 'paused', 'rolling_back') AND r.lane_open > 0) \
    OR r.id IN (SELECT d.rollout_id FROM debts d) OR r.id IN (SELECT x.rollout_id FROM rollout_inbox x))";

impl Store {
    /// Rollouts with work that `me` owns already: their actors may have been lost.
    pub async fn owned_rollouts(&self, me: InstanceId, now: Timestamp) -> Result<Vec<RolloutId>> {
        self.read("rollout.owned", (me, now), |c, (me, now)| {
            Box::pin(async move {
                let sql = format!("SELECT r.id FROM rollouts r WHERE r.owner = ? AND {HAS_WORK} ORDER BY r.id");
                c.rows(sql, p![*me, *now], |r| r.get()).await
            })
        })
        .await
    }

    /// Take all rollouts that have work and no live owner: active ones, pending ones whose start is due, ended ones with debts or a lane.
    /// `at_once`: how many in one transaction. On an error some may have been taken: [`Store::owned_rollouts`] has them.
    pub async fn acquire_rollouts(&self, me: InstanceId, now: Timestamp, at_once: u32) -> Result<Vec<Acquired>> {
        let (mut all, mut known) = (Vec::new(), BTreeSet::new());
        loop {
            let taken = self.acquire_some(me, now, at_once).await?;
            let was_full = taken.len() >= at_once as usize;
            // Those that come again: our own lease is gone, and nothing stays ours.
            let all_new = taken.iter().all(|a| known.insert(a.id));
            all.extend(taken);
            if !was_full || !all_new {
                return Ok(all);
            }
        }
    }

    async fn acquire_some(&self, me: InstanceId, now: Timestamp, limit: u32) -> Result<Vec<Acquired>> {
        self.write("rollout.acquire", (me, now, limit), |c, (me, now, limit)| {
            Box::pin(async move {
                let sql = format!(
                    "UPDATE rollouts SET owner = ?, fence = fence + 1 WHERE id IN (SELECT r.id FROM rollouts r WHERE {NO_LIVE_OWNER} \
                     AND {TAKES} AND {HAS_WORK} ORDER BY r.id LIMIT ? {{skip}}) RETURNING id, project_id, fence"
                );
                c.rows(sql, p![*me, *me, *now, *limit], read_acquired).await
            })
        })
        .await
    }

    /// One, whatever its phase: for a command, or a report that just arrived. `None`: a live other instance owns it, or `me` is
    /// draining.
    /// Errors: `NotFound`.
    pub async fn acquire_rollout(&self, me: InstanceId, id: RolloutId) -> Result<Option<Acquired>> {
        self.write("rollout.acquire_one", (me, id), |c, (me, id)| {
            Box::pin(async move {
                let sql = "SELECT id, project_id, fence, owner FROM rollouts WHERE id = ? {update}";
                let (now, owner): (Acquired, Option<InstanceId>) = c.one(sql, p![*id], |r| Ok((read_acquired(r)?, r.get()?))).await?;
                if owner == Some(*me) {
                    return Ok(Some(now));
                }
                let sql = format!(
                    "UPDATE rollouts AS r SET owner = ?, fence = fence + 1 WHERE r.id = ? AND {NO_LIVE_OWNER} AND {TAKES} RETURNING id, project_id, fence"
                );
                c.maybe(sql, p![*me, *id, *me], read_acquired).await
            })
        })
        .await
    }

    /// Nothing happens when the fence moved on: somebody else has it already.
    pub async fn release_rollout(&self, me: InstanceId, id: RolloutId, fence: i64) -> Result<()> {
        self.write("rollout.release", (me, id, fence), |c, (me, id, fence)| {
            Box::pin(async move {
                let sql = "UPDATE rollouts SET owner = NULL WHERE id = ? AND owner = ? AND fence = ?";
                c.exec(sql, p![*id, *me, *fence]).await.map(drop)
            })
        })
        .await
    }

    /// On drain: the fences move, so that nothing of `me` can commit late, and the others are told at once. Answers how many.
    pub async fn release_all(&self, me: InstanceId, at: Timestamp) -> Result<u64> {
        self.write("rollout.release_all", (me, at), |c, (me, at)| {
            Box::pin(async move {
                let sql = "UPDATE rollouts SET owner = NULL, fence = fence + 1 WHERE owner = ?";
                let freed = c.exec(sql, p![*me]).await?;
                if freed > 0 {
                    let ring = NewChange { kind: ChangeKind::Instance, id: me.0, project: None, version: at.0 };
                    finish_with(c, &Write::at(*at), &[ring]).await?;
                }
                Ok(freed)
            })
        })
        .await
    }

    /// The live owner, if there is one.
    pub async fn owner_of(&self, id: RolloutId) -> Result<Option<Owner>> {
        self.read("rollout.owner", id, |c, id| {
            Box::pin(async move {
                let sql = "SELECT i.id, i.listen, r.fence FROM rollouts r JOIN instances i ON i.id = r.owner WHERE r.id = ? AND i.expires_at > {now}";
                c.maybe(sql, p![*id], |r| Ok(Owner { instance: r.get()?, listen: r.get()?, fence: r.get()? })).await
            })
        })
        .await
    }

    /// Returns after the commit: the reports may be acknowledged then. Repeating it with the same ids changes nothing.
    pub async fn put_inbox(&self, rollout: RolloutId, items: Vec<InboxItem>) -> Result<()> {
        self.write("rollout.inbox_put", (rollout, items), |c, (rollout, items)| {
            Box::pin(async move {
                let cols = vec![
                    ("id", Col::ids(items.iter().map(|i| i.id))),
                    ("at", Col::times(items.iter().map(|i| i.at))),
                    ("payload", Col::json(items.iter().map(|i| &i.payload))),
                ];
                let sql = "INSERT INTO rollout_inbox (rollout_id, id, at, payload) SELECT ?, v.id, v.at, v.payload FROM {v} WHERE 1 = 1 \
                           ON CONFLICT (id) DO NOTHING";
                c.batch(sql, p![*rollout], cols).await?;
                let at = items.iter().map(|i| i.at).max().unwrap_or(Timestamp::ZERO);
                let ring = NewChange { kind: ChangeKind::Inbox, id: rollout.0, project: None, version: at.0 };
                finish_with(c, &Write::at(at), &[ring]).await
            })
        })
        .await
    }

    /// In order of arrival.
    pub async fn inbox(&self, rollout: RolloutId, limit: u32) -> Result<Vec<InboxItem>> {
        self.read("rollout.inbox", (rollout, limit), |c, (rollout, limit)| {
            Box::pin(async move {
                let sql = "SELECT id, at, payload FROM rollout_inbox WHERE rollout_id = ? ORDER BY id LIMIT ?";
                c.rows(sql, p![*rollout, *limit], |r| Ok(InboxItem { id: r.get()?, at: r.get()?, payload: r.json()? }))
                    .await
            })
        })
        .await
    }

    pub async fn rollouts_with_inbox(&self, limit: u32) -> Result<Vec<RolloutId>> {
        self.read("rollout.with_inbox", limit, |c, limit| {
            Box::pin(async move {
                c.rows("SELECT DISTINCT rollout_id FROM rollout_inbox LIMIT ?", p![*limit], |r| r.get()).await
            })
        })
        .await
    }
}
