//! `/instances`: for administrators of the installation.

use super::ask::Ask;
use super::view::instances::{InstanceLine, OwnedRollout, page};
use crate::problem::{Outcome, Refusal};
use domain::{RolloutId, Scope};
use store::Error;
use warp::reply::Response;

/// Rollouts that are named of each instance: all of a small installation, and two look-ups for each.
const NAMED: usize = 10;
const OF_ANYBODY: Scope = Scope::System("what an instance owns, for an administrator of the installation");

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
            shown: named(ask, &owned).await?,
        });
    }
    ask.ok(page(&ask.frame(), &all))
}

/// The first of them that still are.
async fn named(ask: &Ask, owned: &[RolloutId]) -> Outcome<Vec<OwnedRollout>> {
    let mut shown = Vec::new();
    for id in owned.iter().take(NAMED) {
        let found = match ask.store().rollout(OF_ANYBODY, *id).await {
            Ok(rollout) => ask.store().project(OF_ANYBODY, &rollout.project.to_string()).await,
            Err(e) => Err(e),
        };
        match found {
            Ok(project) => shown.push(OwnedRollout { slug: project.slug, id: id.to_string() }),
            Err(Error::NotFound) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(shown)
}
