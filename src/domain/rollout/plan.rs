//! Which nodes, in which steps. The same function answers `plan`, is stored at creation and is run again at start.

use super::event::{Facts, Planned};
use super::spec::{Spec, StrategyKind};
use super::state::*;
use crate::id::*;
use crate::node::HealthClass;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node as planning sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub facts: Facts,
    pub name: String,
    /// The value of the label that planning looks at ([`Spec::grouping_label`]).
    pub spread: Option<String>,
    /// A rollout that is taken over has assigned it and not verified it: it comes first, as it may be out of service.
    pub first: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes of each step, in their stable order.
    pub steps: Vec<Vec<NodeId>>,
    pub excluded: Vec<(NodeId, SkipReason)>,
}

/// Plan `spec` over `candidates` (all that its selector matches). Stable order: nodes offline at planning last; by name, then id;
/// where `max_unavailable` is set, nodes that do not serve first, because mending them takes no slot; spread if asked. A canary is drawn
/// by lot (`seed` and node id) among the healthy, so that its steps are neither one rack nor always the same hosts.
pub fn plan(spec: &Spec, seed: uuid::Uuid, candidates: &[Candidate]) -> Plan {
    let mut excluded = Vec::new();
    let mut targets: Vec<&Candidate> = Vec::with_capacity(candidates.len());
    for c in candidates {
        match c.facts.skip {
            Some(reason) => excluded.push((c.facts.node, reason)),
            None => targets.push(c),
        }
    }
    let mend_first = spec.max_unavailable.is_some();
    // What comes before what, whatever its name.
    let rank = |c: &Candidate| (!c.facts.online, !c.first, !(mend_first && c.facts.online && c.facts.health.is_bad()));
    let drawn = spec.strategy == StrategyKind::Canary;
    if drawn {
        targets.sort_by_cached_key(|c| (!c.facts.online, !c.first, c.facts.health.is_bad(), lot(seed, c.facts.node)));
    } else {
        targets.sort_by(|a, b| {
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)).then_with(|| a.facts.node.cmp(&b.facts.node))
        });
    }
    excluded.sort();
    let order: Vec<NodeId> = match spec.spread_by {
        Some(_) if spec.strategy == StrategyKind::Rolling => {
            targets.chunk_by(|a, b| rank(a) == rank(b)).flat_map(spread).collect()
        }
        Some(_) | None => targets.iter().map(|c| c.facts.node).collect(),
    };
    if spec.strategy == StrategyKind::BlueGreen {
        return Plan { steps: halves(&targets), excluded };
    }
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

/// The standby half first: the nodes whose label `slot` says `standby` or `green`; where that names none or all, the second half of the
/// order (of an odd number the smaller).
fn halves(targets: &[&Candidate]) -> Vec<Vec<NodeId>> {
    let says = |c: &&&Candidate| matches!(c.spread.as_deref(), Some("standby" | "green"));
    let (standby, live): (Vec<&Candidate>, Vec<&Candidate>) = targets.iter().copied().partition(|c| says(&c));
    let nodes = |half: &[&Candidate]| half.iter().map(|c| c.facts.node).collect::<Vec<_>>();
    let mut steps = if standby.is_empty() || live.is_empty() {
        let (first, second) = targets.split_at(targets.len().div_ceil(2));
        vec![nodes(second), nodes(first)]
    } else {
        vec![nodes(&standby), nodes(&live)]
    };
    steps.retain(|s| !s.is_empty());
    steps
}

/// The lot of a node: the first half of a SHA-256, which nobody can lean on. Ties would need 2^64 nodes.
fn lot(seed: uuid::Uuid, node: NodeId) -> (u128, NodeId) {
    let mut both = [0u8; 32];
    both[..16].copy_from_slice(seed.as_bytes());
    both[16..].copy_from_slice(node.0.as_bytes());
    let mut first = [0u8; 16];
    first.copy_from_slice(&Digest::of(&both).0[..16]);
    (u128::from_be_bytes(first), node)
}

/// Deal the values of the spread label in turn, so that neighbours in the order differ while they can: among equals, or those that must
/// come first would come later.
fn spread(equals: &[&Candidate]) -> Vec<NodeId> {
    let mut out = Vec::with_capacity(equals.len());
    let mut groups: BTreeMap<Option<&str>, std::collections::VecDeque<NodeId>> = BTreeMap::new();
    for c in equals {
        groups.entry(c.spread.as_deref()).or_default().push_back(c.facts.node);
    }
    while !groups.is_empty() {
        groups.retain(|_, nodes| {
            out.extend(nodes.pop_front());
            !nodes.is_empty()
        });
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
        // Without labels; with them the halves may differ.
        StrategyKind::BlueGreen => [n / 2, n.div_ceil(2)].into_iter().filter(|s| *s > 0).collect(),
        StrategyKind::Rolling => {
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
            for p in spec.canary.steps.iter().map(|p| u64::from(*p)).chain([100]) {
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

/// What a rollout begins with; the first entry of its log, from which everything later follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub id: RolloutId,
    pub project: ProjectId,
    pub spec: Spec,
    /// Step and position of each member, and what was known of it.
    pub members: Vec<(Option<u32>, u32, Facts)>,
}

/// Plan a rollout over `candidates`.
pub fn originate(id: RolloutId, project: ProjectId, spec: Spec, candidates: &[Candidate]) -> Origin {
    let p = plan(&spec, spec.seed.unwrap_or(id.0), candidates);
    let facts: BTreeMap<NodeId, &Facts> = candidates.iter().map(|c| (c.facts.node, &c.facts)).collect();
    let known = |node: &NodeId| facts.get(node).map(|f| (*f).clone());
    let mut members = Vec::with_capacity(facts.len());
    for (k, nodes) in p.steps.iter().enumerate() {
        members.extend(nodes.iter().enumerate().filter_map(|(i, n)| Some((Some(k as u32), i as u32, known(n)?))));
    }
    members.extend(p.excluded.iter().filter_map(|(n, _)| Some((None, 0, known(n)?))));
    Origin { id, project, spec, members }
}

/// A planned rollout, before its first event.
pub fn create(id: RolloutId, project: ProjectId, spec: Spec, candidates: &[Candidate]) -> Planned {
    originate(id, project, spec, candidates).planned()
}

impl Origin {
    /// The rows before the first event.
    pub fn planned(self) -> Planned {
        let mut sizes: BTreeMap<u32, u32> = BTreeMap::new();
        for k in self.members.iter().filter_map(|m| m.0) {
            *sizes.entry(k).or_default() += 1;
        }
        let members = self.members.iter().map(|(step, position, f)| {
            let state = f.skip.map_or(NodeState::Pending, |reason| NodeState::Skipped { reason });
            member(f, *step, *position, state)
        });
        let members: Vec<Member> = members.collect();
        first_rows(self.id, self.project, self.spec, sizes, members)
    }
}

fn first_rows(
    id: RolloutId,
    project: ProjectId,
    spec: Spec,
    sizes: BTreeMap<u32, u32>,
    members: Vec<Member>,
) -> Planned {
    let mut counts = Counts::default();
    let (mut online, mut unavailable) = (0, 0);
    for m in &members {
        counts.total += 1;
        *counts.bucket(m.state.kind()) += 1;
        online += u32::from(super::counts_online(m));
        unavailable += u32::from(super::is_unavailable(m));
    }
    let steps: Vec<Step> = sizes
        .into_iter()
        .map(|(index, size)| Step {
            index,
            state: StepState::Pending,
            size,
            cursor: 0,
            open: size,
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
        revoked: false,
        analysis: None,
        shift: None,
        unweighed: 0,
        budget: Ledger::default(),
        asked: None,
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
        weight: super::FULL_WEIGHT,
        weighed: true,
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
    fn a_canary_is_drawn_by_lot_among_the_healthy() {
        let id = |n: u128| NodeId(uuid::Uuid::from_u128(n));
        let c = |n: u128, online: bool, health| Candidate {
            facts: Facts { online, health, ..Facts::online(id(n)) },
            name: format!("n{n:03}"),
            spread: None,
            first: false,
        };
        let mut all: Vec<Candidate> = (0..98).map(|n| c(n, true, HealthClass::Healthy)).collect();
        all.push(c(98, true, HealthClass::Unhealthy));
        all.push(c(99, false, HealthClass::Healthy));
        let canary = Spec { strategy: StrategyKind::Canary, ..spec(Amount::Count(1), None) };
        let drawn = |seed: u128| plan(&canary, uuid::Uuid::from_u128(seed), &all).steps;
        assert_eq!(drawn(1), drawn(1));
        assert_eq!(drawn(1).iter().map(Vec::len).collect::<Vec<_>>(), [5, 20, 25, 50]);
        assert_ne!(drawn(1)[0], drawn(2)[0], "another rollout draws others");
        let mut first: Vec<NodeId> = (0..200).flat_map(|s| drawn(s).remove(0)).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 98, "each healthy node comes first some time, no other ever does");
        assert_eq!(drawn(1)[3][48..], [id(98), id(99)]);
    }

    #[test]
    fn what_must_come_first_comes_first_however_it_is_spread() {
        let id = |n: u128| NodeId(uuid::Uuid::from_u128(n));
        let c = |n: u128, rack: &str, first, health| Candidate {
            facts: Facts { health, ..Facts::online(id(n)) },
            name: format!("n{n}"),
            spread: Some(rack.into()),
            first,
        };
        let well = HealthClass::Healthy;
        let all = [
            c(1, "a", false, well),
            c(2, "b", false, well),
            c(3, "c", true, well),
            c(4, "c", true, well),
            c(5, "a", false, HealthClass::Unhealthy),
        ];
        let spread = Spec { spread_by: Some("rack".into()), ..spec(Amount::Count(5), None) };
        let order = |spec: &Spec| plan(spec, uuid::Uuid::nil(), &all).steps.concat();
        assert_eq!(
            order(&spread),
            [3, 4, 1, 2, 5].map(id),
            "taken over from another rollout, and perhaps out of service"
        );
        let limited = Spec { max_unavailable: Some(Amount::Count(1)), ..spread };
        assert_eq!(order(&limited), [3, 4, 5, 1, 2].map(id), "mending takes no slot");
    }

    #[test]
    fn offline_nodes_go_last_and_values_of_the_spread_label_take_turns() {
        let id = |n: u128| NodeId(uuid::Uuid::from_u128(n));
        let c = |n: u128, online: bool, rack: &str| Candidate {
            facts: Facts { online, ..Facts::online(id(n)) },
            name: format!("n{n}"),
            spread: Some(rack.into()),
            first: false,
        };
        let all = [c(1, false, "a"), c(2, true, "a"), c(3, true, "a"), c(4, true, "b")];
        let p = plan(&spec(Amount::Count(2), None), uuid::Uuid::nil(), &all);
        assert_eq!(p.steps, vec![vec![id(2), id(3)], vec![id(4), id(1)]]);
        let p = plan(&Spec { spread_by: Some("rack".into()), ..spec(Amount::Count(2), None) }, uuid::Uuid::nil(), &all);
        assert_eq!(p.steps, vec![vec![id(2), id(4)], vec![id(3), id(1)]]);
    }
}
