//! The loader behind every answer that names a bundle: what is assigned, read now, and the hand-over stored.
//!
//! Invariant: no answer names a bundle whose revocation committed before the read; no first hand-over commits after a pause.

use crate::Store;
use crate::conn::{Conn, lock_nodes};
use crate::error::{Fail, Q, Result};
use crate::types::{BundleFacts, FACTS, read_facts};
use crate::value::{Cells, Col, p};
use domain::bundle::BundleStatus;
use domain::node::{Generation, Standing};
use domain::rollout::Phase;
use domain::{BundleId, NodeId, ProjectId, RolloutId};
use std::collections::{BTreeSet, HashMap};

#[derive(Clone, Debug, PartialEq)]
pub struct AssignmentAnswer {
    pub node: NodeId,
    pub project: ProjectId,
    pub standing: Standing,
    /// The credential that asked is the one that is valid now.
    pub epoch_ok: bool,
    pub generation: Generation,
    /// After this call.
    pub handed_over: Generation,
    /// The desired one; `None` is the baseline.
    pub bundle: Option<BundleFacts>,
    pub rollout: Option<RolloutId>,
    pub rollout_phase: Option<Phase>,
    pub weight: u8,
    pub active_bundle: Option<BundleId>,
    /// The bundle must not be named: paused and never handed over, revoked or not compiled, another epoch, not adopted, or nothing
    /// was assigned since the database was restored.
    pub withheld: bool,
}

struct Found {
    answer: AssignmentAnswer,
    epoch: u32,
    desired: Option<BundleId>,
    /// Lifted by a restore to the generation it has.
    lost: bool,
}

fn read_found(r: &mut Cells) -> Q<Found> {
    let (node, project, standing, epoch) = (r.get()?, r.get()?, r.get()?, r.get()?);
    let (generation, handed_over, desired, rollout) = (r.get()?, r.get()?, r.get()?, r.get()?);
    let (weight, active_bundle, rollout_phase, lost) = (r.get()?, r.get()?, r.get()?, r.get()?);
    let bundle = read_facts(r)?;
    let answer = AssignmentAnswer {
        node,
        project,
        standing,
        epoch_ok: false,
        generation,
        handed_over,
        bundle,
        rollout,
        rollout_phase,
        weight,
        active_bundle,
        withheld: true,
    };
    Ok(Found { answer, epoch, desired, lost })
}

async fn find(c: &mut Conn, ids: &[NodeId]) -> Q<HashMap<NodeId, Found>> {
    let sql = format!(
        "SELECT n.id, n.project_id, n.standing, n.credential_epoch, n.generation, n.handed_over, n.desired_bundle, n.desired_rollout, \
         n.traffic_weight, n.active_bundle, r.state, (n.generation > 0 AND n.generation = n.lost_generation), {FACTS} FROM {{v}} JOIN nodes n ON n.id = v.id \
         LEFT JOIN rollouts r ON r.id = n.desired_rollout LEFT JOIN bundles b ON b.id = n.desired_bundle WHERE n.deleted_at IS NULL"
    );
    let rows = c.batch_rows(&sql, vec![], vec![("id", Col::ids(ids.iter().copied()))], read_found).await?;
    Ok(rows.into_iter().map(|f| (f.answer.node, f)).collect())
}

/// Fills in `epoch_ok` and `withheld`; answers whether a first hand-over is due.
fn judge(f: &mut Found, asked: u32) -> bool {
    let a = &mut f.answer;
    a.epoch_ok = f.epoch == asked;
    let usable = match (f.desired, &a.bundle) {
        (None, _) => true,
        (Some(_), Some(b)) => match b.status {
            BundleStatus::Compiled | BundleStatus::Deprecated => true,
            BundleStatus::Compiling
            | BundleStatus::AwaitingSignature
            | BundleStatus::Failed
            | BundleStatus::Revoked => false,
        },
        (Some(_), None) => false,
    };
    let first = a.handed_over < a.generation;
    let held = first && a.rollout_phase == Some(Phase::Paused);
    a.withheld = f.lost || !(a.epoch_ok && usable && !held && a.standing == Standing::Adopted);
    first && !a.withheld
}

type Asked = Vec<(NodeId, u32)>;

fn answers(asked: &Asked, mut found: HashMap<NodeId, Found>) -> Vec<Option<AssignmentAnswer>> {
    // A node may be asked for twice (with two epochs): judged for each.
    let judged = asked.iter().map(|(id, epoch)| {
        found.get_mut(id).map(|f| {
            judge(f, *epoch);
            f.answer.clone()
        })
    });
    judged.collect()
}

/// Takes the rollouts first, then the nodes (lock order), and judges again what it finds then.
async fn hand_over(c: &mut Conn, asked: &Asked) -> Q<Vec<Option<AssignmentAnswer>>> {
    let ids: Vec<NodeId> = asked.iter().map(|a| a.0).collect::<BTreeSet<_>>().into_iter().collect();
    let mut locked: BTreeSet<RolloutId> = BTreeSet::new();
    if c.is_pg() {
        // FOR SHARE: a pause that is being committed is waited for, a later one waits for us.
        let sql = "SELECT r.id FROM rollouts r WHERE r.id IN (SELECT n.desired_rollout FROM {v} JOIN nodes n ON n.id = v.id \
                   WHERE n.handed_over < n.generation) ORDER BY r.id {share}";
        let ids = Col::ids(ids.iter().copied());
        locked.extend(c.batch_rows(sql, vec![], vec![("id", ids)], |r| r.get::<RolloutId>()).await?);
    }
    let mut found = find(c, &ids).await?;
    let mut due: Vec<(NodeId, Generation, u32, Option<RolloutId>)> = Vec::new();
    for (id, epoch) in asked {
        if let Some(f) = found.get_mut(id)
            && judge(f, *epoch)
        {
            due.push((*id, f.answer.generation, f.epoch, f.answer.rollout));
        }
    }
    due.sort_unstable_by_key(|d| d.0);
    due.dedup_by_key(|d| d.0);
    if c.is_pg() {
        if due.iter().any(|d| d.3.is_some_and(|r| !locked.contains(&r))) {
            return Err(Fail::Retry("a node went to another rollout while it was being handed over".into()));
        }
        lock_nodes(c, due.iter().map(|d| d.0)).await?;
    }
    let cols = vec![
        ("id", Col::ids(due.iter().map(|d| d.0))),
        ("generation", Col::ints(due.iter().map(|d| d.1 as i64))),
        ("epoch", Col::ints(due.iter().map(|d| i64::from(d.2)))),
        ("rollout_id", Col::opt_ids(due.iter().map(|d| d.3))),
    ];
    let sql = "UPDATE nodes SET handed_over = v.generation FROM {v} WHERE nodes.id = v.id AND nodes.generation = v.generation \
               AND nodes.credential_epoch = v.epoch AND nodes.deleted_at IS NULL AND nodes.handed_over < v.generation \
               AND (nodes.desired_rollout = v.rollout_id OR (nodes.desired_rollout IS NULL AND v.rollout_id IS NULL))";
    if c.batch(sql, p![], cols).await? != due.len() as u64 {
        return Err(Fail::Retry("an assignment changed while it was being handed over".into()));
    }
    for d in &due {
        if let Some(f) = found.get_mut(&d.0) {
            f.answer.handed_over = d.1;
        }
    }
    Ok(answers(asked, found))
}

impl Store {
    /// For many nodes at once (callers gather for 2 ms): (node, credential epoch that asked). Parallel to the input; `None` is deleted.
    /// Reads the bundle's status in this call, and stores the first hand-over of each answer that names its bundle before it answers.
    pub async fn assign_and_hand_over(&self, asked: Vec<(NodeId, u32)>) -> Result<Vec<Option<AssignmentAnswer>>> {
        let (read, due) = self.read_assignments(asked.clone()).await?;
        if !due {
            return Ok(read);
        }
        self.write("node.hand_over", asked, |c, asked| Box::pin(hand_over(c, asked))).await
    }

    /// The same answers for callers that name nothing to the nodes: no hand-over is stored.
    pub async fn assignments(&self, asked: Vec<(NodeId, u32)>) -> Result<Vec<Option<AssignmentAnswer>>> {
        Ok(self.read_assignments(asked).await?.0)
    }

    /// And whether naming them would be a first hand-over.
    async fn read_assignments(&self, asked: Asked) -> Result<(Vec<Option<AssignmentAnswer>>, bool)> {
        self.read("node.assignment", asked, |c, asked| {
            Box::pin(async move {
                let ids: Vec<NodeId> = asked.iter().map(|a| a.0).collect::<BTreeSet<_>>().into_iter().collect();
                let mut found = find(c, &ids).await?;
                let due = asked.iter().any(|(id, epoch)| found.get_mut(id).is_some_and(|f| judge(f, *epoch)));
                Ok((answers(asked, found), due))
            })
        })
        .await
    }
}
