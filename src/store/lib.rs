//! WHERE IT IS KEPT. One set of statements for SQLite and PostgreSQL, one door to SQL, one contract suite for both.
//!
//! Every statement is written once, as text (`conn`); the dialects differ in five words and in how a batch is spelled.
//! Owns: connections, the lock on the data directory. Invariant: what goes along with a command (audit, change feed,
//! idempotency, outbox) is in the command's own transaction. Lock order everywhere: rollout, nodes sorted, budget, audit head.
//! The signatures are listed in `API.md`.

mod access;
mod audit;
pub mod backup;
mod bundles;
mod changes;
mod conn;
mod door;
mod drift;
mod enrol;
mod error;
mod hand_over;
mod instances;
mod keys;
mod lite;
mod migrate;
mod networks;
mod node_change;
mod nodes;
mod pace;
mod people;
mod pg;
mod pg_target;
mod pins;
mod plans;
mod presence;
mod projects;
mod readings;
mod resources;
mod rollout_commit;
mod rollout_owner;
mod rollouts;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token_keys;
mod trust;
mod types;
mod value;
mod write;

pub use access::{Bootstrap, Membership, SignedIn};
pub use audit::AuditFilter;
pub use bundles::{BundleFilter, BundleRef, BundleUse, Compiled, ContentClaim, Enqueued, Signed};
pub use changes::{ChangeCursor, ChangeRow, Listener};
pub use drift::DriftFilter;
pub use enrol::{EnrolmentToken, ReplaceNode};
pub use error::{Error, Result};
pub use hand_over::AssignmentAnswer;
pub use instances::Instance;
pub use keys::OutboxRow;
pub use node_change::{NodeChange, NodeEvent, Seen, StoredNodeEvent};
pub use nodes::{
    Candidate, Credential, FleetNode, NodeFilter, NodePatch, NodeStats, PreviousKey, SessionRollout, SessionView,
};
pub use people::Accepted;
pub use pins::UnfollowedPin;
pub use plans::{Approval, Document, Documents, Freeze, NodeGroup};
pub use presence::PresenceMoved;
pub use readings::Served;
pub use resources::Resource;
pub use rollout_commit::{BudgetMove, Committed, Debt, Decided, NewRollout, RolloutCommit};
pub use rollout_owner::{Acquired, InboxItem, Owner};
pub use rollouts::{CompletedRollout, Loaded, MemberFilter, MemberRow, RolloutFilter, RolloutSummary};
pub use telemetry::{NodeConfig, Sample, StoredSample};
pub use token_keys::TokenKey;
pub use trust::{ReleaseRow, SigningKey};
pub use types::{BundleFacts, ChangeKind, Changed, Listing, Page};
pub use write::{IdemRecord, NewChange, OutboxItem, Write};

use domain::Timestamp;
use prometheus::core::Collector as _;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// The file; its directory is the data directory that is locked.
    Sqlite {
        path: PathBuf,
    },
    Postgres {
        url: String,
    },
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub database: Database,
    /// The longest an operation may take, waiting included.
    pub op_timeout: Duration,
    /// Connections to PostgreSQL; the arithmetic is at `pg::pool`.
    pub pool_size: u32,
    /// Threads that read from SQLite beside its writer.
    pub readers: usize,
    /// How often what is certainly not done is tried again.
    pub retries: u32,
    /// SQLite: jobs run on the caller's thread, one after the other; for simulations, where nothing may happen beside.
    #[cfg(feature = "testing")]
    pub in_caller: bool,
    /// Off behind a pooler that gives each transaction another session (pgbouncer in transaction mode): then nothing is kept in a
    /// session, neither prepared statements nor time-outs nor LISTEN.
    pub statement_cache: bool,
}

impl StoreConfig {
    fn new(database: Database) -> StoreConfig {
        StoreConfig {
            database,
            op_timeout: Duration::from_secs(10),
            pool_size: 16,
            readers: 3,
            retries: 5,
            #[cfg(feature = "testing")]
            in_caller: false,
            statement_cache: true,
        }
    }
    pub fn sqlite(path: impl Into<PathBuf>) -> StoreConfig {
        StoreConfig::new(Database::Sqlite { path: path.into() })
    }
    pub fn postgres(url: impl Into<String>) -> StoreConfig {
        StoreConfig::new(Database::Postgres { url: url.into() })
    }
    /// `sqlite://PATH` or `postgres://...`. Errors: `Invalid`, without the password.
    pub fn from_url(url: &str) -> Result<StoreConfig> {
        match url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() => Ok(StoreConfig::sqlite(path)),
            Some(("postgres" | "postgresql", _)) => {
                pg_target::Target::check(url)?;
                Ok(StoreConfig::postgres(url))
            }
            _ => Err(Error::Invalid("a database URL is sqlite://PATH or postgres://...".into())),
        }
    }
}

pub(crate) enum Backing {
    Lite(lite::Lite),
    Pg(pg::Pool, Arc<pg_target::Target>),
}

pub(crate) struct Inner {
    pub(crate) backing: Backing,
    pub(crate) config: StoreConfig,
    pub(crate) statements: AtomicU64,
    pub(crate) seconds: HistogramVec,
    pub(crate) retries: IntCounterVec,
    /// Rung after each commit that wrote to the change feed.
    pub(crate) bell: Arc<tokio::sync::watch::Sender<u64>>,
}

/// The handle. Cheap to clone; the last one closes the database.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    /// What breaks for whoever works through this handle and its clones.
    #[cfg(feature = "testing")]
    pub(crate) faults: Option<testing::Faults>,
}

impl Store {
    /// Opens without migrating. Errors: `Unavailable` when the server does not answer or another process holds the data directory.
    pub async fn open(config: StoreConfig, registry: &Registry) -> Result<Store> {
        // 0.1 ms (a read in SQLite) to 10 s (the time-out).
        let buckets = vec![0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
        let seconds = HistogramOpts::new(
            "sentinel_cp_db_op_seconds",
            "Time of a database operation, waiting and repeats included.",
        );
        let seconds = metric(HistogramVec::new(seconds.buckets(buckets), &["op"]))?;
        let retries = Opts::new("sentinel_cp_db_retries_total", "Database operations tried again.");
        let retries = metric(IntCounterVec::new(retries, &["op"]))?;
        metric(registry.register(Box::new(seconds.clone())))?;
        metric(registry.register(Box::new(retries.clone())))?;
        // There from the start, also where nothing is ever tried again.
        retries.with_label_values(&["instance.renew"]);
        let backing = match &config.database {
            #[cfg(feature = "testing")]
            Database::Sqlite { path } if config.in_caller => Backing::Lite(lite::Lite::open_in_caller(path)?),
            Database::Sqlite { path } => Backing::Lite(lite::Lite::open(path, config.readers.max(1))?),
            Database::Postgres { url } => {
                let target = Arc::new(pg_target::Target::read(url)?);
                Backing::Pg(pg::pool(&config, url, target.clone()).await?, target)
            }
        };
        let bell = Arc::new(tokio::sync::watch::Sender::new(0));
        let inner = Inner { backing, config, statements: AtomicU64::new(0), seconds, retries, bell };
        Ok(Store {
            inner: Arc::new(inner),
            #[cfg(feature = "testing")]
            faults: None,
        })
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.inner.backing, Backing::Pg(..))
    }

    /// Operations that went through the door since the store was opened (a transaction is one).
    pub fn statements(&self) -> u64 {
        self.inner.statements.load(Ordering::Relaxed)
    }

    /// The same by the name of the operation; counted when it has ended.
    pub fn operations(&self) -> BTreeMap<String, u64> {
        let families = self.inner.seconds.collect();
        let of = |m: &prometheus::proto::Metric| {
            let op = m.get_label().first().map(|l| l.value().to_string()).unwrap_or_default();
            (op, m.get_histogram().get_sample_count())
        };
        families.iter().flat_map(|f| f.get_metric().iter().map(of)).collect()
    }

    /// The database's clock: what leases are measured by.
    pub async fn now_from_db(&self) -> Result<Timestamp> {
        self.read("now", (), |c, ()| Box::pin(async move { c.one("SELECT {now}", vec![], |r| r.get()).await })).await
    }

    /// Finish what is queued, join the threads, free the lock. Other handles then answer `Unavailable`.
    pub async fn close(self) {
        if let Backing::Lite(_) = &self.inner.backing {
            let inner = self.inner.clone();
            let joined = tokio::task::spawn_blocking(move || {
                if let Backing::Lite(l) = &inner.backing {
                    l.close();
                }
            });
            let _ = joined.await;
        }
    }
}

fn metric<T>(r: prometheus::Result<T>) -> Result<T> {
    r.map_err(|e| Error::Invalid(format!("metrics: {e}")))
}
