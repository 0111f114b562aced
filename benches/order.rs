//! Rollouts as an operator orders them over HTTP, and when they end.

use crate::Failure;
use crate::fleet::wall_us;
use crate::host::{Host, PROJECT};
use domain::rollout::Phase;
use domain::{RolloutId, Scope};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Anything longer is a rollout that stands still.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the end is looked for; the time of it is read from the rollout, so this is no error of measurement.
const LOOK: Duration = Duration::from_millis(50);

/// A rollout that was ordered.
pub struct Ordered {
    pub id: RolloutId,
    /// When the operator called, microseconds of the wall clock.
    pub called: i64,
}

/// `spec`: the body of the call, without its bundle.
pub async fn order(host: &Host, bundle: &str, mut spec: Value) -> Result<Ordered, Failure> {
    spec["bundle_id"] = json!(bundle);
    let called = wall_us();
    let made = host.operator("POST", &format!("/api/v1/projects/{PROJECT}/rollouts"), Some(spec)).await?;
    let id = made["rollout"]["id"].as_str().ok_or("no rollout")?.parse()?;
    Ok(Ordered { id, called })
}

/// Waits until the rollout ends as `wanted`; answers when, microseconds of the wall clock. Errors: it ends otherwise, stops, or takes
/// too long.
pub async fn ended(host: &Host, id: RolloutId, wanted: Phase) -> Result<i64, Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let head = host.tree.plane.store().rollout(Scope::System("a bench awaits its end"), id).await?.head;
        match head.phase {
            p if p == wanted => return Ok(head.ended_at.ok_or("an end without its time")?.0),
            Phase::Pending | Phase::Running | Phase::RollingBack if Instant::now() < give_up => {}
            p => {
                let failed = host.operator("GET", &format!("/api/v1/rollouts/{id}/nodes?state=failed"), None).await?;
                let said = format!("{p:?}, causes {:?}, counts {:?}", head.causes, head.counts);
                return Err(
                    format!("the rollout did not end as {wanted:?}: {said}; failed: {}", failed["nodes"]).into()
                );
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Orders a rollout in batches and waits; answers its id and the seconds from call to completion.
pub async fn roll_out(host: &Host, bundle: &str, batch: usize) -> Result<(RolloutId, f64), Failure> {
    let o = order(host, bundle, json!({"batch_size": batch})).await?;
    let at = ended(host, o.id, Phase::Completed).await?;
    Ok((o.id, (at - o.called) as f64 / 1e6))
}
