//! Sweeps: each on its own, each finding what no wake-up told. None owns anything.

use crate::commands::networks::KEEP_NETWORKS;
use crate::plane::ControlPlane;
use crate::rollout::RolloutMsg;
use crate::supervision::{Budget, ChildSpec, Restart, TaskGuard, spawn_task};
use domain::*;
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;

/// Rows one sweep looks at.
const BATCH: u32 = 1_000;
/// Pins that one sweep follows: a rollout for each.
const PINS: u32 = 50;
/// How soon rollouts wait for an artifact store that went away, and go on when it is back.
const LOOK_AT_ARTIFACTS: Span = Span::secs(5);
/// How late a freeze window begins and ends for rollouts that are doing nothing at the time.
const LOOK_AT_FREEZES: Span = Span::secs(1);
/// How long the change feed is kept; a reader that is further behind starts anew.
pub(crate) const KEEP_CHANGES: Span = Span::secs(3600);

type Work = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One sweep: runs its work, then sleeps.
struct Sweep;

struct Schedule {
    name: &'static str,
    every: Span,
    plane: ControlPlane,
    work: Work,
    timer: Option<TaskGuard>,
}

impl Actor for Sweep {
    type Msg = ();
    type State = Schedule;
    type Arguments = (&'static str, Span, ControlPlane, Work);

    async fn pre_start(
        &self,
        me: ActorRef<()>,
        (name, every, plane, work): Self::Arguments,
    ) -> Result<Schedule, ActorProcessingErr> {
        let mut s = Schedule { name, every, plane, work, timer: None };
        s.arm(&me);
        Ok(s)
    }

    async fn handle(&self, me: ActorRef<()>, (): (), s: &mut Schedule) -> Result<(), ActorProcessingErr> {
        if let Err(e) = (s.work)().await {
            tracing::warn!(sweep = s.name, error = %e, "a sweep did not finish; the next one does its work");
        }
        s.arm(&me);
        Ok(())
    }
}

impl Schedule {
    fn arm(&mut self, me: &ActorRef<()>) {
        let (clock, every, me) = (self.plane.clock().clone(), self.every, me.clone());
        self.timer = Some(spawn_task("sweep timer", async move {
            clock.sleep(every).await;
            let _ = me.cast(());
        }));
    }
}

fn sweep<F>(
    plane: &ControlPlane,
    name: &'static str,
    every: Span,
    work: impl Fn(ControlPlane) -> F + Send + Sync + 'static,
) -> ChildSpec
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let (mine, budget) = (plane.clone(), Budget { restarts: 10, within: Span::secs(60) });
    let work: Work = {
        let plane = plane.clone();
        Arc::new(move || Box::pin(work(plane.clone())))
    };
    ChildSpec::new(name, Restart::Permanent, budget, move || (Sweep, (name, every, mine.clone(), work.clone()))).0
}

/// The sweeps, as children of the root.
pub(crate) fn sweeps(plane: &ControlPlane) -> Vec<ChildSpec> {
    let stale = plane.config().stale_after;
    let lease = plane.config().lease;
    vec![
        sweep(plane, "attendance", plane.inner.attendance.look_every(), attend),
        sweep(plane, "artifacts", LOOK_AT_ARTIFACTS, look_at_artifacts),
        sweep(plane, "freezes", LOOK_AT_FREEZES, look_at_freezes),
        sweep(plane, "lease", Span((lease.0 / 4).max(100_000)), renew_lease),
        sweep(plane, "takeover", Span((lease.0 / 4).max(100_000)), take_over),
        sweep(plane, "newcomers", Span::secs(10), newcomers),
        sweep(plane, "reconcile", Span((stale.0 / 2).clamp(1_000_000, 60_000_000)), reconcile),
        sweep(plane, "staleness", Span((stale.0 / 4).clamp(1_000_000, 30_000_000)), staleness),
        sweep(plane, "due_rollouts", Span::secs(2), due_rollouts),
        sweep(plane, "pins", Span::secs(15), pins),
        sweep(plane, "drift", Span::secs(15), drift),
        sweep(plane, "housekeeping", Span::secs(10), housekeeping),
        sweep(plane, "pruning", Span::secs(600), pruning),
        sweep(plane, "audit", AUDIT_EVERY, tend_audit),
        sweep(plane, "retention", Span::secs(3600), retention),
    ]
}

/// How often the heads of audit chains that moved are said to the log, and old entries are looked for.
const AUDIT_EVERY: Span = Span::secs(300);
/// Entries removed in one transaction: half a megabyte.
const PRUNED_AT_ONCE: u32 = 1_000;

async fn tend_audit(plane: ControlPlane) -> Result<(), String> {
    let chains = plane.say_audit_heads().await?;
    let Some(keep) = plane.config().audit_keep else { return Ok(()) };
    for chain in chains {
        let before = Timestamp(plane.now().0 - keep.0);
        let id = plane.fresh().id(plane.now());
        let gone = plane.store().audit_prune(chain, before, PRUNED_AT_ONCE, id, plane.now()).await.map_err(text)?;
        if gone > 0 {
            tracing::info!(?chain, entries = gone, "old audit entries were removed");
        }
    }
    Ok(())
}

impl ControlPlane {
    /// The log is a witness: what it was told cannot be unsaid by whoever writes the chains anew (`audit verify --witness`).
    /// Tells it the heads that moved; answers all chains.
    pub(crate) async fn say_audit_heads(&self) -> Result<Vec<Option<ProjectId>>, String> {
        let mut chains = Vec::new();
        for (chain, head) in self.store().audit_chains().await.map_err(text)? {
            if self.inner.said_heads.insert(chain, head.seq) != Some(head.seq) {
                let name = chain.map_or_else(|| "system".to_string(), |p| p.to_string());
                tracing::info!(chain = name, seq = head.seq, hash = %head.hash, "audit head");
            }
            chains.push(chain);
        }
        Ok(chains)
    }
}

/// Key of the time at which some instance was last alive.
pub(crate) const ALIVE_AT: &str = "alive_at";

/// Somebody must look often, or every quiet hour would be a gap.
async fn attend(plane: ControlPlane) -> Result<(), String> {
    plane.attended();
    Ok(())
}

/// Rollouts that run here assign nothing while nobody could fetch it.
async fn look_at_artifacts(plane: ControlPlane) -> Result<(), String> {
    let rollouts = plane.inner.rollouts.family.directory().snapshot();
    if rollouts.is_empty() {
        return Ok(());
    }
    plane.look_again().await;
    let found = plane.artifacts().ready().await;
    let was_away = plane.inner.artifacts_away.swap(found.is_err(), std::sync::atomic::Ordering::Relaxed);
    if was_away != found.is_err() {
        for (_, actor) in rollouts {
            let _ = actor.cast(RolloutMsg::Wake);
        }
    }
    found.map_err(|e| format!("the artifact store is away: {e}"))
}

/// Whoever is held by a freeze that ended, or is to be held by one that began, looks now. Each rollout is looked at by its owner.
async fn look_at_freezes(plane: ControlPlane) -> Result<(), String> {
    let (now, all) = (plane.now(), plane.freezes().await.map_err(text)?);
    let holding = all.iter().filter(|f| f.holds(now)).map(|f| f.id).collect();
    if plane.inner.freezes.moved(holding) {
        plane.wake_rollouts();
    }
    Ok(())
}

/// Nothing that can take long: whoever is late here loses its rollouts.
pub(crate) async fn renew_lease(plane: ControlPlane) -> Result<(), String> {
    let renewed = renew(&plane).await;
    let now = plane.now();
    plane.inner.storing.tried(now, renewed.is_ok());
    renewed.map_err(text)?;
    let store = plane.store();
    store.put_setting(ALIVE_AT, serde_json::json!(now.0), store::Write::at(now)).await.map_err(text)?;
    Ok(())
}

async fn renew(plane: &ControlPlane) -> store::Result<()> {
    let (store, me) = (plane.store(), plane.instance());
    match store.renew_instance(me, plane.config().lease).await {
        Ok(_) => Ok(()),
        Err(store::Error::NotFound) => {
            // Expired while we slept: whatever we owned has another owner; our fences are old and our commits fail.
            tracing::warn!("the lease was lost; starting anew");
            store.register_instance(me, plane.config().listen.clone(), plane.config().lease).await.map(drop)
        }
        Err(e) => Err(e),
    }
}

/// Free what dead instances held, take over what nobody owns, start what is ours and has no actor.
async fn take_over(plane: ControlPlane) -> Result<(), String> {
    plane.store().expire_instances().await.map_err(text)?;
    plane.acquire_rollouts().await.map_err(|e| format!("{e:?}"))?;
    // Whatever is taken over from now on had a live owner until just before.
    plane.inner.down.store(0, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// Nodes that registered while nobody could give them their first bundle.
async fn newcomers(plane: ControlPlane) -> Result<(), String> {
    let placed = plane.sweep_newcomers(BATCH).await.map_err(|e| format!("{e:?}"))?;
    plane.inner.rollouts.metrics.sweep_corrections.inc_by(placed);
    Ok(())
}

/// Nodes that were pinned by a process that ended before it rolled the bundle out to them, or while another rollout held them.
async fn pins(plane: ControlPlane) -> Result<(), String> {
    let followed = plane.sweep_pins(PINS).await.map_err(|e| format!("{e:?}"))?;
    plane.inner.rollouts.metrics.sweep_corrections.inc_by(followed);
    Ok(())
}

/// What rollouts believe of their nodes is compared with what is stored.
async fn reconcile(plane: ControlPlane) -> Result<(), String> {
    for (_, actor) in plane.inner.rollouts.family.directory().snapshot() {
        let _ = actor.cast(RolloutMsg::Reconcile);
    }
    Ok(())
}

/// Nodes whose session died with its instance: offline after the stale time plus what the write-behind may lag.
pub(crate) async fn staleness(plane: ControlPlane) -> Result<(), String> {
    let stale = plane.config().stale_after;
    let lag = Span((stale.0 / 4).min(Span::secs(60).0));
    let now = plane.now();
    // Nobody goes stale before a full stale time of continuous readiness, ours and the database's.
    if now.since(plane.heeded_since()) < stale + lag {
        return Ok(());
    }
    let before = now - stale - lag;
    let silent = plane.store().stale_candidates(before, BATCH).await.map_err(text)?;
    let silent: Vec<NodeId> = silent.into_iter().filter(|n| plane.inner.sessions.family.lookup(n).is_none()).collect();
    if silent.is_empty() {
        return Ok(());
    }
    let moved = plane.store().set_presence_offline(silent, before, store::Write::at(now)).await.map_err(text)?;
    plane.inner.rollouts.metrics.sweep_corrections.inc_by(moved.len() as u64);
    for m in moved {
        plane.presence_changed(m.node, m.project, m.desired_rollout, false, m.handed_over).await;
    }
    Ok(())
}

/// Rollouts whose time has come but whose timer did not ring, and mail nobody was woken for.
async fn due_rollouts(plane: ControlPlane) -> Result<(), String> {
    let measured = plane.store().measured_projects().await.map_err(text)?;
    plane.inner.measured.set(measured.into_iter().collect());
    let late = plane.now() - Span::secs(2);
    let mut ids = plane.store().due_rollouts(late, BATCH).await.map_err(text)?;
    ids.extend(plane.store().rollouts_with_inbox(BATCH).await.map_err(text)?);
    for id in ids {
        if let Some(actor) = plane.inner.rollouts.family.lookup(&id) {
            plane.inner.rollouts.metrics.sweep_corrections.inc();
            let _ = actor.cast(RolloutMsg::Wake);
        }
    }
    Ok(())
}

async fn drift(plane: ControlPlane) -> Result<(), String> {
    let (opened, closed) = plane.sweep_drift().await.map_err(|e| format!("{e:?}"))?;
    if opened + closed > 0 {
        tracing::info!(opened, closed, "drift");
    }
    let repairs = plane.remediate_drift().await.map_err(|e| format!("{e:?}"))?;
    if repairs > 0 {
        tracing::info!(repairs, "drift is repaired");
    }
    Ok(())
}

async fn housekeeping(plane: ControlPlane) -> Result<(), String> {
    plane.flush_api_key_uses().await;
    count(&plane).await.map_err(text)
}

/// The gauges that are counted rather than kept: a few indexed queries, whatever the load.
///
/// All is asked before anything is set, so that whoever scrapes meanwhile is shown one count or the other, and no half of one.
async fn count(plane: &ControlPlane) -> store::Result<()> {
    let (store, m) = (plane.store(), &plane.inner.rollouts.metrics);
    let mut nodes = Vec::new();
    for p in store.all_projects().await? {
        let n = store.node_stats(p.id).await?;
        nodes.push((p.slug, [("online", n.online), ("offline", n.offline), ("unknown", n.unknown)]));
    }
    let mut rollouts = Vec::new();
    for phase in domain::rollout::Phase::ALL {
        let filter = store::RolloutFilter { phases: vec![*phase], bundle: None };
        let scope = Scope::System("counts for the metrics");
        rollouts.push((phase, store.rollouts(scope, filter, store::Page::first(1)).await?.total));
    }
    let entries: i64 = store.audit_chains().await?.iter().map(|(_, head)| head.seq).sum();

    m.audit_entries.inc_by((entries.max(0) as u64).saturating_sub(m.audit_entries.get()));
    for (phase, n) in rollouts {
        m.rollouts.with_label_values(&[phase.as_str()]).set(n);
    }
    // A project that is gone must not be shown for ever.
    m.nodes.reset();
    for (slug, by_status) in nodes {
        for (status, n) in by_status {
            m.nodes.with_label_values(&[slug.as_str(), status]).set(n);
        }
    }
    Ok(())
}

/// Bundles that nobody needs any more.
async fn retention(plane: ControlPlane) -> Result<(), String> {
    plane.sweep_retention().await.map(drop).map_err(|e| format!("{e:?}"))
}

async fn pruning(plane: ControlPlane) -> Result<(), String> {
    let now = plane.now();
    plane.store().prune_changes(now - KEEP_CHANGES).await.map_err(text)?;
    plane.store().prune_idempotency(now).await.map_err(text)?;
    plane.store().prune_sessions(now).await.map_err(text)?;
    plane.store().prune_networks(now - KEEP_NETWORKS).await.map_err(text)?;
    plane.artifacts().clean(now).await.map_err(|e| e.to_string())?;
    Ok(())
}

fn text(e: store::Error) -> String {
    e.to_string()
}
