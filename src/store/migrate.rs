//! The schema: embedded migrations, run by one process at a time, refused by an older binary.

use crate::error::{Error, Result};
use crate::{Backing, Store};
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
    match applied.iter().find(|v| !known.contains(v)) {
        None => Ok(()),
        Some(v) => {
            tracing::error!(version = %v, "the database was made by a newer sentinel-cp; this one must not touch it");
            Err(Error::Conflict("schema"))
        }
    }
}

fn up<DB: Backend>(conn: &mut impl MigrationHarness<DB>, source: EmbeddedMigrations) -> Result<Vec<String>> {
    let applied: Vec<String> = conn.applied_migrations().map_err(invalid)?.iter().map(ToString::to_string).collect();
    check(&applied, &known::<DB>(&source)?)?;
    let done = conn.run_pending_migrations(source).map_err(invalid)?;
    Ok(done.iter().map(ToString::to_string).collect())
}

impl Store {
    /// Bring the schema up to date. Answers the versions applied now.
    /// Errors: `Conflict("schema")` when the database is newer than this binary.
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
                let own = target.establish().await.map_err(invalid)?;
                let work = move || {
                    use diesel::connection::SimpleConnection as _;
                    let mut c = AsyncConnectionWrapper::<AsyncPgConnection>::from(own);
                    c.batch_execute(&format!("SET statement_timeout = 0; SELECT pg_advisory_lock({LOCK})"))
                        .map_err(invalid)?;
                    up::<Pg>(&mut c, POSTGRES)
                };
                tokio::task::spawn_blocking(work).await.map_err(invalid)?
            }
        }
    }

    /// Does the database answer, with exactly the schema that this binary knows?
    /// Errors: `Unavailable`, `Conflict("schema")`.
    pub async fn ready(&self) -> Result<()> {
        let known = if self.is_postgres() { known::<Pg>(&POSTGRES)? } else { known::<Sqlite>(&SQLITE)? };
        let applied = self
            .read("ready", (), |c, ()| {
                Box::pin(async move {
                    c.rows("SELECT version FROM __diesel_schema_migrations", vec![], |r| r.get::<String>()).await
                })
            })
            .await?;
        check(&applied, &known)?;
        match known.iter().all(|v| applied.contains(v)) {
            true => Ok(()),
            false => Err(Error::Unavailable("the schema is behind: run migrate".into())),
        }
    }
}
