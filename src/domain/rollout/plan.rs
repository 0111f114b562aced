//! Which nodes, in which steps. The same function answers `plan`, is stored at creation and is run again at start.

use super::event::{Facts, Planned};
use super::spec::{Spec, StrategyKind};
use super::state::*;
use crate::id::*;
use crate::node::HealthClass;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// A node as planning sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub facts: Facts,
    pub name: String,
    /// The value of the label `spread_by`, if that is asked for.
    pub spread: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes of each step, in their stable order.
    pub steps: Vec<Vec<NodeId>>,
    pub excluded: Vec<(NodeId, SkipReason)>,
}

/// Plan `spec` over `candidates` (all that its selector matches). Stable order: nodes offline at planning last; by name, then id;
/// where `max_unavailable` is set, nodes that do not serve first, because mending them takes no slot; spread if asked.
pub fn plan(spec: &Spec, candidates: &[Candidate]) -> Plan {
    let mut excluded = Vec::new();
    let mut targets: Vec<&Candidate> = Vec::with_capacity(candidates.len());
    for c in candidates {
        match c.facts.skip {
            Some(reason) => excluded.push((c.facts.node, reason)),
            None => targets.push(c),
        }
    }
    let mend_first = spec.max_unavailable.is_some();
    targets.sort_by(|a, b| {
        let key = |c: &Candidate| (!c.facts.online, !(mend_first && c.facts.online && c.facts.health.is_bad()));
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name)).then_with(|| a.facts.node.cmp(&b.facts.node))
    });
    excluded.sort();
    let order: Vec<NodeId> =
        if spec.spread_by.is_some() { spread(&targets) } else { targets.iter().map(|c| c.facts.node).collect() };
    let n = order.len() as u32;
    let mut steps = Vec::new();
    let mut from = 0usize;
    for size in sizes(spec, n) {
        let to = (from + size as usize).min(order.len());
        steps.push(order[from..to].to_vec());
        from = to;
    }
    Plan { steps, excluded }
}

/// Deal the values of the spread label in turn, so that neighbours in the order differ while they can. Online nodes stay before offline ones.
fn spread(targets: &[&Candidate]) -> Vec<NodeId> {
    let mut out = Vec::with_capacity(targets.len());
    for online in [true, false] {
        let mut groups: BTreeMap<Option<&str>, std::collections::VecDeque<NodeId>> = BTreeMap::new();
        for c in targets.iter().filter(|c| c.facts.online == online) {
            groups.entry(c.spread.as_deref()).or_default().push_back(c.facts.node);
        }
        while !groups.is_empty() {
            groups.retain(|_, nodes| {
                out.extend(nodes.pop_front());
                !nodes.is_empty()
            });
        }
    }
    out
}

/// The sizes of the steps over `n` targets; their sum is `n`, none is 0.
pub fn sizes(spec: &Spec, n: u32) -> Vec<u32> {
    if n == 0 {
        return Vec::new();
    }
    match spec.strategy {
        StrategyKind::AllAtOnce => vec![n],
        StrategyKind::Rolling | StrategyKind::BlueGreen => {
            let mut out = Vec::new();
            let mut left = n;
            let mut size = spec.batch_size.up(n).min(n);
            while left > 0 {
                let take = size.min(left);
                out.push(take);
                left -= take;
                if let Some(r) = spec.ramp {
                    size = size.max((f64::from(size) * r).floor().min(f64::from(n)) as u32);
                }
            }
            out
        }
        StrategyKind::Canary => {
            let mut out = Vec::new();
            let mut done = 0u32;
            for p in [5u64, 25, 50, 100] {
                let upto = ((u64::from(n) * p).div_ceil(100)) as u32;
                if upto > done {
                    out.push(upto - done);
                    done = upto;
                }
            }
            out
        }
    }
}

/// A planned rollout, before its first event.
pub fn create(id: RolloutId, project: ProjectId, spec: Spec, candidates: &[Candidate]) -> Planned {
    let p = plan(&spec, candidates);
    let facts: BTreeMap<NodeId, &Facts> = candidates.iter().map(|c| (c.facts.node, &c.facts)).collect();
    let mut members = Vec::with_capacity(facts.len());
    let mut counts = Counts::default();
    for (k, nodes) in p.steps.iter().enumerate() {
        for (i, node) in nodes.iter().enumerate() {
            if let Some(f) = facts.get(node) {
                members.push(member(f, Some(k as u32), i as u32, NodeState::Pending));
            }
        }
    }
    for (node, reason) in &p.excluded {
        if let Some(f) = facts.get(node) {
            members.push(member(f, None, 0, NodeState::Skipped { reason: *reason }));
        }
    }
    let (mut online, mut unavailable) = (0, 0);
    for m in &members {
        counts.total += 1;
        *counts.bucket(m.state.kind()) += 1;
        online += u32::from(super::counts_online(m));
        unavailable += u32::from(super::is_unavailable(m));
    }
    let steps: Vec<Step> = p
        .steps
        .iter()
        .enumerate()
        .map(|(k, nodes)| Step {
            index: k as u32,
            state: StepState::Pending,
            size: nodes.len() as u32,
            cursor: 0,
            open: nodes.len() as u32,
            handed_over: false,
            started_at: None,
            completed_at: None,
            error: None,
        })
        .collect();
    let planned = steps.iter().map(|s| s.size).sum();
    let head = Head {
        phase: Phase::Pending,
        causes: Default::default(),
        waits: Default::default(),
        step: 0,
        counts,
        clock: Clock::default(),
        version: 0,
        planned,
        online,
        unavailable,
        failures: 0,
        restoring: 0,
        lane_open: 0,
        lane_halted: false,
        silent_window: None,
        note: None,
        started_at: None,
        ended_at: None,
        rollback_since: None,
        auto_rollback: false,
        wake_at: spec.scheduled_at,
    };
    Planned { id, project, spec, head, steps, members }
}

pub(super) fn member(f: &Facts, step: Option<u32>, position: u32, state: NodeState) -> Member {
    Member {
        node: f.node,
        step,
        position,
        attempt: 0,
        state,
        generation: f.generation,
        told: Told::Nothing,
        previous: f.previous.clone(),
        online: f.online,
        health: f.health,
        handed_over: false,
        accepted: false,
        moved: crate::time::Span::ZERO,
        silent_since: None,
        first_config: f.first_config,
    }
}

impl Facts {
    /// An online, healthy node that already has a configuration: what tests start from.
    pub fn online(node: NodeId) -> Facts {
        Facts {
            node,
            generation: 0,
            online: true,
            health: HealthClass::Healthy,
            previous: Vec::new(),
            first_config: false,
            skip: None,
        }
    }
}

/// When a pending rollout missed its window.
pub fn missed(spec: &Spec, now: Timestamp) -> bool {
    spec.scheduled_at.is_some_and(|t| now > t + spec.start_window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Amount;

    fn spec(batch: Amount, ramp: Option<f64>) -> Spec {
        Spec { batch_size: batch, ramp, ..Spec::new(BundleId::NIL) }
    }

    #[test]
    fn batches_follow_size_percent_and_ramp() {
        assert_eq!(sizes(&spec(Amount::Count(4), None), 10), vec![4, 4, 2]);
        assert_eq!(sizes(&spec(Amount::Percent(25), None), 10), vec![3, 3, 3, 1]);
        assert_eq!(sizes(&spec(Amount::Count(1), Some(2.0)), 10), vec![1, 2, 4, 3]);
        assert_eq!(sizes(&spec(Amount::Count(1), Some(1.0)), 3), vec![1, 1, 1]);
        assert_eq!(sizes(&spec(Amount::Count(100), None), 3), vec![3]);
        assert_eq!(sizes(&spec(Amount::Count(1), None), 0), Vec::<u32>::new());
        let canary = Spec { strategy: StrategyKind::Canary, ..spec(Amount::Count(1), None) };
        assert_eq!(sizes(&canary, 100), vec![5, 20, 25, 50]);
        assert_eq!(sizes(&canary, 2), vec![1, 1]);
    }

    #[test]
    fn offline_nodes_go_last_and_values_of_the_spread_label_take_turns() {
        let id = |n: u128| NodeId(uuid::Uuid::from_u128(n));
        let c = |n: u128, online: bool, rack: &str| Candidate {
            facts: Facts { online, ..Facts::online(id(n)) },
            name: format!("n{n}"),
            spread: Some(rack.into()),
        };
        let all = [c(1, false, "a"), c(2, true, "a"), c(3, true, "a"), c(4, true, "b")];
        let p = plan(&spec(Amount::Count(2), None), &all);
        assert_eq!(p.steps, vec![vec![id(2), id(3)], vec![id(4), id(1)]]);
        let p = plan(&Spec { spread_by: Some("rack".into()), ..spec(Amount::Count(2), None) }, &all);
        assert_eq!(p.steps, vec![vec![id(2), id(4)], vec![id(3), id(1)]]);
    }
}
