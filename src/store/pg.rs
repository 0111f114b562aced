//! PostgreSQL: the pool.

use crate::StoreConfig;
use crate::conn::PgPooled;
use crate::error::{Error, Result};
use crate::pg_target::{Link, Target};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::FutureExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

type Connections = bb8::Pool<AsyncDieselConnectionManager<AsyncPgConnection>>;

/// The connections, and whether the server lets us make more.
pub(crate) struct Pool {
    connections: Connections,
    reach: Arc<Reach>,
    crowd: Semaphore,
    /// The longest wait for a connection, or for a place in the crowd.
    wait: Duration,
}

/// What every node asks for, or what is asked for every node: after an outage thousands of them at once. The others are few, and
/// carry the fleet: leases, decisions, the change feed, people. A quarter of the connections is theirs alone.
const CROWD: &[&str] = &[
    "debt.of_node",
    "enrolment_token.by_hash",
    "node.assignment",
    "node.by_name",
    "node.conflicted",
    "node.credential",
    "node.credential_of",
    "node.hand_over",
    "node.log",
    "node.observe",
    "node.offline",
    "node.online",
    "node.register",
    "node.session_view",
    "rollout.holder",
    "rollout.inbox_put",
];

/// Of so many connections, how many the crowd may have.
fn of_the_crowd(connections: u32) -> usize {
    (connections - connections / 4).max(1) as usize
}

/// While the server takes no connections, one operation in this time tries; the others are told at once that it is away.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// The longest wait for a connection while the server answers: all are busy with operations of milliseconds, or stuck.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// What the last attempt to connect has shown.
#[derive(Default)]
struct Reach(Mutex<Option<Lost>>);

struct Lost {
    why: String,
    probed: Instant,
}

impl Reach {
    fn learn(&self, outcome: std::result::Result<(), String>) {
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *lost = outcome.err().map(|why| Lost { why, probed: Instant::now() });
    }

    /// Why nobody should wait for a connection now. The caller that is told `None` tries for all.
    fn refuses(&self) -> Option<String> {
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = lost.as_mut()?;
        if lost.probed.elapsed() < PROBE_EVERY {
            return Some(lost.why.clone());
        }
        lost.probed = Instant::now();
        None
    }
}

/// A session that holds locks and says nothing is ended by the server after this: its process is frozen or cut off, and whoever
/// takes its rollouts over must not wait for its locks. Ours are idle in a transaction for microseconds, or as long as a decision takes; an
/// honest process that is held up for longer finds that certainly nothing was done.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(2);
/// For a decision over very many nodes.
pub(crate) const TIME_TO_DECIDE: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// `lock_timeout` is a third of the operation's time, so that a wait for a lock ends as an error that is certainly not done and can be tried again.
pub(crate) fn session_settings(config: &StoreConfig, local: bool) -> String {
    let ms = config.op_timeout.as_millis().max(3);
    let set = if local { "SET LOCAL" } else { "SET" };
    format!(
        "{set} statement_timeout = {ms}; {set} lock_timeout = {}; {set} idle_in_transaction_session_timeout = {}",
        ms / 3,
        IDLE_IN_TRANSACTION.as_millis()
    )
}

/// At the start of each transaction behind a pooler: the session may have been another one's, who prepared statements under the names
/// that ours will have. Nobody needs them any more.
pub(crate) const FRESH_SESSION: &str = "DEALLOCATE ALL";

/// `work` of a client, while its connection moves. Errors: what the server says, or that the connection is closed.
pub(crate) async fn driven<T>(
    link: &mut Link,
    work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> std::result::Result<T, String> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done.map_err(|e| e.to_string()),
            message = std::future::poll_fn(|cx| link.poll_message(cx)) => match message {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.to_string()),
                None => return Err("the connection is closed".into()),
            },
        }
    }
}

/// Connections: a server with the default `max_connections = 100` less 3 reserved and one LISTEN each carries 5 instances of 16
/// (80 + 5) with room for migrations and people. One operation holds one connection for about a millisecond:
/// 16 connections carry 16,000 operations a second, several times what the server commits.
pub(crate) async fn pool(config: &StoreConfig, url: &str, target: Arc<Target>) -> Result<Pool> {
    let cache = config.statement_cache;
    let wait = config.op_timeout.min(CONNECTION_WAIT);
    let settings = session_settings(config, false);
    let reach = Arc::new(Reach::default());
    let learning = reach.clone();
    let mut manager = ManagerConfig::<AsyncPgConnection>::default();
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |_| {
        let (target, settings) = (target.clone(), settings.clone());
        let reach = learning.clone();
        async move {
            let made = target.establish(!cache).await;
            reach.learn(made.as_ref().map(|_| ()).map_err(ToString::to_string));
            let mut c = made?;
            if cache {
                c.batch_execute(&settings).await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
            } else {
                // Behind pgbouncer a session setting would stay with somebody else's session: each transaction sets its own.
                c.set_prepared_statement_cache_size(diesel::connection::CacheSize::Disabled);
            }
            Ok(c)
        }
        .boxed()
    });
    let connections = bb8::Pool::builder()
        .max_size(config.pool_size)
        .min_idle(Some(1.min(config.pool_size)))
        .test_on_check_out(false)
        .connection_timeout(wait)
        .build(AsyncDieselConnectionManager::new_with_config(url, manager))
        .await
        .map_err(|e| Error::Unavailable(format!("PostgreSQL: {}", reach.refuses().unwrap_or(e.to_string()))))?;
    Ok(Pool { connections, reach, crowd: Semaphore::new(of_the_crowd(config.pool_size)), wait })
}

/// A place for `op`, to be held as long as its connection. Errors: the crowd is too large.
pub(crate) async fn place<'a>(pool: &'a Pool, op: &str) -> Result<Option<SemaphorePermit<'a>>> {
    if !CROWD.contains(&op) {
        return Ok(None);
    }
    match tokio::time::timeout(pool.wait, pool.crowd.acquire()).await {
        Ok(Ok(permit)) => Ok(Some(permit)),
        Ok(Err(_)) | Err(_) => Err(Error::Unavailable("PostgreSQL: no connection: too many nodes ask at once".into())),
    }
}

/// A connection that is alive as far as this side knows: idle ones die unnoticed with the server.
pub(crate) async fn checkout(pool: &Pool) -> Result<PgPooled> {
    if pool.connections.state().connections == 0
        && let Some(why) = pool.reach.refuses()
    {
        return Err(Error::Unavailable(format!("PostgreSQL: {why}")));
    }
    loop {
        let got = pool.connections.get_owned().await;
        let mut c = got.map_err(|e| Error::Unavailable(format!("PostgreSQL: no connection: {e}")))?;
        if !PoolableConnection::is_broken(&mut *c) {
            return Ok(c);
        }
    }
}
