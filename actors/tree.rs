//! The tree: what is started, in which order, and how it stops.
//!
//! ```text
//! Root  rest-for-one
//! |- NodeSessions -> NodeSession(id)   temporary
//! |- Rollouts     -> Rollout(id)       transient
//! |- CompileJobs  -> CompileJob(id)    transient
//! |- Feed                              permanent
//! |- one child per sweep               permanent
//! ```
//! The bus, the write-behind and the loader hold nothing that cannot be lost; they live with the handle.

use crate::attendance::{Attendance, Storing};
use crate::clock::Clock;
use crate::commands::releases::{MAX_RELEASES_OF, ReleaseIndex};
use crate::fresh::Fresh;
use crate::keys::Keyring;
use crate::node_session::NodeSessions;
use crate::periodic::{ALIVE_AT, sweeps};
use crate::plane::{ControlPlane, Inner, PlaneConfig};
use crate::rollout::Rollouts;
use crate::supervision::{Backoff, Budget, ChildSpec, Env, Metrics, Restart, Root, RootSpec, TaskGuard, spawn_task};
use artifacts::ArtifactStore;
use domain::*;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

/// Restarts of a family as a whole before the root restarts what comes after it.
const FAMILY_RESTARTS: Budget = Budget { restarts: 5, within: Span::secs(60) };
const ROOT_RESTARTS: Budget = Budget { restarts: 20, within: Span::secs(60) };
const BACKOFF: Backoff = Backoff { base: Span::millis(100), cap: Span::secs(10), jitter_percent: 25 };
/// Stopping the children: what has not ended by then is killed.
pub const STOP: Duration = Duration::from_secs(4);
/// Of it, from the kill to the end.
const KILL: Duration = Duration::from_millis(500);
/// Handing rollouts over, beside the end of the web server, which has as long.
const HAND_OVER: Duration = Duration::from_secs(4);
/// What is written after that: last-seen times, and that nobody has to wait for our lease.
pub const LAST_WRITES: Duration = Duration::from_secs(1);

/// What an instance is made of.
pub struct Parts {
    pub config: PlaneConfig,
    pub store: store::Store,
    pub artifacts: ArtifactStore,
    pub clock: Clock,
    pub fresh: Fresh,
    pub registry: prometheus::Registry,
}

/// A running instance.
pub struct Tree {
    pub plane: ControlPlane,
    root: Root,
}

impl Tree {
    /// Start everything; the store is migrated already. Start-up is restart: the same path loads what a crash left.
    pub async fn start(parts: Parts) -> Result<Tree, String> {
        let Parts { config, store, artifacts, clock, fresh, registry } = parts;
        let artifacts = artifacts.measured(&registry).map_err(|e| e.to_string())?;
        let started = clock.now();
        let instance: InstanceId = fresh.id(started);
        let alive = store.setting(ALIVE_AT).await.map_err(|e| e.to_string())?.and_then(|v| v.as_i64()).map(Timestamp);
        // Up to one lease is the normal distance of two signs of life.
        let down = alive.map_or(Span::ZERO, |t| started.since(t));
        let down = if down > config.lease { down } else { Span::ZERO };
        if !store.is_postgres() {
            // One process per data directory, by its lock: whoever else is listed is dead, and nothing has to wait for its lease.
            for dead in store.live_instances().await.map_err(|e| e.to_string())? {
                store.remove_instance(dead.id).await.map_err(|e| e.to_string())?;
            }
        }
        store.register_instance(instance, config.listen.clone(), config.lease).await.map_err(|e| e.to_string())?;
        let keys = Keyring::load_or_create(&store, &artifacts, &config, &fresh, &clock).await?;
        let env = Env {
            clock: clock.clone(),
            fresh: fresh.clone(),
            metrics: Metrics::register(&registry).map_err(|e| e.to_string())?,
        };
        let attendance = Attendance::new(started, config.stale_after);
        let storing = Storing::new(started, config.stale_after);
        let mut failed: Option<prometheus::Error> = None;
        let inner = Arc::new_cyclic(|weak| {
            // `new_cyclic` cannot fail half-way; names clash only by a mistake in this crate, found by the first start.
            let sessions = NodeSessions::new(weak.clone(), &store, &env, &registry, Span::secs(1));
            let rollouts = Rollouts::new(weak.clone(), &env, &registry);
            let compiles =
                crate::compile_job::CompileJobs::new(weak.clone(), &env, &registry, config.compile_concurrency);
            match (sessions, rollouts, compiles) {
                (Ok(sessions), Ok(rollouts), Ok(compiles)) => Inner {
                    config,
                    instance,
                    store,
                    artifacts,
                    clock,
                    fresh,
                    registry: registry.clone(),
                    bus: Default::default(),
                    keys,
                    sessions,
                    rollouts,
                    compiles,
                    bundles: Default::default(),
                    egress: std::sync::OnceLock::new(),
                    probes: Default::default(),
                    releases: ReleaseIndex::at_most(MAX_RELEASES_OF),
                    sound: Default::default(),
                    heads: Default::default(),
                    said_heads: Default::default(),
                    down: AtomicI64::new(down.0),
                    measured: crate::rollout::Measured::default(),
                    attendance,
                    storing,
                    freezes: Default::default(),
                    artifacts_away: AtomicBool::new(false),
                },
                (a, b, c) => {
                    failed = a.err().or(b.err()).or(c.err());
                    panic!("metrics are registered twice: {failed:?}")
                }
            }
        });
        let plane = ControlPlane { inner };
        plane.end_what_was_restored().await.map_err(|e| format!("after a restore: {e:?}"))?;
        let mut children = vec![
            plane.inner.sessions.family.child_spec(FAMILY_RESTARTS),
            plane.inner.rollouts.family.child_spec(FAMILY_RESTARTS),
        ];
        children.extend(plane.inner.compiles.children(FAMILY_RESTARTS));
        children.push(feed(&plane));
        children.extend(sweeps(&plane));
        let spec = RootSpec { name: "root", children, budget: ROOT_RESTARTS, backoff: BACKOFF, env };
        let root = Root::start(spec).await?;
        Ok(Tree { plane, root })
    }

    /// Waits until the tree ends by itself: always a failure that only a new process can mend.
    pub async fn ended(&mut self) -> Result<(), String> {
        self.root.ended().await
    }

    /// Before the stop, while requests that came in are still answered: whoever else lives takes our rollouts over now, instead of
    /// waiting for our end. What nodes still report here goes through the inbox.
    pub async fn hand_over(&self) {
        let plane = self.plane.clone();
        let handed = async {
            let (store, me) = (plane.store(), plane.instance());
            let others = store.live_instances().await?.into_iter().any(|i| i.id != me && !i.draining);
            // Shown to people in any case; without another one the rollouts are best kept until the end.
            store.drain_instance(me).await?;
            if others {
                plane.stop_rollouts().await;
                let freed = store.release_all(me, plane.now()).await?;
                tracing::info!(rollouts = freed, "handed over");
            }
            store::Result::Ok(())
        };
        match tokio::time::timeout(HAND_OVER, handed).await {
            Ok(Ok(())) => {}
            // The end of the lease hands them over.
            Ok(Err(e)) => tracing::warn!(error = %e, "rollouts could not be handed over early"),
            Err(_) => tracing::warn!("handing rollouts over took too long"),
        }
    }

    /// Stop: rollouts first finish the decision they are in; last-seen times are flushed; ownership is handed back.
    pub async fn stop(self) -> Result<(), String> {
        let Tree { plane, root } = self;
        // Who does not even end when killed must not hold up what is still to be written.
        let stopped = tokio::time::timeout(STOP, root.stop(STOP.saturating_sub(KILL))).await;
        let stopped = stopped.unwrap_or_else(|_| Err("the tree did not end in time".into()));
        let (store, me) = (plane.store(), plane.instance());
        let last = async {
            // Without these two the next instance waits one lease: worth a try, not an error.
            let _ = store.release_all(me, plane.now()).await;
            let _ = store.remove_instance(me).await;
            plane.inner.sessions.writer.flush().await;
            plane.flush_api_key_uses().await;
            if let Err(why) = plane.say_audit_heads().await {
                tracing::warn!(%why, "the last heads of the audit chains are not in the log");
            }
        };
        if tokio::time::timeout(LAST_WRITES, last).await.is_err() {
            tracing::warn!("the database does not answer: last-seen times of the last second are lost");
        }
        stopped
    }
}

/// The reader of the change feed.
struct Feed;

impl Actor for Feed {
    type Msg = ();
    type State = (TaskGuard, TaskGuard);
    type Arguments = ControlPlane;

    async fn pre_start(&self, me: ActorRef<()>, plane: ControlPlane) -> Result<Self::State, ActorProcessingErr> {
        let (ended, watch) = tokio::sync::oneshot::channel::<()>();
        let reader = spawn_task("change feed", async move {
            let _ended = ended;
            crate::feed::run(plane).await;
        });
        // The reader never returns; if it panics, this actor ends with it and is started again.
        let guard = spawn_task("change feed watch", async move {
            let _ = watch.await;
            let _ = me.cast(());
        });
        Ok((reader, guard))
    }

    async fn handle(&self, _: ActorRef<()>, (): (), _: &mut Self::State) -> Result<(), ActorProcessingErr> {
        Err("the reader of the change feed ended".into())
    }
}

fn feed(plane: &ControlPlane) -> ChildSpec {
    let plane = plane.clone();
    ChildSpec::new("feed", Restart::Permanent, FAMILY_RESTARTS, move || (Feed, plane.clone())).0
}
