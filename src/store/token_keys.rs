//! Keys that sign nodes' tokens, and what is known of a node's present and previous key.

use crate::Store;
use crate::error::{Q, Result};
use crate::value::{Cells, p};
use crate::write::{Write, finish};
use domain::{NodeId, OrgId, SigningKeyId, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKey {
    pub id: SigningKeyId,
    pub org: OrgId,
    /// hex SHA-256 of the public key.
    pub kid: String,
    pub public: Vec<u8>,
    /// Sealed.
    pub private: Vec<u8>,
    pub inserted_at: Timestamp,
}

const KEY: &str = "id, org_id, kid, public, private, inserted_at";

fn read_key(r: &mut Cells) -> Q<TokenKey> {
    Ok(TokenKey {
        id: r.get()?,
        org: r.get()?,
        kid: r.get()?,
        public: r.get()?,
        private: r.get()?,
        inserted_at: r.get()?,
    })
}

impl Store {
    pub async fn insert_token_key(&self, key: TokenKey, w: Write) -> Result<()> {
        self.write("token_key.insert", (key, w), |c, (k, w)| {
            Box::pin(async move {
                let params = p![k.id, k.org, &k.kid, k.public.clone(), k.private.clone(), k.inserted_at];
                c.exec(format!("INSERT INTO token_keys ({KEY}) VALUES (?, ?, ?, ?, ?, ?)"), params).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Also one that signs no more: with the time its successor was made.
    pub async fn token_key(&self, kid: &str) -> Result<(TokenKey, Option<Timestamp>)> {
        self.read("token_key.get", kid.to_string(), |c, kid| {
            Box::pin(async move {
                let key = c.one(format!("SELECT {KEY} FROM token_keys WHERE kid = ?"), p![kid], read_key).await?;
                let sql = "SELECT inserted_at FROM token_keys WHERE org_id = ? AND (inserted_at, id) > (?, ?) \
                           ORDER BY inserted_at, id LIMIT 1";
                let next = c.maybe(sql, p![key.org, key.inserted_at, key.id], |r| r.get()).await?;
                Ok((key, next))
            })
        })
        .await
    }

    /// The one that signs.
    pub async fn newest_token_key(&self, org: OrgId) -> Result<Option<TokenKey>> {
        self.read("token_key.newest", org, |c, org| {
            Box::pin(async move {
                let sql =
                    format!("SELECT {KEY} FROM token_keys WHERE org_id = ? ORDER BY inserted_at DESC, id DESC LIMIT 1");
                c.maybe(sql, p![*org], read_key).await
            })
        })
        .await
    }

    /// The present key of the node was used: the one before it is void, and so are the tokens that it was given. Answers the
    /// credential epoch.
    pub async fn end_previous_key(&self, node: NodeId, w: Write) -> Result<u32> {
        self.write("node.end_previous_key", (node, w), |c, (node, w)| {
            Box::pin(async move {
                let sql = "UPDATE nodes SET previous_key_hash = NULL, previous_key_until = NULL, \
                           credential_epoch = credential_epoch + 1 \
                           WHERE id = ? AND previous_key_hash IS NOT NULL";
                if c.exec(sql, p![*node]).await? > 0 {
                    finish(c, w).await?;
                }
                c.one("SELECT credential_epoch FROM nodes WHERE id = ?", p![*node], |r| r.get()).await
            })
        })
        .await
    }
}
