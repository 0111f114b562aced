//! Compile jobs: from a queued row to a bundle, one supervised actor for each.
//!
//! Owns: which jobs run here, and how far each is. Rebuilt from: the rows that are `compiling`; every stage may be repeated
//! (the content names itself, the archive is a pure function of the row).
//! Invariants: an invalid config never becomes a bundle; a store or an artifact store that is away costs time, never the
//! job; at most N jobs validate, pack or upload at once.

use crate::plane::Inner;
use crate::supervision::{
    Backoff, Budget, ChildSpec, Env, Family, FamilySpec, GivenUp, Restart, StartError, TaskGuard, spawn_task,
};
use ::bundle::child::{ChildValidator, ValidatorError};
use ::bundle::{BuildError, Rendered, SignatureFile, Sources, Verdict, archive, risk};
use domain::audit::NewEntry;
use domain::bundle::{self, Bundle, BundleStatus, Diagnostic};
use domain::{BundleId, ContentId, Digest, Scope, Span, Timestamp};
use futures_util::FutureExt;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use store::{ChangeKind, ContentClaim, NewChange, Store, Write};
use tokio::sync::{Semaphore, watch};

/// Jobs that have an actor here: each some 5 kB while it waits. The rest waits in the store.
const MAX_JOBS: usize = 1_000;
/// Waits between tries while a store is away.
const AWAY: Backoff = Backoff { base: Span::millis(500), cap: Span::secs(30), jitter_percent: 25 };
/// After so long of tries a job ends; its row stays in the queue, and a later look at the queue starts it again.
const TRIED_FOR: Span = Span::secs(600);
/// How often a waiting request looks for itself: for jobs that another instance has.
const LOOK: Duration = Duration::from_millis(500);
/// Tries to store the failure of a job that was given up: 0.5 + 1 + 2 + 4 + 8 s of waiting.
const FAIL_TRIES: usize = 6;
/// How often the queue is looked through, and how long a row may lie in it before another instance takes it up too. Two
/// jobs of one row make the same bytes: it costs work, nothing else.
const RESCAN: Span = Span::secs(10);
const LEFT_ALONE: Span = Span::secs(30);
/// Messages of a failed compile that its audit entry repeats.
const AUDITED_ERRORS: usize = 5;
/// What made the bundle, as recorded in its row.
const BUILDER: &str = concat!("sentinel-cp/", env!("CARGO_PKG_VERSION"));
const SYSTEM: Scope = Scope::System("a compile job works for the project of its row");

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct CompileJobs {
    works: Arc<Works>,
    family: Family<BundleId, JobMsg>,
}

struct Works {
    plane: Weak<Inner>,
    permits: Semaphore,
    /// Counts ended jobs: whoever waits looks again.
    ended: watch::Sender<u64>,
    seconds: Histogram,
    bundles: IntCounterVec,
}

pub(crate) enum JobMsg {
    Finished(Result<(), String>),
}

impl CompileJobs {
    /// Runs nothing yet: give [`children`](Self::children) to the root. `at_once`: jobs that validate, pack or upload at
    /// the same time. Errors: metrics that exist already.
    pub(crate) fn new(
        plane: Weak<Inner>,
        env: &Env,
        registry: &Registry,
        at_once: usize,
    ) -> Result<CompileJobs, prometheus::Error> {
        // 50 ms is a small config on an idle machine; 60 s is the validator's limit with a slow store behind it.
        let buckets = vec![0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
        let seconds =
            HistogramOpts::new("sentinel_cp_compile_duration_seconds", "Time of a compile job, without waiting.");
        let seconds = Histogram::with_opts(seconds.buckets(buckets))?;
        let bundles = Opts::new("sentinel_cp_bundles_total", "Bundles that entered this state, by this instance.");
        let bundles = IntCounterVec::new(bundles, &["status"])?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(bundles.clone()))?;
        for status in BundleStatus::ALL {
            bundles.with_label_values(&[status.as_str()]);
        }
        let permits = Semaphore::new(at_once.max(1));
        let works = Arc::new(Works { plane, permits, ended: watch::Sender::new(0), seconds, bundles });
        let spec = {
            let (works, given_up, queue) = (works.clone(), works.clone(), works.clone());
            FamilySpec::new(
                "compile_job",
                Restart::Transient,
                move |id: &BundleId| (CompileJob { works: works.clone() }, *id),
                move |id, why| {
                    let works = given_up.clone();
                    async move { works.given_up(id, why).await }
                },
            )
            .starting_with(move || {
                let works = queue.clone();
                async move {
                    let queue = works.plane()?.store.compile_queue(MAX_JOBS as u32).await;
                    queue.map(|rows| rows.iter().map(|b| b.id).collect()).map_err(|e| e.to_string())
                }
            })
        };
        Ok(CompileJobs { works, family: Family::new(spec, env) })
    }

    /// The jobs, and what looks after the queue.
    pub(crate) fn children(&self, budget: Budget) -> Vec<ChildSpec> {
        let jobs = self.clone();
        let queue = ChildSpec::new("compile_queue", Restart::Permanent, budget, move || (Queue, jobs.clone())).0;
        vec![self.family.child_spec(budget), queue]
    }

    /// Starts the job of a queued row. What cannot be started now stays in the queue.
    pub(crate) async fn start(&self, id: BundleId) {
        if self.family.alive() >= MAX_JOBS {
            return;
        }
        match self.family.start_child(id).await {
            Ok(_) => {}
            Err(StartError::Restarting { .. }) => {}
            Err(why) => tracing::warn!(bundle = %id, %why, "a compile job was not started; it stays in the queue"),
        }
    }

    /// Starts what has lain in the queue for a while and has no job here: its instance died, or a store was away.
    async fn rescan(&self, plane: &Inner) -> store::Result<()> {
        let now = plane.clock.now();
        for row in plane.store.compile_queue(MAX_JOBS as u32).await? {
            if now.since(row.updated_at) >= LEFT_ALONE && self.family.lookup(&row.id).is_none() {
                self.start(row.id).await;
            }
        }
        Ok(())
    }

    /// The bundle once it is no longer compiling, or as it is after `at_most`. An alias answers the bundle it stands for.
    pub(crate) async fn wait_for(&self, store: &Store, id: BundleId, at_most: Duration) -> store::Result<Bundle> {
        // Subscribed before the first look: an end in between is seen.
        let mut ended = self.works.ended.subscribe();
        let settled = async {
            loop {
                ended.mark_unchanged();
                let row = store.bundle_by_id(SYSTEM, id).await?;
                if row.status != BundleStatus::Compiling {
                    return Ok(row);
                }
                // The sender lives in `self`; a time-out is a look like any other.
                let _ = tokio::time::timeout(LOOK, ended.changed()).await;
            }
        };
        match tokio::time::timeout(at_most, settled).await {
            Ok(settled) => settled,
            Err(_) => store.bundle_by_id(SYSTEM, id).await,
        }
    }

    /// A bundle entered `status` by a command.
    pub(crate) fn count(&self, status: BundleStatus) {
        self.works.count(status);
    }
}

/// What deduplicates jobs: the files, what judges them, and how strictly.
pub(crate) fn input_hash(files: Digest, strict: bool) -> Digest {
    use ::bundle::verdict::{VALIDATOR_NAME, VALIDATOR_VERSION};
    Digest::of(format!("compile/v1\n{files}\n{VALIDATOR_NAME} {VALIDATOR_VERSION}\nstrict={strict}").as_bytes())
}

/// The row of a compile that was just asked for.
pub(crate) fn queued_row(
    id: BundleId,
    config: &bundle::DesiredConfig,
    version: Option<String>,
    at: Timestamp,
) -> Bundle {
    Bundle {
        id,
        project: config.project,
        version,
        status: BundleStatus::Compiling,
        desired_config: Some(config.id),
        content_id: None,
        artifact_hash: None,
        size_bytes: None,
        manifest: None,
        config: None,
        signature: None,
        key_id: None,
        builder: BUILDER.into(),
        source: config.source.clone(),
        risk: bundle::RiskLevel::Low,
        risk_reasons: Vec::new(),
        warnings: Vec::new(),
        errors: Vec::new(),
        created_at: at,
        created_by: None,
        revoked_reason: None,
        updated_at: at,
    }
}

struct CompileJob {
    works: Arc<Works>,
}

struct JobState {
    _work: TaskGuard,
    _cancel: CancelOnDrop,
}

/// Ends the validator child when the job ends, however it ends.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Actor for CompileJob {
    type Msg = JobMsg;
    type State = JobState;
    type Arguments = BundleId;

    /// The work is a task beside the mailbox, so that a stop is heeded at once.
    async fn pre_start(&self, myself: ActorRef<JobMsg>, id: BundleId) -> Result<JobState, ActorProcessingErr> {
        let (works, cancel) = (self.works.clone(), Arc::new(AtomicBool::new(false)));
        let flag = cancel.clone();
        let work = spawn_task("compile job", async move {
            let done = AssertUnwindSafe(works.run(id, flag)).catch_unwind().await;
            let done = done.unwrap_or_else(|_| Err("the compiler panicked".into()));
            // Without a mailbox there is nobody left who wants to know.
            let _ = myself.cast(JobMsg::Finished(done));
        });
        Ok(JobState { _work: work, _cancel: CancelOnDrop(cancel) })
    }

    async fn handle(&self, myself: ActorRef<JobMsg>, msg: JobMsg, _: &mut JobState) -> Result<(), ActorProcessingErr> {
        let JobMsg::Finished(done) = msg;
        self.works.ended.send_modify(|n| *n += 1);
        match done {
            Ok(()) => {
                myself.stop(None);
                Ok(())
            }
            Err(why) => Err(why.into()),
        }
    }
}

/// Why a try did not end the job.
enum Trouble {
    /// Somebody is away: the same try again, later.
    Away(String),
    /// Something is wrong with us: die, and be started again a few times.
    Broken(String),
}

impl From<store::Error> for Trouble {
    fn from(e: store::Error) -> Trouble {
        match e {
            // The outcome of `Unknown` shows when the row is read again, which every try begins with.
            store::Error::Unavailable(why) | store::Error::Unknown(why) => Trouble::Away(why),
            other => Trouble::Broken(other.to_string()),
        }
    }
}

impl From<artifacts::Error> for Trouble {
    fn from(e: artifacts::Error) -> Trouble {
        match e {
            artifacts::Error::Unavailable(why) => Trouble::Away(why),
            other => Trouble::Broken(other.to_string()),
        }
    }
}

impl From<crate::command::CommandError> for Trouble {
    fn from(e: crate::command::CommandError) -> Trouble {
        use crate::command::CommandError as E;
        match e {
            E::Unavailable(why) | E::Unknown(why) => Trouble::Away(why),
            E::NotFound(what) => Trouble::Broken(format!("{what} is missing")),
            E::Forbidden(why) => Trouble::Broken(why),
            E::Conflict { detail, .. } => Trouble::Broken(detail),
            E::Invalid(fields) => Trouble::Broken(format!("{fields:?}")),
        }
    }
}

/// A judged and rendered config, or why it is none.
enum Made {
    Rendered(Box<(Verdict, Rendered)>),
    Refused(Vec<Diagnostic>),
}

/// Looks after the queue, every now and then.
struct Queue;

impl Actor for Queue {
    type Msg = ();
    type State = (CompileJobs, TaskGuard);
    type Arguments = CompileJobs;

    async fn pre_start(&self, myself: ActorRef<()>, jobs: CompileJobs) -> Result<Self::State, ActorProcessingErr> {
        let timer = jobs.works.timer(myself)?;
        Ok((jobs, timer))
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let (jobs, timer) = state;
        let plane = jobs.works.plane()?;
        if let Err(why) = jobs.rescan(&plane).await {
            tracing::warn!(%why, "the compile queue was not looked through; the next look does it");
        }
        *timer = jobs.works.timer(myself)?;
        Ok(())
    }
}

impl Works {
    /// Errors: the instance is going down.
    fn plane(&self) -> Result<Arc<Inner>, String> {
        self.plane.upgrade().ok_or_else(|| "the instance is going down".to_string())
    }

    fn timer(&self, queue: ActorRef<()>) -> Result<TaskGuard, String> {
        let clock = self.plane()?.clock.clone();
        Ok(spawn_task("compile queue timer", async move {
            clock.sleep(RESCAN).await;
            let _ = queue.cast(());
        }))
    }

    fn count(&self, status: BundleStatus) {
        self.bundles.with_label_values(&[status.as_str()]).inc();
    }

    /// Until the row is no longer compiling, or the time for tries is over. Errors: to be started again for.
    async fn run(&self, id: BundleId, cancel: Arc<AtomicBool>) -> Result<(), String> {
        let plane = self.plane()?;
        let job = Job { works: self, plane: &plane, id };
        let (clock, began) = (&plane.clock, plane.clock.now());
        for tries in 1.. {
            let tried = {
                let _place = self.permits.acquire().await.map_err(|e| e.to_string())?;
                let watch = clock.stopwatch();
                let tried = job.attempt(&cancel).await;
                self.seconds.observe(watch.elapsed().as_secs_f64());
                tried
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(Trouble::Broken(why)) => return Err(why),
                Err(Trouble::Away(why)) => {
                    tracing::warn!(bundle = %id, tries, why, "compile job waits for a store");
                    if clock.now().since(began) >= TRIED_FOR {
                        return Ok(());
                    }
                }
            }
            clock.sleep(AWAY.delay(tries, plane.fresh.chance())).await;
        }
        Ok(())
    }

    /// Fails closed: the bundle is stored as failed. Where that cannot be stored the row stays in the queue.
    async fn given_up(&self, id: BundleId, why: GivenUp) {
        let Ok(plane) = self.plane() else { return };
        let job = Job { works: self, plane: &plane, id };
        let text = format!("the compiler failed {} times and was given up; the last time: {}", why.failures, why.last);
        for tries in 1..=FAIL_TRIES {
            let failed = match plane.store.bundle_by_id(SYSTEM, id).await {
                Ok(row) if row.id == id => job.fail(&row, vec![plain(&text)]).await,
                Ok(_) | Err(store::Error::NotFound) => Ok(()),
                Err(e) => Err(e.into()),
            };
            match failed {
                Ok(()) => break,
                Err(Trouble::Away(why) | Trouble::Broken(why)) => {
                    tracing::error!(bundle = %id, tries, why, "the failure of a compile job was not stored");
                }
            }
            if tries < FAIL_TRIES {
                plane.clock.sleep(AWAY.delay(tries, plane.fresh.chance())).await;
            }
        }
        self.ended.send_modify(|n| *n += 1);
    }
}

/// One job with what it works with.
struct Job<'a> {
    works: &'a Works,
    plane: &'a Inner,
    id: BundleId,
}

impl Job<'_> {
    async fn attempt(&self, cancel: &Arc<AtomicBool>) -> Result<(), Trouble> {
        let (store, id) = (&self.plane.store, self.id);
        let row = match store.bundle_by_id(SYSTEM, id).await {
            Ok(row) if row.id == id && row.status == BundleStatus::Compiling => row,
            Ok(_) | Err(store::Error::NotFound) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let project = match store.project(SYSTEM, &row.project.to_string()).await {
            Ok(project) => project,
            Err(store::Error::NotFound) => return self.fail(&row, vec![plain("the project was deleted")]).await,
            Err(e) => return Err(e.into()),
        };
        let config = match row.desired_config {
            Some(config) => store.desired_config(row.project, config).await,
            None => Err(store::Error::NotFound),
        };
        let sources = match config {
            Ok(config) => Sources(config.files),
            Err(store::Error::NotFound) => return self.fail(&row, vec![plain("the submitted files are gone")]).await,
            Err(e) => return Err(e.into()),
        };
        let (verdict, rendered) = match self.make(&row, sources, project.settings.strict_config, cancel).await? {
            Made::Rendered(made) => *made,
            Made::Refused(why) => return self.fail(&row, why).await,
        };
        match store.claim_content(id, rendered.content_id, Write::at(self.plane.clock.now())).await {
            Ok(ContentClaim::Mine(_)) => {}
            // Its own row, perhaps its own job, does the rest; ours is an alias now.
            Ok(ContentClaim::Existing(_)) | Err(store::Error::NotFound) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let signature = self.plane.keys.sign_manifest(project.org, &rendered.manifest_bytes).await?;
        self.finish(&row, verdict, rendered, signature).await
    }

    /// Validates in the child and renders, on a thread that may block.
    async fn make(
        &self,
        row: &Bundle,
        sources: Sources,
        strict: bool,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Made, Trouble> {
        let validator = ChildValidator { cancel: Some(cancel.clone()), ..self.plane.config.validator.clone() };
        let (project, created_at, source) = (row.project, row.created_at, row.source.clone());
        let made = tokio::task::spawn_blocking(move || {
            let verdict = validator.validate(&sources).map_err(no_verdict)?;
            let verdict = if strict { verdict.into_strict() } else { verdict };
            if !verdict.ok {
                return Ok(Made::Refused(verdict.errors.iter().map(|m| m.diagnostic()).collect()));
            }
            let extra = BTreeMap::new();
            let inputs = archive::BuildInputs {
                project,
                created_at,
                source: &source,
                sources: &sources,
                verdict: &verdict,
                extra: &extra,
            };
            match archive::render(inputs) {
                Ok(rendered) => Ok(Made::Rendered(Box::new((verdict, rendered)))),
                Err(why @ (BuildError::Json(_) | BuildError::Pack(_))) => Err(Trouble::Broken(why.to_string())),
                Err(
                    why @ (BuildError::Invalid
                    | BuildError::Mismatch(_)
                    | BuildError::Path(..)
                    | BuildError::PrivateKey(_)
                    | BuildError::TooLarge(..)),
                ) => Ok(Made::Refused(vec![plain(&why.to_string())])),
            }
        });
        made.await.map_err(|e| Trouble::Broken(e.to_string()))?
    }

    /// Packs, stores, and commits. Without a signature the archive is packed later, once, when the signature comes.
    async fn finish(
        &self,
        row: &Bundle,
        verdict: Verdict,
        rendered: Rendered,
        signature: Option<SignatureFile>,
    ) -> Result<(), Trouble> {
        let store = &self.plane.store;
        let config = verdict.config_json.unwrap_or(Value::Null);
        let old = self.running_config(row).await?;
        let risk = risk::assess(old.as_ref(), &config, verdict.facts.unknown_keys);
        let manifest = serde_json::to_value(&rendered.manifest).map_err(|e| Trouble::Broken(e.to_string()))?;
        let content_id = rendered.content_id;
        let mut stored = None;
        if let Some(signature) = signature.clone() {
            let packed = tokio::task::spawn_blocking(move || archive::assemble(&rendered, Some(&signature)));
            let packed = packed.await.map_err(|e| Trouble::Broken(e.to_string()))?;
            let packed = match packed {
                Ok(packed) => packed,
                Err(why @ BuildError::TooLarge(..)) => return self.fail(row, vec![plain(&why.to_string())]).await,
                Err(why) => return Err(Trouble::Broken(why.to_string())),
            };
            stored = Some((packed.artifact_hash, packed.size));
            self.put(row, content_id, packed).await?;
        }
        let reasons = risk.restart_reasons.iter().map(|why| format!("needs a restart of the proxy: {why}"));
        let done = store::Compiled {
            id: row.id,
            content_id,
            artifact_hash: stored.map(|s| s.0),
            size_bytes: stored.map(|s| s.1),
            manifest,
            config,
            key_id: signature.as_ref().map(|s| s.key_id.clone()),
            signature: signature.map(|s| s.signature),
            builder: BUILDER.into(),
            risk: risk.level,
            risk_reasons: risk.reasons.into_iter().chain(reasons).collect(),
            warnings: verdict.warnings.iter().map(|m| m.diagnostic()).collect(),
            status: if stored.is_some() { BundleStatus::Compiled } else { BundleStatus::AwaitingSignature },
        };
        let changes = json!({
            "version": row.version, "bundle_id": content_id, "artifact_hash": done.artifact_hash.map(|h| h.prefixed()),
            "size_bytes": done.size_bytes, "risk": done.risk, "warnings": done.warnings.len(), "status": done.status,
            "caused_by": row.created_by,
        });
        let (status, write) = (done.status, self.write(row, "bundle.compiled", changes));
        if store.set_compiled(done, write).await?.changed {
            self.works.count(status);
        }
        Ok(())
    }

    async fn put(&self, row: &Bundle, content: ContentId, packed: archive::Archive) -> Result<(), Trouble> {
        let (key, hash) = (artifacts::Key::bundle(row.project, content), packed.artifact_hash);
        let bytes = packed.bytes;
        match self.plane.artifacts.put_if_absent(&key, bytes.clone().into(), Some(hash)).await {
            Err(artifacts::Error::Corrupt(why)) => {
                // Left over from a row that was collected, with another `created_at`. Our row alone has this content and
                // is not compiled yet, so nobody has been told of the object.
                tracing::warn!(bundle = %row.id, why, "replacing an object that no bundle refers to");
                self.plane.artifacts.delete(&key).await?;
                self.plane.artifacts.put_if_absent(&key, bytes.into(), Some(hash)).await?;
            }
            put => {
                put?;
            }
        }
        Ok(())
    }

    /// What most nodes of the project run; while none runs anything, what its newest completed rollout brought.
    async fn running_config(&self, row: &Bundle) -> Result<Option<Value>, Trouble> {
        let store = &self.plane.store;
        let stats = store.node_stats(row.project).await?;
        let most = stats.by_bundle.iter().filter_map(|(bundle, nodes)| bundle.map(|b| (*nodes, b))).max();
        let bundle = match most {
            Some((_, bundle)) => Some(bundle),
            None => store.newest_completed_for(row.project).await?.first().map(|done| done.bundle),
        };
        let Some(bundle) = bundle else { return Ok(None) };
        match store.bundle_by_id(SYSTEM, bundle).await {
            Ok(bundle) => Ok(bundle.config),
            Err(store::Error::NotFound) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn fail(&self, row: &Bundle, errors: Vec<Diagnostic>) -> Result<(), Trouble> {
        let texts: Vec<String> = errors.iter().take(AUDITED_ERRORS).map(diagnostic_text).collect();
        let changes = json!({
            "version": row.version, "errors": texts, "error_count": errors.len(), "caused_by": row.created_by,
        });
        match self.plane.store.set_failed(row.id, errors, self.write(row, "bundle.failed", changes)).await {
            Ok(()) => {
                self.works.count(BundleStatus::Failed);
                Ok(())
            }
            // Another instance was faster.
            Err(store::Error::Conflict("state")) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn write(&self, row: &Bundle, action: &'static str, changes: Value) -> Write {
        let at = self.plane.clock.now();
        let entry = NewEntry {
            actor: domain::Actor::System,
            action,
            resource_type: ChangeKind::Bundle.as_str(),
            resource_id: Some(row.id.0),
            project: Some(row.project),
            changes,
            request_id: None,
            ip: None,
        };
        let change = NewChange { kind: ChangeKind::Bundle, id: row.id.0, project: Some(row.project), version: at.0 };
        Write::at(at).audit(self.plane.fresh.id(at), entry).change(change)
    }
}

/// The config may be fine: it is the validator that could not be asked.
fn no_verdict(why: ValidatorError) -> Trouble {
    match why {
        ValidatorError::Cancelled => Trouble::Away(why.to_string()),
        ValidatorError::Start(_) | ValidatorError::Io(_) | ValidatorError::Answer(_) => {
            Trouble::Broken(why.to_string())
        }
    }
}

fn plain(text: &str) -> Diagnostic {
    Diagnostic { text: text.into(), file: None, line: None, column: None }
}

/// `file:line:column: text`, as far as it is known.
pub(crate) fn diagnostic_text(d: &Diagnostic) -> String {
    match (&d.file, d.line, d.column) {
        (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: {}", d.text),
        (Some(file), Some(line), None) => format!("{file}:{line}: {}", d.text),
        (Some(file), _, _) => format!("{file}: {}", d.text),
        (None, _, _) => d.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_the_same_when_files_validator_and_strictness_are() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(input_hash(a, false), input_hash(a, false));
        assert_ne!(input_hash(a, false), input_hash(b, false));
        assert_ne!(input_hash(a, false), input_hash(a, true));
    }

    #[test]
    fn a_diagnostic_begins_with_its_place_as_far_as_it_is_known() {
        let mut d = Diagnostic { text: "no".into(), file: Some("config.kdl".into()), line: Some(3), column: Some(7) };
        assert_eq!(diagnostic_text(&d), "config.kdl:3:7: no");
        d.column = None;
        assert_eq!(diagnostic_text(&d), "config.kdl:3: no");
        d.file = None;
        assert_eq!(diagnostic_text(&d), "no");
    }
}
