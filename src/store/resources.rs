//! Resources: files of a project that go into its bundles beside the configuration.
//!
//! A row says which content lies at a path now; the contents are kept by their hash, so that a queued compile finds what it was
//! asked with, whatever was changed meanwhile.

use crate::Store;
use crate::error::{Fail, Q, Result};
use crate::types::{Changed, Listing, Page, Where};
use crate::value::{Cells, p};
use crate::write::{Write, finish};
use domain::{Digest, ProjectId, Timestamp};
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub id: Uuid,
    pub project: ProjectId,
    /// `certs/...`, `trust/...` or `plugins/...`
    pub path: String,
    pub hash: Digest,
    pub size_bytes: u64,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

const RESOURCE: &str = "id, project_id, path, hash, size_bytes, inserted_at, updated_at";

fn read_resource(r: &mut Cells) -> Q<Resource> {
    Ok(Resource {
        id: r.get()?,
        project: r.get()?,
        path: r.get()?,
        hash: r.get()?,
        size_bytes: r.get()?,
        inserted_at: r.get()?,
        updated_at: r.get()?,
    })
}

impl Store {
    /// Puts a file at its path; another one that was there is replaced and its row kept. `changed: false`: the same was there.
    pub async fn put_resource(&self, resource: Resource, content: Vec<u8>, w: Write) -> Result<Changed<Resource>> {
        self.write("resource.put", (resource, content, w), |c, (r, content, w)| {
            Box::pin(async move {
                // One after the other in one project: two new files at one path would else fail on each other.
                let living = "SELECT id FROM projects WHERE id = ? AND deleted_at IS NULL {update}";
                c.maybe(living, p![r.project], |_| Ok(())).await?.ok_or_else(Fail::not_found)?;
                let sql = format!("SELECT {RESOURCE} FROM resources WHERE project_id = ? AND path = ?");
                let old = c.maybe(sql, p![r.project, &r.path], read_resource).await?;
                if let Some(old) = old.clone().filter(|o| o.hash == r.hash) {
                    return Ok(Changed { row: old, changed: false });
                }
                c.exec(
                    "INSERT INTO resource_blobs (project_id, hash, content, inserted_at) VALUES (?, ?, ?, ?) ON CONFLICT (project_id, hash) DO NOTHING",
                    p![r.project, r.hash, content.clone(), w.at],
                )
                .await?;
                let row = match old {
                    Some(old) => {
                        let sql = "UPDATE resources SET hash = ?, size_bytes = ?, updated_at = ? WHERE id = ?";
                        c.exec_one(sql, p![r.hash, r.size_bytes, w.at, old.id]).await?;
                        Resource { hash: r.hash, size_bytes: r.size_bytes, updated_at: w.at, ..old }
                    }
                    None => {
                        c.exec(
                            format!("INSERT INTO resources ({RESOURCE}) VALUES (?, ?, ?, ?, ?, ?, ?)"),
                            p![r.id, r.project, &r.path, r.hash, r.size_bytes, r.inserted_at, r.updated_at],
                        )
                        .await?;
                        r.clone()
                    }
                };
                finish(c, w).await?;
                Ok(Changed { row, changed: true })
            })
        })
        .await
    }

    /// By id or by path.
    pub async fn resource(&self, project: ProjectId, name: &str) -> Result<Resource> {
        self.read("resource.get", (project, name.to_string()), |c, (project, name)| {
            Box::pin(async move {
                let mut w = Where::new("project_id = ?");
                w.params = p![*project];
                match name.parse::<Uuid>() {
                    Ok(id) => w.and_if("id = ?", Some(id)),
                    Err(_) => w.and_if("path = ?", Some(name)),
                }
                c.one(format!("SELECT {RESOURCE} FROM resources WHERE {}", w.sql), w.params, read_resource).await
            })
        })
        .await
    }

    /// In the order of the paths.
    pub async fn resources(&self, project: ProjectId, page: Page) -> Result<Listing<Resource>> {
        self.read("resource.list", (project, page), |c, (project, page)| {
            Box::pin(async move {
                let mut w = Where::new("project_id = ?");
                w.params = p![*project];
                let total = c
                    .one(format!("SELECT count(*) FROM resources WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("path > ?", page.cursor.as_ref());
                let sql = format!(
                    "SELECT {RESOURCE} FROM resources WHERE {} ORDER BY path LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_resource).await?;
                Ok(Listing::cut(rows, total, page, |r| r.path.clone()))
            })
        })
        .await
    }

    /// Bundles that have it keep it. Errors: `NotFound`.
    pub async fn delete_resource(&self, project: ProjectId, id: Uuid, w: Write) -> Result<()> {
        self.write("resource.delete", (project, id, w), |c, (project, id, w)| {
            Box::pin(async move {
                c.exec_one("DELETE FROM resources WHERE project_id = ? AND id = ?", p![*project, *id]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// What lies at every path now: what a compile is asked with.
    pub async fn resource_set(&self, project: ProjectId) -> Result<BTreeMap<String, Digest>> {
        self.read("resource.set", project, |c, project| {
            Box::pin(async move {
                let sql = "SELECT path, hash FROM resources WHERE project_id = ?";
                let rows = c.rows(sql, p![*project], |r| Ok((r.get()?, r.get()?))).await?;
                Ok(rows.into_iter().collect())
            })
        })
        .await
    }

    /// Errors: `NotFound`.
    pub async fn resource_content(&self, project: ProjectId, hash: Digest) -> Result<Vec<u8>> {
        self.read("resource.content", (project, hash), |c, (project, hash)| {
            Box::pin(async move {
                let sql = "SELECT content FROM resource_blobs WHERE project_id = ? AND hash = ?";
                c.one(sql, p![*project, *hash], |r| r.get()).await
            })
        })
        .await
    }

    /// Forgets contents that lie at no path, are older than `before`, and belong to projects where nothing is being compiled.
    pub async fn prune_resources(&self, before: Timestamp) -> Result<u64> {
        self.write("resource.prune", before, |c, before| {
            Box::pin(async move {
                c.exec(
                    "DELETE FROM resource_blobs WHERE inserted_at < ? \
                     AND NOT EXISTS (SELECT 1 FROM resources r WHERE r.project_id = resource_blobs.project_id AND r.hash = resource_blobs.hash) \
                     AND NOT EXISTS (SELECT 1 FROM bundles b WHERE b.project_id = resource_blobs.project_id AND b.status = 'compiling')",
                    p![*before],
                )
                .await
            })
        })
        .await
    }
}
