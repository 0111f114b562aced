//! What somebody can do who may write to the database: for tests of what shows it.

use crate::Store;
use crate::error::Result;
use crate::value::{json, p};
use crate::write::chain_of;
use domain::ProjectId;
use domain::audit::Head;
use serde_json::Value;

/// Entry `seq` of a chain says something else from now on, and everything behind it is chained anew, its head too: the chain
/// holds by itself.
pub async fn rewrite_audit(store: &Store, chain: Option<ProjectId>, seq: i64, changes: Value) -> Result<()> {
    let entries = store.audit_after(chain, seq - 1, u32::MAX).await?;
    let mut head: Option<Head> = None;
    let mut rows = Vec::new();
    for mut e in entries {
        match head {
            None => e.changes = changes.clone(),
            Some(before) => e.prev_hash = before.hash,
        }
        e.hash = e.compute_hash();
        head = Some(Head { seq: e.seq, hash: e.hash });
        rows.push(e);
    }
    store
        .write("forge", (chain, rows, head), |c, (chain, rows, head)| {
            Box::pin(async move {
                for e in rows {
                    let sql = "UPDATE audit_entries SET changes = ?, prev_hash = ?, hash = ? WHERE id = ?";
                    c.exec_one(sql, p![json(&e.changes), e.prev_hash, e.hash, e.id]).await?;
                }
                if let Some(head) = head {
                    let sql = "UPDATE audit_heads SET hash = ? WHERE chain = ? AND seq = ?";
                    c.exec_one(sql, p![head.hash, chain_of(*chain), head.seq]).await?;
                }
                Ok(())
            })
        })
        .await
}

/// The chain has no head any more, and all its entries.
pub async fn remove_audit_head(store: &Store, chain: Option<ProjectId>) -> Result<()> {
    let work = store.write("forge", chain, |c, chain| {
        Box::pin(async move { c.exec_one("DELETE FROM audit_heads WHERE chain = ?", p![chain_of(*chain)]).await })
    });
    work.await
}
