//! What goes along with every command, in its own transaction: audit, change feed, idempotency, outbox.

use crate::conn::Conn;
use crate::error::Q;
use crate::types::ChangeKind;
use crate::value::{Cells, Col, json, p};
use domain::audit::{Entry, Head, NewEntry};
use domain::{AuditId, Digest, ProjectId, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub struct NewChange {
    pub kind: ChangeKind,
    pub id: Uuid,
    pub project: Option<ProjectId>,
    pub version: i64,
}

/// An answered command, found again by whoever repeats its `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq)]
pub struct IdemRecord {
    pub credential: String,
    pub route: String,
    pub key: String,
    pub body_hash: Digest,
    pub status: u16,
    pub response: Value,
    pub expires_at: Timestamp,
}

/// A delivery to somebody outside.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxItem {
    pub id: Uuid,
    pub channel: String,
    pub payload: Value,
    pub project: Option<ProjectId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub at: Timestamp,
    pub audit: Vec<(AuditId, NewEntry)>,
    pub changes: Vec<NewChange>,
    pub idem: Option<IdemRecord>,
    pub outbox: Vec<OutboxItem>,
}

impl Write {
    /// Nothing but the time.
    pub fn at(at: Timestamp) -> Write {
        Write { at, audit: Vec::new(), changes: Vec::new(), idem: None, outbox: Vec::new() }
    }
    pub fn audit(mut self, id: AuditId, entry: NewEntry) -> Write {
        self.audit.push((id, entry));
        self
    }
    pub fn change(mut self, change: NewChange) -> Write {
        self.changes.push(change);
        self
    }
    pub fn idem(mut self, idem: Option<IdemRecord>) -> Write {
        self.idem = idem;
        self
    }
    pub fn outbox(mut self, item: OutboxItem) -> Write {
        self.outbox.push(item);
        self
    }
}

/// The chain an entry belongs to; the nil UUID is the system's.
pub(crate) fn chain_of(project: Option<ProjectId>) -> Uuid {
    project.map_or(Uuid::nil(), |p| p.0)
}

/// Last in every transaction of a command: the audit heads are locked after everything else.
pub(crate) async fn finish(c: &mut Conn, w: &Write) -> Q<()> {
    finish_with(c, w, &[]).await
}

/// `more`: changes that only the transaction itself could know.
pub(crate) async fn finish_with(c: &mut Conn, w: &Write, more: &[NewChange]) -> Q<()> {
    if let Some(i) = &w.idem {
        c.exec(
            "DELETE FROM idempotency_keys WHERE credential = ? AND route = ? AND idem_key = ? AND expires_at <= ?",
            p![&i.credential, &i.route, &i.key, w.at],
        )
        .await?;
        c.exec(
            "INSERT INTO idempotency_keys (credential, route, idem_key, body_hash, status, response, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            p![&i.credential, &i.route, &i.key, i.body_hash, i.status, json(&i.response), i.expires_at],
        )
        .await?;
    }
    for o in &w.outbox {
        c.exec(
            "INSERT INTO outbox (id, channel, project_id, payload, attempts, next_at, inserted_at) VALUES (?, ?, ?, ?, 0, ?, ?)",
            p![o.id, &o.channel, o.project, json(&o.payload), w.at, w.at],
        )
        .await?;
    }
    changes(c, &w.changes, w.at).await?;
    changes(c, more, w.at).await?;
    audit(c, w).await
}

async fn changes(c: &mut Conn, changes: &[NewChange], at: Timestamp) -> Q<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let cols = vec![
        ("kind", Col::texts(changes.iter().map(|x| x.kind.as_str()))),
        ("id", Col::ids(changes.iter().map(|x| x.id))),
        ("project_id", Col::opt_ids(changes.iter().map(|x| x.project))),
        ("version", Col::ints(changes.iter().map(|x| x.version))),
        ("at", Col::times(changes.iter().map(|_| at))),
    ];
    let sql = "INSERT INTO changes (kind, id, project_id, version, at) SELECT v.kind, v.id, v.project_id, v.version, v.at FROM {v}";
    c.batch(sql, vec![], cols).await?;
    c.rang = true;
    Ok(())
}

async fn audit(c: &mut Conn, w: &Write) -> Q<()> {
    if w.audit.is_empty() {
        return Ok(());
    }
    // Sorted, so that two commands with entries in the same two chains cannot wait for each other.
    let mut chains: BTreeMap<Uuid, Vec<&(AuditId, NewEntry)>> = BTreeMap::new();
    for e in &w.audit {
        chains.entry(chain_of(e.1.project)).or_default().push(e);
    }
    for (chain, entries) in chains {
        let mut head = match lock_head(c, chain).await? {
            Some(h) => h,
            None => {
                let sql = "INSERT INTO audit_heads (chain, seq, hash) VALUES (?, 0, ?) ON CONFLICT (chain) DO NOTHING";
                c.exec(sql, p![chain, Digest::ZERO]).await?;
                lock_head(c, chain).await?.unwrap_or(Head::EMPTY)
            }
        };
        let mut chained = Vec::with_capacity(entries.len());
        for (id, new) in entries {
            let e = Entry::chain(new.clone(), head, *id, w.at);
            head = Head { seq: e.seq, hash: e.hash };
            chained.push(e);
        }
        insert_entries(c, chain, &chained).await?;
        c.exec("UPDATE audit_heads SET seq = ?, hash = ? WHERE chain = ?", p![head.seq, head.hash, chain]).await?;
    }
    Ok(())
}

async fn lock_head(c: &mut Conn, chain: Uuid) -> Q<Option<Head>> {
    c.maybe("SELECT seq, hash FROM audit_heads WHERE chain = ? {update}", p![chain], read_head).await
}

pub(crate) fn read_head(r: &mut Cells) -> Q<Head> {
    Ok(Head { seq: r.get()?, hash: r.get()? })
}

async fn insert_entries(c: &mut Conn, chain: Uuid, es: &[Entry]) -> Q<()> {
    let cols = vec![
        ("seq", Col::ints(es.iter().map(|e| e.seq))),
        ("id", Col::ids(es.iter().map(|e| e.id))),
        ("at", Col::times(es.iter().map(|e| e.at))),
        ("actor_type", Col::texts(es.iter().map(|e| e.actor_type.as_str()))),
        ("actor_id", Col::opt_ids(es.iter().map(|e| e.actor_id))),
        ("action", Col::texts(es.iter().map(|e| e.action.as_str()))),
        ("resource_type", Col::texts(es.iter().map(|e| e.resource_type.as_str()))),
        ("resource_id", Col::opt_ids(es.iter().map(|e| e.resource_id))),
        ("project_id", Col::opt_ids(es.iter().map(|e| e.project_id))),
        ("changes", Col::json(es.iter().map(|e| &e.changes))),
        ("request_id", Col::opt_ids(es.iter().map(|e| e.request_id))),
        ("ip", Col::Text(es.iter().map(|e| e.ip.clone()).collect())),
        ("prev_hash", Col::Bytes(es.iter().map(|e| Some(e.prev_hash.0.to_vec())).collect())),
        ("hash", Col::Bytes(es.iter().map(|e| Some(e.hash.0.to_vec())).collect())),
    ];
    let names = "seq, id, at, actor_type, actor_id, action, resource_type, resource_id, project_id, changes, request_id, ip, prev_hash, hash";
    let from = names.split(", ").map(|n| format!("v.{n}")).collect::<Vec<_>>().join(", ");
    c.batch(&format!("INSERT INTO audit_entries (chain, {names}) SELECT ?, {from} FROM {{v}}"), p![chain], cols)
        .await?;
    Ok(())
}
