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
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{AsyncMessage, SimpleQueryMessage};
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

fn read_cursor(r: &mut Cells) -> Q<ChangeCursor> {
    Ok(ChangeCursor { xid: r.get()?, seq: r.get()? })
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

/// Rows forgotten in one transaction: an hour of a busy fleet is hundreds of thousands, and on SQLite nobody else writes meanwhile.
const PRUNED_AT_ONCE: u64 = 1_000;

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

    /// The oldest and the newest row there is: a reader whose place is before the one may have missed what was pruned, and a place
    /// after the other is of another database, or of this one before it was restored.
    pub async fn changes_kept(&self) -> Result<Option<(ChangeCursor, ChangeCursor)>> {
        self.read("change.kept", (), |c, ()| {
            Box::pin(async move {
                let oldest = "SELECT xid, seq FROM changes ORDER BY xid, seq LIMIT 1";
                let oldest = c.maybe(oldest, vec![], read_cursor).await?;
                let newest = "SELECT xid, seq FROM changes ORDER BY xid DESC, seq DESC LIMIT 1";
                let newest = c.maybe(newest, vec![], read_cursor).await?;
                Ok(oldest.zip(newest))
            })
        })
        .await
    }

    /// Forget what is older, a batch a transaction. The newest row stays, so that the head never goes back.
    pub async fn prune_changes(&self, before: Timestamp) -> Result<u64> {
        let mut gone = 0;
        loop {
            let batch = self.prune_some_changes(before).await?;
            gone += batch;
            if batch < PRUNED_AT_ONCE {
                return Ok(gone);
            }
        }
    }

    async fn prune_some_changes(&self, before: Timestamp) -> Result<u64> {
        self.write("change.prune", before, |c, before| {
            Box::pin(async move {
                let sql = "DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE at < ? AND seq < (SELECT max(seq) FROM changes) \
                           ORDER BY seq LIMIT ?)";
                c.exec(sql, p![*before, PRUNED_AT_ONCE as i64]).await
            })
        })
        .await
    }

    /// A listener of its own: wakes up after commits that wrote to the feed, here or (on PostgreSQL) in any process that listens too.
    pub fn listen(&self) -> Listener {
        let mut bell = self.inner.bell.subscribe();
        bell.mark_unchanged();
        let target = match &self.inner.backing {
            // Behind a pooler LISTEN would be somebody else's: the feed is read every so often.
            Backing::Pg(_, target) => self.inner.config.statement_cache.then(|| target.clone()),
            Backing::Lite(_) => None,
        };
        Listener { bell, target, ear: None, connecting: None, retry: None, woke: None }
    }
}

/// Wake-ups carry no data and may be lost: read the feed after each, and every 500 ms anyhow.
///
/// It also rings for the others: what this process commits is told to them by the connection that listens, many commits at once.
/// A `NOTIFY` of each commit would cost the writer another round trip, and the server a lock that all of them queue for.
/// Owns: one connection to PostgreSQL beside the pool, made anew when it breaks.
pub struct Listener {
    bell: tokio::sync::watch::Receiver<u64>,
    target: Option<Arc<Target>>,
    ear: Option<Ear>,
    /// An attempt to connect that is under way. It outlasts a wait: behind a silent host it takes longer than one.
    connecting: Option<BoxFuture<'static, Option<Ear>>>,
    /// Not before this time is another connection tried.
    retry: Option<Instant>,
    /// When it woke up last.
    woke: Option<Instant>,
}

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);
/// However much is committed, wake-ups are no closer than this: what comes meanwhile is seen by the same look.
const GAP: Duration = Duration::from_millis(5);
/// Telling the others takes no longer; they look every so often anyhow.
const TELLING: Duration = Duration::from_secs(1);

impl Listener {
    /// Returns on a wake-up, or after `at_most` (and the rest of `GAP`).
    pub async fn wait(&mut self, at_most: Duration) {
        self.rung(at_most).await;
        if let Some(woke) = self.woke {
            tokio::time::sleep_until(woke + GAP).await;
        }
        self.hear_out();
        self.woke = Some(Instant::now());
    }

    async fn rung(&mut self, at_most: Duration) {
        let end = tokio::time::sleep(at_most);
        tokio::pin!(end);
        if let Some(ear) = &mut self.ear {
            let heard = tokio::select! {
                _ = self.bell.changed() => ear.tell().await,
                heard = ear.hear() => heard,
                () = &mut end => return,
            };
            self.lose_if(heard);
            return;
        }
        loop {
            self.connect_if_due();
            tokio::select! {
                ear = connected(&mut self.connecting) => {
                    self.connecting = None;
                    self.retry = Some(Instant::now() + RECONNECT);
                    self.ear = ear;
                    if self.ear.is_some() {
                        // What happened before it listened is to be looked for now.
                        return;
                    }
                }
                changed = self.bell.changed() => {
                    if changed.is_err() {
                        // The store is gone: nothing will ring any more.
                        end.await;
                    }
                    return;
                }
                () = &mut end => return,
            }
        }
    }

    fn connect_if_due(&mut self) {
        let due = self.connecting.is_none() && self.retry.is_none_or(|t| t <= Instant::now());
        if let Some(target) = self.target.clone().filter(|_| due) {
            self.connecting = Some(async move { Ear::connect(&target).await }.boxed());
        }
    }

    /// What rang by now is answered by the same look. What was committed here meanwhile is not: the others do not know of it yet.
    fn hear_out(&mut self) {
        while let Some(heard) = self.ear.as_mut().and_then(|ear| ear.hear().now_or_never()) {
            self.lose_if(heard);
        }
        if self.ear.is_none() {
            self.bell.mark_unchanged();
        }
    }

    fn lose_if(&mut self, heard: std::result::Result<(), Broken>) {
        if heard.is_err() {
            self.ear = None;
            self.retry = Some(Instant::now() + RECONNECT);
        }
    }
}

/// What comes of an attempt that is under way. May be dropped at any time: the attempt stays.
async fn connected(connecting: &mut Option<BoxFuture<'static, Option<Ear>>>) -> Option<Ear> {
    match connecting {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// The connection is of no use any more.
struct Broken;

/// A connection that hears the others, and rings for them.
struct Ear {
    client: tokio_postgres::Client,
    link: Link,
    /// Its own voice.
    pid: i32,
}

impl Ear {
    async fn connect(target: &Target) -> Option<Ear> {
        let (client, mut link) = target.connect().await.ok()?;
        // A lost ring is made up for by looking: no commit of one waits for the disk.
        let begin = "SET synchronous_commit = off; LISTEN sentinel_changes; SELECT pg_backend_pid()";
        let said = pg::driven(&mut link, client.simple_query(begin)).await.ok()?;
        let pid = said.iter().find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        })?;
        Some(Ear { client, link, pid })
    }

    /// Until somebody else rings. May be dropped at any time: nothing is lost.
    async fn hear(&mut self) -> std::result::Result<(), Broken> {
        loop {
            match std::future::poll_fn(|cx| self.link.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(n))) if n.process_id() == self.pid => {}
                Some(Ok(AsyncMessage::Notification(_))) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Broken),
            }
        }
    }

    /// Rings. Whoever rings meanwhile is heard by the look that follows.
    async fn tell(&mut self) -> std::result::Result<(), Broken> {
        let ring = pg::driven(&mut self.link, self.client.batch_execute("NOTIFY sentinel_changes"));
        match tokio::time::timeout(TELLING, ring).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Broken),
        }
    }
}
