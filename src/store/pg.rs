//! PostgreSQL: the pool.

use crate::StoreConfig;
use crate::conn::PgPooled;
use crate::error::{Error, Result};
use crate::pg_target::Target;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::FutureExt as _;
use std::sync::Arc;

pub(crate) type Pool = bb8::Pool<AsyncDieselConnectionManager<AsyncPgConnection>>;

/// `lock_timeout` is a third of the operation's time, so that a wait for a lock ends as an error that is certainly not done and can be tried again.
pub(crate) fn session_settings(config: &StoreConfig, local: bool) -> String {
    let ms = config.op_timeout.as_millis().max(3);
    let set = if local { "SET LOCAL" } else { "SET" };
    format!(
        "{set} statement_timeout = {ms}; {set} lock_timeout = {}; {set} idle_in_transaction_session_timeout = {}",
        ms / 3,
        ms * 2
    )
}

/// Connections: a server with the default `max_connections = 100` less 3 reserved and one LISTEN each carries 5 instances of 16
/// (80 + 5) with room for migrations and people. One operation holds one connection for about a millisecond:
/// 16 connections carry 16,000 operations a second, several times what the server commits.
pub(crate) async fn pool(config: &StoreConfig, url: &str, target: Arc<Target>) -> Result<Pool> {
    let cache = config.statement_cache;
    let settings = session_settings(config, false);
    let mut manager = ManagerConfig::<AsyncPgConnection>::default();
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |_| {
        let (target, settings) = (target.clone(), settings.clone());
        async move {
            let mut c = target.establish().await?;
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
    bb8::Pool::builder()
        .max_size(config.pool_size)
        .min_idle(Some(1.min(config.pool_size)))
        .test_on_check_out(false)
        .connection_timeout(config.op_timeout)
        .build(AsyncDieselConnectionManager::new_with_config(url, manager))
        .await
        .map_err(|e| Error::Unavailable(format!("PostgreSQL: {e}")))
}

/// A connection that is alive as far as this side knows: idle ones die unnoticed with the server.
pub(crate) async fn checkout(pool: &Pool) -> Result<PgPooled> {
    loop {
        let mut c = pool.get_owned().await.map_err(|e| Error::Unavailable(format!("PostgreSQL: {e}")))?;
        if !PoolableConnection::is_broken(&mut *c) {
            return Ok(c);
        }
    }
}
