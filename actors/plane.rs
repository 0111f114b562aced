//! The control plane as one handle: what `web`, the demo and the in-process fleet call.
//!
//! Owns: nothing that is not owned by an actor, the store or a cache. Rebuilt from: settings and the store.

use crate::attendance::{Attendance, Attended, Storing};
use crate::bus::Bus;
use crate::clock::Clock;
use crate::command::{CommandError, CommandResult};
use crate::commands::releases::ReleaseIndex;
use crate::compile_job::CompileJobs;
use crate::fresh::Fresh;
use crate::keys::Keyring;
use crate::node_api::BundleRef;
use crate::node_session::NodeSessions;
use crate::rollout::Rollouts;
use crate::rollout::permit::Freezes;
use ::bundle::child::ChildValidator;
use ::bundle::keys::MasterKey;
use ::bundle::trust::Assignment;
use artifacts::ArtifactStore;
use dashmap::DashMap;
use domain::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Settings of one instance.
pub struct PlaneConfig {
    /// How long a node may be silent before it is offline.
    pub stale_after: Span,
    /// The longest takeover of a rollout whose owner died.
    pub lease: Span,
    /// Where this instance listens, shown to people.
    pub listen: String,
    /// What nodes reach us by; the base of download links.
    pub public_url: String,
    pub master_key: MasterKey,
    pub validator: ChildValidator,
    pub compile_concurrency: usize,
    /// How long audit entries are kept; `None` is for ever.
    pub audit_keep: Option<Span>,
    /// What probes, webhooks and git may reach.
    pub egress: egress::Policy,
}

#[derive(Clone)]
pub struct ControlPlane {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: PlaneConfig,
    pub(crate) instance: InstanceId,
    pub(crate) store: store::Store,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) clock: Clock,
    pub(crate) fresh: Fresh,
    pub(crate) registry: prometheus::Registry,
    pub(crate) bus: Bus,
    pub(crate) keys: Keyring,
    pub(crate) sessions: NodeSessions,
    pub(crate) rollouts: Rollouts,
    pub(crate) compiles: CompileJobs,
    pub(crate) bundles: BundleIndex,
    pub(crate) egress: std::sync::OnceLock<egress::Egress>,
    pub(crate) probes: crate::probes::Probes,
    pub(crate) releases: ReleaseIndex,
    pub(crate) sound: crate::sound::Soundness,
    /// Heads of audit chains, at most a second old: what signed assignments carry.
    pub(crate) heads: DashMap<ProjectId, (Timestamp, ::bundle::trust::AuditHead)>,
    /// Numbers of the heads that the log was told last.
    pub(crate) said_heads: DashMap<Option<ProjectId>, i64>,
    /// How long nobody could receive reports before this process was ready, microseconds.
    pub(crate) down: AtomicI64,
    /// Projects whose nodes' traffic is counted.
    pub(crate) measured: crate::rollout::Measured,
    pub(crate) attendance: Attendance,
    pub(crate) storing: Storing,
    pub(crate) freezes: Freezes,
    /// The artifact store does not answer: no bundle can be fetched now.
    pub(crate) artifacts_away: AtomicBool,
}

/// Which row has which content: never changes once known, so it is kept.
#[derive(Default)]
pub(crate) struct BundleIndex {
    contents: DashMap<BundleId, ContentId>,
    /// The least version of the proxy that a bundle is for.
    least: DashMap<BundleId, Option<String>>,
    rows: DashMap<(ProjectId, ContentId), BundleId>,
}

/// Bundles remembered: 80 bytes each.
const MAX_INDEXED: usize = 100_000;
/// How old the audit head in a newly signed assignment may be.
const HEAD_AGE: Span = Span::secs(1);
/// Download links are valid for this long.
const LINK_VALIDITY: Span = Span::secs(3600);

impl BundleIndex {
    fn put(&self, project: ProjectId, id: BundleId, content: ContentId) {
        if self.contents.len() >= MAX_INDEXED {
            self.contents.clear();
            self.rows.clear();
        }
        self.contents.insert(id, content);
        self.rows.insert((project, content), id);
    }
}

impl ControlPlane {
    /// The least version of the proxy that the bundle is for, as its manifest says.
    pub(crate) async fn least_version(&self, bundle: BundleId) -> CommandResult<Option<String>> {
        let known = &self.inner.bundles.least;
        if let Some(least) = known.get(&bundle) {
            return Ok(least.clone());
        }
        let system = Scope::System("a bundle is read for the rollout that was allowed to name it");
        let row = self.inner.store.bundle_by_id(system, bundle).await?;
        let said = row.manifest.as_ref().and_then(|m| m["compat"]["sentinel_min_version"].as_str());
        let least = said.map(str::to_string);
        if row.manifest.is_some() {
            if known.len() >= MAX_INDEXED {
                known.clear();
            }
            known.insert(bundle, least.clone());
        }
        Ok(least)
    }
}

impl Inner {
    /// For rollouts that are taken over at the start of this process: the time in which no instance was alive.
    pub(crate) fn down_before_start(&self) -> Span {
        Span(self.down.load(Ordering::Relaxed))
    }
}

impl ControlPlane {
    /// Reads only: every write goes through a command or a node call.
    pub fn store(&self) -> &store::Store {
        &self.inner.store
    }
    pub fn artifacts(&self) -> &ArtifactStore {
        &self.inner.artifacts
    }
    pub fn bus(&self) -> &Bus {
        &self.inner.bus
    }
    pub fn registry(&self) -> &prometheus::Registry {
        &self.inner.registry
    }
    pub fn config(&self) -> &PlaneConfig {
        &self.inner.config
    }
    /// The only way out for requests whose address somebody else chose.
    pub fn egress(&self) -> &egress::Egress {
        // Made when it is first needed: the certificates that the system trusts are read for it.
        self.inner.egress.get_or_init(|| egress::Egress::new(self.inner.config.egress.clone()))
    }
    /// What the probes say that a node is judged by. `None`: it is judged by none, or one has no answer yet.
    pub(crate) fn probed(&self, judge: &domain::rollout::GateSpec) -> Option<domain::node::Probed> {
        let probes = &judge.probes;
        if probes.is_empty() { None } else { self.inner.probes.read(probes, self.egress(), self.now()) }
    }
    pub fn instance(&self) -> InstanceId {
        self.inner.instance
    }
    /// The one clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }
    /// Since when reports could be received, as far as this instance knows.
    pub(crate) fn attended(&self) -> Attended {
        self.inner.attendance.look(self.now())
    }
    /// Since when a silence is a silence: all instances could be heard, and could write down whom they heard.
    pub(crate) fn heeded_since(&self) -> Timestamp {
        self.attended().since.max(self.inner.storing.since(self.now()))
    }
    pub(crate) fn fresh(&self) -> &Fresh {
        &self.inner.fresh
    }
    /// A fresh UUIDv7 for a request.
    pub fn request_id(&self) -> RequestId {
        self.inner.fresh.id(self.now())
    }
}

impl ControlPlane {
    /// The row and content of a bundle as a node names it. `None`: not a bundle of this project.
    pub(crate) async fn bundle_named(
        &self,
        project: ProjectId,
        r: BundleRef,
    ) -> CommandResult<Option<(BundleId, Option<ContentId>)>> {
        let index = &self.inner.bundles;
        let wanted = match r {
            BundleRef::Baseline => return Ok(None),
            BundleRef::Row(id) => {
                // By its row alone it could be another project's.
                let known = index.contents.get(&id).map(|c| *c);
                if let Some(c) = known
                    && index.rows.get(&(project, c)).is_some_and(|row| *row == id)
                {
                    return Ok(Some((id, known)));
                }
                store::BundleRef::Row(id)
            }
            BundleRef::Content(c) => {
                if let Some(id) = index.rows.get(&(project, c)) {
                    return Ok(Some((*id, Some(c))));
                }
                store::BundleRef::Content(c)
            }
        };
        match self.inner.store.bundle(Scope::Project(project), project, wanted).await {
            Ok(b) => {
                if let Some(c) = b.content_id {
                    index.put(project, b.id, c);
                }
                Ok(Some((b.id, b.content_id)))
            }
            Err(store::Error::NotFound) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The content of a bundle by its row, if it can be had.
    pub(crate) async fn content_of(&self, id: BundleId) -> Option<ContentId> {
        if let Some(c) = self.inner.bundles.contents.get(&id) {
            return Some(*c);
        }
        let found = self.inner.store.bundle_facts(vec![id]).await.ok()?;
        let (facts, project) = found.into_iter().next()?;
        let content = facts.content_id?;
        self.inner.bundles.put(project, id, content);
        Some(content)
    }

    /// In both directions: what was collected may be made again, as another row.
    pub(crate) fn forget_bundle(&self, project: ProjectId, id: BundleId) {
        let index = &self.inner.bundles;
        if let Some((_, content)) = index.contents.remove(&id) {
            index.rows.remove_if(&(project, content), |_, row| *row == id);
        }
    }

    /// Everything that is remembered of bundles: their contents, archives and release statements.
    pub(crate) fn forget_bundles(&self) {
        let index = &self.inner.bundles;
        index.contents.clear();
        index.least.clear();
        index.rows.clear();
        self.inner.sound.forget_all();
        self.inner.releases.forget_all();
    }

    pub(crate) async fn download_url(
        &self,
        project: ProjectId,
        content: ContentId,
        node: NodeId,
        now: Timestamp,
    ) -> CommandResult<String> {
        self.inner
            .artifacts
            .download_url(node, project, content, now, LINK_VALIDITY)
            .await
            .map_err(|e| CommandError::Unavailable(e.to_string()))
    }

    /// The head of the project's audit chain, at most a second old.
    pub(crate) async fn audit_head(&self, project: ProjectId) -> CommandResult<::bundle::trust::AuditHead> {
        let now = self.now();
        if let Some(kept) = self.inner.heads.get(&project).filter(|k| now.since(k.0) < HEAD_AGE) {
            return Ok(kept.1.clone());
        }
        let head = self.inner.store.audit_head(Some(project)).await?;
        let head = ::bundle::trust::AuditHead { seq: head.seq as u64, hash: head.hash.to_string() };
        self.inner.heads.insert(project, (now, head.clone()));
        Ok(head)
    }

    /// The envelope, and the version of the trust document whose keys signed it.
    pub(crate) async fn sign_assignment(&self, org: OrgId, a: &Assignment) -> CommandResult<(u64, serde_json::Value)> {
        self.inner.keys.sign_assignment(org, a).await
    }
}
