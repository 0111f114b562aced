//! Running processes: one renewing row each, by the database's clock.

use crate::Store;
use crate::error::{Q, Result};
use crate::value::{Cells, json, p};
use domain::{InstanceId, Span, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    /// Counts every start of any process on this database.
    pub epoch: i64,
    pub started_at: Timestamp,
    pub expires_at: Timestamp,
    /// Where the others reach it.
    pub listen: String,
    pub draining: bool,
}

fn read_instance(r: &mut Cells) -> Q<Instance> {
    Ok(Instance {
        id: r.get()?,
        epoch: r.get()?,
        started_at: r.get()?,
        expires_at: r.get()?,
        listen: r.get()?,
        draining: r.get()?,
    })
}

impl Store {
    /// Answers the epoch, higher than that of every instance before.
    pub async fn register_instance(&self, id: InstanceId, listen: String, lease: Span) -> Result<i64> {
        self.write("instance.register", (id, listen, lease), |c, (id, listen, lease)| {
            Box::pin(async move {
                let first = "INSERT INTO settings (key, value, updated_at) VALUES ('instance_epoch', ?, {now}) ON CONFLICT (key) DO NOTHING";
                c.exec(first, p![json(&0)]).await?;
                let epoch = "SELECT value FROM settings WHERE key = 'instance_epoch' {update}";
                let epoch = c.one(epoch, vec![], |r| r.json::<i64>()).await? + 1;
                c.exec("UPDATE settings SET value = ?, updated_at = {now} WHERE key = 'instance_epoch'", p![json(&epoch)]).await?;
                c.exec(
                    "INSERT INTO instances (id, epoch, started_at, expires_at, listen, draining) VALUES (?, ?, {now}, {now} + ?, ?, ?)",
                    p![*id, epoch, *lease, listen, false],
                )
                .await?;
                Ok(epoch)
            })
        })
        .await
    }

    /// The new expiry. Errors: `NotFound` when the row expired and was removed: this process owns nothing any more.
    pub async fn renew_instance(&self, id: InstanceId, lease: Span) -> Result<Timestamp> {
        self.write("instance.renew", (id, lease), |c, (id, lease)| {
            Box::pin(async move {
                let sql = "UPDATE instances SET expires_at = {now} + ? WHERE id = ? RETURNING expires_at";
                c.one(sql, p![*lease, *id], |r| r.get()).await
            })
        })
        .await
    }

    /// It takes no rollouts from now on, for as long as its row exists.
    pub async fn drain_instance(&self, id: InstanceId) -> Result<()> {
        self.write("instance.drain", id, |c, id| {
            Box::pin(async move { c.exec_one("UPDATE instances SET draining = ? WHERE id = ?", p![true, *id]).await })
        })
        .await
    }

    /// Frees its rollouts too; their fences stay, so that nothing of it can commit late.
    pub async fn remove_instance(&self, id: InstanceId) -> Result<()> {
        self.write("instance.remove", id, |c, id| {
            Box::pin(async move {
                c.exec("UPDATE rollouts SET owner = NULL, fence = fence + 1 WHERE owner = ?", p![*id]).await?;
                c.exec("DELETE FROM instances WHERE id = ?", p![*id]).await.map(drop)
            })
        })
        .await
    }

    pub async fn live_instances(&self) -> Result<Vec<Instance>> {
        self.read("instance.live", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT id, epoch, started_at, expires_at, listen, draining FROM instances WHERE expires_at > {now} ORDER BY epoch";
                c.rows(sql, vec![], read_instance).await
            })
        })
        .await
    }

    /// Removes those whose lease ran out and frees their rollouts.
    pub async fn expire_instances(&self) -> Result<Vec<InstanceId>> {
        self.write("instance.expire", (), |c, ()| {
            Box::pin(async move {
                let sql = "DELETE FROM instances WHERE expires_at <= {now} RETURNING id";
                let gone: Vec<InstanceId> = c.rows(sql, vec![], |r| r.get()).await?;
                for id in &gone {
                    c.exec("UPDATE rollouts SET owner = NULL, fence = fence + 1 WHERE owner = ?", p![*id]).await?;
                }
                Ok(gone)
            })
        })
        .await
    }
}
