//! The schema: embedded migrations, run by one process at a time, refused by an older binary.
//!
//! Expand, then contract: a version may add what the one before it does not know, and takes away only what that one does not use
//! any more. So instances of two neighbouring versions work side by side while they are exchanged one by one, and one that is
//! running goes on when a newer one has migrated. It may only not be *started* on a schema it does not know.

use crate::error::{Error, Result};
use crate::{Backing, Store, pg};
use diesel::backend::Backend;
use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::sqlite::Sqlite;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Key of the advisory lock: "sentinel" in ASCII.
const LOCK: i64 = 0x7365_6e74_696e_656c;

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Unavailable(format!("migration: {e}"))
}

fn known<DB: Backend>(source: &EmbeddedMigrations) -> Result<Vec<String>> {
    let all = MigrationSource::<DB>::migrations(source).map_err(invalid)?;
    Ok(all.iter().map(|m| m.name().version().to_string()).collect())
}

/// Refuses a schema that has versions this binary does not know.
fn check(applied: &[String], known: &[String]) -> Result<()> {
    let newest = |all: &[String]| all.iter().max().cloned().unwrap_or_default();
    match applied.iter().any(|v| !known.contains(v)) {
        false => Ok(()),
        true => Err(Error::Newer { found: newest(applied), known: newest(known) }),
    }
}

/// Why a transaction of migrations was undone, in the type that the transaction asks for.
struct Undone(Error);
impl From<diesel::result::Error> for Undone {
    fn from(e: diesel::result::Error) -> Undone {
        Undone(invalid(e))
    }
}

fn up<DB: Backend>(conn: &mut impl MigrationHarness<DB>, source: EmbeddedMigrations) -> Result<Vec<String>> {
    let applied: Vec<String> = conn.applied_migrations().map_err(invalid)?.iter().map(ToString::to_string).collect();
    check(&applied, &known::<DB>(&source)?)?;
    let done = conn.run_pending_migrations(source).map_err(invalid)?;
    Ok(done.iter().map(ToString::to_string).collect())
}

fn migrate_postgres(conn: AsyncPgConnection, pooler: bool) -> Result<Vec<String>> {
    use diesel::Connection as _;
    use diesel::connection::SimpleConnection as _;
    let mut c = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
    // In a transaction, so that a pooler that gives each transaction another session does no harm.
    c.transaction(|c| {
        if pooler {
            c.batch_execute(pg::FRESH_SESSION)?;
        }
        let lock = format!("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({LOCK})");
        c.batch_execute(&lock)?;
        up::<Pg>(c, POSTGRES).map_err(Undone)
    })
    .map_err(|Undone(e)| e)
}

impl Store {
    /// Bring the schema up to date. Answers the versions applied now.
    /// On PostgreSQL everything or nothing, under a lock of the database that one process holds at a time.
    /// Errors: `Newer` when the database was made by a newer binary.
    pub async fn migrate(&self) -> Result<Vec<String>> {
        match &self.inner.backing {
            Backing::Lite(l) => {
                let (reply, answer) = tokio::sync::oneshot::channel();
                l.writer.push(Box::new(move |conn| {
                    if let crate::conn::Link::Lite(c) = &mut conn.link {
                        let _ = reply.send(up::<Sqlite>(c, SQLITE));
                    }
                }))?;
                answer.await.map_err(|_| Error::Unavailable("the store is closed".into()))?
            }
            Backing::Pg(_, target) => {
                // A connection of its own: no statement timeout may cut a long migration short.
                let pooler = !self.inner.config.statement_cache;
                let conn = target.establish(pooler).await.map_err(invalid)?;
                tokio::task::spawn_blocking(move || migrate_postgres(conn, pooler)).await.map_err(invalid)?
            }
        }
    }

    /// Does the database answer, with everything in its schema that this binary needs? A newer instance may have added to it.
    /// Errors: `Unavailable`.
    pub async fn ready(&self) -> Result<()> {
        let known = if self.is_postgres() { known::<Pg>(&POSTGRES)? } else { known::<Sqlite>(&SQLITE)? };
        let applied = self
            .read("ready", (), |c, ()| {
                Box::pin(async move {
                    c.rows("SELECT version FROM __diesel_schema_migrations", vec![], |r| r.get::<String>()).await
                })
            })
            .await?;
        match known.iter().all(|v| applied.contains(v)) {
            true => Ok(()),
            false => Err(Error::Unavailable("the schema is behind: run migrate".into())),
        }
    }
}
