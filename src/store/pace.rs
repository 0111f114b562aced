//! How long steps of earlier rollouts took.

use crate::Store;
use crate::error::Result;
use crate::rollouts::{STEP, read_step};
use crate::value::p;
use domain::ProjectId;
use domain::rollout::{Spec, Step};
use std::collections::HashMap;

impl Store {
    /// Steps of the newest completed rollouts of the project, each with its specification: of at most `rollouts`, at most 100 of each.
    pub async fn recent_steps(&self, project: ProjectId, rollouts: u32) -> Result<Vec<(Spec, Step)>> {
        self.read("rollout.recent_steps", (project, rollouts), |c, (project, rollouts)| {
            Box::pin(async move {
                let sql = "SELECT r.id, r.spec FROM rollouts r WHERE r.project_id = ? AND r.state = 'completed' AND r.ended_at IS NOT NULL \
                           ORDER BY r.ended_at DESC, r.id DESC LIMIT ?";
                let found: HashMap<domain::RolloutId, Spec> =
                    c.rows(sql, p![*project, *rollouts], |r| Ok((r.get()?, r.json()?))).await?.into_iter().collect();
                let mut out = Vec::new();
                for (id, spec) in found {
                    let sql = format!("SELECT {STEP} FROM rollout_steps s WHERE s.rollout_id = ? AND s.state = 'completed' ORDER BY s.step_index LIMIT 100");
                    let steps = c.rows(sql, p![id], read_step).await?;
                    out.extend(steps.into_iter().map(|s| (spec.clone(), s)));
                }
                Ok(out)
            })
        })
        .await
    }
}
