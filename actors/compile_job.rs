//! Compile jobs: from a queued row to a bundle, one supervised actor for each.
//!
//! Owns: which jobs run here, and how far each is. Rebuilt from: the rows that are `compiling`; every stage may be repeated
//! (the content names itself, the archive is a pure function of the row).
//! Invariants: an invalid config never becomes a bundle; a store or an artifact store that is away costs time, never the
//! job; at most N jobs validate, pack or upload at once.

pub(crate) mod job;
#[cfg(test)]
mod tests;

use self::job::{Job, Trouble, plain};
use crate::plane::Inner;
use crate::supervision::{
    Backoff, Budget, ChildSpec, Env, Family, FamilySpec, GivenUp, Restart, StartError, TaskGuard, spawn_task,
};
use domain::bundle::{self, Bundle, BundleStatus, Diagnostic};
use domain::project::Settings;
use domain::{BundleId, Digest, Scope, Span, Timestamp};
use futures_util::FutureExt;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use store::Store;
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

    /// Ends the job of a row that was taken from it. The validating child ends with it.
    pub(crate) async fn stop(&self, id: BundleId) {
        if let Some(actor) = self.family.lookup(&id) {
            actor.stop(Some("cancelled".into()));
        }
        self.works.ended.send_modify(|n| *n += 1);
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

/// What deduplicates jobs: the files, what goes along with them, what judges them, and by which rules.
pub(crate) fn input_hash(files: Digest, settings: &Settings, resources: &BTreeMap<String, Digest>) -> Digest {
    use ::bundle::verdict::{VALIDATOR_NAME, VALIDATOR_VERSION};
    let judged_by = serde_json::json!({
        "validator": format!("{VALIDATOR_NAME} {VALIDATOR_VERSION}"),
        "strict": settings.strict_config,
        "rules": settings.rules,
        "secrets": settings.secrets,
        "resources": resources,
    });
    Digest::of(format!("compile/v2\n{files}\n{judged_by}").as_bytes())
}

/// The row of a compile that was just asked for.
pub(crate) fn queued_row(
    id: BundleId,
    config: &bundle::DesiredConfig,
    version: Option<String>,
    resources: BTreeMap<String, Digest>,
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
        resources,
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

/// `file:line:column: text`, as far as it is known.
pub(crate) fn diagnostic_text(d: &Diagnostic) -> String {
    match (&d.file, d.line, d.column) {
        (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: {}", d.text),
        (Some(file), Some(line), None) => format!("{file}:{line}: {}", d.text),
        (Some(file), _, _) => format!("{file}: {}", d.text),
        (None, _, _) => d.text.clone(),
    }
}
