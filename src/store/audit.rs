//! Reading the audit log and checking its chains.

use crate::Store;
use crate::error::{Q, Result};
use crate::types::{Listing, Page, Where};
use crate::value::{Bind, Cells, p};
use crate::write::{Write, chain_of, finish, read_head};
use domain::audit::{Entry, Head, NewEntry, PRUNED, Verdict, Verifier, Witness};
use domain::{Actor, AuditId, Digest, ProjectId, Scope, Timestamp};
use uuid::Uuid;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditFilter {
    /// Exact, or with a trailing dot a prefix: `rollout.`.
    pub action: Option<String>,
    pub actor: Option<Uuid>,
    pub actor_type: Option<String>,
    pub resource: Option<Uuid>,
    pub resource_type: Option<String>,
    /// Inclusive.
    pub since: Option<Timestamp>,
    /// Exclusive.
    pub until: Option<Timestamp>,
    /// For `Scope::Org`: besides its projects' chains also what the system's chain tells of the organisation itself.
    pub org_itself: bool,
}

/// Entries of an organisation's projects.
const OF_PROJECTS: &str = "a.project_id IN (SELECT id FROM projects WHERE org_id = ?)";
/// Entries of the system's chain about an organisation: it is their resource, or `changes` has it as `org_id`.
const OF_ORG: &str = "a.id IN (SELECT e.id FROM audit_entries e WHERE e.project_id IS NULL AND e.resource_id = ? \
                      UNION ALL SELECT e.id FROM audit_entries e WHERE e.project_id IS NULL AND e.changes ->> 'org_id' = ?)";

const ENTRY: &str = "a.id, a.seq, a.at, a.actor_type, a.actor_id, a.action, a.resource_type, a.resource_id, a.project_id, a.changes, \
                     a.request_id, a.ip, a.prev_hash, a.hash";

fn read_entry(r: &mut Cells) -> Q<Entry> {
    Ok(Entry {
        id: r.get()?,
        seq: r.get()?,
        at: r.get()?,
        actor_type: r.get()?,
        actor_id: r.get()?,
        action: r.get()?,
        resource_type: r.get()?,
        resource_id: r.get()?,
        project_id: r.get()?,
        changes: r.json()?,
        request_id: r.get()?,
        ip: r.get()?,
        prev_hash: r.get()?,
        hash: r.get()?,
    })
}

/// A cursor of the list: time, number in the chain (what one transaction wrote has one time), id.
fn place(cursor: &str) -> Option<(i64, i64, AuditId)> {
    let mut parts = cursor.splitn(3, '_');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Entries that `audit_verify` reads at once.
const VERIFY_PAGE: u32 = 1_000;

impl Store {
    /// Entries that go with no other row.
    pub async fn append_audit(&self, w: Write) -> Result<()> {
        self.write("audit.append", w, |c, w| Box::pin(finish(c, w))).await
    }

    /// Newest first. `Scope::Org` sees its projects' chains, and of the system's what is about the organisation when the filter asks
    /// for it; the rest of the system's is for `Scope::System`.
    pub async fn audit_entries(&self, scope: Scope, filter: AuditFilter, page: Page) -> Result<Listing<Entry>> {
        self.read("audit.list", (scope, filter, page), |c, (scope, f, page)| {
            Box::pin(async move {
                let mut w = Where::new("1 = 1");
                match scope {
                    Scope::Org(org) if f.org_itself => {
                        w.and(&format!("({OF_PROJECTS} OR {OF_ORG})"), p![*org, *org, org.to_string()]);
                    }
                    Scope::Org(org) => w.and(OF_PROJECTS, p![*org]),
                    Scope::Project(id) => w.and("a.chain = ?", [id.v()]),
                    Scope::System(_) => {}
                }
                match f.action.as_deref() {
                    // The first string behind every one with this prefix: '.' is followed by '/'.
                    Some(prefix) if prefix.ends_with('.') => {
                        w.and(
                            "a.action >= ? AND a.action < ?",
                            [prefix.v(), format!("{}/", prefix.trim_end_matches('.')).v()],
                        );
                    }
                    action => w.and_if("a.action = ?", action),
                }
                w.and_if("a.actor_id = ?", f.actor);
                w.and_if("a.actor_type = ?", f.actor_type.as_ref());
                w.and_if("a.resource_id = ?", f.resource);
                w.and_if("a.resource_type = ?", f.resource_type.as_ref());
                w.and_if("a.at >= ?", f.since);
                w.and_if("a.at < ?", f.until);
                let total = c
                    .one(format!("SELECT count(*) FROM audit_entries a WHERE {}", w.sql), w.params.clone(), |r| r.get())
                    .await?;
                if let Some(cursor) = &page.cursor {
                    let (at, seq, id) = place(cursor)
                        .ok_or_else(|| crate::error::Fail::invalid("the cursor is not one of this list"))?;
                    w.and("(a.at, a.seq, a.id) < (?, ?, ?)", p![at, seq, id]);
                }
                let sql = format!(
                    "SELECT {ENTRY} FROM audit_entries a WHERE {} ORDER BY a.at DESC, a.seq DESC, a.id DESC LIMIT {}",
                    w.sql,
                    page.limit() + 1
                );
                let rows = c.rows(sql, w.params, read_entry).await?;
                Ok(Listing::cut(rows, total, page, |e| format!("{}_{}_{}", e.at.0, e.seq, e.id)))
            })
        })
        .await
    }

    /// In order of the chain; `None` is the system's.
    pub async fn audit_after(&self, chain: Option<ProjectId>, seq: i64, limit: u32) -> Result<Vec<Entry>> {
        self.read("audit.after", (chain, seq, limit), |c, (chain, seq, limit)| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {ENTRY} FROM audit_entries a WHERE a.chain = ? AND a.seq > ? ORDER BY a.seq LIMIT ?"
                );
                c.rows(sql, p![chain_of(*chain), *seq, *limit], read_entry).await
            })
        })
        .await
    }

    pub async fn audit_head(&self, chain: Option<ProjectId>) -> Result<Head> {
        self.read("audit.head", chain, |c, chain| {
            Box::pin(async move {
                let found = c
                    .maybe("SELECT seq, hash FROM audit_heads WHERE chain = ?", p![chain_of(*chain)], read_head)
                    .await?;
                Ok(found.unwrap_or(Head::EMPTY))
            })
        })
        .await
    }

    pub async fn audit_chains(&self) -> Result<Vec<(Option<ProjectId>, Head)>> {
        self.read("audit.chains", (), |c, ()| {
            Box::pin(async move {
                c.rows("SELECT chain, seq, hash FROM audit_heads ORDER BY chain", vec![], |r| {
                    let chain: Uuid = r.get()?;
                    Ok(((!chain.is_nil()).then_some(ProjectId(chain)), read_head(r)?))
                })
                .await
            })
        })
        .await
    }

    /// All chains, also those whose head somebody removed: what there is to verify. Reads the whole index.
    pub async fn audit_chain_names(&self) -> Result<Vec<Option<ProjectId>>> {
        self.read("audit.chain_names", (), |c, ()| {
            Box::pin(async move {
                let sql = "SELECT chain FROM audit_heads UNION SELECT chain FROM audit_entries ORDER BY chain";
                c.rows(sql, vec![], |r| {
                    let chain: Uuid = r.get()?;
                    Ok((!chain.is_nil()).then_some(ProjectId(chain)))
                })
                .await
            })
        })
        .await
    }

    /// Where the chain begins: [`Head::EMPTY`] unless retention removed entries.
    async fn audit_base(&self, chain: Option<ProjectId>) -> Result<Head> {
        self.read("audit.base", chain, |c, chain| {
            Box::pin(async move {
                let sql = "SELECT base_seq, base_hash FROM audit_heads WHERE chain = ?";
                let read = |r: &mut Cells| Ok((r.get::<i64>()?, r.get::<Option<Digest>>()?));
                let found = c.maybe(sql, p![chain_of(*chain)], read).await?;
                Ok(found.map_or(Head::EMPTY, |(seq, hash)| Head { seq, hash: hash.unwrap_or(Digest::ZERO) }))
            })
        })
        .await
    }

    pub async fn audit_verify(&self, chain: Option<ProjectId>) -> Result<Verdict> {
        self.audit_verify_against(chain, Vec::new()).await
    }

    /// Follows a chain up to the head it has now, a page at a time, and compares it with heads that were seen before.
    pub async fn audit_verify_against(&self, chain: Option<ProjectId>, witnesses: Vec<Witness>) -> Result<Verdict> {
        let head = self.audit_head(chain).await?;
        let base = self.audit_base(chain).await?;
        let mut verifier = Verifier::new(base, witnesses.into_iter().map(|w| w.head).collect());
        let mut seq = base.seq;
        loop {
            let entries = self.audit_after(chain, seq, VERIFY_PAGE).await?;
            // Entries behind the head that was read are later ones; their turn is another time.
            entries.iter().filter(|e| e.seq <= head.seq).for_each(|e| verifier.feed(e));
            match entries.last() {
                Some(last) if last.seq < head.seq => seq = last.seq,
                _ => break,
            }
        }
        let verdict = verifier.finish(Some(head));
        if !verdict.valid {
            return Ok(verdict);
        }
        // An entry is written with its head: read afterwards, that is never behind. Else the head was moved back or removed.
        let newest = self.audit_newest(chain).await?;
        let head = self.audit_head(chain).await?;
        Ok(match newest > head.seq {
            true => Verdict {
                valid: false,
                first_bad_seq: Some(head.seq + 1),
                reason: Some("there are entries behind the head of the chain".into()),
                ..verdict
            },
            false => verdict,
        })
    }

    /// The highest number among the entries; 0 without any.
    async fn audit_newest(&self, chain: Option<ProjectId>) -> Result<i64> {
        self.read("audit.newest", chain, |c, chain| {
            Box::pin(async move {
                let sql = "SELECT max(seq) FROM audit_entries WHERE chain = ?";
                Ok(c.one(sql, p![chain_of(*chain)], |r| r.get::<Option<i64>>()).await?.unwrap_or(0))
            })
        })
        .await
    }

    /// Removes entries older than `before`, at most `limit` of them, always leaving the newest, and says so in an entry of the
    /// chain: it goes on holding from there. Answers how many went.
    pub async fn audit_prune(
        &self,
        chain: Option<ProjectId>,
        before: Timestamp,
        limit: u32,
        entry: AuditId,
        at: Timestamp,
    ) -> Result<u64> {
        self.write("audit.prune", (chain, before, limit, entry, at), |c, (chain, before, limit, entry, at)| {
            Box::pin(async move {
                let key = chain_of(*chain);
                let sql = "SELECT seq, base_seq FROM audit_heads WHERE chain = ? {update}";
                let read = |r: &mut Cells| Ok((r.get::<i64>()?, r.get::<i64>()?));
                let Some((head, base)) = c.maybe(sql, p![key], read).await? else { return Ok(0) };
                let last = head.min(base + i64::from(*limit) + 1) - 1;
                // Clocks of instances differ: what is behind the first entry that is to stay stays too.
                let sql = "SELECT seq FROM audit_entries WHERE chain = ? AND at >= ? ORDER BY seq LIMIT 1";
                let first: Option<i64> = c.maybe(sql, p![key, *before], |r| r.get()).await?;
                let last = first.map_or(last, |first| last.min(first - 1));
                let sql = "SELECT seq, hash FROM audit_entries WHERE chain = ? AND seq <= ? ORDER BY seq DESC LIMIT 1";
                let Some(through) = c.maybe(sql, p![key, last], read_head).await? else { return Ok(0) };
                let gone = c.exec("DELETE FROM audit_entries WHERE chain = ? AND seq <= ?", p![key, through.seq]).await?;
                let sql = "UPDATE audit_heads SET base_seq = ?, base_hash = ? WHERE chain = ?";
                c.exec(sql, p![through.seq, through.hash, key]).await?;
                let new = NewEntry {
                    actor: Actor::System,
                    action: PRUNED,
                    resource_type: "audit",
                    resource_id: None,
                    project: *chain,
                    changes: serde_json::json!({"through_seq": through.seq, "through_hash": through.hash.to_string(), "entries": gone}),
                    request_id: None,
                    ip: None,
                };
                finish(c, &Write::at(*at).audit(*entry, new)).await?;
                Ok(gone)
            })
        })
        .await
    }
}
