//! Projects.

use crate::Store;
use crate::conn::Conn;
use crate::error::{Fail, Q, Result};
use crate::types::{Listing, Page, Where};
use crate::value::{Cells, json, p};
use crate::write::{Write, finish};
use domain::project::Project;
use domain::{ProjectId, Scope};

const PROJECT: &str = "p.id, p.org_id, p.name, p.slug, p.description, p.settings, p.inserted_at, p.updated_at";

fn read_project(r: &mut Cells) -> Q<Project> {
    Ok(Project {
        id: r.get()?,
        org: r.get()?,
        name: r.get()?,
        slug: r.get()?,
        description: r.get()?,
        settings: r.json()?,
        inserted_at: r.get()?,
        updated_at: r.get()?,
    })
}

pub(crate) async fn put_project(c: &mut Conn, p: &Project) -> Q<()> {
    c.exec(
        "INSERT INTO projects (id, org_id, name, slug, description, settings, inserted_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        p![p.id, p.org, &p.name, &p.slug, &p.description, json(&p.settings), p.inserted_at, p.updated_at],
    )
    .await
    .map(drop)
}

/// A project's own scope is itself: its rows are filtered by `id`, not by `project_id`.
fn living(scope: Scope) -> Where {
    use crate::value::Bind as _;
    let mut w = Where::new("p.deleted_at IS NULL");
    match scope {
        Scope::Org(o) => w.and("p.org_id = ?", [o.v()]),
        Scope::Project(id) => w.and("p.id = ?", [id.v()]),
        Scope::System(_) => {}
    }
    w
}

impl Store {
    /// Errors: `Conflict("slug")`.
    pub async fn insert_project(&self, project: Project, w: Write) -> Result<()> {
        self.write("project.insert", (project, w), |c, (p, w)| {
            Box::pin(async move {
                put_project(c, p).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// By slug or by id: a slug never looks like a UUID.
    pub async fn project(&self, scope: Scope, slug_or_id: &str) -> Result<Project> {
        self.read("project.get", (scope, slug_or_id.to_string()), |c, (scope, name)| {
            Box::pin(async move {
                let mut w = living(*scope);
                match name.parse::<ProjectId>() {
                    Ok(id) => w.and_if("p.id = ?", Some(id)),
                    Err(_) => w.and_if("p.slug = ?", Some(name)),
                }
                c.one(format!("SELECT {PROJECT} FROM projects p WHERE {}", w.sql), w.params, read_project).await
            })
        })
        .await
    }

    /// Ordered by id, which is the order of their making.
    pub async fn projects(&self, scope: Scope, page: Page) -> Result<Listing<Project>> {
        self.read("project.list", (scope, page), |c, (scope, page)| {
            Box::pin(async move {
                let mut w = living(*scope);
                let total = c
                    .one(format!("SELECT count(*) FROM projects p WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                w.and_if("p.id > ?", page.after::<ProjectId>()?);
                let sql = format!(
                    "SELECT {PROJECT} FROM projects p WHERE {} ORDER BY p.id LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_project).await?;
                Ok(Listing::cut(rows, total, page, |p| p.id.to_string()))
            })
        })
        .await
    }

    pub async fn all_projects(&self) -> Result<Vec<Project>> {
        self.read("project.all", (), |c, ()| {
            Box::pin(async move {
                c.rows(
                    format!("SELECT {PROJECT} FROM projects p WHERE p.deleted_at IS NULL ORDER BY p.id"),
                    vec![],
                    read_project,
                )
                .await
            })
        })
        .await
    }

    /// Everything but the organisation. Errors: `Conflict("slug")`.
    pub async fn update_project(&self, scope: Scope, project: Project, w: Write) -> Result<()> {
        self.write("project.update", (scope, project, w), |c, (scope, p, w)| {
            Box::pin(async move {
                let cond = living(*scope);
                let sql = format!(
                    "UPDATE projects AS p SET name = ?, slug = ?, description = ?, settings = ?, updated_at = ? WHERE id = ? AND {}",
                    cond.sql
                );
                let mut params = p![&p.name, &p.slug, &p.description, json(&p.settings), w.at, p.id];
                params.extend(cond.params);
                c.exec_one(sql, params).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Soft. Its nodes go with it, their credentials are void. Errors: `Conflict("state")` while a rollout is active.
    pub async fn delete_project(&self, scope: Scope, id: ProjectId, w: Write) -> Result<()> {
        self.write("project.delete", (scope, id, w), |c, (scope, id, w)| {
            Box::pin(async move {
                let cond = living(*scope);
                let mut params = p![w.at, *id];
                params.extend(cond.params);
                c.exec_one(format!("UPDATE projects AS p SET deleted_at = ? WHERE id = ? AND {}", cond.sql), params).await?;
                let active = "SELECT count(*) FROM rollouts WHERE project_id = ? AND state IN ('running', 'paused', 'rolling_back')";
                if c.one(active, p![*id], |r| r.get::<i64>()).await? > 0 {
                    return Err(Fail::conflict("state"));
                }
                c.exec(
                    "UPDATE nodes SET deleted_at = ?, standing = 'revoked', credential_epoch = credential_epoch + 1 WHERE project_id = ? AND deleted_at IS NULL",
                    p![w.at, *id],
                )
                .await?;
                c.exec("UPDATE api_keys SET revoked_at = ? WHERE project_id = ? AND revoked_at IS NULL", p![w.at, *id]).await?;
                c.exec("UPDATE enrolment_tokens SET revoked_at = ? WHERE project_id = ? AND revoked_at IS NULL", p![w.at, *id]).await?;
                finish(c, w).await
            })
        })
        .await
    }
}
