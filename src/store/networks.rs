//! Networks from which people signed in, so that a flood of strangers keeps nobody out who comes from where they always come.

use crate::Store;
use crate::error::Result;
use crate::value::p;
use domain::{Timestamp, UserId};

impl Store {
    /// `network` in its text form. Again is fine: the time is the newest.
    pub async fn note_network(&self, user: UserId, network: &str, at: Timestamp) -> Result<()> {
        self.write("network.note", (user, network.to_string(), at), |c, (user, network, at)| {
            Box::pin(async move {
                let sql = "INSERT INTO sign_in_networks (user_id, network, last_at) VALUES (?, ?, ?) \
                           ON CONFLICT (user_id, network) DO UPDATE SET last_at = excluded.last_at";
                c.exec(sql, p![*user, &*network, *at]).await.map(drop)
            })
        })
        .await
    }

    pub async fn knows_network(&self, user: UserId, network: &str) -> Result<bool> {
        self.read("network.known", (user, network.to_string()), |c, (user, network)| {
            Box::pin(async move {
                let sql = "SELECT last_at FROM sign_in_networks WHERE user_id = ? AND network = ?";
                let found: Option<Timestamp> = c.maybe(sql, p![*user, &*network], |r| r.get()).await?;
                Ok(found.is_some())
            })
        })
        .await
    }

    /// Those not signed in from since.
    pub async fn prune_networks(&self, before: Timestamp) -> Result<u64> {
        self.write("network.prune", before, |c, before| {
            Box::pin(async move { c.exec("DELETE FROM sign_in_networks WHERE last_at < ?", p![*before]).await })
        })
        .await
    }
}
