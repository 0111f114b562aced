//! The one door to SQL: every operation goes through [`Store::run`], which measures, bounds and repeats it.
//!
//! Repeated is only what is certainly not done: serialization failures, deadlocks, busy locks before the commit.
//! A commit whose answer is lost is `Unknown` and never repeated.

use crate::conn::{Conn, Link};
use crate::error::{Error, Fail, Q, Result};
use crate::lite::Queue;
use crate::pg;
use crate::{Backing, Store};
use diesel::connection::SimpleConnection as _;
use diesel_async::{
    AnsiTransactionManager, AsyncConnection, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

type PgTx = <AsyncPgConnection as AsyncConnection>::TransactionManager;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One statement, or several that need not agree.
    Read,
    /// Several statements that see one state.
    Snapshot,
    Write,
}

/// The function of an operation: may be called again with the same arguments.
pub(crate) trait Op<A, R>:
    for<'c> Fn(&'c mut Conn, &'c A) -> BoxFuture<'c, Q<R>> + Send + Sync + 'static
{
}
impl<A, R, F> Op<A, R> for F where F: for<'c> Fn(&'c mut Conn, &'c A) -> BoxFuture<'c, Q<R>> + Send + Sync + 'static {}

/// Operations whose size grows with the fleet: 100,000 members are 100 batches in one transaction, seconds rather than
/// milliseconds. They get six times the time of the others.
const BULK: &[&str] =
    &["rollout.insert", "rollout.commit", "rollout.decide", "rollout.load", "node.candidates", "node.fleet"];

const QUEUED: u8 = 0;
const STARTED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Ends as given up when the caller stops waiting before the job began.
struct Ticket(Arc<AtomicU8>);
impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Store {
    pub(crate) async fn read<A, R>(
        &self,
        op: &'static str,
        args: A,
        f: impl for<'c> Fn(&'c mut Conn, &'c A) -> BoxFuture<'c, Q<R>> + Send + Sync + 'static,
    ) -> Result<R>
    where
        A: Send + Sync + 'static,
        R: Send + 'static,
    {
        self.run(op, Kind::Read, args, f).await
    }

    pub(crate) async fn snapshot<A, R>(
        &self,
        op: &'static str,
        args: A,
        f: impl for<'c> Fn(&'c mut Conn, &'c A) -> BoxFuture<'c, Q<R>> + Send + Sync + 'static,
    ) -> Result<R>
    where
        A: Send + Sync + 'static,
        R: Send + 'static,
    {
        self.run(op, Kind::Snapshot, args, f).await
    }

    pub(crate) async fn write<A, R>(
        &self,
        op: &'static str,
        args: A,
        f: impl for<'c> Fn(&'c mut Conn, &'c A) -> BoxFuture<'c, Q<R>> + Send + Sync + 'static,
    ) -> Result<R>
    where
        A: Send + Sync + 'static,
        R: Send + 'static,
    {
        self.run(op, Kind::Write, args, f).await
    }

    async fn run<A, R, F>(&self, op: &'static str, kind: Kind, args: A, f: F) -> Result<R>
    where
        A: Send + Sync + 'static,
        R: Send + 'static,
        F: Op<A, R>,
    {
        #[cfg(feature = "testing")]
        self.live().await;
        self.inner.statements.fetch_add(1, Ordering::Relaxed);
        #[allow(clippy::disallowed_methods)] // how long it took, for a metric: nothing is decided by it
        let began = Instant::now();
        let (args, f) = (Arc::new(args), Arc::new(f));
        let limit = self.inner.config.op_timeout * if BULK.contains(&op) { 6 } else { 1 };
        // One deadline for all attempts: a lock that is held costs an operation its time once, not once for every try.
        let deadline = tokio::time::Instant::now() + limit;
        let mut attempt = 0;
        let answer = loop {
            let limit = deadline.saturating_duration_since(tokio::time::Instant::now());
            let tried = match &self.inner.backing {
                Backing::Lite(l) => {
                    let queue = if kind == Kind::Write { &l.writer } else { &l.readers };
                    self.lite(queue, self.fate(op, kind), kind, limit, args.clone(), f.clone()).await
                }
                Backing::Pg(pool, _) => match pg::place(pool, op).await {
                    Ok(_place) => {
                        let limit = deadline.saturating_duration_since(tokio::time::Instant::now());
                        self.pg(pool, self.fate(op, kind), kind, limit, &*args, &*f).await
                    }
                    Err(e) => Err(e.into()),
                },
            };
            match tried {
                Ok(r) => break Ok(r),
                Err(Fail::Own(e)) => break Err(e),
                Err(Fail::Retry(why))
                    if attempt >= self.inner.config.retries || tokio::time::Instant::now() >= deadline =>
                {
                    break Err(Error::Unavailable(why));
                }
                Err(Fail::Retry(_)) => {
                    attempt += 1;
                    self.inner.retries.with_label_values(&[op]).inc();
                    // 2, 4, 8 ... ms, spread by the operation count so that two rivals do not meet again.
                    let spread = self.inner.statements.load(Ordering::Relaxed) % 5;
                    tokio::time::sleep(Duration::from_millis((1 << attempt.min(7)) + spread)).await;
                }
            }
        };
        #[cfg(feature = "testing")]
        self.answered(op).await;
        self.inner.seconds.with_label_values(&[op]).observe(began.elapsed().as_secs_f64());
        match &answer {
            Err(e @ (Error::Unavailable(_) | Error::Unknown(_))) => {
                tracing::warn!(op, error = %e, "database operation failed");
            }
            // The asker's doing (a cursor of another list, say), and the asker is told.
            Err(e @ Error::Invalid(_)) => tracing::debug!(op, error = %e, "database operation refused"),
            Err(Error::NotFound | Error::Conflict(_) | Error::Claimed(_) | Error::Newer { .. }) | Ok(_) => {}
        }
        answer
    }

    #[cfg(feature = "testing")]
    async fn live(&self) {
        if let Some(faults) = &self.faults {
            faults.live().await;
        }
    }

    #[cfg(feature = "testing")]
    async fn answered(&self, op: &'static str) {
        if let Some(faults) = &self.faults {
            faults.live().await;
            faults.answered(op).await;
        }
    }

    /// What is asked just before and just after a commit of `op`.
    #[cfg(feature = "testing")]
    fn fate(&self, op: &'static str, kind: Kind) -> Fate {
        Fate(self.faults.clone().filter(|_| kind == Kind::Write).map(|f| (f, op)))
    }

    #[cfg(not(feature = "testing"))]
    fn fate(&self, _op: &'static str, _kind: Kind) -> Fate {
        Fate
    }

    async fn lite<A, R, F>(
        &self,
        queue: &Queue,
        fate: Fate,
        kind: Kind,
        limit: Duration,
        args: Arc<A>,
        f: Arc<F>,
    ) -> Q<R>
    where
        A: Send + Sync + 'static,
        R: Send + 'static,
        F: Op<A, R>,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let ticket = Ticket(state.clone());
        let bell = self.inner.bell.clone();
        queue.push(Box::new(move |conn| {
            if state.compare_exchange(QUEUED, STARTED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                // The caller may be gone by now; then nobody hears the answer, as with a lost connection.
                let done = lite_job(conn, fate, kind, &*args, &*f);
                if std::mem::take(&mut conn.rang) && done.is_ok() {
                    bell.send_modify(|n| *n += 1);
                }
                let _ = reply.send(done);
            }
        }))?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(r)) => r,
            Ok(Err(_)) => Err(Error::Unavailable("the store is closed".into()).into()),
            Err(_) => {
                let never_began =
                    ticket.0.compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok();
                Err(if never_began || kind != Kind::Write {
                    Error::Unavailable("timed out waiting for the database".into())
                } else {
                    Error::Unknown("timed out while the database was writing".into())
                }
                .into())
            }
        }
    }

    async fn pg<A, R, F>(&self, pool: &pg::Pool, fate: Fate, kind: Kind, limit: Duration, args: &A, f: &F) -> Q<R>
    where
        A: Send + Sync + 'static,
        R: Send + 'static,
        F: Op<A, R>,
    {
        let config = &self.inner.config;
        let committing = AtomicBool::new(false);
        let mut held = None;
        let work = async {
            let conn = held.insert(Conn::new(Link::Pg(pg::checkout(pool).await?)));
            let begin = match kind {
                Kind::Read if config.statement_cache => None,
                Kind::Read => Some("BEGIN READ ONLY"),
                Kind::Snapshot => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
                Kind::Write => Some("BEGIN"),
            };
            let Some(begin) = begin else { return f(conn, args).await };
            if let Link::Pg(c) = &mut conn.link {
                AnsiTransactionManager::begin_transaction_sql(&mut **c, begin).await?;
                if !config.statement_cache {
                    let settings = format!("{}; {}", pg::FRESH_SESSION, pg::session_settings(config, true));
                    c.batch_execute(&settings).await?;
                }
            }
            let done = f(&mut *conn, args).await.and_then(|r| fate.before_commit().map(|after| (r, after)));
            let rang = conn.rang;
            let Link::Pg(c) = &mut conn.link else { return done.map(|d| d.0) };
            match done {
                Ok((r, after)) => {
                    committing.store(true, Ordering::Release);
                    match PgTx::commit_transaction(&mut **c).await {
                        Ok(()) => {
                            if rang {
                                // The listener of this process tells the others.
                                self.inner.bell.send_modify(|n| *n += 1);
                            }
                            after.map(|()| r)
                        }
                        Err(_) if kind != Kind::Write => Ok(r),
                        Err(e) => Err(match Fail::from(e) {
                            Fail::Retry(why) => Fail::Retry(why),
                            // Anything else may have come after the commit record was written.
                            Fail::Own(e) => Fail::Own(Error::Unknown(e.to_string())),
                        }),
                    }
                }
                Err(e) => {
                    // A connection that cannot roll back is closed by the pool, which rolls back too.
                    let _ = PgTx::rollback_transaction(&mut **c).await;
                    Err(e)
                }
            }
        };
        let done = tokio::time::timeout(limit, work).await;
        if done.is_err()
            && let Some(Conn { link: Link::Pg(c), .. }) = &mut held
        {
            // Whoever had it next would wait behind what is not answered, on a host that may be gone. The pool closes what is marked so,
            // which ends a transaction too.
            PgTx::transaction_manager_status_mut(&mut **c).set_in_error();
        }
        match done {
            Ok(r) => r,
            Err(_) if committing.load(Ordering::Acquire) && kind == Kind::Write => {
                Err(Error::Unknown("timed out during the commit".into()).into())
            }
            Err(_) => Err(Error::Unavailable("timed out waiting for the database".into()).into()),
        }
    }
}

fn batch(conn: &mut Conn, sql: &str) -> Q<()> {
    match &mut conn.link {
        Link::Lite(c) => Ok(c.batch_execute(sql)?),
        Link::Pg(_) => Err(Fail::invalid("not a connection of SQLite")),
    }
}

/// What a test has planned for a commit. Nothing, and no code, outside of tests.
#[cfg(feature = "testing")]
struct Fate(Option<(crate::testing::Faults, &'static str)>);
#[cfg(not(feature = "testing"))]
struct Fate;

impl Fate {
    /// An error instead of the commit, or what the caller is told after it.
    #[cfg(feature = "testing")]
    fn before_commit(&self) -> Q<Q<()>> {
        use crate::testing::At;
        let Some((faults, op)) = &self.0 else { return Ok(Ok(())) };
        let lost = |what: &str| Fail::Own(Error::Unknown(what.into()));
        match faults.next(op) {
            At::Go => Ok(Ok(())),
            At::DieBefore => Err(lost("died before the commit")),
            At::DieAfter => Ok(Err(lost("died after the commit"))),
            At::Refused => Err(Error::Unavailable("refused by the test".into()).into()),
            At::AnswerLost => Ok(Err(lost("lost by the test"))),
        }
    }

    #[cfg(not(feature = "testing"))]
    fn before_commit(&self) -> Q<Q<()>> {
        Ok(Ok(()))
    }
}

fn lite_job<A, R, F: Op<A, R>>(conn: &mut Conn, fate: Fate, kind: Kind, args: &A, f: &F) -> Q<R> {
    match kind {
        Kind::Read => {}
        Kind::Snapshot => batch(conn, "BEGIN")?,
        // IMMEDIATE: the lock is taken first, so the transaction can never fail half-way for a lock.
        Kind::Write => batch(conn, "BEGIN IMMEDIATE")?,
    }
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(conn, args).now_or_never()));
    let done = match done {
        Ok(Some(r)) => r,
        Ok(None) => Err(Fail::invalid("an operation waited for something inside its transaction")),
        Err(_) => Err(Error::Unavailable("an operation panicked; it was rolled back".into()).into()),
    };
    let done = done.and_then(|r| fate.before_commit().map(|after| (r, after)));
    match (kind, done) {
        (Kind::Read, done) => done.map(|d| d.0),
        (_, Err(e)) => {
            let _ = batch(conn, "ROLLBACK");
            Err(e)
        }
        (Kind::Snapshot, Ok((r, _))) => batch(conn, "COMMIT").map(|()| r),
        (Kind::Write, Ok((r, after))) => match batch(conn, "COMMIT") {
            Ok(()) => after.map(|()| r),
            Err(e) => {
                // If SQLite still holds the transaction it was not done, and this ends it.
                let undone = batch(conn, "ROLLBACK").is_ok();
                Err(match e {
                    _ if undone => Fail::Own(Error::Unavailable("the commit failed and was rolled back".into())),
                    Fail::Retry(why) | Fail::Own(Error::Unavailable(why)) => Fail::Own(Error::Unknown(why)),
                    Fail::Own(e) => Fail::Own(Error::Unknown(e.to_string())),
                })
            }
        },
    }
}
