//! The change feed: who must look again, in an order that never skips.
//!
//! On PostgreSQL sequence numbers commit out of order, so rows are read in order of (transaction, sequence) and only below the
//! oldest transaction still running: below it nothing can appear any more. SQLite has one writer; its transaction is always 0.

use crate::conn::Conn;
use crate::error::{Q, Result};
use crate::pg_target::{Link, Target};
use crate::types::ChangeKind;
use crate::value::{Cells, p};
use crate::{Backing, Store, pg};
use domain::{ProjectId, Timestamp};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The place in the feed after which to go on. Ordered; `Display` is what an event stream sends as id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeCursor {
    pub xid: i64,
    pub seq: i64,
}

impl fmt::Display for ChangeCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.xid, self.seq)
    }
}
impl FromStr for ChangeCursor {
    type Err = ();
    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        let (xid, seq) = s.split_once('-').ok_or(())?;
        Ok(ChangeCursor { xid: xid.parse().map_err(drop)?, seq: seq.parse().map_err(drop)? })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    pub cursor: ChangeCursor,
    pub kind: ChangeKind,
    pub id: Uuid,
    pub project: Option<ProjectId>,
    pub version: i64,
    pub at: Timestamp,
}

fn read_change(r: &mut Cells) -> Q<ChangeRow> {
    Ok(ChangeRow {
        cursor: ChangeCursor { xid: r.get()?, seq: r.get()? },
        kind: r.get()?,
        id: r.get()?,
        project: r.get()?,
        version: r.get()?,
        at: r.get()?,
    })
}

/// Below which transaction of this database nothing can appear any more; everything on SQLite.
///
/// The snapshot alone would do, but it counts the transactions of every database of the server: somebody else's long one would
/// hold our feed back. So where it lags, the running transactions of this database are looked up. Its upper end was taken before
/// they were read: what began later is above it, and what is neither running nor above it has ended, so the *next* statement sees it.
async fn settled(c: &mut Conn) -> Q<i64> {
    if !c.is_pg() {
        return Ok(i64::MAX);
    }
    let sql = "WITH s AS (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS low, pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS high) \
               SELECT low, high FROM s";
    let (low, high): (i64, i64) = c.one(sql, vec![], |r| Ok((r.get()?, r.get()?))).await?;
    if low == high {
        return Ok(low);
    }
    // `backend_xid` has the low 32 bits only; above `high` the difference wraps around. A session whose state we may not see
    // could be writing: then the snapshot must do.
    let sql = "SELECT count(*) FILTER (WHERE hidden), max(age) FILTER (WHERE age < 2147483648) FROM (SELECT (? - backend_xid::text::bigint) & 4294967295 AS age, \
               state IS NULL AND backend_type = 'client backend' AS hidden FROM pg_stat_activity WHERE datname = current_database()) a";
    let (hidden, oldest): (i64, Option<i64>) = c.one(sql, p![high], |r| Ok((r.get()?, r.get()?))).await?;
    Ok(if hidden > 0 { low } else { high - oldest.unwrap_or(0) })
}

impl Store {
    /// In order, each row exactly once for a reader that goes on from the last cursor.
    pub async fn changes_after(&self, after: ChangeCursor, limit: u32) -> Result<Vec<ChangeRow>> {
        self.read("change.after", (after, limit), |c, (after, limit)| {
            Box::pin(async move {
                let below = settled(c).await?;
                let sql = "SELECT xid, seq, kind, id, project_id, version, at FROM changes WHERE (xid, seq) > (?, ?) AND xid < ? \
                           ORDER BY xid, seq LIMIT ?";
                c.rows(sql, p![after.xid, after.seq, below, *limit], read_change).await
            })
        })
        .await
    }

    /// Where a reader starts: asked for *before* it loads everything, so that whatever its load did not see comes after.
    pub async fn changes_head(&self) -> Result<ChangeCursor> {
        self.read("change.head", (), |c, ()| {
            Box::pin(async move {
                let below = settled(c).await?;
                let sql = "SELECT xid, seq FROM changes WHERE xid < ? ORDER BY xid DESC, seq DESC LIMIT 1";
                let found = c.maybe(sql, p![below], |r| Ok(ChangeCursor { xid: r.get()?, seq: r.get()? })).await?;
                Ok(found.unwrap_or_default())
            })
        })
        .await
    }

    /// Forget what is older. The newest row stays, so that the head never goes back.
    pub async fn prune_changes(&self, before: Timestamp) -> Result<u64> {
        self.write("change.prune", before, |c, before| {
            Box::pin(async move {
                c.exec("DELETE FROM changes WHERE at < ? AND seq < (SELECT max(seq) FROM changes)", p![*before]).await
            })
        })
        .await
    }

    /// A listener of its own: wakes up after commits that wrote to the feed, here or (on PostgreSQL) in any instance.
    pub fn listen(&self) -> Listener {
        let mut bell = self.inner.bell.subscribe();
        bell.mark_unchanged();
        let target = match &self.inner.backing {
            // Behind a pooler LISTEN would be somebody else's: the feed is read every so often.
            Backing::Pg(_, target) => self.inner.config.statement_cache.then(|| target.clone()),
            Backing::Lite(_) => None,
        };
        Listener { bell, target, link: None, retry: None }
    }
}

/// Wake-ups carry no data and may be lost: read the feed after each, and every 500 ms anyhow.
/// Owns: one connection to PostgreSQL beside the pool, made anew when it breaks.
pub struct Listener {
    bell: tokio::sync::watch::Receiver<u64>,
    target: Option<Arc<Target>>,
    link: Option<(tokio_postgres::Client, Link)>,
    /// Not before this time is another connection tried.
    retry: Option<tokio::time::Instant>,
}

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);

impl Listener {
    /// Returns on a wake-up, or after `at_most`.
    pub async fn wait(&mut self, at_most: Duration) {
        let end = tokio::time::sleep(at_most);
        tokio::pin!(end);
        let due = self.link.is_none() && self.retry.is_none_or(|t| t <= tokio::time::Instant::now());
        if let Some(target) = self.target.as_ref().filter(|_| due) {
            tokio::select! {
                link = connect(target) => {
                    self.link = link;
                    self.retry = Some(tokio::time::Instant::now() + RECONNECT);
                    if self.link.is_some() {
                        // What happened before it listened is to be looked for now.
                        return;
                    }
                }
                () = &mut end => return,
            }
        }
        loop {
            let bell = self.bell.changed();
            match &mut self.link {
                Some((_, link)) => tokio::select! {
                    _ = bell => return,
                    message = std::future::poll_fn(|cx| link.poll_message(cx)) => match message {
                        Some(Ok(tokio_postgres::AsyncMessage::Notification(_))) => return,
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => {
                            self.link = None;
                            self.retry = Some(tokio::time::Instant::now() + RECONNECT);
                            return;
                        }
                    },
                    () = &mut end => return,
                },
                None => {
                    let closed = tokio::select! {
                        changed = bell => changed.is_err(),
                        () = &mut end => return,
                    };
                    if !closed {
                        return;
                    }
                    // The store is gone: nothing will ring any more.
                    end.await;
                    return;
                }
            }
        }
    }
}

async fn connect(target: &Target) -> Option<(tokio_postgres::Client, Link)> {
    let (client, mut link) = target.connect().await.ok()?;
    pg::driven(&mut link, client.batch_execute("LISTEN sentinel_changes")).await.ok()?;
    Some((client, link))
}
