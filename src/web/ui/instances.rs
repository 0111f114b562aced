//! `/instances`: for administrators of the installation.

use super::ask::Ask;
use super::view::instances::{InstanceLine, page};
use crate::problem::{Outcome, Refusal};
use warp::reply::Response;

pub async fn show(ask: &Ask) -> Outcome<Response> {
    if !ask.caller().instance_admin {
        return Err(Refusal::forbidden("Instances are for administrators of the installation."));
    }
    let mut all = Vec::new();
    for i in ask.store().live_instances().await? {
        let owned = ask.store().owned_rollouts(i.id, ask.plane().now()).await?;
        all.push(InstanceLine {
            this: i.id == ask.plane().instance(),
            id: i.id.to_string(),
            listen: i.listen,
            epoch: i.epoch,
            started_at: i.started_at,
            expires_at: i.expires_at,
            draining: i.draining,
            rollouts: owned.len(),
        });
    }
    ask.ok(page(&ask.frame(), &all))
}
