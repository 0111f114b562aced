//! Bundles and what they are compiled from. The compile queue is the rows that are `compiling`.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Error, Fail, Q, Result};
use crate::rollouts::newest_completed;
use crate::types::{BundleFacts, Changed, FACTS, Listing, Page, Where, read_facts};
use crate::value::{Cells, Col, json, opt_json, p};
use crate::write::{Write, finish};
use domain::bundle::{Bundle, BundleStatus, DesiredConfig, Diagnostic, RiskLevel};
use domain::node::Selector;
use domain::{BundleId, ContentId, DesiredConfigId, Digest, NodeId, ProjectId, Scope, Timestamp};
use serde_json::Value;
use std::collections::BTreeSet;

/// What names a bundle in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleRef {
    Row(BundleId),
    Content(ContentId),
    Version(String),
}

impl BundleRef {
    /// A UUID, 64 hex digits, or else a version.
    pub fn parse(s: &str) -> BundleRef {
        match (s.parse(), Digest::parse(s)) {
            (Ok(id), _) => BundleRef::Row(id),
            (Err(_), Some(content)) => BundleRef::Content(content),
            (Err(_), None) => BundleRef::Version(s.to_string()),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct BundleFilter {
    pub status: Option<BundleStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Enqueued {
    pub bundle: Bundle,
    /// `false`: the same input is there already, in whatever state `bundle` shows.
    pub created: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ContentClaim {
    Mine(Bundle),
    /// Another row has this content; ours is an alias of it from now on.
    Existing(Bundle),
}

/// The outcome of a compilation.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub id: BundleId,
    pub content_id: ContentId,
    pub artifact_hash: Option<Digest>,
    pub size_bytes: Option<u64>,
    pub manifest: Value,
    pub config: Value,
    pub signature: Option<String>,
    pub key_id: Option<String>,
    pub builder: String,
    pub risk: RiskLevel,
    pub risk_reasons: Vec<String>,
    pub warnings: Vec<Diagnostic>,
    /// `Compiled` or `AwaitingSignature`.
    pub status: BundleStatus,
}

/// What an offline key adds, and the archive that was assembled with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// base64.
    pub signature: String,
    pub key_id: String,
    pub artifact_hash: Digest,
    pub size_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleUse {
    pub running_on: i64,
    pub desired_on: i64,
    pub pinned_on: i64,
    /// Pending and active rollouts of it.
    pub active_rollouts: i64,
}

/// Nobody runs or wants bundle `b`: no node, no rollout that lives, no debt; and it is none that the engine took back, which is to
/// be remembered. What could be gone back to, and what newcomers are due, is [`still_due`].
const FREE: &str = "AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.project_id = b.project_id AND n.deleted_at IS NULL AND (n.active_bundle = b.id \
     OR n.desired_bundle = b.id OR n.staged_bundle = b.id OR n.verified_bundle = b.id OR n.pinned_bundle = b.id)) \
     AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.bundle_id = b.id AND r.state IN ('pending', 'running', 'paused', 'rolling_back')) \
     AND NOT EXISTS (SELECT 1 FROM debts d WHERE d.bundle_id = b.id) \
     AND NOT EXISTS (SELECT 1 FROM rollouts t WHERE t.bundle_id = b.id AND t.auto_rollback = TRUE)";
const HEAD: &str =
    "b.id, b.project_id, b.version, b.status, b.desired_config, b.content_id, b.artifact_hash, b.size_bytes";
const TAIL: &str = "b.signature, b.key_id, b.builder, b.source, b.resources, b.risk, b.risk_reasons, b.warnings, b.errors, b.created_at, b.created_by, \
                    b.revoked_reason, b.updated_at";

fn columns(full: bool) -> String {
    match full {
        true => format!("{HEAD}, b.manifest, b.config, {TAIL}"),
        false => format!("{HEAD}, NULL, NULL, {TAIL}"),
    }
}

fn read_bundle(r: &mut Cells) -> Q<Bundle> {
    Ok(Bundle {
        id: r.get()?,
        project: r.get()?,
        version: r.get()?,
        status: r.get()?,
        desired_config: r.get()?,
        content_id: r.get()?,
        artifact_hash: r.get()?,
        size_bytes: r.get()?,
        manifest: r.opt_json()?,
        config: r.opt_json()?,
        signature: r.get()?,
        key_id: r.get()?,
        builder: r.get()?,
        source: r.json()?,
        resources: r.json()?,
        risk: r.get()?,
        risk_reasons: r.json()?,
        warnings: r.json()?,
        errors: r.json()?,
        created_at: r.get()?,
        created_by: r.get()?,
        revoked_reason: r.get()?,
        updated_at: r.get()?,
    })
}

fn read_config(r: &mut Cells) -> Q<DesiredConfig> {
    Ok(DesiredConfig {
        id: r.get()?,
        project: r.get()?,
        source: r.json()?,
        files: r.json()?,
        input_hash: r.get()?,
        inserted_at: r.get()?,
    })
}

async fn by_id(c: &mut Conn, scope: Scope, id: BundleId) -> Q<Bundle> {
    // An alias answers the row that it stands for.
    let mut w = Where::new("b.id = coalesce((SELECT alias_of FROM bundles WHERE id = ?), ?)");
    w.params = p![id, id];
    w.scope("b", scope);
    c.one(format!("SELECT {} FROM bundles b WHERE {}", columns(true), w.sql), w.params, read_bundle).await
}

const SYSTEM: Scope = Scope::System("inside a command that was checked already");

/// Another label for the same content is kept only where there was none.
async fn name_it(c: &mut Conn, bundle: &mut Bundle, version: Option<&str>) -> Q<()> {
    if let (None, Some(v)) = (&bundle.version, version) {
        c.exec("UPDATE bundles SET version = ? WHERE id = ?", p![v, bundle.id]).await?;
        bundle.version = Some(v.to_string());
    }
    Ok(())
}

impl Store {
    pub async fn insert_desired_config(&self, config: DesiredConfig, w: Write) -> Result<()> {
        self.write("desired_config.insert", (config, w), |c, (d, w)| {
            Box::pin(async move {
                c.exec(
                    "INSERT INTO desired_configs (id, project_id, source, files, input_hash, inserted_at) VALUES (?, ?, ?, ?, ?, ?)",
                    p![d.id, d.project, json(&d.source), json(&d.files), d.input_hash, d.inserted_at],
                )
                .await?;
                finish(c, w).await
            })
        })
        .await
    }

    pub async fn desired_config(&self, project: ProjectId, id: DesiredConfigId) -> Result<DesiredConfig> {
        self.read("desired_config.get", (project, id), |c, (project, id)| {
            Box::pin(async move {
                let sql = "SELECT id, project_id, source, files, input_hash, inserted_at FROM desired_configs WHERE id = ? AND project_id = ?";
                c.one(sql, p![*id, *project], read_config).await
            })
        })
        .await
    }

    pub async fn newest_desired_config(&self, project: ProjectId) -> Result<DesiredConfig> {
        self.read("desired_config.newest", project, |c, project| {
            Box::pin(async move {
                let sql = "SELECT id, project_id, source, files, input_hash, inserted_at FROM desired_configs WHERE project_id = ? ORDER BY id DESC LIMIT 1";
                c.one(sql, p![*project], read_config).await
            })
        })
        .await
    }

    /// Errors: `Conflict("version")` when another input has the version, `NotFound` without the project.
    pub async fn enqueue_compile(&self, bundle: Bundle, input_hash: Digest, w: Write) -> Result<Enqueued> {
        self.write("bundle.enqueue", (bundle, input_hash, w), |c, (b, hash, w)| {
            Box::pin(async move {
                // Those of one project come one after the other: a rival with the same input is found, not met at the index of versions.
                c.rows("SELECT id FROM projects WHERE id = ? {update}", p![b.project], |_| Ok(())).await?;
                let same = format!(
                    "SELECT {} FROM bundles b WHERE b.project_id = ? AND b.input_hash = ? AND b.status <> 'failed' AND b.alias_of IS NULL {{update}}",
                    columns(true)
                );
                if let Some(mut old) = c.maybe(same, p![b.project, *hash], read_bundle).await? {
                    name_it(c, &mut old, b.version.as_deref()).await?;
                    finish(c, w).await?;
                    return Ok(Enqueued { bundle: old, created: false });
                }
                let sql = "INSERT INTO bundles (id, org_id, project_id, version, status, desired_config, input_hash, builder, source, resources, risk, \
                           risk_reasons, warnings, errors, created_at, created_by, updated_at) \
                           SELECT ?, p.org_id, p.id, ?, 'compiling', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM projects p WHERE p.id = ? AND p.deleted_at IS NULL";
                let params = p![
                    b.id, b.version.clone(), b.desired_config, *hash, &b.builder, json(&b.source), json(&b.resources), b.risk.as_str(), json(&b.risk_reasons),
                    json(&b.warnings), json(&b.errors), b.created_at, b.created_by, b.updated_at, b.project
                ];
                if c.exec(sql, params).await? == 0 {
                    return Err(Fail::not_found());
                }
                finish(c, w).await?;
                let made = by_id(c, SYSTEM, b.id).await?;
                Ok(Enqueued { bundle: made, created: true })
            })
        })
        .await
    }

    /// Oldest first.
    pub async fn compile_queue(&self, limit: u32) -> Result<Vec<Bundle>> {
        self.read("bundle.queue", limit, |c, limit| {
            Box::pin(async move {
                let sql = format!("SELECT {} FROM bundles b WHERE b.status = 'compiling' AND b.alias_of IS NULL ORDER BY b.id LIMIT ?", columns(false));
                c.rows(sql, p![*limit], read_bundle).await
            })
        })
        .await
    }

    /// Once the content is known and before the archive is built: whose row it is. A racing loser builds from the winner's values.
    pub async fn claim_content(&self, id: BundleId, content: ContentId, w: Write) -> Result<ContentClaim> {
        self.write("bundle.claim_content", (id, content, w), |c, (id, content, w)| {
            Box::pin(async move {
                let mine = by_id(c, SYSTEM, *id).await?;
                if mine.content_id == Some(*content) {
                    return Ok(if mine.id == *id { ContentClaim::Mine(mine) } else { ContentClaim::Existing(mine) });
                }
                // Claims of one project come one after the other: two rows with one content would else both find nobody.
                c.rows("SELECT id FROM projects WHERE id = ? {update}", p![mine.project], |_| Ok(())).await?;
                // The row first, and held: were it collected between the two looks, neither the row nor the note would be seen.
                let sql = format!(
                    "SELECT {} FROM bundles b WHERE b.project_id = ? AND b.content_id = ? {{share}}",
                    columns(true)
                );
                let there = c.maybe(sql, p![mine.project, *content], read_bundle).await?;
                let going = "SELECT at FROM collected WHERE project_id = ? AND content_id = ?";
                let going = c.maybe(going, p![mine.project, *content], |r| r.get::<i64>()).await?;
                if there.is_none() && going.is_some() {
                    let text = "the archive of a collected bundle of the same content is being removed";
                    return Err(Fail::Own(Error::Unavailable(text.into())));
                }
                let claim = match there {
                    Some(mut old) => {
                        let sql = "UPDATE bundles SET alias_of = ?, version = NULL, updated_at = ? WHERE id = ?";
                        c.exec(sql, p![old.id, w.at, *id]).await?;
                        name_it(c, &mut old, mine.version.as_deref()).await?;
                        ContentClaim::Existing(old)
                    }
                    None => {
                        let sql =
                            "UPDATE bundles SET content_id = ?, updated_at = ? WHERE id = ? AND status = 'compiling'";
                        c.exec_one(sql, p![*content, w.at, *id]).await?;
                        ContentClaim::Mine(by_id(c, SYSTEM, *id).await?)
                    }
                };
                finish(c, w).await?;
                Ok(claim)
            })
        })
        .await
    }

    /// `changed: false` when the row had left `compiling`. Errors: `Conflict("content")` when another row has the content: claim it first.
    pub async fn set_compiled(&self, done: Compiled, w: Write) -> Result<Changed<Bundle>> {
        self.write("bundle.compiled", (done, w), |c, (d, w)| {
            Box::pin(async move {
                let sql = "UPDATE bundles SET status = ?, content_id = ?, artifact_hash = ?, size_bytes = ?, manifest = ?, config = ?, signature = ?, \
                           key_id = ?, builder = ?, risk = ?, risk_reasons = ?, warnings = ?, updated_at = ? \
                           WHERE id = ? AND status = 'compiling' AND alias_of IS NULL";
                let params = p![
                    d.status.as_str(), d.content_id, d.artifact_hash, d.size_bytes, opt_json(Some(&d.manifest)), opt_json(Some(&d.config)),
                    d.signature.clone(), d.key_id.clone(), &d.builder, d.risk.as_str(), json(&d.risk_reasons), json(&d.warnings), w.at, d.id
                ];
                let changed = c.exec(sql, params).await? > 0;
                if changed {
                    finish(c, w).await?;
                }
                Ok(Changed { row: by_id(c, SYSTEM, d.id).await?, changed })
            })
        })
        .await
    }

    /// From `awaiting_signature` to `compiled`. Errors: `Conflict("state")`.
    pub async fn set_signature(&self, scope: Scope, id: BundleId, signed: Signed, w: Write) -> Result<Bundle> {
        self.write("bundle.signature", (scope, id, signed, w), |c, (scope, id, s, w)| {
            Box::pin(async move {
                let old = by_id(c, *scope, *id).await?;
                let sql = "UPDATE bundles SET status = 'compiled', signature = ?, key_id = ?, artifact_hash = ?, size_bytes = ?, updated_at = ? \
                           WHERE id = ? AND status = 'awaiting_signature'";
                if c.exec(sql, p![&s.signature, &s.key_id, s.artifact_hash, s.size_bytes, w.at, old.id]).await? == 0 {
                    return Err(Fail::conflict("state"));
                }
                finish(c, w).await?;
                by_id(c, *scope, old.id).await
            })
        })
        .await
    }

    /// Another signature, and so another archive, of a compiled or deprecated bundle. Errors: `Conflict("state")`, also while a
    /// rollout is at it or a node is assigned it: what it was told names the archive before, in a generation that never changes.
    pub async fn replace_signature(&self, scope: Scope, id: BundleId, signed: Signed, w: Write) -> Result<Bundle> {
        self.write("bundle.sign_again", (scope, id, signed, w), |c, (scope, id, s, w)| {
            Box::pin(async move {
                let old = by_id(c, *scope, *id).await?;
                // Whoever is about to assign it holds the row: waited for before looking.
                c.rows("SELECT id FROM bundles WHERE id = ? {update}", p![old.id], |_| Ok(())).await?;
                let sql = "UPDATE bundles SET signature = ?, key_id = ?, artifact_hash = ?, size_bytes = ?, updated_at = ? \
                           WHERE id = ? AND status IN ('compiled', 'deprecated') AND NOT EXISTS (SELECT 1 FROM rollouts r \
                           WHERE r.bundle_id = bundles.id AND r.state IN ('pending', 'running', 'paused', 'rolling_back')) \
                           AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.desired_bundle = bundles.id AND n.deleted_at IS NULL)";
                if c.exec(sql, p![&s.signature, &s.key_id, s.artifact_hash, s.size_bytes, w.at, old.id]).await? == 0 {
                    return Err(Fail::conflict("state"));
                }
                finish(c, w).await?;
                by_id(c, *scope, old.id).await
            })
        })
        .await
    }

    /// Errors: `Conflict("state")` when it is not compiling.
    pub async fn set_failed(&self, id: BundleId, errors: Vec<Diagnostic>, w: Write) -> Result<()> {
        self.write("bundle.failed", (id, errors, w), |c, (id, errors, w)| {
            Box::pin(async move {
                let sql = "UPDATE bundles SET status = 'failed', errors = ?, content_id = NULL, updated_at = ? WHERE id = ? AND status = 'compiling'";
                if c.exec(sql, p![json(errors), w.at, *id]).await? == 0 {
                    return Err(Fail::conflict("state"));
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// By row, content or version, inside one project. A version that failed is found only when no other row has it.
    pub async fn bundle(&self, scope: Scope, project: ProjectId, name: BundleRef) -> Result<Bundle> {
        self.read("bundle.get", (scope, project, name), |c, (scope, project, name)| {
            Box::pin(async move {
                let found = match name {
                    BundleRef::Row(id) => by_id(c, *scope, *id).await?,
                    BundleRef::Content(content) => {
                        let mut w = Where::new("b.project_id = ? AND b.content_id = ?");
                        w.params = p![*project, *content];
                        w.scope("b", *scope);
                        c.one(format!("SELECT {} FROM bundles b WHERE {}", columns(true), w.sql), w.params, read_bundle)
                            .await?
                    }
                    BundleRef::Version(v) => {
                        let mut w = Where::new("b.project_id = ? AND b.version = ? AND b.alias_of IS NULL");
                        w.params = p![*project, v];
                        w.scope("b", *scope);
                        let order = "ORDER BY CASE b.status WHEN 'failed' THEN 1 ELSE 0 END, b.id DESC LIMIT 1";
                        c.one(
                            format!("SELECT {} FROM bundles b WHERE {} {order}", columns(true), w.sql),
                            w.params,
                            read_bundle,
                        )
                        .await?
                    }
                };
                if found.project == *project { Ok(found) } else { Err(Fail::not_found()) }
            })
        })
        .await
    }

    /// The newest one before `id` that was ever compiled.
    pub async fn bundle_before(&self, project: ProjectId, id: BundleId) -> Result<Option<Bundle>> {
        self.read("bundle.before", (project, id), |c, (project, id)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {} FROM bundles b WHERE b.project_id = ? AND b.id < ? AND b.alias_of IS NULL AND b.config IS NOT NULL ORDER BY b.id DESC LIMIT 1",
                    columns(true)
                );
                c.maybe(sql, p![*project, *id], read_bundle).await
            })
        })
        .await
    }

    pub async fn bundle_by_id(&self, scope: Scope, id: BundleId) -> Result<Bundle> {
        self.read("bundle.by_id", (scope, id), |c, (scope, id)| Box::pin(by_id(c, *scope, *id))).await
    }

    /// Newest first; without `config` and `manifest`, which are large.
    pub async fn bundles(&self, scope: Scope, filter: BundleFilter, page: Page) -> Result<Listing<Bundle>> {
        self.read("bundle.list", (scope, filter, page), |c, (scope, filter, page)| {
            Box::pin(async move {
                let mut w = Where::new("b.alias_of IS NULL");
                w.scope("b", *scope);
                w.and_if("b.status = ?", filter.status.map(|s| s.as_str()));
                let total = c
                    .one(format!("SELECT count(*) FROM bundles b WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("b.id < ?", page.after::<BundleId>()?);
                let sql = format!(
                    "SELECT {} FROM bundles b WHERE {} ORDER BY b.id DESC LIMIT {}",
                    columns(false),
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_bundle).await?;
                Ok(Listing::cut(rows, total, page, |b| b.id.to_string()))
            })
        })
        .await
    }

    /// Facts of those that exist, with their projects.
    pub async fn bundle_facts(&self, ids: Vec<BundleId>) -> Result<Vec<(BundleFacts, ProjectId)>> {
        self.read("bundle.facts", ids, |c, ids| {
            Box::pin(async move {
                let sql = format!("SELECT {FACTS}, b.project_id FROM {{v}} JOIN bundles b ON b.id = v.id");
                let cols = vec![("id", Col::ids(ids.iter().copied()))];
                let rows = c.batch_rows(&sql, vec![], cols, |r| Ok((read_facts(r)?, r.get()?))).await?;
                Ok(rows.into_iter().filter_map(|(f, p)| f.map(|f| (f, p))).collect())
            })
        })
        .await
    }

    /// Stops its distribution at once and forgets the debts of it. Errors: `Conflict("state")` before it is compiled.
    pub async fn revoke_bundle(
        &self,
        scope: Scope,
        id: BundleId,
        reason: Option<String>,
        w: Write,
    ) -> Result<Changed<Bundle>> {
        self.write("bundle.revoke", (scope, id, reason, w), |c, (scope, id, reason, w)| {
            Box::pin(async move {
                let old = by_id(c, *scope, *id).await?;
                match old.status {
                    BundleStatus::Revoked => return Ok(Changed { row: old, changed: false }),
                    BundleStatus::Compiling | BundleStatus::Failed => return Err(Fail::conflict("state")),
                    BundleStatus::AwaitingSignature | BundleStatus::Compiled | BundleStatus::Deprecated => {}
                }
                let sql = "UPDATE bundles SET status = 'revoked', revoked_reason = ?, updated_at = ? WHERE id = ? AND status <> 'revoked'";
                let changed = c.exec(sql, p![reason.clone(), w.at, old.id]).await? > 0;
                if changed {
                    c.exec("DELETE FROM debts WHERE bundle_id = ?", p![old.id]).await?;
                    finish(c, w).await?;
                }
                Ok(Changed { row: by_id(c, *scope, old.id).await?, changed })
            })
        })
        .await
    }

    /// Errors: `Conflict("state")` unless it is compiled.
    pub async fn deprecate_bundle(&self, scope: Scope, id: BundleId, w: Write) -> Result<Changed<Bundle>> {
        self.write("bundle.deprecate", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                let old = by_id(c, *scope, *id).await?;
                if old.status == BundleStatus::Deprecated {
                    return Ok(Changed { row: old, changed: false });
                }
                let sql =
                    "UPDATE bundles SET status = 'deprecated', updated_at = ? WHERE id = ? AND status = 'compiled'";
                if c.exec(sql, p![w.at, old.id]).await? == 0 {
                    return Err(Fail::conflict("state"));
                }
                finish(c, w).await?;
                Ok(Changed { row: by_id(c, *scope, old.id).await?, changed: true })
            })
        })
        .await
    }

    pub async fn set_risk(&self, id: BundleId, risk: RiskLevel, reasons: Vec<String>, w: Write) -> Result<()> {
        self.write("bundle.risk", (id, risk, reasons, w), |c, (id, risk, reasons, w)| {
            Box::pin(async move {
                let sql = "UPDATE bundles SET risk = ?, risk_reasons = ?, updated_at = ? WHERE id = ?";
                c.exec_one(sql, p![risk.as_str(), json(reasons), w.at, *id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// How many living nodes last said that they run it.
    pub async fn running_on(&self, id: BundleId) -> Result<i64> {
        self.read("bundle.running_on", id, |c, id| {
            Box::pin(async move {
                c.one("SELECT count(*) FROM nodes WHERE active_bundle = ? AND deleted_at IS NULL", p![*id], |r| r.get())
                    .await
            })
        })
        .await
    }

    /// Living nodes that are pinned to it, by id.
    pub async fn pinned_to(&self, id: BundleId) -> Result<Vec<NodeId>> {
        self.read("bundle.pinned_to", id, |c, id| {
            Box::pin(async move {
                let sql = "SELECT id FROM nodes WHERE pinned_bundle = ? AND deleted_at IS NULL ORDER BY id";
                c.rows(sql, p![*id], |r| r.get()).await
            })
        })
        .await
    }

    pub async fn bundle_use(&self, id: BundleId) -> Result<BundleUse> {
        self.read("bundle.use", id, |c, id| Box::pin(bundle_use(c, *id))).await
    }

    /// What retention may take: nothing that a node runs, wants, is pinned to, could go back to or would be due as a newcomer, no
    /// rollout that lives, nothing that changed after `before`, not the newest `keep` compiled ones. Of revoked ones only those
    /// whose archive is there still. Oldest first.
    pub async fn collectable_bundles(&self, project: ProjectId, keep: u32, before: Timestamp) -> Result<Vec<Bundle>> {
        self.read("bundle.collectable", (project, keep, before), |c, (project, keep, before)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {} FROM bundles b WHERE b.project_id = ? AND b.alias_of IS NULL AND (b.status IN ('compiled', 'deprecated', 'failed') \
                     OR b.status = 'revoked' AND b.manifest IS NOT NULL) AND b.updated_at <= ? AND b.id NOT IN (SELECT k.id FROM bundles k WHERE k.project_id = ? AND k.status = 'compiled' ORDER BY k.id DESC LIMIT ?) \
                     {FREE} ORDER BY b.id",
                    columns(false)
                );
                let mut free = c.rows(sql, p![*project, *before, *project, *keep], read_bundle).await?;
                let due = still_due(c, *project).await?;
                free.retain(|b| !due.contains(&b.id));
                Ok(free)
            })
        })
        .await
    }

    /// Removes the row and remembers that its archive is to go: until [`Store::collected_done`] nobody can claim the content. The
    /// row of a revoked bundle stays, without its manifest: its content is never compiled again. Errors: `Conflict("state")` when
    /// it is in use.
    pub async fn collect_bundle(&self, id: BundleId, w: Write) -> Result<()> {
        self.write("bundle.collect", (id, w), |c, (id, w)| {
            Box::pin(async move {
                let lock = "SELECT id FROM bundles WHERE id = ? AND alias_of IS NULL {update}";
                c.maybe(lock, p![*id], |_| Ok(())).await?.ok_or_else(Fail::not_found)?;
                let sql = format!("SELECT b.project_id, b.content_id, b.status FROM bundles b WHERE b.id = ? AND b.status <> 'compiling' {FREE}");
                let read = |r: &mut Cells| Ok((r.get::<ProjectId>()?, r.get::<Option<ContentId>>()?, r.get::<BundleStatus>()?));
                let Some((project, content, status)) = c.maybe(sql, p![*id], read).await? else {
                    return Err(Fail::conflict("state"));
                };
                if still_due(c, project).await?.contains(id) {
                    return Err(Fail::conflict("state"));
                }
                if let Some(content) = content {
                    let sql = "INSERT INTO collected (project_id, content_id, at) VALUES (?, ?, ?) ON CONFLICT (project_id, content_id) DO NOTHING";
                    c.exec(sql, p![project, content, Timestamp::ZERO]).await?;
                }
                if status == BundleStatus::Revoked {
                    let sql = "UPDATE bundles SET manifest = NULL, artifact_hash = NULL, size_bytes = NULL, updated_at = ? WHERE id = ?";
                    c.exec_one(sql, p![w.at, *id]).await?;
                    return finish(c, w).await;
                }
                c.exec("DELETE FROM releases WHERE bundle_id = ?", p![*id]).await?;
                c.exec("DELETE FROM bundles WHERE alias_of = ?", p![*id]).await?;
                c.exec_one("DELETE FROM bundles WHERE id = ?", p![*id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Archives that are to go, those that nobody has tried yet first.
    pub async fn collected(&self, limit: u32) -> Result<Vec<(ProjectId, ContentId)>> {
        self.read("bundle.collected", limit, |c, limit| {
            Box::pin(async move {
                let sql = "SELECT project_id, content_id FROM collected ORDER BY at LIMIT ?";
                c.rows(sql, p![*limit], |r| Ok((r.get()?, r.get()?))).await
            })
        })
        .await
    }

    /// Whether the archive is ours to remove from `now` on: nobody else has taken it up since `before`.
    pub async fn lease_collected(
        &self,
        project: ProjectId,
        content: ContentId,
        now: Timestamp,
        before: Timestamp,
    ) -> Result<bool> {
        self.write("bundle.lease_collected", (project, content, now, before), |c, (project, content, now, before)| {
            Box::pin(async move {
                let sql = "UPDATE collected SET at = ? WHERE project_id = ? AND content_id = ? AND at <= ?";
                Ok(c.exec(sql, p![*now, *project, *content, *before]).await? > 0)
            })
        })
        .await
    }

    /// The archive is gone, removed by whoever leased it at `leased`.
    pub async fn collected_done(&self, project: ProjectId, content: ContentId, leased: Timestamp) -> Result<()> {
        self.write("bundle.collected_done", (project, content, leased), |c, (project, content, leased)| {
            Box::pin(async move {
                let sql = "DELETE FROM collected WHERE project_id = ? AND content_id = ? AND at = ?";
                c.exec(sql, p![*project, *content, *leased]).await.map(drop)
            })
        })
        .await
    }

    /// The row; its archive is the caller's. Errors: `Conflict("state")` when it is in use.
    pub async fn delete_bundle(&self, id: BundleId, w: Write) -> Result<()> {
        self.write("bundle.delete", (id, w), |c, (id, w)| {
            Box::pin(async move {
                if bundle_use(c, *id).await? != BundleUse::default() {
                    return Err(Fail::conflict("state"));
                }
                c.exec("DELETE FROM bundles WHERE alias_of = ?", p![*id]).await?;
                c.exec_one("DELETE FROM bundles WHERE id = ?", p![*id]).await?;
                finish(c, w).await
            })
        })
        .await
    }
}

/// What nodes may go back to: the bundles before, as living rollouts and those that nodes are at remember them. And what
/// newcomers are due, though no node may run it now: of each selector the newest completed rollout's.
async fn still_due(c: &mut Conn, project: ProjectId) -> Q<BTreeSet<BundleId>> {
    // As text, because a JSON column has no equality; a fleet has few different ones.
    let sql = "SELECT DISTINCT CAST(m.previous AS TEXT) FROM rollout_nodes m JOIN rollouts r ON r.id = m.rollout_id WHERE r.project_id = ? \
               AND (r.state IN ('pending', 'running', 'paused', 'rolling_back') OR EXISTS (SELECT 1 FROM nodes n WHERE n.id = m.node_id \
               AND n.desired_rollout = r.id AND n.deleted_at IS NULL))";
    let lists = c.rows(sql, p![project], |r| r.json::<Vec<BundleId>>()).await?;
    let mut due: BTreeSet<BundleId> = lists.into_iter().flatten().collect();
    let mut answered: Vec<Selector> = Vec::new();
    for done in newest_completed(c, project).await? {
        if !answered.contains(&done.selector) {
            answered.push(done.selector);
            due.insert(done.bundle);
        }
    }
    Ok(due)
}

async fn bundle_use(c: &mut Conn, id: BundleId) -> Q<BundleUse> {
    let sql = "SELECT (SELECT count(*) FROM nodes WHERE active_bundle = ? AND deleted_at IS NULL), \
               (SELECT count(*) FROM nodes WHERE desired_bundle = ? AND deleted_at IS NULL), \
               (SELECT count(*) FROM nodes WHERE pinned_bundle = ? AND deleted_at IS NULL), \
               (SELECT count(*) FROM rollouts WHERE bundle_id = ? AND state IN ('pending', 'running', 'paused', 'rolling_back'))";
    c.one(sql, p![id, id, id, id], |r| {
        Ok(BundleUse { running_on: r.get()?, desired_on: r.get()?, pinned_on: r.get()?, active_rollouts: r.get()? })
    })
    .await
}
